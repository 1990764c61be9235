//! Running modules: compiled for this machine where there is a code generator, with the reference interpreter elsewhere.

pub use tersor_passes::calibrate::Interpreter;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tersor_ir::target::Evaluate;

/// Compiles modules in memory for this machine.
pub struct Compiler {
    /// Threads that run; 0 means all.
    pub threads: usize,
    /// Ends preparations and runs once it is raised.
    pub stop: Arc<AtomicBool>,
}

/// The fastest evaluator that this build has and that runs here.
pub fn evaluator(threads: usize, stop: &Arc<AtomicBool>) -> Box<dyn Evaluate> {
    #[cfg(feature = "mlir")]
    if tersor_backends::target::parse("native").is_ok() {
        return Box::new(Compiler { threads, stop: Arc::clone(stop) });
    }
    let _ = (threads, stop);
    Box::new(Interpreter)
}

#[cfg(feature = "mlir")]
mod compiled {
    use super::Compiler;
    use crate::driver::{from_runtime, runtime_error, to_runtime};
    use std::sync::Arc;
    use tersor_backends::{compile, target};
    use tersor_ir::target::{Evaluate, Prepared};
    use tersor_ir::{Module, Result, Tensor};
    use tersor_runtime::{ArtifactWriter, LoadOptions, Model, Session};

    struct Running(Session);

    impl Compiler {
        /// A module as a model in memory.
        pub fn model(&self, m: &Module) -> Result<Model> {
            let isas = target::parse("native")?.iter().map(|m| m.isa).collect();
            let options = compile::Options {
                isas,
                threads: self.threads.max(1),
                tool: crate::driver::TOOL.into(),
                source: String::new(),
                plan: String::new(),
                stop: Arc::clone(&self.stop),
            };
            let mut writer = ArtifactWriter::in_memory();
            let (manifest, _) = compile::compile(m.clone(), &options, &mut writer, &mut || Ok(()))?;
            let bytes = writer.into_bytes(manifest).map_err(runtime_error)?;
            Model::from_bytes(&bytes, &LoadOptions::default()).map_err(runtime_error)
        }
    }

    impl Evaluate for Compiler {
        fn prepare(&self, m: &Module) -> Result<Box<dyn Prepared>> {
            Ok(Box::new(Running(self.model(m)?.session(self.threads).stop_on(&self.stop))))
        }
    }

    impl Prepared for Running {
        fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
            let inputs = inputs.iter().map(to_runtime).collect::<Result<Vec<_>>>()?;
            let views: Vec<_> = inputs.iter().map(|t| t.view()).collect();
            let mut outputs = self.0.prepare(&views).map_err(runtime_error)?;
            self.0.run_into(&views, &mut outputs).map_err(runtime_error)?;
            outputs.into_iter().map(from_runtime).collect()
        }
    }
}
