//! ONNX files: what is imported is a module that verifies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tersor_frontend::{ImportOptions, import_bytes};

fuzz_target!(|data: &[u8]| {
    let mut options = ImportOptions::default();
    // Large results are right and slow.
    options.limits.expanded_nodes = 1 << 10;
    options.limits.sparse_bytes = 1 << 20;
    if let Ok(imported) = import_bytes(data.to_vec(), "fuzzed", &options) {
        let wrong = tersor_ir::verify::verify(&imported.module);
        assert!(wrong.is_empty(), "{}", wrong[0]);
    }
});
