//! IR as text: what verifies is printed in a form that reads back to itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tersor_ir::text;

fuzz_target!(|data: &[u8]| {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let Ok(module) = text::parse(source, &Default::default()) else { return };
    if tersor_ir::verify::verify(&module).is_empty() {
        let printed = text::print(&module);
        let again = text::parse(&printed, &Default::default()).unwrap_or_else(|e| panic!("{}\n{printed}", e[0]));
        assert_eq!(printed, text::print(&again));
    }
});
