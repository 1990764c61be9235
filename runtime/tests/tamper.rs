//! Damaged artifacts give an error, or run; they never crash.
#![cfg(target_arch = "x86_64")]

#[allow(dead_code)]
mod common;

use common::{artifact, counted, expected, values};
use prost::Message;
use tersor_runtime::artifact::{Header, Manifest};
use tersor_runtime::program::{Program, Step};
use tersor_runtime::{Artifact, Kind, LoadOptions, Model, Tensor};

fn load(bytes: &[u8], verify: bool) -> tersor_runtime::Result<Model> {
    Model::from_bytes(bytes, &LoadOptions { variant: None, verify })
}

/// The artifact with another manifest in place of its own, and right checksums.
fn with_manifest(bytes: &[u8], manifest: &[u8]) -> Vec<u8> {
    let header = Header::parse(bytes, bytes.len() as u64).unwrap();
    let mut out = bytes[..header.manifest_offset as usize].to_vec();
    out.extend(manifest);
    let header = Header {
        manifest_length: manifest.len() as u64,
        file_length: out.len() as u64,
        manifest_hash: *blake3::hash(manifest).as_bytes(),
        ..header
    };
    out[..Header::SIZE].copy_from_slice(&header.to_bytes());
    out
}

fn manifest_of(bytes: &[u8]) -> Manifest {
    Artifact::from_bytes(bytes).unwrap().manifest().clone()
}

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % n as u64) as usize
    }
}

#[test]
fn truncation_anywhere_is_noticed() {
    let bytes = artifact();
    for n in 0..bytes.len() {
        let e = load(&bytes[..n], false).err().unwrap();
        assert_eq!(e.exit(), 3, "{n}: {e}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(load(&longer, false).err().unwrap().kind, Kind::Truncated);
}

#[test]
fn every_flipped_bit_that_matters_is_noticed() {
    let bytes = artifact();
    let header = Header::parse(&bytes, bytes.len() as u64).unwrap();
    let m = manifest_of(&bytes);
    let covered = |i: u64| {
        let inside = |offset, length| (offset..offset + length).contains(&i);
        m.sections.iter().any(|s| inside(s.offset, s.length))
            || m.constants.iter().any(|c| inside(c.offset, c.length))
            || i < 72
            || i >= header.manifest_offset
    };
    for i in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[i] ^= 1 << (i % 8);
        match load(&bad, true) {
            Ok(_) => assert!(!covered(i as u64), "byte {i}"),
            Err(e) => assert!(matches!(e.exit(), 3 | 6), "byte {i}: {e}"),
        }
    }
}

#[test]
fn damaged_constants_are_found_only_when_asked_for() {
    let mut bytes = artifact();
    let at = manifest_of(&bytes).constants[0].offset as usize;
    bytes[at] ^= 1;
    assert!(load(&bytes, false).is_ok());
    assert_eq!(load(&bytes, true).err().unwrap().kind, Kind::Checksum);
}

/// Mutated manifests with right checksums: most are refused; one that is accepted still keeps every access of the
/// *runtime* in range. (Kernels trust their operands, so programs that pass are run only when they are unchanged.)
#[test]
fn mutated_manifests_never_panic() {
    let bytes = artifact();
    let good = manifest_of(&bytes).encode_to_vec();
    let program = manifest_of(&bytes).variants;
    let x = Tensor::from_f32(&[2, 3], &values(2, 3, 1)).unwrap();
    let mut random = Random(1);
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut bad = good.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bad.len());
            match random.below(4) {
                0 => bad[at] = random.below(256) as u8,
                1 => bad[at] ^= 1 << random.below(8),
                2 => drop(bad.remove(at)),
                _ => bad.insert(at, random.below(256) as u8),
            }
        }
        let Ok(model) = load(&with_manifest(&bytes, &bad), false) else { continue };
        accepted += 1;
        let mut session = model.session(1);
        if let Ok(_outputs) = session.prepare(&[x.view(), x.view()])
            && model.manifest().variants == program
            && model.manifest().extents == manifest_of(&bytes).extents
        {
            let mut out = session.prepare(&[x.view(), x.view()]).unwrap();
            session.run_into(&[x.view(), x.view()], &mut out).unwrap();
            let want = expected(&values(2, 3, 1), &values(2, 3, 1), 3);
            let want: Vec<u8> = want.iter().flat_map(|v| v.to_ne_bytes()).collect();
            assert_eq!(out[0].bytes(), want);
        }
    }
    assert!(accepted > 100, "{accepted}");
}

type Change<'a> = &'a dyn Fn(&mut Manifest);

/// The changed manifest is refused with these words.
fn refused(bytes: &[u8], change: Change, message: &str) {
    let mut m = manifest_of(bytes);
    change(&mut m);
    let found = load(&with_manifest(bytes, &m.encode_to_vec()), false).err().expect("refused").message;
    assert!(found.contains(message), "{found:?} should say {message:?}");
}

#[test]
fn contradictions_are_named() {
    let bytes = artifact();
    let cases: [(Change, &str); 11] = [
        (&|m| m.extents[0].a = 1, "extent 0 is not the constant 0"),
        (&|m| m.extents[4].a = 4, "extent 4 is malformed"),
        (&|m| m.symbols[0].min = 9, "symbol N has bounds 9..64 and hint 4"),
        (&|m| m.inputs.iter_mut().for_each(|i| i.dims.truncate(1)), "no input binds symbol T"),
        (&|m| m.outputs[0].dtype = 99, "output y has the unknown type 99"),
        (&|m| m.constants[0].length = 1 << 40, "constant bias lies outside the file"),
        (&|m| m.variants[1].kernels[1].offset = 1 << 20, "kernel f32_scale lies outside the code"),
        (&|m| m.variants[1].program.buffers[3].place = None, "buffer 3 is placed nowhere"),
        (&|m| drop(m.variants[1].program.steps.pop()), "output bias is never written"),
        (&|m| drop(m.variants[1].program.steps.remove(0)), "it reads buffer 2 before anything is written there"),
        (&|m| m.variants[1].code = 7, "there is no section 7"),
    ];
    cases.into_iter().for_each(|(change, message)| refused(&bytes, change, message));
}

#[test]
fn contradictions_about_what_a_run_decides_are_named() {
    let bytes = counted();
    let program = |m: &mut Manifest, change: &dyn Fn(&mut Program)| change(&mut m.variants[0].program);
    let cases: [(Change, &str); 9] = [
        (&|m| m.symbols[1].cap = Some(99), "there is no extent 99"),
        (&|m| m.symbols[1].cap = Some(2), "the cap of symbol n is not known before it"),
        (&|m| m.symbols[1].cap = None, "no input binds symbol n"),
        (&|m| m.inputs[1].dims[0] = m.outputs[0].dims[0], "input b has an extent that a run decides"),
        (&|m| program(m, &|p| drop(p.steps.remove(0))), "extent 2 is used before it is bound"),
        (&|m| program(m, &|p| p.steps.swap(0, 1)), "extent 2 is used before it is bound"),
        (&|m| program(m, &|p| p.steps.insert(1, p.steps[0].clone())), "symbol n is bound twice"),
        (&|m| program(m, &|p| p.steps[0] = Step::bind("/count", 0, 2)), "symbol N has no cap"),
        (&|m| program(m, &|p| p.steps[0] = Step::bind("/count", 7, 2)), "there is no symbol 7"),
    ];
    cases.into_iter().for_each(|(change, message)| refused(&bytes, change, message));
    let unused: Change = &|m| {
        m.outputs.clear();
        program(m, &|p| (p.steps.clear(), p.buffers.truncate(3)).1);
    };
    refused(&bytes, unused, "no step binds symbol n");
    // A count has eight bytes.
    let mut m = manifest_of(&bytes);
    program(&mut m, &|p| p.buffers[2].size = 0);
    let model = load(&with_manifest(&bytes, &m.encode_to_vec()), false).unwrap();
    let x = Tensor::from_f32(&[1], &[1.0]).unwrap();
    let count = Tensor::zeros(tersor_runtime::DType::I64, &[]).unwrap();
    let e = model.session(1).prepare(&[x.view(), x.view(), count.view()]).unwrap_err();
    assert_eq!(e.kind, Kind::Extent, "{e}");
}
