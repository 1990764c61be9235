//! `Gradient` (`ai.onnx.preview.training`): reverse accumulation over the ops that make a value (Griewank and Walther, 2008, section 3.2).

use super::Topic;
use crate::import::Meaning;
use crate::import::node::{NodeCx, value};
use std::collections::{HashMap, HashSet};
use std::f64::consts::PI;
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{self, Add, Div, Max, Min, Mul, Pow, Sub};
use tersor_ir::ops::compare::CompareKind::{Eq, Ge, Gt, Le};
use tersor_ir::ops::pad::PadMode;
use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::ops::scatter::ScatterKind;
use tersor_ir::ops::unary::UnaryKind;
use tersor_ir::ops::{MatMul, Reduce, Scatter};
use tersor_ir::{Def, Diagnostic, Dim, Node, NodeId, Op, ValueId};

/// The sum of `y`'s derivatives by each of `xs`, where `xs` and `zs` have the values of the inputs.
fn gradient(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let given = cx.all_inputs()?;
    let (names, fixed) = (cx.strings("xs").unwrap_or_default(), cx.strings("zs").unwrap_or_default());
    if given.len() != names.len() + fixed.len() {
        let expected = names.len() + fixed.len();
        return Err(cx.invalid(format!("{} inputs, expected {expected}, one for each of xs and zs", given.len())));
    }
    let target = cx.string("y", "");
    let mut y = named(cx, &target)?;
    let mut xs = names.iter().chain(&fixed).map(|n| named(cx, n)).collect::<Result<Vec<_>>>()?;
    for (name, &x) in names.iter().zip(&xs) {
        // What follows from constants may be computed already, and no trace of them be left.
        if cx.constant_of(x).is_some() {
            return Err(cx.unsupported(format!("with respect to the constant \"{}\"", name.escape_debug())));
        }
    }
    if given != xs {
        y = replay(cx, y, &xs, &given)?;
        xs = given;
    }
    let xs = &xs[..names.len()];
    let sums = accumulate(cx, y, xs)?;
    let slope = |x| sums.get(x).map_or_else(|| all(cx, *x, 0.0), |&g| Ok(g));
    xs.iter().map(slope).map(|g| g.map(value)).collect()
}

/// The float that a name of the graph stands for.
fn named(cx: &mut NodeCx, name: &str) -> Result<ValueId> {
    let Some(m) = cx.importer.scope.get(name).cloned() else {
        return Err(cx.invalid(format!("nothing before it makes \"{}\"", name.escape_debug())));
    };
    let v = cx.value_of(&m)?;
    let ty = cx.ty(v);
    if ty.dtype.is_float() {
        Ok(v)
    } else {
        Err(cx.invalid(format!("\"{}\" is {ty}, expected a float", name.escape_debug())))
    }
}

/// The nodes between any of `xs` and `y`, in order.
fn between(cx: &NodeCx, y: ValueId, xs: &[ValueId]) -> Vec<NodeId> {
    let func = &cx.importer.b.func;
    let (mut seen, mut stack, mut behind) = (HashSet::new(), vec![y], vec![]);
    while let Some(v) = stack.pop() {
        if let Def::Node(n, _) = func.values[v].def
            && !xs.contains(&v)
            && seen.insert(n)
        {
            behind.push(n);
            stack.extend(&func.nodes[n].operands);
        }
    }
    behind.sort_unstable();
    let mut moved: HashSet<ValueId> = xs.iter().copied().collect();
    behind.retain(|&n| {
        let node = &func.nodes[n];
        let depends = node.operands.iter().any(|v| moved.contains(v)) || !node.regions.is_empty();
        if depends {
            moved.extend(&node.results);
        }
        depends
    });
    behind
}

/// `y` as it would be with other values in place of `xs`.
fn replay(cx: &mut NodeCx, y: ValueId, xs: &[ValueId], given: &[ValueId]) -> Result<ValueId> {
    let mut now: HashMap<ValueId, ValueId> = HashMap::new();
    for (&x, &v) in xs.iter().zip(given) {
        let (old, new) = (cx.ty(x), cx.ty(v));
        if old != new {
            return Err(cx.invalid(format!("a value of {new} for one of {old}")));
        }
        now.insert(x, v);
    }
    for n in between(cx, y, xs) {
        let node = plain(cx, n)?;
        let operands: Vec<ValueId> = node.operands.iter().map(|v| *now.get(v).unwrap_or(v)).collect();
        let results = cx.ops(node.op, &operands)?;
        now.extend(node.results.iter().copied().zip(results));
    }
    Ok(*now.get(&y).unwrap_or(&y))
}

/// A node without regions and with a single result.
fn plain(cx: &NodeCx, n: NodeId) -> Result<Node> {
    let node = &cx.importer.b.func.nodes[n];
    if node.regions.is_empty() && node.results.len() == 1 { Ok(node.clone()) } else { Err(opaque(cx, node)) }
}

fn opaque(cx: &NodeCx, node: &Node) -> Diagnostic {
    cx.unsupported(format!("no derivative of {} in {}", node.op.mnemonic(), node.loc))
}

/// The derivative of `y`'s sum by each value between `xs` and `y`, and by `xs`.
fn accumulate(cx: &mut NodeCx, y: ValueId, xs: &[ValueId]) -> Result<HashMap<ValueId, ValueId>> {
    let path = between(cx, y, xs);
    let func = &cx.importer.b.func;
    let mut moved: HashSet<ValueId> = xs.iter().copied().collect();
    moved.extend(path.iter().flat_map(|&n| func.nodes[n].results.iter().copied()));
    let one = all(cx, y, 1.0)?;
    let mut sums = HashMap::from([(y, one)]);
    for &n in path.iter().rev() {
        let node = plain(cx, n)?;
        let Some(&g) = sums.get(&node.results[0]) else { continue };
        for (i, &x) in node.operands.iter().enumerate() {
            if !moved.contains(&x) || !cx.ty(x).dtype.is_float() {
                continue;
            }
            let Some(part) = pullback(cx, &node, i, g)? else { continue };
            let part = match sums.get(&x) {
                Some(&sum) => cx.binary(Add, sum, part)?,
                None => part,
            };
            sums.insert(x, part);
        }
    }
    Ok(sums)
}

/// A tensor like another, all of one number.
fn all(cx: &mut NodeCx, like: ValueId, v: f64) -> Result<ValueId> {
    let v = cx.scalar_like(like, v);
    cx.broadcast(v, cx.ty(like).shape.to_vec())
}

/// The sum over what an operand of this shape was repeated along.
fn unbroadcast(cx: &mut NodeCx, g: ValueId, shape: &[Dim]) -> Result<ValueId> {
    let wide = cx.ty(g).shape;
    let new = wide.len() - shape.len();
    let repeated = |&a: &usize| a < new || (shape[a - new] == Dim::Const(1) && wide[a] != Dim::Const(1));
    let axes: Vec<usize> = (0..wide.len()).filter(repeated).collect();
    let sum = cx.reduce(ReduceKind::Sum, g, &axes, true)?;
    cx.reshape(sum, shape.to_vec())
}

/// What operand `i` of a node gets of the derivative by its result; nothing where the function is constant between jumps.
fn pullback(cx: &mut NodeCx, node: &Node, i: usize, g: ValueId) -> Result<Option<ValueId>> {
    let (x, y) = (node.operands[i], node.results[0]);
    let shape = cx.ty(x).shape.to_vec();
    let part = match &node.op {
        Op::Unary(f) => return unary(cx, f.kind, x, y, g),
        Op::Binary(f) => {
            let part = binary(cx, f.kind, node, i, g)?;
            unbroadcast(cx, part, &shape)?
        }
        Op::Select(_) => {
            let zero = cx.scalar_like(g, 0.0);
            let (a, b) = if i == 1 { (g, zero) } else { (zero, g) };
            let part = cx.select(node.operands[0], a, b)?;
            unbroadcast(cx, part, &shape)?
        }
        Op::Cast(_) => cx.cast(g, cx.ty(x).dtype)?,
        Op::Reshape(_) => cx.reshape(g, shape)?,
        Op::Broadcast(_) => unbroadcast(cx, g, &shape)?,
        Op::Transpose(t) => {
            let mut back = vec![0; t.perm.len()];
            t.perm.iter().enumerate().for_each(|(to, &from)| back[from as usize] = to as u8);
            cx.transpose(g, back)?
        }
        Op::Concat(c) => {
            let axis = c.axis as usize;
            let before = node.operands[..i].iter().fold(Dim::from(0), |sum, &v| sum + cx.ty(v).shape[axis].clone());
            cx.part(g, axis, before, shape[axis].clone())?
        }
        Op::Slice(s) if s.step.abs() == 1 => {
            let axis = s.axis as usize;
            let (g, first) = if s.step == 1 {
                (g, s.start.clone())
            } else {
                (cx.flip(g, axis)?, s.start.clone() - s.len.clone() + 1.into())
            };
            let after = shape[axis].clone() - first.clone() - s.len.clone();
            let (lo, hi) = (gap(cx, g, axis, first)?, gap(cx, g, axis, after)?);
            cx.concat(&[lo, g, hi], axis)?
        }
        Op::Pad(p) if p.mode == PadMode::Constant => {
            let inner = |cx: &mut NodeCx, g, a: usize| cx.part(g, a, p.lo[a].into(), shape[a].clone());
            (0..shape.len()).try_fold(g, |g, a| inner(cx, g, a))?
        }
        Op::Reduce(r) => reduction(cx, r, node, g)?,
        Op::Softmax(s) => {
            let axis = [s.axis as usize];
            if s.log {
                let (p, sum) = (cx.unary(UnaryKind::Exp, y)?, cx.reduce(ReduceKind::Sum, g, &axis, true)?);
                let share = cx.binary(Mul, p, sum)?;
                cx.binary(Sub, g, share)?
            } else {
                let weighted = cx.binary(Mul, g, y)?;
                let sum = cx.reduce(ReduceKind::Sum, weighted, &axis, true)?;
                let above = cx.binary(Sub, g, sum)?;
                cx.binary(Mul, above, y)?
            }
        }
        Op::MatMul(m) if !m.wide => {
            let (a, b) = (node.operands[0], node.operands[1]);
            let (l, r, trans_a, trans_b) = match (i, m.trans_a, m.trans_b) {
                (0, false, t) => (g, b, false, !t),
                (0, true, t) => (b, g, t, true),
                (_, t, false) => (a, g, !t, false),
                (_, t, true) => (g, a, true, t),
            };
            let part = cx.op(MatMul { trans_a, trans_b, wide: false }, &[l, r])?;
            unbroadcast(cx, part, &shape)?
        }
        Op::Gather(t) if i == 0 => rows(cx, t.axis as usize, x, node.operands[1], g)?,
        _ => return Err(opaque(cx, node)),
    };
    Ok(Some(part))
}

/// `len` zeros along an axis of what is else like `x`.
fn gap(cx: &mut NodeCx, x: ValueId, axis: usize, len: Dim) -> Result<ValueId> {
    let mut shape = cx.ty(x).shape.to_vec();
    shape[axis] = len;
    let zero = cx.scalar_like(x, 0.0);
    cx.broadcast(zero, shape)
}

fn unary(cx: &mut NodeCx, kind: UnaryKind, x: ValueId, y: ValueId, g: ValueId) -> Result<Option<ValueId>> {
    use UnaryKind::*;
    let one_minus = |cx: &mut NodeCx, v| {
        let one = cx.scalar_like(v, 1.0);
        cx.binary(Sub, one, v)
    };
    // The density of the normal distribution, by its argument squared and halved.
    let bell = |cx: &mut NodeCx, x, width: f64, height: f64| {
        let square = cx.binary(Mul, x, x)?;
        let power = cx.with_scalar(Mul, square, -width)?;
        let e = cx.unary(Exp, power)?;
        cx.with_scalar(Mul, e, height)
    };
    let slope = match kind {
        Sign | Not | Floor | Ceil | Round => return Ok(None),
        Neg => return Ok(Some(cx.unary(Neg, g)?)),
        Abs => cx.unary(Sign, x)?,
        Relu => {
            let (on, zero) = (cx.compare_scalar(Gt, x, 0.0)?, cx.scalar_like(g, 0.0));
            return Ok(Some(cx.select(on, g, zero)?));
        }
        Exp => y,
        Log => return Ok(Some(cx.binary(Div, g, x)?)),
        Sqrt => {
            let half = cx.with_scalar(Mul, g, 0.5)?;
            return Ok(Some(cx.binary(Div, half, y)?));
        }
        Rsqrt => {
            let cube = cx.with_scalar(Pow, y, 3.0)?;
            cx.with_scalar(Mul, cube, -0.5)?
        }
        Reciprocal => {
            let square = cx.binary(Mul, y, y)?;
            cx.unary(Neg, square)?
        }
        Sigmoid => {
            let rest = one_minus(cx, y)?;
            cx.binary(Mul, y, rest)?
        }
        Tanh => {
            let square = cx.binary(Mul, y, y)?;
            one_minus(cx, square)?
        }
        Erf => bell(cx, x, 1.0, 2.0 / PI.sqrt())?,
        Gelu => {
            let scaled = cx.with_scalar(Mul, x, 0.5f64.sqrt())?;
            let erf = cx.unary(Erf, scaled)?;
            let half = cx.with_scalar(Mul, erf, 0.5)?;
            let share = cx.with_scalar(Add, half, 0.5)?;
            let density = bell(cx, x, 0.5, 1.0 / (2.0 * PI).sqrt())?;
            let change = cx.binary(Mul, x, density)?;
            cx.binary(Add, share, change)?
        }
        GeluTanh => {
            // x s, where s = sigmoid(2 u) and u = c (x + 0.044715 x^3).
            let c = (2.0 / PI).sqrt();
            let square = cx.binary(Mul, x, x)?;
            let inner = cx.with_scalar(Mul, square, 2.0 * c * 0.044715)?;
            let inner = cx.with_scalar(Add, inner, 2.0 * c)?;
            let u = cx.binary(Mul, inner, x)?;
            let s = cx.unary(Sigmoid, u)?;
            let rate = cx.with_scalar(Mul, square, 6.0 * c * 0.044715)?;
            let rate = cx.with_scalar(Add, rate, 2.0 * c)?;
            let rest = one_minus(cx, s)?;
            let change = cx.binary(Mul, x, rate)?;
            let change = cx.binary(Mul, change, rest)?;
            let change = cx.with_scalar(Add, change, 1.0)?;
            cx.binary(Mul, s, change)?
        }
        Silu => {
            let s = cx.unary(Sigmoid, x)?;
            let rest = one_minus(cx, s)?;
            let change = cx.binary(Mul, y, rest)?;
            cx.binary(Add, s, change)?
        }
        Softplus => cx.unary(Sigmoid, x)?,
        Sin => cx.unary(Cos, x)?,
        Cos => {
            let sin = cx.unary(Sin, x)?;
            cx.unary(Neg, sin)?
        }
    };
    Ok(Some(cx.binary(Mul, g, slope)?))
}

/// What an operand gets before the sum over what it was repeated along. The first of equals is the larger and the smaller one.
fn binary(cx: &mut NodeCx, kind: BinaryKind, node: &Node, i: usize, g: ValueId) -> Result<ValueId> {
    let (a, b, y) = (node.operands[0], node.operands[1], node.results[0]);
    let part = match (kind, i) {
        (Add, _) | (Sub, 0) => g,
        (Sub, _) => cx.unary(UnaryKind::Neg, g)?,
        (Mul, 0) => cx.binary(Mul, g, b)?,
        (Mul, _) => cx.binary(Mul, g, a)?,
        (Div, 0) => cx.binary(Div, g, b)?,
        (Div, _) => {
            let share = cx.binary(Div, y, b)?;
            let share = cx.binary(Mul, g, share)?;
            cx.unary(UnaryKind::Neg, share)?
        }
        (Pow, 0) => {
            let less = cx.with_scalar(Sub, b, 1.0)?;
            let power = cx.binary(Pow, a, less)?;
            let slope = cx.binary(Mul, power, b)?;
            cx.binary(Mul, g, slope)?
        }
        (Pow, _) => {
            let log = cx.unary(UnaryKind::Log, a)?;
            let slope = cx.binary(Mul, y, log)?;
            cx.binary(Mul, g, slope)?
        }
        (Max | Min, _) => {
            let first = cx.compare(if kind == Max { Ge } else { Le }, a, b)?;
            let zero = cx.scalar_like(g, 0.0);
            let (l, r) = if i == 0 { (g, zero) } else { (zero, g) };
            cx.select(first, l, r)?
        }
        _ => return Err(opaque(cx, node)),
    };
    Ok(part)
}

/// The extremes that are equal share what their result gets.
fn reduction(cx: &mut NodeCx, r: &Reduce, node: &Node, g: ValueId) -> Result<ValueId> {
    let (x, y) = (node.operands[0], node.results[0]);
    let shape = cx.ty(x).shape.to_vec();
    let axes: Vec<usize> = r.axes.iter().map(|&a| a as usize).collect();
    let mut kept = shape.clone();
    axes.iter().for_each(|&a| kept[a] = 1.into());
    let g = cx.reshape(g, kept.clone())?;
    let part = match r.kind {
        ReduceKind::Sum => g,
        ReduceKind::Mean => {
            let ones = all(cx, x, 1.0)?;
            let count = cx.reduce(ReduceKind::Sum, ones, &axes, true)?;
            cx.binary(Div, g, count)?
        }
        ReduceKind::Max | ReduceKind::Min => {
            let y = cx.reshape(y, kept)?;
            let best = cx.compare(Eq, x, y)?;
            let best = cx.cast(best, cx.ty(x).dtype)?;
            let count = cx.reduce(ReduceKind::Sum, best, &axes, true)?;
            let share = cx.binary(Div, g, count)?;
            cx.binary(Mul, best, share)?
        }
        ReduceKind::Prod => return Err(opaque(cx, node)),
    };
    cx.broadcast(part, shape)
}

/// What the rows of a table get from where they were taken to.
fn rows(cx: &mut NodeCx, axis: usize, table: ValueId, indices: ValueId, g: ValueId) -> Result<ValueId> {
    let (shape, taken, rank) = (cx.ty(table).shape.to_vec(), cx.ty(indices), cx.ty(g).rank() as u8);
    let (first, last) = (axis as u8, (axis + taken.rank()) as u8);
    // Axes of the indices first, then those before the table's axis and those after it.
    let front: Vec<u8> = (first..last).chain(0..first).chain(last..rank).collect();
    let g = cx.transpose(g, front)?;
    let rest: Vec<Dim> = shape[..axis].iter().chain(&shape[axis + 1..]).cloned().collect();
    let many = [vec![taken.elements()], rest.clone()].concat();
    let (g, indices) = (cx.reshape(g, many)?, cx.reshape(indices, vec![taken.elements()])?);
    let zero = cx.scalar_like(g, 0.0);
    let empty = cx.broadcast(zero, [vec![shape[axis].clone()], rest].concat())?;
    let sum = cx.op(Scatter { kind: ScatterKind::Add }, &[empty, indices, g])?;
    let back: Vec<u8> = (1..=first).chain([0]).chain(first + 1..shape.len() as u8).collect();
    cx.transpose(sum, back)
}

pub(super) const OPS: Topic = &[("ai.onnx.preview.training:Gradient", gradient)];
