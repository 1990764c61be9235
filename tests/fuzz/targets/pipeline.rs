//! Pipelines, as text and as TOML: what is read is written in a form that reads back to itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tersor_passes::pipeline::Pipeline;

fuzz_target!(|data: &[u8]| {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let _ = Pipeline::parse_toml(source);
    if let Ok(pipeline) = Pipeline::parse(source) {
        let text = pipeline.text();
        let again = Pipeline::parse(&text).unwrap_or_else(|e| panic!("{text}: {e:?}"));
        assert_eq!(text, again.text());
    }
});
