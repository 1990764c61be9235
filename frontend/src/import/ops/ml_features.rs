//! Features of `ai.onnx.ml`: scaled, chosen, encoded, filled in.

use super::{Topic, text};
use crate::import::Meaning;
use crate::import::build::done;
use crate::import::node::NodeCx;
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{And, Div, Mul, Or, Sub};
use tersor_ir::ops::compare::CompareKind::{Eq, Gt, Ne};
use tersor_ir::ops::reduce::{ArgKind, ReduceKind};
use tersor_ir::ops::unary::UnaryKind::{Abs, Sqrt};
use tersor_ir::ops::{ArgReduce, Gather};
use tersor_ir::{DType, Dim, Tensor, ValueId, string};

/// A list with one number for all features or one for each.
fn per_feature(cx: &mut NodeCx, x: ValueId, list: &[f64], name: &str) -> Result<ValueId> {
    let t = cx.ty(x);
    let features = t.shape.last().and_then(Dim::as_const);
    match list.len() {
        1 => Ok(cx.table(t.dtype, &[], list)),
        n if features == Some(n as i64) => Ok(cx.table(t.dtype, &[n], list)),
        n => Err(cx.invalid(format!("{n} numbers of {name} for features of {t}"))),
    }
}

fn floats(cx: &NodeCx, name: &str) -> Vec<f64> {
    cx.floats(name).unwrap_or_default().into_iter().map(f64::from).collect()
}

/// `(x - offset) * scale`
fn scaler(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let mut y = cx.cast(x, DType::F32)?;
    for (name, kind) in [("offset", Sub), ("scale", Mul)] {
        let list = floats(cx, name);
        if !list.is_empty() {
            let v = per_feature(cx, y, &list, name)?;
            y = cx.binary(kind, y, v)?;
        }
    }
    done(y)
}

/// Rows over their norm; rows whose norm is 0 stay.
fn normalizer(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let x = cx.cast(x, DType::F32)?;
    let last = [cx.axis(-1, cx.ty(x).rank())?];
    let norm = match cx.string("norm", "MAX").as_str() {
        "MAX" => cx.reduce(ReduceKind::Max, x, &last, true)?,
        "L1" => {
            let size = cx.unary(Abs, x)?;
            cx.reduce(ReduceKind::Sum, size, &last, true)?
        }
        "L2" => {
            let square = cx.binary(Mul, x, x)?;
            let sum = cx.reduce(ReduceKind::Sum, square, &last, true)?;
            cx.unary(Sqrt, sum)?
        }
        other => return Err(cx.invalid(format!("norm {}", other.escape_debug()))),
    };
    let zero = cx.compare_scalar(Eq, norm, 0.0)?;
    let one = cx.scalar_like(norm, 1.0);
    let norm = cx.select(zero, one, norm)?;
    done(cx.binary(Div, x, norm)?)
}

fn binarizer(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let above = cx.compare_scalar(Gt, x, cx.float("threshold", 0.0))?;
    done(cx.cast(above, cx.ty(x).dtype)?)
}

/// Features by number along the last axis; a list counts as one row.
fn extractor(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (mut x, at) = (cx.input(0)?, cx.input(1)?);
    if cx.ty(x).rank() == 1 {
        x = cx.insert_axis(x, 0)?;
    }
    let axis = cx.axis(-1, cx.ty(x).rank())?;
    let at = cx.reshape(at, vec![cx.ty(at).elements()])?;
    done(cx.op(Gather { axis: axis as u8 }, &[x, at])?)
}

fn is_nan(cx: &mut NodeCx, x: ValueId) -> Result<ValueId> {
    cx.compare(Ne, x, x)
}

/// Numbers in place of those that stand for what is missing.
fn imputer(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let (new, old) = match cx.ty(x).dtype.is_float() {
        true => (floats(cx, "imputed_value_floats"), cx.float("replaced_value_float", 0.0)),
        false => {
            let ints = cx.ints("imputed_value_int64s").unwrap_or_default();
            (ints.into_iter().map(|v| v as f64).collect(), cx.int("replaced_value_int64", 0) as f64)
        }
    };
    cx.ignores_attributes();
    let new = per_feature(cx, x, &new, "imputed_value")?;
    let missing = if old.is_nan() { is_nan(cx, x)? } else { cx.compare_scalar(Eq, x, old)? };
    done(cx.select(missing, new, x)?)
}

/// `[…, keys]`: where each element is which key; a NaN is equal to a NaN.
fn hits(cx: &mut NodeCx, x: ValueId, keys: &Tensor) -> Result<ValueId> {
    let nans = keys.dtype().is_float() && keys.to_f64().iter().any(|k| k.is_nan());
    let rank = cx.ty(x).rank();
    let x = cx.insert_axis(x, rank)?;
    let keys = cx.emit_constant(keys);
    let equal = cx.compare(Eq, x, keys)?;
    if !nans {
        return Ok(equal);
    }
    let (a, b) = (is_nan(cx, x)?, is_nan(cx, keys)?);
    let both = cx.binary(And, a, b)?;
    cx.binary(Or, equal, both)
}

/// An axis with a 1 for each category; a row of zeros for others, which ONNX Runtime takes for an error where `zeros` is 0.
fn one_hot(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let cats = text::labels(cx, "cats_int64s", "cats_strings")?.ok_or_else(|| cx.invalid("no categories"))?;
    cx.has("zeros");
    let x = if cx.ty(x).dtype == DType::Str { x } else { cx.cast(x, DType::I64)? };
    if cx.ty(x).dtype != cats.dtype() {
        return Err(cx.invalid(format!("categories of {} for {}", cats.dtype(), cx.ty(x))));
    }
    let hit = hits(cx, x, &cats)?;
    done(cx.cast(hit, DType::F32)?)
}

/// What `keys` or `values` are, in whichever attribute they stand.
fn labels(cx: &mut NodeCx, of: &str) -> Result<Tensor> {
    if let Some(t) = cx.tensor(&format!("{of}_tensor"))? {
        return Ok(t);
    }
    if let Some(v) = cx.ints(&format!("{of}_int64s")) {
        return Ok(Tensor::from_i64(DType::I64, [v.len()], &v));
    }
    if let Some(t) = text::list(cx, &format!("{of}_strings"))? {
        return Ok(t);
    }
    match cx.floats(&format!("{of}_floats")) {
        Some(v) => Ok(Tensor::from_f32([v.len()], &v)),
        None => Err(cx.invalid(format!("no {of}"))),
    }
}

/// Values by key, the first of equal ones. Version 1 knows strings with their numbers, in either direction.
fn label_encoder(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    if let Some(names) = text::list(cx, "classes_strings")? {
        let numbers = Tensor::from_i64(DType::I64, [names.len()], &(0..names.len() as i64).collect::<Vec<_>>());
        return categories(cx, x, names, numbers);
    }
    let (keys, values) = (labels(cx, "keys")?, labels(cx, "values")?);
    if keys.len() != values.len() || keys.is_empty() {
        return Err(cx.invalid(format!("{} keys for {} values", keys.len(), values.len())));
    }
    if keys.dtype() != cx.ty(x).dtype {
        return Err(cx.invalid(format!("keys of {} for {}", keys.dtype(), cx.ty(x))));
    }
    let default = match cx.tensor("default_tensor")? {
        Some(t) if t.len() == 1 && t.dtype() == values.dtype() => t,
        Some(t) => return Err(cx.invalid(format!("default_tensor {} for values of {}", t.ty(), values.dtype()))),
        None if values.dtype() == DType::Str => string::tensor([], &[cx.string("default_string", "_Unused")])?,
        None if values.dtype().is_float() => Tensor::scalar(values.dtype(), cx.float("default_float", -0.0)),
        None => Tensor::from_i64(values.dtype(), [], &[cx.int("default_int64", -1)]),
    };
    cx.ignores_attributes();
    done(by_key(cx, x, &keys, &values, &default)?)
}

/// Strings as their numbers, or numbers as their strings.
fn categories(cx: &mut NodeCx, x: ValueId, strings: Tensor, numbers: Tensor) -> Result<Vec<Meaning>> {
    if strings.len() != numbers.len() || strings.is_empty() {
        return Err(cx.invalid(format!("{} strings for {} numbers", strings.len(), numbers.len())));
    }
    let number = Tensor::from_i64(DType::I64, [], &[cx.int("default_int64", -1)]);
    let other = string::tensor([], &[cx.string("default_string", "_Unused")])?;
    done(match cx.ty(x).dtype {
        DType::Str => by_key(cx, x, &strings, &numbers, &number)?,
        DType::I64 => by_key(cx, x, &numbers, &strings, &other)?,
        _ => return Err(cx.invalid(format!("an operand of {}, expected str or i64", cx.ty(x)))),
    })
}

fn category_mapper(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let strings = text::list(cx, "cats_strings")?.ok_or_else(|| cx.invalid("no cats_strings"))?;
    let numbers = cx.ints("cats_int64s").ok_or_else(|| cx.invalid("no cats_int64s"))?;
    categories(cx, x, strings, Tensor::from_i64(DType::I64, [numbers.len()], &numbers))
}

/// For each element the value of the first key that it is equal to, `default` where it is none.
fn by_key(cx: &mut NodeCx, x: ValueId, keys: &Tensor, values: &Tensor, default: &Tensor) -> Result<ValueId> {
    let rank = cx.ty(x).rank();
    let hit = hits(cx, x, keys)?;
    let hit = cx.cast(hit, DType::I32)?;
    let any = cx.reduce(ReduceKind::Max, hit, &[rank], false)?;
    let any = cx.cast(any, DType::Bool)?;
    let at = cx.op(ArgReduce { kind: ArgKind::Max, axis: rank as u8, keep: false, last: false }, &[hit])?;
    let values = cx.emit_constant(values);
    let values = cx.reshape(values, vec![cx.ty(values).elements()])?;
    let found = cx.op(Gather { axis: 0 }, &[values, at])?;
    let default = cx.emit_constant(default);
    let default = cx.reshape(default, vec![])?;
    cx.select(any, found, default)
}

/// Features side by side.
fn vectorizer(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let widths = cx.ints("inputdimensions").unwrap_or_default();
    let mut parts = vec![];
    for (i, v) in cx.all_inputs()?.into_iter().enumerate() {
        let mut v = cx.cast(v, DType::F32)?;
        if cx.ty(v).rank() == 1 {
            v = cx.insert_axis(v, 0)?;
        }
        let t = cx.ty(v);
        if t.rank() != 2 || widths.get(i).is_some_and(|&w| t.shape[1] != Dim::from(w)) {
            return Err(cx.unsupported(format!("features of {t} that are not as wide as inputdimensions says")));
        }
        parts.push(v);
    }
    if parts.is_empty() {
        return Err(cx.invalid("no inputs"));
    }
    done(cx.concat(&parts, 1)?)
}

pub(super) const OPS: Topic = &[
    ("ai.onnx.ml:ArrayFeatureExtractor", extractor),
    ("ai.onnx.ml:Binarizer", binarizer),
    ("ai.onnx.ml:CategoryMapper", category_mapper),
    ("ai.onnx.ml:FeatureVectorizer", vectorizer),
    ("ai.onnx.ml:Imputer", imputer),
    ("ai.onnx.ml:LabelEncoder", label_encoder),
    ("ai.onnx.ml:Normalizer", normalizer),
    ("ai.onnx.ml:OneHotEncoder", one_hot),
    ("ai.onnx.ml:Scaler", scaler),
];
