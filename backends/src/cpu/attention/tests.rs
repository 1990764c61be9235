//! Attention against the reference evaluator, in the emulator, as fusion would group it.

use super::build;
use crate::cpu::testing::{check, random_inputs};
use crate::fuse::fuse;
use crate::kernel::{GroupCx, Isa};
use tersor_ir::module::Builder;
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::ops::unary::UnaryKind;
use tersor_ir::ops::{Attention, Binary, Real, Reshape, Transpose, Unary};
use tersor_ir::{Bindings, DType, Dim, Func, Module, Tensor, Type};

/// One case.
#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    groups: usize,
    each: usize,
    rows: usize,
    keys: usize,
    depth: usize,
    width: usize,
    /// Which axes the mask has.
    mask: Option<[bool; 4]>,
    causal: bool,
    dtype: DType,
    /// Queries, keys and values lie as `[B, S, H, D]`.
    mixed: bool,
    /// Keys lie as `[B, H, D, S]`.
    turned: bool,
    /// Results go to `[B, S, H*D]`.
    merged: bool,
    symbolic: bool,
    /// A bias and a negation follow.
    finished: bool,
}

const PLAIN: Case = Case {
    batch: 1,
    groups: 2,
    each: 1,
    rows: 13,
    keys: 19,
    depth: 8,
    width: 16,
    mask: None,
    causal: false,
    dtype: DType::F32,
    mixed: false,
    turned: false,
    merged: false,
    symbolic: false,
    finished: false,
};

fn run(c: Case, isa: Isa, seed: u64) {
    let env: Bindings = [("N", c.batch), ("S", c.rows), ("T", c.keys)].map(|(name, n)| (name.into(), n as i64)).into();
    let dim = |name: &str| if c.symbolic { Dim::from(name) } else { env[name].into() };
    let (b, s, t) = (dim("N"), dim("S"), dim("T"));
    let heads = c.groups * c.each;
    let mut m = Module::new("m");
    let mut f = Func::new("main");
    let body = f.body_id();
    let mut operands = vec![];
    for (name, heads, rows, width) in
        [("q", heads, &s, c.depth), ("k", c.groups, &t, c.depth), ("v", c.groups, &t, c.width)]
    {
        let perm: [u8; 4] = match name {
            "k" if c.turned => [0, 1, 3, 2],
            _ if c.mixed => [0, 2, 1, 3],
            _ => [0, 1, 2, 3],
        };
        let shape = [b.clone(), heads.into(), rows.clone(), width.into()];
        let lies = Type::new(c.dtype, perm.map(|p| shape[p as usize].clone()));
        let v = f.add_param(body, name, lies);
        let mut builder = Builder::new(&mut m.consts, &mut f);
        operands.push(match perm {
            [0, 1, 2, 3] => v,
            _ => builder.op(Transpose { perm: perm.to_vec() }, &[v]).unwrap(),
        });
    }
    if let Some(on) = c.mask {
        let shape = [b.clone(), heads.into(), s.clone(), t].into_iter().zip(on);
        let shape = shape.map(|(d, on)| if on { d } else { 1.into() });
        let leading = on.iter().position(|&on| on).unwrap_or(3);
        operands.push(f.add_param(body, "mask", Type::new(c.dtype, shape.skip(leading))));
    }
    let mut builder = Builder::new(&mut m.consts, &mut f);
    let mut y = builder.op(Attention { scale: Real(0.4), causal: c.causal }, &operands).unwrap();
    if c.merged {
        y = builder.op(Transpose { perm: vec![0, 2, 1, 3] }, &[y]).unwrap();
        y = builder.op(Reshape { shape: vec![b, s, Dim::from(heads * c.width)] }, &[y]).unwrap();
    }
    if c.finished {
        let last = builder.ty(y).shape[builder.ty(y).rank() - 1].as_const().unwrap() as usize;
        let bias = Tensor::from_f64(c.dtype, [last], &(0..last).map(|i| i as f64 / 8.0).collect::<Vec<_>>());
        let bias = builder.constant("bias", &bias);
        y = builder.op(Binary { kind: BinaryKind::Add }, &[y, bias]).unwrap();
        y = builder.op(Unary { kind: UnaryKind::Neg }, &[y]).unwrap();
    }
    f.body_mut().results = vec![y];
    f.inputs = f.body().params.iter().map(|&p| f.values[p].name.clone()).collect();
    f.outputs = vec!["y".into()];
    m.funcs.push(f);

    let mut inputs = random_inputs(&m, &env, seed);
    if let Some(mask) = inputs.get_mut(3) {
        let hide = |v: f64| if v > 0.8 { f64::NEG_INFINITY } else { v };
        let values: Vec<f64> = mask.to_f64().into_iter().map(hide).collect();
        *mask = Tensor::from_f64(mask.dtype(), mask.shape().to_vec(), &values);
    }
    let fusion = fuse(&m.funcs[m.main().unwrap()]);
    assert_eq!(fusion.groups.len(), 1, "{c:?}");
    let build = |cx: &GroupCx| {
        let launch = build(cx)?;
        assert_eq!(launch.kernel.features.contains("amx-bf16"), isa == Isa::Amx && c.depth.is_multiple_of(32));
        Ok(launch)
    };
    check(&m, &fusion, isa, build, &inputs, 1e-5);
}

#[test]
fn agrees_with_the_evaluator() {
    for isa in [Isa::V3, Isa::V4] {
        run(PLAIN, isa, 1);
        run(
            Case { mixed: true, merged: true, symbolic: true, mask: Some([true, false, false, true]), ..PLAIN },
            isa,
            2,
        );
        run(Case { causal: true, turned: true, depth: 5, width: 21, symbolic: true, ..PLAIN }, isa, 3);
        run(Case { causal: true, rows: 7, keys: 7, each: 3, mask: Some([false, false, true, true]), ..PLAIN }, isa, 4);
        run(Case { rows: 1, keys: 37, each: 2, width: 70, depth: 12, causal: true, ..PLAIN }, isa, 5);
        run(Case { rows: 3, keys: 9, symbolic: true, merged: true, mask: Some([true; 4]), ..PLAIN }, isa, 6);
    }
}

#[test]
fn without_keys_the_sum_is_zero() {
    for symbolic in [false, true] {
        run(Case { keys: 0, symbolic, ..PLAIN }, Isa::V3, 18);
        run(Case { keys: 0, rows: 2, symbolic, causal: true, ..PLAIN }, Isa::V4, 19);
    }
    let tiles = Case { dtype: DType::BF16, depth: 32, width: 48, rows: 37, keys: 0, symbolic: true, ..PLAIN };
    run(tiles, Isa::Amx, 20);
}

#[test]
fn half_floats_are_widened() {
    for (dtype, rows) in [(DType::BF16, 9), (DType::F16, 2)] {
        run(Case { dtype, rows, mask: Some([false, true, false, true]), ..PLAIN }, Isa::V3, 7);
    }
}

#[test]
fn tiles_multiply_packed_bf16() {
    let wide = Case { dtype: DType::BF16, depth: 32, width: 48, mixed: true, merged: true, ..PLAIN };
    run(Case { rows: 37, keys: 61, ..wide.clone() }, Isa::Amx, 12);
    run(
        Case { rows: 20, keys: 33, each: 2, causal: true, symbolic: true, finished: true, ..wide.clone() },
        Isa::Amx,
        13,
    );
    run(Case { rows: 9, keys: 40, depth: 64, mask: Some([true, false, false, true]), ..wide.clone() }, Isa::Amx, 14);
    run(Case { rows: 9, keys: 530, groups: 1, width: 16, symbolic: true, ..wide.clone() }, Isa::Amx, 15);
    run(Case { rows: 2, keys: 9, symbolic: true, ..wide.clone() }, Isa::Amx, 16);
    run(Case { depth: 40, ..wide }, Isa::Amx, 17);
}

#[test]
fn long_sequences_go_block_by_block() {
    let long = Case { keys: 530, groups: 1, depth: 4, width: 4, ..PLAIN };
    run(Case { symbolic: true, ..long.clone() }, Isa::V3, 8);
    run(Case { rows: 10, causal: true, mask: Some([false, false, true, true]), ..long.clone() }, Isa::V4, 9);
    run(Case { rows: 2, symbolic: true, causal: true, ..long }, Isa::V3, 10);
}

#[test]
fn random_cases() {
    let mut g = tersor_ir::testing::Gen::new(11);
    for seed in 0..40 {
        let rows = g.int(1, 30) as usize;
        let case = Case {
            batch: g.int(1, 2) as usize,
            groups: g.int(1, 2) as usize,
            each: g.int(1, 3) as usize,
            rows,
            keys: rows + g.int(0, 20) as usize,
            depth: g.int(1, 20) as usize,
            width: g.int(1, 40) as usize,
            mask: g.flip().then(|| [g.flip(), g.flip(), g.flip(), g.flip()]),
            causal: g.flip(),
            dtype: DType::F32,
            mixed: g.flip(),
            turned: g.flip(),
            merged: g.flip(),
            symbolic: g.flip(),
            finished: g.flip(),
        };
        let isa = g.one_of(&[Isa::V3, Isa::V4]);
        run(case, isa, seed);
    }
}
