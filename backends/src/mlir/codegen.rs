//! From LLVM modules to objects and assembly.

use super::lower::LlvmModule;
use super::{Error, features, names};
use crate::emit::Kernel;
use crate::kernel::{Code, Isa};
use llvm_sys::core::{
    LLVMDisposeMemoryBuffer, LLVMDisposeMessage, LLVMGetBufferSize, LLVMGetBufferStart, LLVMPrintModuleToString,
    LLVMSetTarget,
};
use llvm_sys::error::LLVMGetErrorMessage;
use llvm_sys::target::*;
use llvm_sys::target_machine::*;
use llvm_sys::transforms::pass_builder::{LLVMCreatePassBuilderOptions, LLVMDisposePassBuilderOptions, LLVMRunPasses};
use std::ffi::{CStr, CString, c_char};
use std::ptr::null_mut;
use std::sync::Once;

/// No pass that makes calls out of loops: kernels call nothing.
const PASSES: &CStr = c"function(early-cse,instcombine<no-verify-fixpoint>,loop-mssa(licm),simplifycfg)";

fn initialize() {
    static ONCE: Once = Once::new();
    // SAFETY: once, before anything else uses the targets.
    ONCE.call_once(|| unsafe {
        LLVMInitializeX86TargetInfo();
        LLVMInitializeX86Target();
        LLVMInitializeX86TargetMC();
        LLVMInitializeX86AsmPrinter();
        LLVMInitializeNVPTXTargetInfo();
        LLVMInitializeNVPTXTarget();
        LLVMInitializeNVPTXTargetMC();
        LLVMInitializeNVPTXAsmPrinter();
    });
}

/// What code is generated for.
struct Machine {
    machine: LLVMTargetMachineRef,
    triple: CString,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { LLVMDisposeTargetMachine(self.machine) }
    }
}

/// Takes a message that LLVM allocated.
///
/// # Safety
/// `message` is null or came from LLVM, and is not used again.
unsafe fn take(message: *mut c_char) -> String {
    if message.is_null() {
        return "no reason given".into();
    }
    // SAFETY: LLVM's messages end in a zero.
    unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        LLVMDisposeMessage(message);
        text
    }
}

impl Machine {
    fn new(triple: &str, cpu: &str, features: &str) -> Result<Self, String> {
        initialize();
        let [triple, cpu, features] = [triple, cpu, features].map(|s| CString::new(s).expect("no zero within"));
        // SAFETY: all strings outlive the calls; results are checked.
        unsafe {
            let (mut target, mut message) = (null_mut(), null_mut());
            if LLVMGetTargetFromTriple(triple.as_ptr(), &mut target, &mut message) != 0 {
                return Err(take(message));
            }
            let machine = LLVMCreateTargetMachine(
                target,
                triple.as_ptr(),
                cpu.as_ptr(),
                features.as_ptr(),
                LLVMCodeGenOptLevel::LLVMCodeGenLevelAggressive,
                LLVMRelocMode::LLVMRelocPIC,
                LLVMCodeModel::LLVMCodeModelDefault,
            );
            if machine.is_null() {
                return Err(format!("no machine for {}", triple.to_string_lossy()));
            }
            Ok(Self { machine, triple })
        }
    }

    /// Optimises the module.
    fn optimize(&self, module: &LlvmModule) -> Result<(), String> {
        // SAFETY: the module is valid and used by this thread alone; what LLVM hands out is disposed of once.
        unsafe {
            LLVMSetTarget(module.module, self.triple.as_ptr());
            let layout = LLVMCreateTargetDataLayout(self.machine);
            LLVMSetModuleDataLayout(module.module, layout);
            LLVMDisposeTargetData(layout);
            let options = LLVMCreatePassBuilderOptions();
            let error = LLVMRunPasses(module.module, PASSES.as_ptr(), self.machine, options);
            LLVMDisposePassBuilderOptions(options);
            if !error.is_null() {
                return Err(take(LLVMGetErrorMessage(error)));
            }
        }
        Ok(())
    }

    /// Optimises the module and writes it as text.
    fn print(&self, module: &LlvmModule) -> Result<Vec<u8>, String> {
        self.optimize(module)?;
        // SAFETY: the module is valid, and its text is taken once.
        Ok(unsafe { take(LLVMPrintModuleToString(module.module)) }.into_bytes())
    }

    /// Optimises the module and writes it as an object or as assembly.
    fn emit(&self, module: &LlvmModule, kind: LLVMCodeGenFileType) -> Result<Vec<u8>, String> {
        self.optimize(module)?;
        // SAFETY: as above.
        unsafe {
            let (mut message, mut buffer) = (null_mut(), null_mut());
            if LLVMTargetMachineEmitToMemoryBuffer(self.machine, module.module, kind, &mut message, &mut buffer) != 0 {
                return Err(take(message));
            }
            let bytes =
                std::slice::from_raw_parts(LLVMGetBufferStart(buffer).cast(), LLVMGetBufferSize(buffer)).to_vec();
            LLVMDisposeMemoryBuffer(buffer);
            Ok(bytes)
        }
    }
}

/// Optimised code: a relocatable ELF object, assembly, or LLVM's own text.
pub(super) fn emit(module: &LlvmModule, kernels: &[Kernel], isa: Isa, code: Code) -> Result<Vec<u8>, Error> {
    let baseline = if isa == Isa::V3 { "x86-64-v3" } else { "x86-64-v4" };
    let features = features(isa).iter().map(|f| format!("+{f}")).collect::<Vec<_>>().join(",");
    Machine::new("x86_64-unknown-linux-gnu", baseline, &features)
        .and_then(|machine| match code {
            Code::Object => machine.emit(module, LLVMCodeGenFileType::LLVMObjectFile),
            Code::Assembly => machine.emit(module, LLVMCodeGenFileType::LLVMAssemblyFile),
            Code::Llvm | Code::Mlir => machine.print(module),
        })
        .map_err(|message| Error::Llvm { kernels: names(kernels), message })
}

/// PTX text.
pub(super) fn ptx(module: &LlvmModule, kernels: &[Kernel], sm: u32) -> Result<String, Error> {
    Machine::new("nvptx64-nvidia-cuda", &format!("sm_{sm}"), "+ptx80")
        .and_then(|machine| machine.emit(module, LLVMCodeGenFileType::LLVMAssemblyFile))
        .and_then(|bytes| String::from_utf8(bytes).map_err(|e| e.to_string()))
        .map_err(|message| Error::Llvm { kernels: names(kernels), message })
}
