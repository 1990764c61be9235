//! `inspect`: what is in a model.

use super::report::Reporter;
use super::shared::{ShapeArgs, load_model};
use super::{Globals, Outcome};
use crate::driver::{self, Result, Source, Watch};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use tersor_backends::kernel::Isa;
use tersor_backends::target::Machine;
use tersor_ir::target::Target;
use tersor_ir::{Dim, Module, Type};
use tersor_runtime::cli::bytes;
use tersor_runtime::cpu::Features;

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tersor inspect model.onnx --dim batch=1..32@8")]
pub struct Args {
    /// An ONNX model, .tir file or artifact.
    pub model: PathBuf,
    #[command(flatten)]
    pub shapes: ShapeArgs,
    #[command(flatten)]
    pub globals: Globals,
}

/// What a module costs at typical extents.
struct Cost {
    madds: f64,
    seconds: f64,
}

pub fn run(args: &Args, reporter: &Reporter) -> Result<Outcome> {
    let mut diagnostics = vec![];
    let loaded = load_model(&args.model, &args.shapes, reporter.limits(), &mut diagnostics)?;
    let before = counts(&loaded.module);
    let (inputs, outputs) = signature(&loaded.module)?;
    let (symbols, caps) = (loaded.module.symbols.clone(), loaded.module.caps());
    let cpu = Features::detect();
    let machine = tersor_backends::target::detect(&cpu).unwrap_or(Machine::of(Isa::V3));
    let file_nodes = if let Source::Onnx(i) = &loaded.source { Some(i.nodes) } else { None };
    let head = match &loaded.source {
        Source::Onnx(i) => {
            let producer = if i.producer.is_empty() { String::new() } else { format!(", {}", i.producer) };
            format!(
                "ONNX opset {}, IR {}{producer}, {}, blake3 {:.12}",
                i.opset,
                i.ir_version,
                bytes(i.file_bytes as u64),
                i.source_hash
            )
        }
        Source::Tir => "tersor IR".into(),
        Source::Artifact => format!("artifact; `tersor-run info {}` says more", args.model.display()),
    };
    // An artifact's module is done; it lacks the elements that folding would read.
    let module = if let Source::Artifact = loaded.source {
        loaded.module
    } else {
        let pipeline = driver::pipeline("lossless")?;
        let run = Default::default();
        let options = driver::OptimizeOptions { isa: machine.isa, samples: None, run };
        driver::optimize(loaded.module, &pipeline, &options, &Watch::new(reporter.limits()))?.module
    };
    let after = counts(&module);
    let total = |c: &BTreeMap<String, usize>| c.values().sum::<usize>();
    let (weights, params) = weights(&module);
    let cost = cost(&module, machine);
    let mut text = format!("{}    {head}\n", args.model.display());
    for (key, values) in [("inputs", &inputs), ("outputs", &outputs)] {
        for (name, ty) in values {
            let _ = writeln!(text, "{key:<8} {name}  {ty}");
        }
    }
    for (name, s) in &symbols {
        if let Some(cap) = caps.get(name) {
            let _ = writeln!(text, "counted  {name}: 0..{cap}, decided by the data");
            continue;
        }
        let max = if s.max == tersor_ir::dim::SymbolInfo::default().max { "?".into() } else { s.max.to_string() };
        let _ = writeln!(text, "dynamic  {name}: {}..{max}, typically {}  (set with --dim {name}=...)", s.min, s.hint);
    }
    let mut by_count: Vec<(&String, &usize)> = after.iter().collect();
    by_count.sort_by_key(|(n, c)| (std::cmp::Reverse(**c), *n));
    let shown: Vec<String> = by_count.iter().take(8).map(|(n, c)| format!("{c} {n}")).collect();
    let more = if by_count.len() > 8 { ", ..." } else { "" };
    let _ = writeln!(
        text,
        "graph    {} ops after normalization (was {}): {}{more}",
        total(&after),
        file_nodes.unwrap_or(total(&before)),
        shown.join(", ")
    );
    let _ = writeln!(text, "weights  {params} parameters, {}", bytes(weights as u64));
    let _ = writeln!(
        text,
        "cost     {:.2} GMAC and {} of weights at typical extents  ->  bound on {}: {:.2} ms",
        cost.madds / 1e9,
        bytes(weights as u64),
        machine.isa.name(),
        cost.seconds * 1e3
    );
    let _ = writeln!(text, "support  all operators are supported");
    let values =
        |v: &[(String, Type)]| v.iter().map(|(n, t)| json!({ "name": n, "type": t.to_string() })).collect::<Vec<_>>();
    let data = json!({
        "model": args.model, "format": head, "inputs": values(&inputs), "outputs": values(&outputs),
        "symbols": symbols.iter().map(|(n, s)| json!({ "name": &**n, "min": s.min, "max": s.max, "hint": s.hint, "cap": caps.get(n).map(Dim::to_string) })).collect::<Vec<_>>(),
        "nodes_before": file_nodes.unwrap_or(total(&before)), "nodes_after": total(&after), "ops": after,
        "parameters": params, "weight_bytes": weights, "madds": cost.madds, "target": machine.isa.name(),
        "bound_ms": cost.seconds * 1e3,
    });
    Ok(Outcome { data, text, diagnostics, ..Outcome::default() })
}

fn counts(m: &Module) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for f in m.funcs.values() {
        f.live_nodes().iter().for_each(|&n| *out.entry(f.nodes[n].op.mnemonic().to_string()).or_default() += 1);
    }
    out
}

#[allow(clippy::type_complexity)]
fn signature(m: &Module) -> Result<(Vec<(String, Type)>, Vec<(String, Type)>)> {
    let f = &m.funcs[m.main().map_err(|d| vec![d])?];
    let named = |names: &[std::sync::Arc<str>], values: &[tersor_ir::ValueId]| {
        names.iter().zip(values).map(|(n, &v)| (n.to_string(), f.values[v].ty.clone())).collect()
    };
    Ok((named(&f.inputs, &f.body().params), named(&f.outputs, &f.body().results)))
}

/// Bytes and elements of constants.
fn weights(m: &Module) -> (usize, usize) {
    let live: Vec<_> = m.funcs.values().flat_map(|f| f.live_constants()).collect();
    let unique: std::collections::BTreeSet<_> = live.into_iter().collect();
    let of = |c: &tersor_ir::ConstId| (m.consts[*c].byte_len(), m.consts[*c].ty.static_elements().unwrap_or(0));
    unique.iter().map(of).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
}

fn cost(m: &Module, machine: &Machine) -> Cost {
    let hints = m.hints();
    let mut out = Cost { madds: 0.0, seconds: 0.0 };
    for f in m.funcs.values() {
        for n in f.live_nodes() {
            let node = &f.nodes[n];
            let ins: Vec<&Type> = node.operands.iter().map(|&v| &f.values[v].ty).collect();
            let outs: Vec<Type> = node.results.iter().map(|&v| f.values[v].ty.clone()).collect();
            let value = |d: Dim| d.eval(&hints).unwrap_or(0) as f64;
            let product = matches!(node.op.mnemonic(), "matmul" | "conv2d" | "conv" | "attention");
            out.madds += if product { value(node.op.work(&ins, &outs).madds) } else { 0.0 };
            out.seconds += machine.node(&m.consts, f, n, &hints);
        }
    }
    out
}
