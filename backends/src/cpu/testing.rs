//! Runs fused modules on built kernels, in the emulator or compiled, against the reference evaluation.
//!
//! [`whole`] makes one group of all nodes, [`fuse`](crate::fuse::fuse) the groups of a real compilation; [`check`] takes either.

use crate::emit::emulate::{Buffer, Call, run};
use crate::fuse::{Fusion, Role, role};
use crate::kernel::{Group, GroupCx, Isa, Launch, Operand};
use std::collections::HashMap;
use tersor_ir::diag::Result;
use tersor_ir::testing::{Gen, max_abs};
use tersor_ir::{Bindings, DType, Def, Dim, Func, Module, Op, Tensor, Type, ValueId, interp};

/// Parses `.tir` text.
pub fn parse(text: &str) -> Module {
    tersor_ir::text::parse(text, &Default::default()).unwrap_or_else(|e| panic!("{}\n{text}", e[0]))
}

/// A module of one op over parameters of these types.
pub fn one_op(op: impl Into<Op>, types: &[Type]) -> Module {
    let mut f = Func::new("main");
    let body = f.body_id();
    let params: Vec<_> =
        types.iter().enumerate().map(|(i, t)| f.add_param(body, &format!("x{i}"), t.clone())).collect();
    let n = f.add_node(body, op.into(), &params, "y", Default::default()).unwrap_or_else(|d| panic!("{d}"));
    f.body_mut().results = f.nodes[n].results.to_vec();
    f.inputs = params.iter().map(|&p| f.values[p].name.clone()).collect();
    f.outputs = f.body().results.iter().map(|&v| f.values[v].name.clone()).collect();
    let mut m = Module::new("m");
    m.funcs.push(f);
    m
}

/// One group of all nodes of `@main` that do not depend on constants alone; the first node that is not elementwise or a move is its anchor.
pub fn whole(m: &Module) -> Fusion {
    let f = &m.funcs[m.main().expect("main")];
    let mut g = Group::default();
    for &n in &f.body().nodes {
        let node = &f.nodes[n];
        if interp::constant(&m.consts, f, node.results[0]).is_some() {
            continue;
        }
        if matches!(role(&node.op), Role::Anchor | Role::Row) {
            g.anchor = g.anchor.or(Some(n));
        }
        for &v in &node.operands {
            let inside = matches!(f.values[v].def, Def::Node(d, _) if g.nodes.contains(&d));
            if !inside && !g.inputs.contains(&v) {
                g.inputs.push(v);
            }
        }
        g.nodes.push(n);
        g.outputs.extend(node.results.iter().copied().filter(|v| f.body().results.contains(v)));
    }
    Fusion { groups: vec![g], ..Fusion::default() }
}

/// What runs kernels.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Engine {
    /// The emulator, for any instruction set.
    Emulator,
    /// Compiled code, where this machine has the instruction set; the emulator runs first, to show that the kernel stays in its buffers.
    #[cfg(feature = "mlir")]
    Native,
}

/// Runs the groups one after the other, the grid of each in several parts. Results that no group writes are views, inputs or constants.
pub fn execute(
    engine: Engine,
    m: &Module,
    fusion: &Fusion,
    isa: Isa,
    build: impl Fn(&GroupCx) -> Result<Launch>,
    inputs: &[Tensor],
) -> Vec<Tensor> {
    let f = &m.funcs[m.main().expect("main")];
    let mut env = interp::bind(m, f, inputs).unwrap_or_else(|d| panic!("{d}"));
    let mut buffers: HashMap<ValueId, Buffer> = HashMap::new();
    for (&p, t) in f.body().params.iter().zip(inputs) {
        buffers.insert(p, Buffer::from_slice(t.bytes()));
    }
    for (i, group) in fusion.groups.iter().enumerate() {
        for (_, n) in fusion.binds.iter().filter(|b| b.0 == i) {
            let node = &f.nodes[*n];
            let root = fusion.views.get(&node.operands[1]).map_or(node.operands[1], |w| w.root);
            let count = tensor_of(&Type::scalar(DType::I64), buffers[&root].bytes(), &env).get_i64(0);
            env.insert(node.op.binds().expect("a symbol").clone(), count);
        }
        let cx = GroupCx::new(m, f, group, isa, &fusion.views);
        let launch = build(&cx).unwrap_or_else(|d| panic!("{d}\n{}", tersor_ir::text::print(m)));
        step(engine, &cx, &launch, &mut buffers, &env);
    }
    let tensor = |&v: &ValueId| {
        let root = fusion.views.get(&v).map_or(v, |w| w.root);
        match buffers.get(&root) {
            Some(b) => tensor_of(&f.values[v].ty, b.bytes(), &env),
            None => interp::constant(&m.consts, f, v).expect("a constant"),
        }
    };
    f.body().results.iter().map(tensor).collect()
}

fn value(d: &Dim, env: &Bindings) -> i64 {
    d.eval(env).unwrap_or_else(|| panic!("{d} is not bound"))
}

fn tensor_of(ty: &Type, bytes: &[u8], env: &Bindings) -> Tensor {
    let shape = ty.shape.iter().map(|d| value(d, env) as usize).collect();
    Tensor::from_blob(ty.dtype, shape, bytes.to_vec().into()).expect("as many bytes")
}

fn step(engine: Engine, cx: &GroupCx, launch: &Launch, buffers: &mut HashMap<ValueId, Buffer>, env: &Bindings) {
    let grid = value(&launch.grid, env);
    let mut call = Call::new(grid);
    for arg in &launch.args {
        let buffer = match arg {
            Operand::Packed { data, .. } => Buffer::from_slice(data.bytes()),
            Operand::Read(v) | Operand::Write(v) => {
                let root = cx.views.get(v).map_or(*v, |w| w.root);
                let ty = &cx.f.values[root].ty;
                let fresh = || match interp::constant(&cx.m.consts, cx.f, root) {
                    Some(t) => Buffer::from_slice(t.bytes()),
                    None => {
                        assert!(
                            matches!(arg, Operand::Write(_)),
                            "{} is read before it is written",
                            cx.f.values[root].name
                        );
                        let n = value(&ty.elements(), env) as usize;
                        Buffer::from_slice(&vec![0xEEu8; ty.dtype.bytes(n).expect("size")])
                    }
                };
                buffers.get(&root).cloned().unwrap_or_else(fresh)
            }
        };
        call.buffers.push(buffer);
        call.args.push(call.buffers.len() - 1);
    }
    call.dims = launch.dims.iter().map(|d| value(d, env)).collect();
    call.scratch = value(&launch.scratch, env) as usize;
    assert!(grid >= 0 && value(&launch.grain, env) >= 0, "grid {grid}");
    let fresh = call.clone();
    parts(&mut call, grid, |call| {
        run(&launch.kernel, call)
            .unwrap_or_else(|e| panic!("{e}\n{}\n{}", tersor_ir::text::print(cx.m), listing(launch)));
    });
    if engine != Engine::Emulator {
        native(cx, launch, grid, fresh, &mut call);
    }
    for (i, arg) in launch.args.iter().enumerate() {
        if let Operand::Write(v) = arg {
            buffers.insert(*v, call.buffers[i].clone());
        }
    }
}

/// Runs the grid in three parts, out of order.
fn parts(call: &mut Call, grid: i64, mut run: impl FnMut(&mut Call)) {
    let cuts = [0, grid / 3, grid * 2 / 3, grid];
    for part in [1, 2, 0] {
        call.range = (cuts[part], cuts[part + 1]);
        if call.range.0 < call.range.1 {
            run(call);
        }
    }
}

/// Compiles the launch and runs it on `fresh`, which becomes the result.
#[cfg(feature = "mlir")]
fn native(cx: &GroupCx, launch: &Launch, grid: i64, mut fresh: Call, call: &mut Call) {
    use crate::mlir::jit;
    let jit = match jit::load(std::slice::from_ref(&launch.kernel), cx.isa) {
        Ok(jit) => jit,
        Err(crate::mlir::Error::Host(_)) => return,
        Err(e) => panic!("{e}\n{}", listing(launch)),
    };
    parts(&mut fresh, grid, |call| jit.run(&launch.kernel.name, call).expect("a kernel of that name"));
    *call = fresh;
}

#[cfg(not(feature = "mlir"))]
fn native(_: &GroupCx, _: &Launch, _: i64, _: Call, _: &mut Call) {}

fn listing(launch: &Launch) -> String {
    crate::emit::print::module(std::slice::from_ref(&launch.kernel))
}

/// Random tensors for the parameters of `@main`, its symbols bound by `env`.
pub fn random_inputs(m: &Module, env: &Bindings, seed: u64) -> Vec<Tensor> {
    let f = &m.funcs[m.main().expect("main")];
    let mut g = Gen::new(seed);
    let fixed = |t: &Type| Type::new(t.dtype, t.shape.iter().map(|d| d.substitute(env)));
    f.body().params.iter().map(|&p| g.tensor(&fixed(&f.values[p].ty))).collect()
}

/// [`check_on`] in the emulator.
pub fn check(
    m: &Module,
    fusion: &Fusion,
    isa: Isa,
    build: impl Fn(&GroupCx) -> Result<Launch>,
    inputs: &[Tensor],
    tolerance: f64,
) {
    check_on(Engine::Emulator, m, fusion, isa, build, inputs, tolerance);
}

/// Compares with the reference: every difference is at most `tolerance` times the larger of 1 and the reference; integers agree exactly.
pub fn check_on(
    engine: Engine,
    m: &Module,
    fusion: &Fusion,
    isa: Isa,
    build: impl Fn(&GroupCx) -> Result<Launch>,
    inputs: &[Tensor],
    tolerance: f64,
) {
    let want = interp::run(m, inputs).unwrap_or_else(|d| panic!("{d}"));
    let got = execute(engine, m, fusion, isa, build, inputs);
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!((got.dtype(), got.shape()), (want.dtype(), want.shape()));
        let unit = match want.dtype() {
            d if !d.is_float() => 0.0,
            DType::F16 => 2e-3,
            DType::BF16 => 2e-2,
            _ => tolerance,
        };
        let size = want.to_f64().into_iter().filter(|x| x.is_finite()).fold(1.0, |m, x| f64::max(m, x.abs()));
        let error = max_abs(got, want);
        assert!(
            error <= unit * size,
            "result {i}: error {error} on {isa:?}, {engine:?}\n{}\nin {:?}\ngot {:?}\nwant {:?}",
            tersor_ir::text::print(m),
            inputs.iter().map(Tensor::to_f64).collect::<Vec<_>>(),
            got.to_f64(),
            want.to_f64()
        );
    }
}
