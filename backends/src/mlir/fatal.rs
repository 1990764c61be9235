//! LLVM's fatal errors. LLVM ends the process after one, so whoever owns the process may have the last word.

use llvm_sys::error_handling::LLVMInstallFatalErrorHandler;
use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

type Handler = Box<dyn Fn(&str) + Send + Sync>;

static HANDLER: OnceLock<Handler> = OnceLock::new();

/// Calls `handler` with LLVM's message, on whatever thread it happens; it is to end the process. The first handler stays.
pub fn on_fatal_error(handler: impl Fn(&str) + Send + Sync + 'static) {
    if HANDLER.set(Box::new(handler)).is_ok() {
        // SAFETY: the function lives as long as the process and does not unwind.
        unsafe { LLVMInstallFatalErrorHandler(Some(call)) }
    }
}

extern "C" fn call(reason: *const c_char) {
    // SAFETY: LLVM's messages end in a zero.
    let message =
        if reason.is_null() { "no reason given".into() } else { unsafe { CStr::from_ptr(reason) }.to_string_lossy() };
    if let Some(handler) = HANDLER.get() {
        handler(&message);
    }
}
