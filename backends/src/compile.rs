//! A resolved module becomes an artifact: programs, machine code for each instruction set, constants, and the module itself.

use crate::kernel::{Code, Isa};
use crate::lower::{Decoded, Interface, lower, runtime_error};
use crate::mlir;
use crate::target::Machine;
use std::io::{Seek, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tersor_ir::diag::Result;
use tersor_ir::text::{PrintOptions, print_with};
use tersor_ir::{Diagnostic, Failure, Module};
use tersor_runtime::ArtifactWriter;
use tersor_runtime::artifact::{Kernel, Manifest, Variant};
use tersor_runtime::plan;
use tersor_runtime::program::Action;

/// What to compile for, and what the artifact says of itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// Instruction sets, each a variant of the artifact.
    pub isas: Vec<Isa>,
    /// Threads that generate code; the artifact does not depend on them.
    pub threads: usize,
    /// Version of the tool.
    pub tool: String,
    /// Hash of the source model, `blake3:hex`.
    pub source: String,
    /// The plan that resolved the module, as text.
    pub plan: String,
    /// Ends the work once it is raised.
    pub stop: Arc<AtomicBool>,
}

/// What became of each variant.
#[derive(Clone, Debug)]
pub struct VariantReport {
    /// The instruction set.
    pub isa: Isa,
    /// Steps of the program.
    pub steps: usize,
    /// Different kernels, with the number of steps that call each.
    pub kernels: Vec<(String, usize)>,
    /// Bytes of code and its read-only data.
    pub code: usize,
    /// Arena bytes when every symbol has its hint, and the least that any placement needs.
    pub arena: (u64, u64),
    /// Encoded weights whose encoding saves nothing.
    pub decoded: Vec<Decoded>,
}

/// Compiles `@main` into `writer`. The returned manifest completes the artifact: `writer.save(manifest)`. `step` is called between parts of the work, and may end it.
pub fn compile<W: Write + Seek>(
    m: Module,
    options: &Options,
    writer: &mut ArtifactWriter<W>,
    step: &mut dyn FnMut() -> Result<()>,
) -> Result<(Manifest, Vec<VariantReport>)> {
    let tir = print_with(&m, PrintOptions { statistics: false, locations: false });
    let (name, pipeline) = (m.name.clone(), m.pipeline.join(","));
    let (interface, lowered) = lower(m, &options.isas, writer, step)?;
    let Interface { inputs, outputs, symbols, extents, strings } = interface;
    let mut manifest = Manifest {
        tool: options.tool.clone(),
        name,
        source: options.source.clone(),
        pipeline,
        plan: options.plan.clone(),
        inputs,
        outputs,
        symbols,
        extents: extents.into_entries(),
        variants: vec![],
        constants: vec![],
        sections: vec![],
        strings,
    };
    let programs: Vec<_> = lowered.iter().map(|l| (l.isa, l.kernels.as_slice())).collect();
    let images = mlir::compile(&programs, options.threads, &options.stop).map_err(|e| mlir_error(&e))?;
    let mut reports = vec![];
    for (i, (l, image)) in lowered.into_iter().zip(&images).enumerate() {
        step()?;
        // Programs with one image have one section.
        let code = match images[..i].iter().position(|earlier| earlier.bytes == image.bytes) {
            Some(earlier) => manifest.variants[earlier].code,
            None => writer.section(&format!("code.{}", l.isa.name()), &image.bytes).map_err(runtime_error)?,
        };
        let kernels: Vec<Kernel> =
            image.entries.iter().map(|e| Kernel { name: e.name.clone(), offset: e.offset }).collect();
        let features = Machine::of(l.isa).features.concat().iter().map(|f| f.to_string()).collect();
        let variant = Variant { name: l.isa.name().into(), features, code, kernels, program: l.program };
        let at = plan::at_hints(&manifest, &variant).map_err(runtime_error)?;
        reports.push(VariantReport {
            isa: l.isa,
            steps: variant.program.steps.len(),
            kernels: calls(&variant),
            code: image.bytes.len(),
            arena: (at.peak, at.lower_bound),
            decoded: l.decoded,
        });
        manifest.variants.push(variant);
    }
    writer.section("tir", tir.as_bytes()).map_err(runtime_error)?;
    Ok((manifest, reports))
}

/// The kernels of a module for one instruction set as text or object. `step` as for [`compile`].
pub fn kernels(m: &Module, isa: Isa, code: Code, step: &mut dyn FnMut() -> Result<()>) -> Result<Vec<u8>> {
    let mut nowhere = ArtifactWriter::new(std::io::empty()).map_err(runtime_error)?;
    let (_, lowered) = lower(m.clone(), &[isa], &mut nowhere, step)?;
    let kernels: Vec<_> = lowered.into_iter().flat_map(|l| l.kernels).collect();
    step()?;
    mlir::emit(&kernels, isa, code).map_err(|e| mlir_error(&e))
}

/// Kernels and the number of steps that call each.
fn calls(v: &Variant) -> Vec<(String, usize)> {
    let mut out: Vec<_> = v.kernels.iter().map(|k| (k.name.clone(), 0)).collect();
    for s in &v.program.steps {
        if let Some(Action::Call(c)) = &s.action {
            out[c.kernel as usize].1 += 1;
        }
    }
    out
}

fn mlir_error(e: &mlir::Error) -> Diagnostic {
    match e {
        mlir::Error::Interrupted => Diagnostic::error("B0121", e.to_string()).failure(Failure::Interrupted),
        _ => Diagnostic::error("B0120", e.to_string()).failure(Failure::Internal),
    }
}

#[cfg(test)]
mod tests;
