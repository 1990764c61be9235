//! A module with choices as a family of programs: its sites, what an alternative is made of, and which alternatives differ from the exact op in its weight alone.
//!
//! Such alternatives need no program of their own: the exact program with another weight gives what they give, up to rounding. That is what makes it cheap to run many plans.

use crate::coupling::{exact_nodes, reads};
use crate::layer::{WEIGHT, weight_operand};
use crate::patches::Patches;
use crate::statistics::Statistics;
use std::collections::{HashMap, HashSet};
use tersor_ir::constant::Constant;
use tersor_ir::interp::constant;
use tersor_ir::module::{Consts, ValueId};
use tersor_ir::ops::binary::{Binary, BinaryKind};
use tersor_ir::ops::choice::Choice;
use tersor_ir::plan::{Plan, resolve};
use tersor_ir::{Def, Func, FuncId, Loc, Module, NodeId, Op, Result, Tensor};

/// A `choice` op.
#[derive(Clone, PartialEq, Debug)]
pub struct Site {
    /// The function.
    pub func: FuncId,
    /// The `choice`.
    pub choice: NodeId,
    /// The site's name.
    pub name: String,
    /// Names of the alternatives, the exact one first.
    pub alternatives: Vec<String>,
    /// Their values.
    pub values: Vec<ValueId>,
}

/// The sites of a module, in program order.
pub fn sites(m: &Module) -> Vec<Site> {
    let of = |(func, f): (FuncId, &Func)| {
        let one = |choice: NodeId| match &f.nodes[choice].op {
            Op::Choice(Choice { site, names }) => Some(Site {
                func,
                choice,
                name: site.clone(),
                alternatives: names.clone(),
                values: f.nodes[choice].operands.to_vec(),
            }),
            _ => None,
        };
        f.live_nodes().into_iter().filter_map(one).collect::<Vec<_>>()
    };
    m.funcs.iter().flat_map(of).collect()
}

impl Site {
    /// The product, convolution or lookup with a constant of f32 that the exact alternative is.
    pub fn exact(&self, m: &Module) -> Option<NodeId> {
        let f = &m.funcs[self.func];
        let Def::Node(n, _) = f.values[self.values[0]].def else { return None };
        let node = &f.nodes[n];
        let w = node.operands[weight_operand(&node.op)?];
        let fits =
            f.values[w].ty.dtype == tersor_ir::DType::F32 && f.values[self.values[0]].ty.dtype == tersor_ir::DType::F32;
        (fits && f.def_const(w).is_some()).then_some(n)
    }
    /// Extents of the exact op's weight.
    pub fn weight_shape(&self, m: &Module) -> Option<Vec<usize>> {
        let f = &m.funcs[self.func];
        let node = &f.nodes[self.exact(m)?];
        Some(m.consts[f.def_const(node.operands[weight_operand(&node.op)?])?].shape())
    }
    /// The nodes that compute an alternative, in order, from values that all alternatives leave as they are: those that it adds, and those of the exact program that another
    /// alternative does without and it does not.
    pub fn nodes(&self, m: &Module, alternative: usize) -> Vec<NodeId> {
        let f = &m.funcs[self.func];
        let order = exact_nodes(f);
        let exact: HashSet<NodeId> = order.iter().copied().collect();
        let idle = |a: usize| self.idle(f, &order, &self.added(f, a, &exact), self.values[a]);
        let mut all: HashSet<NodeId> = (1..self.values.len()).flat_map(idle).collect();
        if alternative > 0 {
            let idle: HashSet<NodeId> = idle(alternative).into_iter().collect();
            all.retain(|n| !idle.contains(n));
            all.extend(self.added(f, alternative, &exact));
        }
        f.live_nodes().into_iter().filter(|n| all.contains(n)).collect()
    }
    /// The nodes that an alternative needs and the exact program does not have.
    fn added(&self, f: &Func, alternative: usize, exact: &HashSet<NodeId>) -> HashSet<NodeId> {
        let (mut seen, mut stack) = (HashSet::new(), vec![self.values[alternative]]);
        while let Some(v) = stack.pop() {
            if let Def::Node(n, _) = f.values[v].def
                && !exact.contains(&n)
                && seen.insert(n)
            {
                stack.extend(reads(f, n));
            }
        }
        seen
    }
    /// The nodes of the exact program that nothing needs any more once a value that these nodes compute stands at the site.
    fn idle(&self, f: &Func, order: &[NodeId], added: &HashSet<NodeId>, value: ValueId) -> Vec<NodeId> {
        let mut needed: HashSet<ValueId> = added.iter().flat_map(|&n| reads(f, n).iter().copied()).collect();
        needed.insert(value);
        needed.extend(f.regions.values().flat_map(|r| r.results.iter().copied()));
        let mut out = vec![];
        for &n in order.iter().rev() {
            if n == self.choice {
                continue;
            }
            if f.nodes[n].results.iter().any(|v| needed.contains(v)) {
                needed.extend(reads(f, n));
            } else {
                out.push(n);
            }
        }
        out
    }
    /// A module that computes an alternative, as [`Site::nodes`] does. Other sites that it runs through are exact.
    pub fn program(&self, m: &Module, alternative: usize) -> Result<Module> {
        let nodes = self.nodes(m, alternative);
        let value = self.values[alternative];
        let mut out = m.clone();
        out.funcs[self.func].name = "main".into();
        let f = &mut out.funcs[self.func];
        let mut read: Vec<ValueId> = nodes.iter().flat_map(|&n| f.nodes[n].operands.iter().copied()).collect();
        read.push(value);
        read.sort_unstable();
        read.dedup();
        let inside = |f: &Func, v: ValueId| match f.values[v].def {
            Def::Node(n, _) => nodes.contains(&n),
            Def::Const(_) => true,
            Def::Param(..) => false,
        };
        let params: Vec<ValueId> = read.into_iter().filter(|&v| !inside(f, v)).collect();
        let body = f.body_id();
        for (i, &v) in params.iter().enumerate() {
            f.values[v].def = Def::Param(body, i as u32);
        }
        f.inputs = params.iter().map(|&v| f.values[v].name.clone()).collect();
        f.outputs = vec![f.values[value].name.clone()];
        let region = f.body_mut();
        (region.nodes, region.params, region.results) = (nodes, params, vec![value]);
        let kept = self.func;
        let func = out.funcs[kept].clone();
        out.funcs = Default::default();
        out.funcs.push(func);
        resolve(&mut out, &Plan::default()).map_err(|mut e| e.swap_remove(0))?;
        Ok(out)
    }
    /// The weight with which the exact op gives what an alternative gives, in the exact weight's type; `None` when it is more than another weight.
    pub fn weight(&self, m: &Module, alternative: usize) -> Option<Tensor> {
        weight_of(&m.consts, &m.funcs[self.func], self.exact(m)?, self.values[alternative])
    }
    /// The relative squared error of the layer's outputs on inputs with the Gram matrix that calibration gathered, `tr(D G D^T) / tr(W G W^T)` (digest 0.1); `None` where
    /// the alternative is more than another weight, or there is no such matrix.
    pub fn relative_error(&self, m: &Module, alternative: usize, statistics: &Statistics) -> Option<f64> {
        let f = &m.funcs[self.func];
        let node = &f.nodes[self.exact(m)?];
        let weight = weight_operand(&node.op).filter(|&w| w == WEIGHT)?;
        let (exact, other) = (constant(&m.consts, f, node.operands[weight])?, self.weight(m, alternative)?);
        let patches = Patches::of(&node.op, exact.shape())?;
        let mut x = node.operands[0];
        while let Some(Op::Choice(_)) = f.def_node(x).map(|n| &n.op) {
            x = f.def_node(x).map_or(x, |n| n.operands[0]);
        }
        let gram = statistics.get(&f.values[x].name)?.grams(&patches).filter(|g| g.len() == 1)?.first()?;
        let (w, v, n) = (exact.to_f64(), other.to_f64(), gram.dim);
        let across = matches!(&node.op, Op::MatMul(op) if !op.trans_b);
        let rows = w.len() / n.max(1);
        let energy = |of: &dyn Fn(usize) -> f64| -> f64 {
            let row = |r: usize| -> f64 {
                let d: Vec<f64> = (0..n).map(|i| of(if across { i * rows + r } else { r * n + i })).collect();
                let line = |(i, g): (usize, &[f64])| d[i] * g.iter().zip(&d).map(|(g, d)| g * d).sum::<f64>();
                gram.sum.chunks_exact(n).enumerate().map(line).sum()
            };
            (0..rows).map(row).sum()
        };
        let fits = gram.sum.len() == n * n && rows * n == w.len() && v.len() == w.len();
        fits.then(|| energy(&|i| w[i] - v[i]) / energy(&|i| w[i]).max(f64::MIN_POSITIVE))
    }
}

/// The weight with which an op gives a value, in the weight's type and shape; `None` when the value is more than the op with another weight.
pub fn weight_of(consts: &Consts, f: &Func, exact: NodeId, value: ValueId) -> Option<Tensor> {
    let exact = &f.nodes[exact];
    let weight = weight_operand(&exact.op)?;
    if let Some(node) = f.def_node(value).filter(|n| n.op == exact.op)
        && node.operands.len() == exact.operands.len()
        && node.operands.iter().zip(&exact.operands).enumerate().all(|(i, (a, b))| i == weight || a == b)
    {
        return constant(consts, f, node.operands[weight]).filter(|t| t.dtype() == tersor_ir::DType::F32);
    }
    let Op::MatMul(op) = &exact.op else { return None };
    let shape = consts[f.def_const(exact.operands[weight])?].shape();
    if op.trans_a || shape.len() != 2 {
        return None;
    }
    let (k, n) = if op.trans_b { (shape[1], shape[0]) } else { (shape[0], shape[1]) };
    let Linear::Matrix { columns, data } = linear(consts, f, exact.operands[0], value)? else { return None };
    if columns != n || data.len() != k * n {
        return None;
    }
    let at = |i: usize| if op.trans_b { data[(i % k) * n + i / k] } else { data[i] };
    Some(Tensor::from_f64(tersor_ir::DType::F32, shape, &(0..k * n).map(at).collect::<Vec<_>>()))
}

/// A linear function of rows.
enum Linear {
    /// The rows themselves.
    Identity,
    /// Their product with a row-major matrix of so many columns.
    Matrix { columns: usize, data: Vec<f64> },
}

/// A value as a linear function of the rows of `x`, where products, sums and scalings make it one.
fn linear(consts: &Consts, f: &Func, x: ValueId, v: ValueId) -> Option<Linear> {
    if v == x {
        return Some(Linear::Identity);
    }
    let node = f.def_node(v)?;
    match &node.op {
        Op::MatMul(op) if !op.trans_a && !op.wide => {
            let c = constant(consts, f, node.operands[1]).filter(|t| t.shape().len() == 2 && t.dtype().is_float())?;
            let (rows, columns) = if op.trans_b { (c.shape()[1], c.shape()[0]) } else { (c.shape()[0], c.shape()[1]) };
            let right = c.to_f64();
            let at = |k: usize, n: usize| if op.trans_b { right[n * rows + k] } else { right[k * columns + n] };
            match linear(consts, f, x, node.operands[0])? {
                Linear::Identity => {
                    let data = (0..rows * columns).map(|i| at(i / columns, i % columns)).collect();
                    Some(Linear::Matrix { columns, data })
                }
                Linear::Matrix { columns: inner, data: left } if inner == rows => {
                    let mut data = vec![0.0; left.len() / inner * columns];
                    for (out, row) in data.chunks_exact_mut(columns).zip(left.chunks_exact(inner)) {
                        for (k, &a) in row.iter().enumerate() {
                            out.iter_mut().enumerate().for_each(|(n, y)| *y += a * at(k, n));
                        }
                    }
                    Some(Linear::Matrix { columns, data })
                }
                Linear::Matrix { .. } => None,
            }
        }
        Op::Binary(Binary { kind: kind @ (BinaryKind::Add | BinaryKind::Sub) }) => {
            let sign = if *kind == BinaryKind::Add { 1.0 } else { -1.0 };
            let (a, b) = (linear(consts, f, x, node.operands[0])?, linear(consts, f, x, node.operands[1])?);
            let (Linear::Matrix { columns, mut data }, Linear::Matrix { columns: other, data: b }) = (a, b) else {
                return None;
            };
            if columns != other || data.len() != b.len() {
                return None;
            }
            data.iter_mut().zip(&b).for_each(|(a, b)| *a += sign * b);
            Some(Linear::Matrix { columns, data })
        }
        Op::Binary(Binary { kind: BinaryKind::Mul }) => {
            let (a, b) = (node.operands[0], node.operands[1]);
            let (scale, of) = match constant(consts, f, b) {
                Some(t) => (t, a),
                None => (constant(consts, f, a)?, b),
            };
            let width = f.values[of].ty.shape.last()?.as_const()? as usize;
            let along_last =
                scale.shape().iter().rev().skip(1).all(|&d| d == 1) && scale.shape().len() <= f.values[of].ty.rank();
            let factors = scale.to_f64();
            if !along_last || (factors.len() != 1 && factors.len() != width) {
                return None;
            }
            let factor = |n: usize| factors[if factors.len() == 1 { 0 } else { n }];
            match linear(consts, f, x, of)? {
                Linear::Identity => {
                    let mut data = vec![0.0; width * width];
                    (0..width).for_each(|i| data[i * width + i] = factor(i));
                    Some(Linear::Matrix { columns: width, data })
                }
                Linear::Matrix { columns, mut data } => {
                    data.iter_mut().enumerate().for_each(|(i, y)| *y *= factor(i % columns));
                    Some(Linear::Matrix { columns, data })
                }
            }
        }
        _ => None,
    }
}

/// Gives the exact ops of these sites weights of their own, `data(i)` for the i-th, so that no two sites share one and none is a known number.
pub fn own_weights(m: &mut Module, sites: &[&Site], data: impl Fn(usize) -> tersor_ir::constant::ConstData) {
    for (i, s) in sites.iter().enumerate() {
        let Some(n) = s.exact(m) else { continue };
        let Module { consts, funcs, .. } = &mut *m;
        let f = &mut funcs[s.func];
        let Some(weight) = weight_operand(&f.nodes[n].op) else { continue };
        let ty = f.values[f.nodes[n].operands[weight]].ty.clone();
        let id = consts.push(Constant::new(format!("site.{i}"), ty.clone(), data(i), Loc::Unknown));
        let v = f.values.push(tersor_ir::module::Value { name: format!("site.{i}").into(), ty, def: Def::Const(id) });
        f.nodes[n].operands[weight] = v;
    }
}

/// Gives the exact op of a site this weight.
pub fn with_weight(m: &mut Module, site: &Site, weight: &Tensor) {
    let data = tersor_ir::constant::ConstData::Bytes(weight.blob().clone());
    own_weights(m, &[site], |_| data.clone());
}

/// Sites by name; several may have one name and choose together.
pub fn by_name(sites: &[Site]) -> HashMap<&str, Vec<usize>> {
    let mut out: HashMap<&str, Vec<usize>> = HashMap::new();
    sites.iter().enumerate().for_each(|(i, s)| out.entry(&s.name).or_default().push(i));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filetest::{run_decided, seeded_inputs};
    use crate::manager::Decide;
    use tersor_ir::interp;
    use tersor_ir::testing::rel_l2;

    const TEXT: &str = "module @m { const @w : f32[24,20] = rng normal(0, 1) seed 1
        const @v : f32[16,20] = rng normal(0, 1) seed 2
        func @main(%x: f32[N,24]) -> (%y: f32[N,16]) {
        %h = matmul %x, @w : f32[N,20]
        %y = matmul %h, @v {trans_b} : f32[N,16]
        return %y } }";
    const PIPELINE: &str = "normalize,quantize{acts=none},quantize{acts=none, bits=4},quantize,normalize";

    fn family() -> Module {
        let mut m = tersor_ir::text::parse(TEXT, &Default::default()).unwrap();
        run_decided(PIPELINE, &mut m, Decide::Later).unwrap();
        assert!(tersor_ir::verify::verify(&m).is_empty());
        m
    }

    fn plan(picks: &[(&str, &str)]) -> Plan {
        Plan { picks: picks.iter().map(|(s, a)| (s.to_string(), a.to_string())).collect() }
    }

    fn run(m: &Module) -> Tensor {
        let exact = tersor_ir::text::parse(TEXT, &Default::default()).unwrap();
        interp::run(m, &seeded_inputs(&exact, 5).unwrap()).unwrap().remove(0)
    }

    #[test]
    fn all_alternatives_stand_side_by_side_and_a_plan_picks() {
        let m = family();
        let s = sites(&m);
        let names: Vec<(&str, String)> = s.iter().map(|s| (s.name.as_str(), s.alternatives.join(" "))).collect();
        assert_eq!(names, [("h", "exact w8 w4 int8".into()), ("y", "exact w8 w4 int8".into())]);
        let exact = tersor_ir::text::parse(TEXT, &Default::default()).unwrap();
        for picks in [&[][..], &[("h", "w4")], &[("h", "int8"), ("y", "w8")], &[("h", "w8"), ("y", "int8")]] {
            let (mut resolved, mut made) = (m.clone(), exact.clone());
            resolve(&mut resolved, &plan(picks)).unwrap();
            let steps = run_decided(PIPELINE, &mut made, Decide::Plan(plan(picks))).unwrap();
            assert!(rel_l2(&run(&made), &run(&resolved)) < 1e-6, "{picks:?}");
            let picked: Vec<_> = steps.iter().flat_map(|s| &s.decisions).filter_map(|d| d.picked.clone()).collect();
            assert_eq!(picked.len(), picks.len());
            let error = rel_l2(&run(&made), &run(&exact));
            assert!(if picks.is_empty() { error == 0.0 } else { error > 1e-4 && error < 0.3 }, "{picks:?} {error}");
        }
        let mut made = exact.clone();
        let refused = run_decided(PIPELINE, &mut made, Decide::Plan(plan(&[("h", "w3")]))).unwrap_err();
        assert_eq!(refused[0].code, "S0301");
    }

    #[test]
    fn weights_alone_do_what_weight_only_alternatives_do() {
        let m = family();
        for (site, s) in sites(&m).iter().enumerate() {
            assert!(s.weight(&m, 3).is_none(), "int8 activations are more than a weight");
            for alternative in 0..3 {
                let (mut swapped, mut resolved) = (m.clone(), m.clone());
                with_weight(&mut swapped, s, &s.weight(&m, alternative).unwrap());
                resolve(&mut swapped, &Plan::default()).unwrap();
                resolve(&mut resolved, &plan(&[(&s.name, &s.alternatives[alternative])])).unwrap();
                assert!(rel_l2(&run(&swapped), &run(&resolved)) < 1e-6, "{site} {alternative}");
            }
        }
    }

    #[test]
    fn factors_sums_and_scalings_are_one_weight() {
        let text = "module @m { const @w : f32[6,5] = rng normal(0, 1) seed 1
            const @u : f32[6,2] = rng normal(0, 1) seed 2
            const @v : f32[5,2] = rng normal(0, 1) seed 3
            const @s : f32[6] = rng normal(0, 1) seed 4
            func @main(%x: f32[3,6]) -> (%y: f32[3,5]) {
            %e = matmul %x, @w : f32[3,5]
            %a = matmul %x, @u : f32[3,2]
            %b = matmul %a, @v {trans_b} : f32[3,5]
            %c = mul %x, @s : f32[3,6]
            %d = matmul %c, @w : f32[3,5]
            %f = add %b, %d : f32[3,5]
            %y = choice @y {exact: %e, sum: %f} : f32[3,5]
            return %y } }";
        let m = tersor_ir::text::parse(text, &Default::default()).unwrap();
        let s = &sites(&m)[0];
        let (mut swapped, mut resolved) = (m.clone(), m.clone());
        with_weight(&mut swapped, s, &s.weight(&m, 1).unwrap());
        resolve(&mut swapped, &Plan::default()).unwrap();
        resolve(&mut resolved, &plan(&[("y", "sum")])).unwrap();
        let x = Tensor::from_f32([3, 6], &(0..18).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>());
        let run = |m| interp::run(m, std::slice::from_ref(&x)).unwrap().remove(0);
        assert!(rel_l2(&run(&swapped), &run(&resolved)) < 1e-6);
        let alone = s.program(&m, 1).unwrap();
        assert!(rel_l2(&interp::run(&alone, std::slice::from_ref(&x)).unwrap()[0], &run(&resolved)) < 1e-6);
        assert_eq!(alone.funcs[alone.main().unwrap()].live_constants().len(), 4);
    }
}
