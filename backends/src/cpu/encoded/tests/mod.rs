//! Products and convolutions with encoded weights against the reference evaluator.

mod codes;
mod sparse;

use crate::cpu::build;
use crate::cpu::testing::{Engine, check_on, random_inputs, whole};
use crate::kernel::{GroupCx, Isa, Operand};
use tersor_ir::module::Builder;
use tersor_ir::ops::{Conv, DecodeAffine, DecodeCodebook, Gather, MatMul, Transpose};
use tersor_ir::testing::Gen;
use tersor_ir::{Bindings, DType, Dim, Func, Module, Tensor, Type, ValueId};

/// How a weight is encoded.
#[derive(Copy, Clone, Debug)]
struct Coding {
    codes: DType,
    /// Elements of a group along K; 0 for one scale for each column.
    group: usize,
    zero: bool,
    table: bool,
    /// The type that the scales' values fit.
    scales: DType,
}

/// A weight `[n][rest]` or `[k][n]`, coded along the axes that a product sums over.
fn weight(b: &mut Builder, g: &mut Gen, c: Coding, shape: &[usize], channel: usize) -> ValueId {
    let axis = if channel == 0 { 1 } else { 0 };
    let n = shape.iter().product::<usize>();
    let (lo, hi) = c.codes.int_range().unwrap_or((0, (1 << c.codes.bits()) - 1));
    let codes = if c.codes.is_float() {
        let values: Vec<f64> = (0..n).map(|_| g.one_of(&[0.5, -6.0, 3.0, 0.0, -1.5, 1.0])).collect();
        Tensor::from_f64(c.codes, shape, &values)
    } else {
        Tensor::from_i64(c.codes, shape, &(0..n).map(|_| g.int(lo as i64, hi as i64)).collect::<Vec<_>>())
    };
    let mut params = vec![1; shape.len()];
    if c.group > 0 {
        params = shape.to_vec();
        params[axis] = shape[axis].div_ceil(c.group);
    } else {
        params[channel] = shape[channel];
    }
    let count = params.iter().product::<usize>();
    let scales: Vec<f64> = (0..count).map(|_| g.real(0.01, 0.1)).collect();
    let scales = Tensor::from_f64(DType::F32, params.clone(), &Tensor::from_f64(c.scales, [count], &scales).to_f64());
    let mut operands = vec![b.constant("q", &codes)];
    if c.table {
        let entries: Vec<f32> = (0..1 << c.codes.bits()).map(|_| g.real(-1.0, 1.0) as f32).collect();
        operands.push(b.constant("t", &Tensor::from_f32([entries.len()], &entries)));
    }
    operands.push(b.constant("s", &scales));
    if c.zero {
        let zeros: Vec<i64> = (0..count).map(|_| g.int(lo as i64, hi as i64)).collect();
        operands.push(b.constant("z", &Tensor::from_i64(c.codes, params, &zeros)));
    }
    let (axis, group) = (axis as u8, c.group as u32);
    let y = if c.table {
        b.op(DecodeCodebook { axis, group }, &operands)
    } else {
        b.op(DecodeAffine { axis, group }, &operands)
    };
    y.unwrap_or_else(|d| panic!("{d}"))
}

fn coding(g: &mut Gen) -> Coding {
    use DType::*;
    let table = g.int(0, 3) == 0;
    let codes = if table {
        g.one_of(&[U2, U3, U4, U4, U8])
    } else {
        g.one_of(&[I8, I8, U8, I4, I4, U4, U4, I3, U3, I2, U2, I5, U5, I6, U6, F4E2M1])
    };
    let group = g.one_of(&[0, 0, 8, 16, 20, 32, 64]);
    let zero = !table && !codes.is_float() && g.flip();
    Coding { codes, group, zero, table, scales: g.one_of(&[F32, F16, BF16]) }
}

fn finish(mut m: Module, mut f: Func, y: ValueId) -> Module {
    f.body_mut().results = vec![y];
    f.inputs = vec!["x".into()];
    f.outputs = vec!["y".into()];
    m.funcs.push(f);
    m
}

fn product(g: &mut Gen, c: Coding, rows: Dim, (k, n): (usize, usize)) -> Module {
    let (mut m, mut f) = (Module::new("m"), Func::new("main"));
    let body = f.body_id();
    let x = f.add_param(body, "x", Type::new(DType::F32, [rows, k.into()]));
    let mut b = Builder::new(&mut m.consts, &mut f);
    let trans_b = g.flip();
    let mut w = weight(&mut b, g, c, &if trans_b { [n, k] } else { [k, n] }, usize::from(!trans_b));
    let turned = g.int(0, 4) == 0;
    if turned {
        w = b.op(Transpose { perm: vec![1, 0] }, &[w]).unwrap();
    }
    let y = b.op(MatMul { trans_a: false, trans_b: trans_b != turned, wide: false }, &[x, w]).unwrap();
    finish(m, f, y)
}

/// Whether a launch reads codes and no decoded weights.
fn keeps_codes(m: &Module, isa: Isa) -> bool {
    let fusion = whole(m);
    let f = &m.funcs[m.main().unwrap()];
    let cx = GroupCx::new(m, f, &fusion.groups[0], isa, &fusion.views);
    let launch = build(&cx).unwrap_or_else(|d| panic!("{d}"));
    launch
        .args
        .iter()
        .any(|a| matches!(a, Operand::Packed { layout, .. } if layout.contains("[N/16]") && !layout.starts_with('f')))
}

fn run(engine: Engine, m: &Module, env: &Bindings, isa: Isa, seed: u64) {
    check_on(engine, m, &whole(m), isa, build, &random_inputs(m, env, seed), 1e-5);
}

#[test]
fn products_agree_with_the_evaluator() {
    let mut g = Gen::new(71);
    for seed in 0..120 {
        let c = coding(&mut g);
        let m = g.one_of(&[1, 2, 3, 4, 5, 6, 7, 13, 16, 29]);
        let (k, n) = (g.one_of(&[1, 7, 16, 31, 32, 40, 64, 65, 130]), g.one_of(&[1, 5, 16, 17, 32, 48, 50]));
        let symbolic = g.flip();
        let module = product(&mut g, c, if symbolic { "M".into() } else { m.into() }, (k, n));
        let env = Bindings::from([("M".into(), m)]);
        run(Engine::Emulator, &module, &env, g.one_of(&Isa::ALL), seed);
    }
}

#[test]
fn codes_stay_codes() {
    let mut g = Gen::new(72);
    for codes in [DType::I8, DType::U8, DType::I4, DType::U3, DType::I2, DType::F4E2M1] {
        for group in [0, 32] {
            let c = Coding { codes, group, zero: false, table: false, scales: DType::F16 };
            let m = product(&mut g, c, "M".into(), (128, 48));
            Isa::ALL.into_iter().for_each(|isa| assert!(keeps_codes(&m, isa), "{c:?}"));
        }
    }
}

#[test]
fn long_columns_are_cut_along_k() {
    let mut g = Gen::new(73);
    for (seed, group) in [0, 32, 500].into_iter().enumerate() {
        for zero in [false, true] {
            let c = Coding { codes: DType::U4, group, zero, table: false, scales: DType::F32 };
            let m = product(&mut g, c, "M".into(), (1700, 33));
            let isa = g.one_of(&Isa::ALL);
            run(Engine::Emulator, &m, &Bindings::from([("M".into(), 9)]), isa, seed as u64);
        }
    }
}

fn convolution(g: &mut Gen, c: Coding, groups: i64) -> Module {
    let (mut m, mut f) = (Module::new("m"), Func::new("main"));
    let body = f.body_id();
    let (channels, out) = (g.one_of(&[2, 8, 21]), g.one_of(&[3, 8, 17]));
    let shape: [Dim; 4] = ["N".into(), 6.into(), "W".into(), (channels as i64 * groups).into()];
    let x = f.add_param(body, "x", Type::new(DType::F32, shape));
    let mut b = Builder::new(&mut m.consts, &mut f);
    let taps = g.one_of(&[1, 3]);
    let w = weight(&mut b, g, c, &[out * groups as usize, channels, taps, taps], 0);
    let pads = vec![taps as i64 / 2; 4];
    let op = Conv { strides: vec![1, 2], pads, dilations: vec![1; 2], groups, channels_last: true, wide: false };
    let y = b.op(op, &[x, w]).unwrap();
    finish(m, f, y)
}

#[test]
fn convolutions_agree_with_the_evaluator() {
    let mut g = Gen::new(74);
    for seed in 0..40 {
        let c = Coding { group: g.one_of(&[0, 0, 4, 7]), ..coding(&mut g) };
        let groups = g.one_of(&[1, 1, 2]);
        let m = convolution(&mut g, c, groups);
        let env = Bindings::from([("N".into(), g.int(1, 2)), ("W".into(), g.int(5, 9))]);
        run(Engine::Emulator, &m, &env, g.one_of(&Isa::ALL), seed);
    }
}

fn lookup(g: &mut Gen, c: Coding, (rows, columns): (usize, usize)) -> Module {
    let (mut m, mut f) = (Module::new("m"), Func::new("main"));
    let body = f.body_id();
    let x = f.add_param(body, "x", Type::new(DType::I64, [Dim::from("B"), "T".into()]));
    let mut b = Builder::new(&mut m.consts, &mut f);
    let table = weight(&mut b, g, c, &[rows, columns], 0);
    let y = b.op(Gather { axis: 0 }, &[table, x]).unwrap();
    finish(m, f, y)
}

#[test]
fn tables_are_decoded_as_they_are_looked_up() {
    let mut g = Gen::new(76);
    for seed in 0..60 {
        let c = coding(&mut g);
        let columns = g.one_of(&[1, 5, 16, 24, 50]);
        let m = lookup(&mut g, c, (17, columns));
        let env = Bindings::from([("B".into(), g.int(1, 2)), ("T".into(), g.int(1, 4))]);
        let (isa, inputs) = (g.one_of(&Isa::ALL), random_inputs(&m, &env, seed));
        let fusion = crate::fuse::fuse(&m.funcs[m.main().unwrap()]);
        check_on(Engine::Emulator, &m, &fusion, isa, build, &inputs, 1e-6);
        let f = &m.funcs[m.main().unwrap()];
        let cx = GroupCx::new(&m, f, &fusion.groups[0], isa, &fusion.views);
        let launch = build(&cx).unwrap();
        let table = f.nodes[cx.group.nodes[0]].operands[0];
        let decoded = launch.args.iter().any(|a| matches!(a, Operand::Read(v) if *v == table));
        assert_eq!(decoded, c.codes.is_float(), "{c:?}");
    }
}

#[cfg(feature = "mlir")]
#[test]
fn compiled_code_agrees_with_the_evaluator() {
    let mut g = Gen::new(75);
    for seed in 0..24u64 {
        if seed % 6 == 5 {
            let (c, columns) = (coding(&mut g), g.one_of(&[16, 50]));
            let m = lookup(&mut g, c, (40, columns));
            run(Engine::Native, &m, &Bindings::from([("B".into(), 1), ("T".into(), 5)]), Isa::V3, seed);
            continue;
        }
        let (c, m) = (coding(&mut g), g.one_of(&[1, 2, 5, 13]));
        let (k, n) = (g.one_of(&[65, 128, 1700]), g.one_of(&[33, 48]));
        let rows = if g.flip() { "M".into() } else { m.into() };
        let module = product(&mut g, c, rows, (k, n));
        run(Engine::Native, &module, &Bindings::from([("M".into(), m)]), Isa::V3, seed);
    }
}
