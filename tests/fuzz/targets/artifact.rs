//! Artifacts: the data are a manifest in a file with right checksums, since a wrong one is noticed at once. What loads is planned, and not run: its code is no code.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tersor_runtime::artifact::Header;
use tersor_runtime::{Artifact, LoadOptions, Model, Tensor};

/// Bytes between header and manifest, for constants and sections to lie in.
const ROOM: usize = 1 << 14;

fuzz_target!(|data: &[u8]| {
    let mut bytes = vec![0; ROOM];
    bytes.extend(data);
    let header = Header {
        manifest_offset: ROOM as u64,
        manifest_length: data.len() as u64,
        file_length: bytes.len() as u64,
        manifest_hash: *blake3::hash(data).as_bytes(),
    };
    bytes[..Header::SIZE].copy_from_slice(&header.to_bytes());
    let Ok(artifact) = Artifact::from_bytes(&bytes) else { return };
    for variant in artifact.manifest().variants.iter().map(|v| v.name.clone()).collect::<Vec<_>>() {
        let Ok(model) = Model::from_bytes(&bytes, &LoadOptions { variant: Some(variant), verify: false }) else {
            continue;
        };
        let shape = |v: &tersor_runtime::artifact::Value| vec![2; v.dims.len().min(8)];
        let inputs: Option<Vec<Tensor>> =
            model.inputs().iter().map(|v| Tensor::zeros(v.dtype(), &shape(v)).ok()).collect();
        if let Some(inputs) = inputs {
            let views: Vec<_> = inputs.iter().map(|t| t.view()).collect();
            let _ = model.session(1).prepare(&views);
        }
    }
});
