//! Rows that are codes times encoded weights, against the reference evaluator.

use super::{Coding, coding, finish, weight};
use crate::cpu::build;
use crate::cpu::testing::{Engine, check_on, random_inputs};
use crate::emit::print;
use crate::fuse::fuse;
use crate::kernel::{GroupCx, Isa};
use tersor_ir::module::Builder;
use tersor_ir::ops::{DecodeAffine, MatMul};
use tersor_ir::testing::Gen;
use tersor_ir::{Bindings, DType, Dim, Func, Module, Type};

/// Rows in groups of `group`, `k` of `n` products with weights, and twice so.
fn module(g: &mut Gen, c: Coding, rows: Dim, (k, n): (usize, usize), group: usize) -> Module {
    let (mut m, mut f) = (Module::new("m"), Func::new("main"));
    let body = f.body_id();
    let q = f.add_param(body, "q", Type::new(DType::I8, [rows.clone(), k.into()]));
    let s = f.add_param(body, "s", Type::new(DType::F32, [rows, (k / group).into()]));
    let mut b = Builder::new(&mut m.consts, &mut f);
    let x = b.op(DecodeAffine { axis: 1, group: group as u32 }, &[q, s]).unwrap();
    let trans_b = g.flip();
    let w = weight(&mut b, g, c, &if trans_b { [n, k] } else { [k, n] }, usize::from(!trans_b));
    let y = b.op(MatMul { trans_a: false, trans_b, wide: false }, &[x, w]).unwrap();
    let mut m = finish(m, f, y);
    let main = m.main().unwrap();
    m.funcs[main].inputs = vec!["q".into(), "s".into()];
    m
}

fn run(engine: Engine, m: &Module, env: &Bindings, isa: Isa, seed: u64) {
    let fusion = fuse(&m.funcs[m.main().unwrap()]);
    assert_eq!(fusion.groups.len(), 1, "the product decodes its rows itself");
    check_on(engine, m, &fusion, isa, build, &random_inputs(m, env, seed), 1e-5);
}

/// Extents of a case whose groups divide K.
fn extents(g: &mut Gen) -> (usize, (usize, usize)) {
    let group = g.one_of(&[8, 16, 32, 32, 64, 96]);
    (group, (group * g.int(1, 5) as usize, g.one_of(&[1, 5, 16, 17, 32, 48, 50])))
}

#[test]
fn products_of_codes_agree_with_the_evaluator() {
    let mut g = Gen::new(81);
    for seed in 0..150 {
        let (group, extents) = extents(&mut g);
        let c = Coding { group: g.one_of(&[0, group, group, 16]), ..coding(&mut g) };
        let m = g.int(1, 70);
        let symbolic = g.flip();
        let module = module(&mut g, c, if symbolic { "M".into() } else { m.into() }, extents, group);
        run(Engine::Emulator, &module, &Bindings::from([("M".into(), m)]), g.one_of(&Isa::ALL), seed);
    }
}

#[test]
fn long_rows_of_codes_are_cut_along_k() {
    let mut g = Gen::new(82);
    for (seed, group) in [0, 32, 64].into_iter().enumerate() {
        let c = Coding { codes: DType::U4, group, zero: group > 0, table: false, scales: DType::F16 };
        let m = module(&mut g, c, "M".into(), (64 * 110, 33), 64);
        run(Engine::Emulator, &m, &Bindings::from([("M".into(), 7)]), Isa::Amx, seed as u64);
    }
}

/// Whether a kernel of the module multiplies bytes.
fn multiplies_bytes(m: &Module, isa: Isa) -> bool {
    let f = &m.funcs[m.main().unwrap()];
    let fusion = fuse(f);
    let launch = build(&GroupCx::new(m, f, &fusion.groups[0], isa, &fusion.views)).unwrap();
    print::module(&[launch.kernel]).contains("vpdpbusd.512")
}

#[test]
fn what_cannot_stay_codes_is_decoded() {
    let mut g = Gen::new(83);
    let good = Coding { codes: DType::I4, group: 32, zero: false, table: false, scales: DType::F16 };
    for (c, group, expected) in [
        (good, 32, true),
        (Coding { codes: DType::U4, zero: true, ..good }, 64, true),
        (Coding { group: 0, ..good }, 32, true),
        (Coding { codes: DType::U3, ..good }, 32, true),
        (Coding { codes: DType::I8, ..good }, 32, true),
        // Codes less their zero points need nine bits.
        (Coding { codes: DType::U8, zero: true, ..good }, 32, false),
        (Coding { codes: DType::U4, table: true, ..good }, 32, false),
        // The rows' scales change more often than the weight's.
        (Coding { group: 64, ..good }, 32, false),
        // A sum would be long.
        (Coding { group: 0, ..good }, 2048, false),
        // A group is not whole units.
        (Coding { codes: DType::U3, group: 16, ..good }, 32, false),
    ] {
        let m = module(&mut g, c, "M".into(), (2048, 48), group);
        assert_eq!(multiplies_bytes(&m, Isa::V4), expected, "{c:?} by {group}");
        assert!(!multiplies_bytes(&m, Isa::V3));
    }
}

#[cfg(feature = "mlir")]
#[test]
fn compiled_products_of_codes_agree_with_the_evaluator() {
    let mut g = Gen::new(84);
    for seed in 0..24 {
        let (group, extents) = extents(&mut g);
        let c = Coding { group: g.one_of(&[0, group]), ..coding(&mut g) };
        let module = module(&mut g, c, "M".into(), extents, group);
        let m = g.one_of(&[1, 3, 5, 16, 33, 40]);
        run(Engine::Native, &module, &Bindings::from([("M".into(), m)]), Isa::ALL[seed as usize % 3], seed);
    }
}
