//! Shape arithmetic: operators on integers that are known at import, and the operators that make such integers.

use super::Topic;
use crate::import::extents::handy;
use crate::import::node::{NodeCx, value};
use crate::import::{Form, Known, Meaning};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::ops::unary::UnaryKind;
use tersor_ir::ops::{Binary, Broadcast, Cast, Iota};
use tersor_ir::{DType, Dim, Tensor, string};

fn known(k: Known) -> Meaning {
    Meaning { value: None, known: Some(k), form: Form::Tensor }
}

/// The result of a node whose operands are known integers, where the operator is one of shape arithmetic and the result is known too.
pub(super) fn evaluate(cx: &mut NodeCx) -> Result<Option<Vec<Meaning>>> {
    let n = cx.input_count();
    let all: Option<Vec<Known>> = (0..n).map(|i| cx.peek(i).cloned()).collect();
    let Some(k) = all.filter(|k| !k.is_empty()) else { return Ok(None) };
    let op = cx.node.op_type.as_str();
    let result = match op {
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Max" | "Min" if k.len() == 2 => {
            zip(&k[0], &k[1], |a, b| arithmetic(op, a, b))
        }
        "Equal" if k.len() == 2 => zip(&k[0], &k[1], |a, b| equal(&a, &b)).map(|r| Known { dtype: DType::Bool, ..r }),
        "Neg" => Some(Known { items: k[0].items.iter().map(|d| Dim::from(0) - d.clone()).collect(), ..k[0].clone() }),
        "Cast" => match crate::tensor::dtype(cx.int("to", 0) as i32) {
            Some(to @ (DType::I64 | DType::I32)) => Some(Known { dtype: to, ..k[0].clone() }),
            _ => None,
        },
        "Gather" if k.len() == 2 && k[0].shape.len() == 1 && cx.int("axis", 0) == 0 => gather(&k[0], &k[1]),
        "Concat" if k.iter().all(|k| k.shape.len() == 1) => {
            let items: Vec<Dim> = k.iter().flat_map(|k| k.items.clone()).collect();
            Some(Known { dtype: k[0].dtype, shape: vec![items.len()], items })
        }
        "Unsqueeze" if k[0].shape.is_empty() => Some(Known { shape: vec![1], ..k[0].clone() }),
        "Squeeze" if k[0].items.len() == 1 => Some(Known { shape: vec![], ..k[0].clone() }),
        "Reshape"
            if k.len() == 2
                && matches!(k[1].numbers().as_deref(), Some([-1] | []))
                && !(k[1].items.is_empty() && k[0].items.len() != 1) =>
        {
            let shape = if k[1].items.is_empty() { vec![] } else { vec![k[0].items.len()] };
            Some(Known { shape, ..k[0].clone() })
        }
        "Slice" if k[0].shape.len() == 1 => slice(&k),
        "ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin" if k[0].shape.len() == 1 && !k[0].items.is_empty() => {
            let op = match op {
                "ReduceProd" => "Mul",
                "ReduceSum" => "Add",
                "ReduceMax" => "Max",
                _ => "Min",
            };
            let first = k[0].items[0].clone();
            let all = k[0].items[1..].iter().try_fold(first, |a, d| arithmetic(op, a, d.clone()).filter(handy));
            let shape = if cx.int("keepdims", 1) == 1 { vec![1] } else { vec![] };
            all.map(|d| Known { dtype: k[0].dtype, shape, items: vec![d] })
        }
        "Where" if k.len() == 3 => where_(&k),
        "OneHot" => one_hot(&k, cx.shape_elements()),
        _ => None,
    };
    let most = cx.shape_elements();
    let result = result.filter(|r| r.items.len() <= most && r.items.iter().all(handy));
    if result.is_some() {
        cx.takes(n - 1);
        cx.ignores_attributes();
    }
    Ok(result.map(|r| vec![known(r)]))
}

fn zip(a: &Known, b: &Known, f: impl Fn(Dim, Dim) -> Option<Dim>) -> Option<Known> {
    let n = match (a.items.len(), b.items.len()) {
        (x, y) if x == y => x,
        (1, y) => y,
        (x, 1) => x,
        _ => return None,
    };
    let at = |k: &Known, i: usize| k.items[if k.items.len() == 1 { 0 } else { i }].clone();
    let items = (0..n).map(|i| f(at(a, i), at(b, i))).collect::<Option<_>>()?;
    let shape = if a.shape.len() >= b.shape.len() && a.items.len() == n { &a.shape } else { &b.shape };
    Some(Known { dtype: a.dtype, shape: if shape.is_empty() && n == 1 { vec![] } else { vec![n] }, items })
}

fn arithmetic(op: &str, a: Dim, b: Dim) -> Option<Dim> {
    match op {
        "Add" => Some(a + b),
        "Sub" => Some(a - b),
        "Mul" => Some(a * b),
        // ONNX truncates and extents are not negative; numbers of unlike signs are left to the ordinary path.
        "Div" => match (a.as_const(), b.as_const()) {
            (_, Some(y)) if y <= 0 => None,
            (Some(x), Some(y)) => (x >= 0).then(|| Dim::Const(x / y)),
            _ => Some(a.floor_div(b)),
        },
        "Mod" => match (a.as_const(), b.as_const()) {
            (_, Some(y)) if y <= 0 => None,
            (Some(x), Some(y)) => (x >= 0).then(|| Dim::Const(x % y)),
            _ => Some(a.clone() - a.floor_div(b.clone()) * b),
        },
        "Max" => Some(a.max(b)),
        // min(a, b) + max(a, b) = a + b
        _ => Some(a.clone() + b.clone() - a.max(b)),
    }
}

/// Symbols are extents of at least 0, and equal to numbers only by chance: -1 never.
fn equal(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a.as_const(), b.as_const()) {
        (Some(x), Some(y)) => Some(Dim::Const((x == y).into())),
        _ if a == b => Some(Dim::Const(1)),
        (Some(x), None) | (None, Some(x)) if x < 0 => Some(Dim::Const(0)),
        _ => None,
    }
}

fn gather(from: &Known, index: &Known) -> Option<Known> {
    let n = from.items.len() as i64;
    let pick = |i: i64| from.items.get(usize::try_from(if i < 0 { i + n } else { i }).ok()?).cloned();
    Some(Known {
        dtype: from.dtype,
        shape: index.shape.clone(),
        items: index.numbers()?.into_iter().map(pick).collect::<Option<_>>()?,
    })
}

fn slice(k: &[Known]) -> Option<Known> {
    let one = |i: usize| Some(*k.get(i)?.numbers()?.first()?);
    let (n, step) = (k[0].items.len() as i64, if k.len() > 4 { one(4)? } else { 1 });
    if k.len() < 3 || step == 0 {
        return None;
    }
    let place = |v: i64| if v < 0 { v + n } else { v };
    let (start, end) = (place(one(1)?), place(one(2)?));
    let mut items = vec![];
    let mut i = if step > 0 { start.clamp(0, n) } else { start.clamp(-1, n - 1) };
    let end = if step > 0 { end.clamp(0, n) } else { end.clamp(-1, n - 1) };
    while if step > 0 { i < end } else { i > end } {
        items.push(k[0].items.get(i as usize)?.clone());
        i = i.saturating_add(step);
    }
    Some(Known { dtype: k[0].dtype, shape: vec![items.len()], items })
}

fn where_(k: &[Known]) -> Option<Known> {
    let n = k.iter().map(|k| k.items.len()).max()?;
    let at = |k: &Known, i: usize| k.items.get(if k.items.len() == 1 { 0 } else { i }).cloned();
    let pick = |i: usize| if at(&k[0], i)?.as_const()? != 0 { at(&k[1], i) } else { at(&k[2], i) };
    let rank = k.iter().map(|k| k.shape.len()).max()?;
    Some(Known {
        dtype: k[1].dtype,
        shape: if rank == 0 { vec![] } else { vec![n] },
        items: (0..n).map(pick).collect::<Option<_>>()?,
    })
}

/// A list with one item of its own; the tracing exporter of torch repeats along an axis by it.
fn one_hot(k: &[Known], most: usize) -> Option<Known> {
    let [index, depth, values] = k else { return None };
    let ([i], [n], [off, on]) = (&index.numbers()?[..], &depth.numbers()?[..], &values.items[..]) else { return None };
    let (i, n) = (if *i < 0 { i + n } else { *i }, usize::try_from(*n).ok().filter(|&n| n <= most)?);
    let items = (0..n as i64).map(|at| if at == i { on } else { off }.clone()).collect();
    let shape = index.shape.iter().copied().chain([n]).collect();
    Some(Known { dtype: values.dtype, shape, items })
}

fn shape(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let dims: Vec<Dim> = match cx.known(0) {
        Some(k) => k.shape.iter().map(|&n| n.into()).collect(),
        None => {
            let x = cx.input(0)?;
            cx.ty(x).shape.to_vec()
        }
    };
    let n = dims.len() as i64;
    let place = |v: i64| if v < 0 { v + n } else { v }.clamp(0, n) as usize;
    let (start, end) = (place(cx.int("start", 0)), place(cx.int("end", n)));
    Ok(vec![known(Known::list(dims[start..end.max(start)].to_vec()))])
}

fn size(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    Ok(vec![known(Known::scalar(cx.ty(x).elements()))])
}

fn constant(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let t = if let Some(t) = cx.tensor("value")? {
        t
    } else if let Some(t) = cx.sparse_tensor("sparse_value")? {
        t
    } else if cx.has("value_float") {
        Tensor::from_f32([], &[cx.float("value_float", 0.0) as f32])
    } else if cx.has("value_int") {
        Tensor::from_i64(DType::I64, [], &[cx.int("value_int", 0)])
    } else if let Some(v) = cx.floats("value_floats") {
        Tensor::from_f32([v.len()], &v)
    } else if let Some(v) = cx.ints("value_ints") {
        Tensor::from_i64(DType::I64, [v.len()], &v)
    } else if cx.has("value_string") {
        string::tensor([], &[cx.string("value_string", "")])?
    } else if let Some(v) = cx.strings("value_strings") {
        string::tensor([v.len()], &v)?
    } else {
        return Err(cx.invalid("no value"));
    };
    Ok(vec![cx.constant_meaning(&t)])
}

fn constant_of_shape(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let dims = cx.dims(0)?;
    let one = cx.tensor("value")?.unwrap_or_else(|| Tensor::from_f32([1], &[0.0]));
    let one = one.reshaped(vec![]).ok_or_else(|| cx.invalid("the value must have one element"))?;
    if dims.iter().any(|d| d.as_const().is_some_and(|d| d < 0)) {
        return Err(cx.invalid("a negative extent"));
    }
    // A list of numbers is shape arithmetic itself.
    if let [n] = &dims[..]
        && let Some(n) = n.as_const().filter(|&n| n as usize <= cx.shape_elements())
        && one.dtype().is_int()
    {
        let t = Tensor::from_i64(one.dtype(), [n as usize], &vec![one.get_i64(0); n as usize]);
        return Ok(vec![cx.constant_meaning(&t)]);
    }
    let v = cx.emit_constant(&one);
    Ok(vec![value(cx.op(Broadcast { shape: dims }, &[v])?)])
}

fn range(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let scalars: Option<Vec<Dim>> = (0..3).map(|i| cx.known(i).and_then(|k| k.items.first().cloned())).collect();
    let (start, step, len, dtype) = match scalars.as_deref() {
        Some([start, limit, step]) => {
            let s = step.as_const().ok_or_else(|| cx.unsupported("a step that is not a number"))?;
            if s == 0 {
                return Err(cx.invalid("a step of 0"));
            }
            let span = if s > 0 { limit.clone() - start.clone() } else { start.clone() - limit.clone() };
            let len = span.ceil_div(s.abs());
            let len = if len.as_const().is_some_and(|n| n < 0) { 0.into() } else { len };
            (start.clone(), s, len, cx.known(0).map_or(DType::I64, |k| k.dtype))
        }
        _ => return other_range(cx),
    };
    if let (Some(a), Some(n)) = (start.as_const(), len.as_const().filter(|&n| n <= cx.shape_elements() as i64)) {
        let t = Tensor::from_i64(dtype, [n as usize], &(0..n).map(|i| a + i * step).collect::<Vec<_>>());
        return Ok(vec![cx.constant_meaning(&t)]);
    }
    let mut v = cx.op(Iota { len, dtype: DType::I64 }, &[])?;
    if step != 1 {
        v = cx.with_scalar(BinaryKind::Mul, v, step as f64)?;
    }
    if start != Dim::Const(0) {
        let s = cx.op(tersor_ir::ops::Extent { of: start }, &[])?;
        v = cx.op(Binary { kind: BinaryKind::Add }, &[v, s])?;
    }
    Ok(vec![value(if dtype == DType::I64 { v } else { cx.op(Cast::to(dtype), &[v])? })])
}

/// A range of floats, or one that the run computes.
fn other_range(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let [start, limit, step] = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    let dtype = cx.ty(start).dtype;
    let [start, limit, step] = [start, limit, step].map(|v| cx.reshape(v, vec![]));
    let (start, limit, step) = (start?, limit?, step?);
    // As many steps as there are before the limit, by numbers that hold all integers up to 2^53.
    let span = cx.binary(BinaryKind::Sub, limit, start)?;
    let (span, each) = (cx.cast(span, DType::F64)?, cx.cast(step, DType::F64)?);
    let steps = cx.binary(BinaryKind::Div, span, each)?;
    let steps = cx.unary(UnaryKind::Ceil, steps)?;
    let steps = cx.with_scalar(BinaryKind::Max, steps, 0.0)?;
    if let [Some(n), Some(first), Some(each)] = [steps, start, step].map(|v| cx.constant_of(v).map(|t| t.get_f64(0))) {
        if !n.is_finite() {
            return Err(cx.invalid(format!("{n} elements")));
        }
        if n > f64::from(1 << 24) {
            return Err(cx.unsupported(format!("{n} elements")));
        }
        let all: Vec<f64> = (0..n as usize).map(|i| first + i as f64 * each).collect();
        return Ok(vec![value(cx.table(dtype, &[all.len()], &all))]);
    }
    // The extent that others have who count to the same number, which then is none below 0.
    let counts = dtype.is_int()
        && [(start, 0), (step, 1)].iter().all(|&(v, n)| cx.constant_of(v).is_some_and(|t| t.get_i64(0) == n));
    let count = if counts { limit } else { cx.cast(steps, DType::I64)? };
    let Some(len) = cx.computed(count)? else {
        let open = [start, limit, step].into_iter().find(|&v| cx.constant_of(v).is_none());
        return Err(
            cx.open_extent(open.unwrap_or(count), "the number of elements must be known when the model is compiled")
        );
    };
    let places = cx.op(Iota { len: len[0].clone(), dtype: DType::I64 }, &[])?;
    let places = cx.cast(places, dtype)?;
    let away = cx.binary(BinaryKind::Mul, places, step)?;
    Ok(vec![value(cx.binary(BinaryKind::Add, away, start)?)])
}

pub(super) const OPS: Topic = &[
    ("Shape", shape),
    ("Size", size),
    ("Constant", constant),
    ("ConstantOfShape", constant_of_shape),
    ("Range", range),
];
