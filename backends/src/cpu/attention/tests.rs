//! Attention against the reference evaluator, in the emulator.

use super::build;
use crate::emit::emulate::{Buffer, Call, run};
use crate::kernel::{Group, GroupCx, Isa, Launch, Operand, View};
use std::collections::HashMap;
use tersor_ir::module::Builder;
use tersor_ir::ops::{Attention, Real, Reshape, Transpose};
use tersor_ir::testing::{Gen, max_abs};
use tersor_ir::{Bindings, DType, Def, Dim, Func, Module, NodeId, Op, Tensor, Type, ValueId};

/// One case; operands are stored as `[B, S, H, D]` with `mixed`, else dense.
#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    groups: usize,
    each: usize,
    rows: usize,
    keys: usize,
    depth: usize,
    width: usize,
    mask: Option<[bool; 4]>,
    causal: bool,
    dtype: DType,
    /// Queries, keys and values lie as `[B, S, H, D]`, keys as `[B, H, D, S]` with `turned`.
    mixed: bool,
    turned: bool,
    /// Results go to `[B, S, H*D]`.
    merged: bool,
    symbolic: bool,
}

/// Runs a launch whose values are all in `tensors` and returns its outputs.
pub(in crate::cpu) fn execute(
    launch: &Launch,
    tensors: &HashMap<ValueId, Tensor>,
    outputs: &[(ValueId, Type)],
    env: &Bindings,
) -> Tensor {
    let value = |d: &Dim| d.eval(env).expect("bound");
    let mut call = Call::new(value(&launch.grid));
    let mut result = None;
    for arg in &launch.args {
        let buffer = match arg {
            Operand::Read(v) => Buffer::from_slice(tensors[v].bytes()),
            Operand::Packed { data, .. } => Buffer::from_slice(data.bytes()),
            Operand::Write(v) => {
                let ty = &outputs.iter().find(|(o, _)| o == v).expect("an output").1;
                result = Some((call.buffers.len(), ty.clone()));
                Buffer::zeroed(value(&ty.elements()) as usize * ty.dtype.bits() as usize / 8)
            }
        };
        call.buffers.push(buffer);
        call.args.push(call.buffers.len() - 1);
    }
    call.dims = launch.dims.iter().map(value).collect();
    call.scratch = value(&launch.scratch) as usize;
    run(&launch.kernel, &mut call).unwrap();
    let (index, ty) = result.expect("an output");
    let shape = ty.shape.iter().map(|d| value(d) as usize).collect();
    Tensor::from_blob(ty.dtype, shape, call.buffers[index].bytes().to_vec().into()).unwrap()
}

fn check(case: &Case, isa: Isa, seed: u64) {
    let c = case.clone();
    let mut env = Bindings::new();
    let mut dim = |name: &str, n: usize| {
        env.insert(name.into(), n as i64);
        if c.symbolic { Dim::from(name) } else { Dim::from(n) }
    };
    let (b, s, t) = (dim("N", c.batch), dim("S", c.rows), dim("T", c.keys));
    let (g, h, d, e) = (c.groups, c.groups * c.each, c.depth, c.width);
    let mut m = Module::new("m");
    let mut f = Func::new("main");
    let body = f.body_id();
    let ty = |heads: usize, rows: &Dim, n: usize| Type::new(c.dtype, [b.clone(), heads.into(), rows.clone(), n.into()]);
    let mut operands = vec![
        f.add_param(body, "q", ty(h, &s, d)),
        f.add_param(body, "k", ty(g, &t, d)),
        f.add_param(body, "v", ty(g, &t, e)),
    ];
    if let Some(on) = c.mask {
        let full = [b.clone(), h.into(), s.clone(), t.clone()];
        let shape = full.into_iter().zip(on).map(|(d, on)| if on { d } else { 1.into() });
        let first = on.iter().position(|&on| on).unwrap_or(3);
        operands.push(f.add_param(body, "m", Type::new(c.dtype, shape.skip(first))));
    }
    let op = Attention { scale: Real(0.4), causal: c.causal };
    let mut build_in = Builder::new(&mut m.consts, &mut f);
    let y = build_in.op(op, &operands).unwrap();
    let mut last = y;
    if c.merged {
        last = build_in.op(Transpose { perm: vec![0, 2, 1, 3] }, &[last]).unwrap();
        last = build_in.op(Reshape { shape: vec![b.clone(), s.clone(), Dim::from(h * e)] }, &[last]).unwrap();
    }
    f.body_mut().results = vec![last];
    let nodes: Vec<NodeId> = f.body().nodes.clone();
    let Def::Node(anchor, _) = f.values[y].def else { unreachable!() };
    let group = Group { anchor: Some(anchor), nodes: nodes.clone(), inputs: operands.clone(), outputs: vec![last] };

    let mut gen_ = Gen::new(seed);
    let mut tensors: HashMap<ValueId, Tensor> = HashMap::new();
    let mut stored = HashMap::new();
    let mut views = HashMap::new();
    for (i, &v) in operands.iter().enumerate() {
        let ty = f.values[v].ty.clone();
        let shape: Vec<usize> = ty.shape.iter().map(|d| d.eval(&env).unwrap() as usize).collect();
        let mut x = gen_.tensor(&Type::new(ty.dtype, shape.clone()));
        if i == 3 {
            let hide = |v: f64| if v > 0.8 { f64::NEG_INFINITY } else { v };
            x = Tensor::from_f64(ty.dtype, shape.clone(), &x.to_f64().into_iter().map(hide).collect::<Vec<_>>());
        }
        // The axes as they lie in memory, and where each is in the view.
        let perm: Vec<u8> = match i {
            1 if c.turned => vec![0, 1, 3, 2],
            0..3 if c.mixed => vec![0, 2, 1, 3],
            _ => (0..shape.len() as u8).collect(),
        };
        let lies = Op::from(Transpose { perm: perm.clone() }).eval(&[&x], &env).unwrap().remove(0);
        let moved = Type::new(ty.dtype, perm.iter().map(|&p| &ty.shape[p as usize]));
        let dense = View::dense(v, &moved);
        let mut strides = dense.strides.clone();
        perm.iter().enumerate().for_each(|(axis, &p)| strides[p as usize] = dense.strides[axis].clone());
        if perm.iter().enumerate().any(|(a, &p)| a != p as usize) {
            views.insert(v, View { strides, ..dense });
        }
        stored.insert(v, lies);
        tensors.insert(v, x);
    }
    let cx = GroupCx { m: &m, f: &f, group: &group, isa, views: &views };
    let launch = build(&cx).unwrap();
    let got = execute(&launch, &stored, &[(last, f.values[last].ty.clone())], &env);
    for n in nodes {
        let node = &f.nodes[n];
        let ins: Vec<&Tensor> = node.operands.iter().map(|v| &tensors[v]).collect();
        let out = node.op.eval(&ins, &env).unwrap().remove(0);
        tensors.insert(node.results[0], out);
    }
    let tolerance = if c.dtype == DType::F32 { 1e-5 } else { 0.02 };
    let error = max_abs(&got, &tensors[&last]);
    assert!(error <= tolerance, "{case:?} on {}: {error}", isa.name());
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
};

#[test]
fn agrees_with_the_evaluator() {
    for isa in [Isa::V3, Isa::V4] {
        check(&PLAIN, isa, 1);
        check(
            &Case { mixed: true, merged: true, symbolic: true, mask: Some([true, false, false, true]), ..PLAIN },
            isa,
            2,
        );
        check(&Case { causal: true, turned: true, depth: 5, width: 21, symbolic: true, ..PLAIN }, isa, 3);
        check(
            &Case { causal: true, rows: 7, keys: 7, each: 3, mask: Some([false, false, true, true]), ..PLAIN },
            isa,
            4,
        );
        check(&Case { rows: 1, keys: 37, each: 2, width: 70, depth: 12, causal: true, ..PLAIN }, isa, 5);
        check(&Case { rows: 3, keys: 9, symbolic: true, merged: true, mask: Some([true; 4]), ..PLAIN }, isa, 6);
    }
}

#[test]
fn half_floats_are_widened() {
    for (dtype, rows) in [(DType::BF16, 9), (DType::F16, 2)] {
        check(&Case { dtype, rows, mask: Some([false, true, false, true]), ..PLAIN }, Isa::V3, 7);
    }
}

#[test]
fn long_sequences_go_block_by_block() {
    let long = Case { keys: 530, groups: 1, depth: 4, width: 4, ..PLAIN };
    check(&Case { symbolic: true, ..long.clone() }, Isa::V3, 8);
    check(&Case { rows: 10, causal: true, mask: Some([false, false, true, true]), ..long.clone() }, Isa::V4, 9);
    check(&Case { rows: 2, symbolic: true, causal: true, ..long }, Isa::V3, 10);
}

#[test]
fn random_cases() {
    let mut g = Gen::new(11);
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
        };
        let isa = g.one_of(&[Isa::V3, Isa::V4]);
        check(&case, isa, seed);
    }
}
