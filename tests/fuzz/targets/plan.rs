//! Plans in TOML.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tersor::driver::PlanFile;

fuzz_target!(|data: &[u8]| {
    if let Ok(source) = std::str::from_utf8(data) {
        let _ = PlanFile::parse(source);
    }
});
