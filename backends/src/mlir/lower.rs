//! From kernels to LLVM modules, through MLIR.

use super::{Error, names};
use crate::emit::Kernel;
use llvm_sys::core::{LLVMContextCreate, LLVMContextDispose, LLVMDisposeModule};
use llvm_sys::prelude::{LLVMContextRef, LLVMModuleRef};
use melior::dialect::DialectRegistry;
use melior::ir::Module as MlirModule;
use melior::pass::PassManager;
use melior::utility::{
    parse_pass_pipeline, register_all_dialects, register_all_llvm_translations, register_all_passes,
};
use std::sync::{Arc, Mutex};

const PIPELINE: &str = "builtin.module(convert-scf-to-cf,convert-func-to-llvm,convert-to-llvm,\
                        reconcile-unrealized-casts,canonicalize,cse)";

/// One thread's MLIR, with the diagnostics that it has given.
pub(super) struct Context {
    context: melior::Context,
    messages: Arc<Mutex<Vec<String>>>,
}

impl Context {
    pub(super) fn new() -> Self {
        register_all_passes();
        let registry = DialectRegistry::new();
        register_all_dialects(&registry);
        let context = melior::Context::new_with_registry(&registry, false);
        register_all_llvm_translations(&context);
        let messages = Arc::new(Mutex::new(Vec::new()));
        let sink = messages.clone();
        context.attach_diagnostic_handler(move |diagnostic| {
            if let Ok(mut sink) = sink.lock() {
                sink.push(format!("{diagnostic} at {}", diagnostic.location()));
            }
            true
        });
        Self { context, messages }
    }

    fn error(&self, kernels: &[Kernel], what: &str) -> Error {
        let mut messages = self.messages.lock().map(|mut m| std::mem::take(&mut *m)).unwrap_or_default();
        messages.insert(0, what.into());
        Error::Mlir { kernels: names(kernels), message: messages.join("; ") }
    }
}

/// An LLVM module and the context that it lives in.
pub(super) struct LlvmModule {
    context: LLVMContextRef,
    pub(super) module: LLVMModuleRef,
}

impl Drop for LlvmModule {
    fn drop(&mut self) {
        // SAFETY: both are owned by `self`, and the module goes before its context.
        unsafe {
            if !self.module.is_null() {
                LLVMDisposeModule(self.module);
            }
            LLVMContextDispose(self.context);
        }
    }
}

/// Lowers the text of some kernels to one module.
pub(super) fn to_llvm(context: &Context, text: &str, kernels: &[Kernel]) -> Result<LlvmModule, Error> {
    let mut module =
        MlirModule::parse(&context.context, text).ok_or_else(|| context.error(kernels, "it does not parse"))?;
    let manager = PassManager::new(&context.context);
    parse_pass_pipeline(manager.as_operation_pass_manager(), PIPELINE)
        .map_err(|e| context.error(kernels, &format!("pipeline: {e}")))?;
    manager.run(&mut module).map_err(|_| context.error(kernels, "it does not lower"))?;
    // SAFETY: a fresh context, which the module is created in and disposed with.
    let llvm = unsafe {
        let llvm = LLVMContextCreate();
        let module = mlir_sys::mlirTranslateModuleToLLVMIR(module.as_operation().to_raw(), llvm.cast());
        LlvmModule { context: llvm, module: module.cast() }
    };
    if llvm.module.is_null() {
        return Err(context.error(kernels, "it does not translate to LLVM"));
    }
    Ok(llvm)
}
