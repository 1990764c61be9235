//! Weights of which a part is stored: every pattern and type of values.

use super::*;
use crate::kernel::Launch;
use tersor_ir::ops::{DecodeSparse, Reshape};

/// What stays of a weight, along its last axis.
#[derive(Copy, Clone, Debug)]
enum Pattern {
    /// Each element with this probability in percent.
    Share(i64),
    /// So many of so many neighbours.
    Of(usize, usize),
    /// Runs of so many neighbours, with this probability in percent.
    Runs(usize, i64),
    /// All of a few columns, so that masks are full or empty.
    Columns,
}

const PATTERNS: [Pattern; 10] = [
    Pattern::Share(50),
    Pattern::Share(30),
    Pattern::Share(10),
    Pattern::Share(0),
    Pattern::Share(100),
    Pattern::Of(2, 4),
    Pattern::Of(1, 4),
    Pattern::Runs(4, 50),
    Pattern::Runs(8, 25),
    Pattern::Columns,
];

impl Pattern {
    fn keep(self, g: &mut Gen, rows: usize, cols: usize) -> Vec<bool> {
        let mut keep = vec![false; rows * cols];
        for row in keep.chunks_mut(cols) {
            match self {
                Pattern::Share(p) => row.iter_mut().for_each(|k| *k = g.int(0, 99) < p),
                Pattern::Runs(n, p) => row.chunks_mut(n).for_each(|r| r.fill(g.int(0, 99) < p)),
                Pattern::Columns => row.iter_mut().step_by(3).for_each(|k| *k = true),
                Pattern::Of(n, m) => row.chunks_mut(m).for_each(|r| {
                    (0..n).for_each(|i| r[i.min(r.len() - 1)] = true);
                    (1..r.len()).rev().for_each(|i| r.swap(i, g.int(0, i as i64) as usize));
                }),
            }
        }
        keep
    }
    fn run(self) -> usize {
        if let Pattern::Runs(n, _) = self { n } else { 1 }
    }
}

/// How a sparse weight is stored.
#[derive(Copy, Clone, Debug)]
struct Sparsity {
    pattern: Pattern,
    values: DType,
    /// For codes: as in [`Coding`].
    group: usize,
    zero: bool,
}

const TYPES: [DType; 9] = {
    use DType::*;
    [F32, F16, BF16, I8, I4, I3, I2, I6, U8]
};

/// A weight `[rows][columns]`, with scales along its columns where it has codes.
fn sparse(b: &mut Builder, g: &mut Gen, s: Sparsity, [rows, cols]: [usize; 2], channel: usize) -> ValueId {
    let dense = match s.values.int_range() {
        None => g.tensor(&Type::new(s.values, [rows, cols])),
        Some((lo, hi)) => {
            let codes: Vec<i64> = (0..rows * cols).map(|_| g.int(lo as i64, hi as i64)).collect();
            Tensor::from_i64(s.values, [rows, cols], &codes)
        }
    };
    let keep = s.pattern.keep(g, rows, cols);
    let (values, mask) = DecodeSparse::encode(&dense, &keep, s.pattern.run());
    let operands = [b.constant("v", &values), b.constant("m", &mask)];
    let op = DecodeSparse { shape: vec![rows.into(), cols.into()], run: s.pattern.run() as u32 };
    let w = b.op(op, &operands).unwrap_or_else(|d| panic!("{d}"));
    if s.values.is_float() {
        return w;
    }
    let axis = 1 - channel;
    let mut params = [rows, cols];
    params[axis] = if s.group == 0 { 1 } else { params[axis].div_ceil(s.group) };
    let count = params[0] * params[1];
    let scales: Vec<f32> = (0..count).map(|_| g.real(0.01, 0.1) as f32).collect();
    let mut operands = vec![w, b.constant("s", &Tensor::from_f32(params, &scales))];
    if s.zero {
        let zeros: Vec<i64> = (0..count).map(|_| g.int(0, 1)).collect();
        operands.push(b.constant("z", &Tensor::from_i64(s.values, params, &zeros)));
    }
    b.op(DecodeAffine { axis: axis as u8, group: s.group as u32 }, &operands).unwrap_or_else(|d| panic!("{d}"))
}

fn sparsity(g: &mut Gen) -> Sparsity {
    let values = g.one_of(&TYPES);
    let group = g.one_of(&[0, 0, 8, 20, 32, 64]);
    Sparsity { pattern: g.one_of(&PATTERNS), values, group, zero: !values.is_float() && g.int(0, 3) == 0 }
}

fn product(g: &mut Gen, s: Sparsity, rows: Dim, size: (usize, usize)) -> Module {
    let trans_b = g.int(0, 3) > 0;
    product_by(g, s, rows, size, trans_b)
}

fn product_by(g: &mut Gen, s: Sparsity, rows: Dim, (k, n): (usize, usize), trans_b: bool) -> Module {
    let (mut m, mut f) = (Module::new("m"), Func::new("main"));
    let body = f.body_id();
    let dtype = if s.values.is_float() { s.values } else { DType::F32 };
    let x = f.add_param(body, "x", Type::new(dtype, [rows, k.into()]));
    let mut b = Builder::new(&mut m.consts, &mut f);
    let w = sparse(&mut b, g, s, if trans_b { [n, k] } else { [k, n] }, usize::from(!trans_b));
    let y = b.op(MatMul { trans_a: false, trans_b, wide: false }, &[x, w]).unwrap();
    finish(m, f, y)
}

fn agrees(engine: Engine, m: &Module, env: &Bindings, isa: Isa, seed: u64) {
    let x = m.funcs[m.main().unwrap()].body().params[0];
    let tolerance = match m.funcs[m.main().unwrap()].values[x].ty.dtype {
        DType::F32 => 1e-5,
        DType::F16 => 2e-3,
        _ => 2e-2,
    };
    check_on(engine, m, &whole(m), isa, build, &random_inputs(m, env, seed), tolerance);
}

#[test]
fn sparse_products_agree_with_the_evaluator() {
    let mut g = Gen::new(81);
    for seed in 0..150 {
        let mut s = sparsity(&mut g);
        // Every pattern and every type comes, in all pairs.
        (s.pattern, s.values) = (PATTERNS[seed as usize % 10], TYPES[seed as usize / 10 % 9]);
        s.zero &= !s.values.is_float();
        let m = g.one_of(&[1, 1, 2, 3, 5, 7, 13, 16, 29]);
        let (k, n) = (g.one_of(&[1, 7, 16, 31, 40, 64, 65, 130, 200]), g.one_of(&[1, 5, 16, 17, 33, 48]));
        let rows = if g.flip() { "M".into() } else { m.into() };
        let module = product(&mut g, s, rows, (k, n));
        agrees(Engine::Emulator, &module, &Bindings::from([("M".into(), m)]), g.one_of(&Isa::ALL), seed);
    }
}

#[test]
fn long_sparse_columns_are_cut_along_k() {
    let mut g = Gen::new(82);
    for (seed, values) in [DType::F32, DType::I8, DType::I4].into_iter().enumerate() {
        for group in [0, 32, 500] {
            let s = Sparsity { pattern: g.one_of(&PATTERNS), values, group, zero: false };
            let m = product(&mut g, s, "M".into(), (1700, 33));
            agrees(Engine::Emulator, &m, &Bindings::from([("M".into(), 9)]), g.one_of(&Isa::ALL), seed as u64);
        }
    }
}

#[test]
fn sparse_convolutions_agree_with_the_evaluator() {
    let mut g = Gen::new(83);
    for seed in 0..40 {
        let s = Sparsity { values: g.one_of(&[DType::F32, DType::I8, DType::I4]), ..sparsity(&mut g) };
        let s = Sparsity { zero: s.zero && !s.values.is_float(), ..s };
        let (mut m, mut f) = (Module::new("m"), Func::new("main"));
        let body = f.body_id();
        let (groups, channels) = (g.one_of(&[1, 1, 2]), g.one_of(&[2, 8, 21]));
        let (out, taps) = (g.one_of(&[3, 8, 17]), g.one_of(&[1, 3]));
        let shape: [Dim; 4] = [1.into(), 6.into(), "W".into(), (channels * groups).into()];
        let x = f.add_param(body, "x", Type::new(DType::F32, shape));
        let mut b = Builder::new(&mut m.consts, &mut f);
        let w = sparse(&mut b, &mut g, s, [out * groups, channels * taps * taps], 0);
        let shape = [out * groups, channels, taps, taps].iter().map(|&d| d.into()).collect();
        let w = b.op(Reshape { shape }, &[w]).unwrap();
        let pads = vec![taps as i64 / 2; 4];
        let groups = groups as i64;
        let op = Conv { strides: vec![1, 2], pads, dilations: vec![1; 2], groups, channels_last: true, wide: false };
        let y = b.op(op, &[x, w]).unwrap();
        let m = finish(m, f, y);
        agrees(Engine::Emulator, &m, &Bindings::from([("W".into(), g.int(5, 9))]), g.one_of(&Isa::ALL), seed);
    }
}

fn launch(m: &Module, isa: Isa) -> (Launch, bool) {
    let fusion = whole(m);
    let f = &m.funcs[m.main().unwrap()];
    let cx = GroupCx::new(m, f, &fusion.groups[0], isa, &fusion.views);
    let launch = build(&cx).unwrap_or_else(|d| panic!("{d}"));
    let decoded = !cx.decoded.borrow().is_empty();
    (launch, decoded)
}

#[test]
fn what_is_left_out_is_not_stored() {
    let mut g = Gen::new(84);
    let (k, n) = (256, 64);
    for pattern in [Pattern::Share(50), Pattern::Share(10), Pattern::Of(2, 4), Pattern::Runs(8, 50)] {
        for values in [DType::F32, DType::F16, DType::BF16, DType::I8, DType::I4] {
            let s = Sparsity { pattern, values, group: 0, zero: false };
            // Runs are shared by rows where they lie along K.
            let m = product_by(&mut g, s, "M".into(), (k, n), true);
            let f = &m.funcs[m.main().unwrap()];
            let constants = f.values.iter().filter_map(|(v, _)| f.def_const(v));
            let encoded: usize = constants.map(|c| m.consts[c].byte_len()).sum();
            for isa in Isa::ALL {
                let (launch, decoded) = launch(&m, isa);
                assert!(!decoded, "{s:?}");
                let stored: usize = launch
                    .args
                    .iter()
                    .map(|a| if let Operand::Packed { data, .. } = a { data.bytes().len() } else { 0 })
                    .sum();
                // First values of chunks and padding come to few bytes.
                assert!(stored <= encoded + encoded / 8 + 128, "{s:?} takes {stored} B for {encoded} B");
            }
        }
    }
}

#[test]
fn what_saves_nothing_is_stored_as_elements() {
    let mut g = Gen::new(85);
    let s = Sparsity { pattern: Pattern::Share(100), values: DType::F32, group: 0, zero: false };
    let m = product(&mut g, s, "M".into(), (64, 48));
    assert!(launch(&m, Isa::V3).1);
}

#[test]
fn depthwise_convolutions_say_that_they_decode() {
    let mut g = Gen::new(87);
    let s = Sparsity { pattern: Pattern::Share(30), values: DType::F32, group: 0, zero: false };
    let (mut m, mut f) = (Module::new("m"), Func::new("main"));
    let body = f.body_id();
    let x = f.add_param(body, "x", Type::new(DType::F32, [1, 6, 6, 16]));
    let mut b = Builder::new(&mut m.consts, &mut f);
    let w = sparse(&mut b, &mut g, s, [16, 9], 0);
    let shape = [16, 1, 3, 3].map(|d: i64| d.into()).to_vec();
    let w = b.op(Reshape { shape }, &[w]).unwrap();
    let op = Conv {
        strides: vec![1; 2],
        pads: vec![1; 4],
        dilations: vec![1; 2],
        groups: 16,
        channels_last: true,
        wide: false,
    };
    let y = b.op(op, &[x, w]).unwrap();
    let m = finish(m, f, y);
    agrees(Engine::Emulator, &m, &Bindings::new(), Isa::V3, 1);
    assert!(Isa::ALL.into_iter().all(|isa| launch(&m, isa).1));
}

#[cfg(feature = "mlir")]
#[test]
fn compiled_sparse_products_agree_with_the_evaluator() {
    let mut g = Gen::new(86);
    for seed in 0..18u64 {
        let mut s = sparsity(&mut g);
        s.values = TYPES[seed as usize % 9];
        s.zero &= !s.values.is_float();
        let m = g.one_of(&[1, 2, 5, 13]);
        let (k, n) = (g.one_of(&[65, 128, 1700]), g.one_of(&[33, 48]));
        let rows = if g.flip() { "M".into() } else { m.into() };
        let module = product(&mut g, s, rows, (k, n));
        agrees(Engine::Native, &module, &Bindings::from([("M".into(), m)]), Isa::V3, seed);
    }
}
