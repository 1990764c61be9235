//! Random small programs for property tests: of f32 values over a symbol `N` and known extents, with constants, chains that rewrites like, choices, and dead ends.

use std::collections::BTreeSet;
use tersor_ir::constant::{ConstData, Distribution, Rng};
use tersor_ir::dim::SymbolInfo;
use tersor_ir::module::Builder;
use tersor_ir::ops::binary::{Binary, BinaryKind};
use tersor_ir::ops::reduce::{Reduce, ReduceKind};
use tersor_ir::ops::unary::{Unary, UnaryKind};
use tersor_ir::ops::{Cast, Choice, MatMul, Reshape, Softmax, Transpose};
use tersor_ir::plan::{self, Plan};
use tersor_ir::testing::Gen;
use tersor_ir::{DType, Dim, Func, Module, Tensor, Type, ValueId};

/// Most choices of a program.
const SITES: usize = 3;

/// A program of about `size` ops. The same seed gives the same program.
pub fn module(seed: u64, size: usize) -> Module {
    let mut g = Gen::new(seed);
    let mut m = Module::new("random");
    m.symbol("N", SymbolInfo { min: 1, max: 64, hint: 3 });
    let mut f = Func::new("main");
    let body = f.body_id();
    let types = [Type::new(DType::F32, [Dim::from("N"), 4.into()]), Type::new(DType::F32, [2, 4])];
    let mut values: Vec<ValueId> = types.into_iter().map(|t| f.add_param(body, "x", t)).collect();
    f.inputs = values.iter().map(|&v| f.values[v].name.clone()).collect();
    for i in 0..3 {
        let rng = Rng { dist: Distribution::Normal(0.0, 1.0), seed: seed + i };
        let ty = g.one_of(&[Type::new(DType::F32, [4]), Type::new(DType::F32, [4, 4]), Type::new(DType::F32, [1])]);
        let c = tersor_ir::Constant::new(format!("w{i}"), ty, ConstData::Rng(rng), Default::default());
        let c = m.add_const(c);
        values.push(f.const_value(&m.consts, c));
    }
    let mut b = Builder::new(&mut m.consts, &mut f);
    for (i, v) in [0.0, 1.0].into_iter().enumerate() {
        let c = b.constant(&format!("n{i}"), &Tensor::scalar(DType::F32, v));
        values.push(c);
    }
    let mut sites = 0;
    for _ in 0..size {
        let (x, y) = (g.one_of(&values), g.one_of(&values));
        let ty = b.ty(x).clone();
        let rank = ty.rank();
        let made = match g.int(0, 9) {
            0 => {
                let kind =
                    g.one_of(&[UnaryKind::Neg, UnaryKind::Relu, UnaryKind::Tanh, UnaryKind::Abs, UnaryKind::Sigmoid]);
                b.op(Unary { kind }, &[x])
            }
            1 | 2 => {
                let kind = g.one_of(&[BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul, BinaryKind::Max]);
                b.op(Binary { kind }, &[x, y])
            }
            3 => b.op(MatMul { trans_a: false, trans_b: g.flip(), wide: false }, &[x, y]),
            4 => b.op(Transpose { perm: g.permutation(rank) }, &[x]),
            5 => {
                let mut shape = ty.shape.to_vec();
                let at = g.int(0, rank as i64) as usize;
                match shape.iter().position(|d| *d == Dim::from(1)) {
                    Some(one) if g.flip() => drop(shape.remove(one)),
                    _ => shape.insert(at, 1.into()),
                }
                b.op(Reshape { shape }, &[x])
            }
            6 if rank > 0 => b.op(Softmax { axis: g.int(0, rank as i64 - 1) as u8, log: false }, &[x]),
            7 if rank > 1 => b.op(Reduce { kind: ReduceKind::Mean, axes: vec![rank as u8 - 1], keep: g.flip() }, &[x]),
            8 if sites < SITES => {
                let same: Vec<ValueId> = values.iter().copied().filter(|&v| *b.ty(v) == ty).collect();
                sites += 1;
                let names = vec!["exact".into(), "other".into()];
                b.op(Choice { site: format!("s{sites}"), names }, &[x, g.one_of(&same)])
            }
            _ => b.op(Cast::to(DType::F32), &[x]),
        };
        // What does not fit its operands is left out.
        if let Ok(v) = made
            && b.ty(v).rank() <= 4
        {
            values.push(v);
        }
    }
    let made: Vec<ValueId> = values.into_iter().filter(|&v| b.func.def_const(v).is_none()).collect();
    let results: Vec<ValueId> = (0..2).map(|i| made[made.len() - 1 - i.min(made.len() - 1)]).collect();
    f.outputs = (0..results.len()).map(|i| format!("y{i}").into()).collect();
    f.body_mut().results = results;
    m.funcs.push(f);
    m
}

/// The largest relative difference of an output under any plan of the first program. The second may lack sites.
pub fn difference(a: &Module, b: &Module) -> tersor_ir::Result<f64> {
    let left: BTreeSet<String> = plan::sites(b).into_iter().map(|s| s.0).collect();
    let mut worst = 0f64;
    for plan in plan::all(a) {
        let (mut x, mut y) = (a.clone(), b.clone());
        let picks = plan.picks.iter().filter(|p| left.contains(p.0)).map(|(s, p)| (s.clone(), p.clone())).collect();
        plan::resolve(&mut x, &plan).map_err(|e| e[0].clone())?;
        plan::resolve(&mut y, &Plan { picks }).map_err(|e| e[0].clone())?;
        worst = worst.max(crate::filetest::difference(&x, &y)?);
    }
    Ok(worst)
}
