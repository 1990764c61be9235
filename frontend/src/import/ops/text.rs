//! Strings: joined, split, cleaned, matched, written and read as numbers; and labels of `ai.onnx.ml`, which are numbers or strings.

use super::Topic;
use crate::import::Meaning;
use crate::import::build::done;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::ops::text::Letters;
use tersor_ir::ops::{Text, TextConcat, TextFormat, TextMatch, TextNormalize, TextParse, TextSplit};
use tersor_ir::{DType, Dim, Tensor, ValueId, string};

/// An operand that must be of strings.
fn text(cx: &mut NodeCx, i: usize) -> Result<ValueId> {
    let x = cx.input(i)?;
    match cx.ty(x) {
        t if t.dtype == DType::Str => Ok(x),
        t => Err(cx.invalid(format!("input {i} is {t}, expected strings"))),
    }
}

fn concat(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (a, b) = (text(cx, 0)?, text(cx, 1)?);
    let shape = tersor_ir::ops::shape::broadcast(&[&cx.ty(a).shape, &cx.ty(b).shape])?;
    let (a, b) = (cx.broadcast(a, shape.to_vec())?, cx.broadcast(b, shape.to_vec())?);
    done(cx.op(TextConcat {}, &[a, b])?)
}

fn matches(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = text(cx, 0)?;
    let pattern = Text(cx.string("pattern", ""));
    done(cx.op(TextMatch { pattern }, &[x])?)
}

/// As many parts as the string with the most has; how many there can be is what `maxsplit` or the declared extent says.
fn split(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = text(cx, 0)?;
    let t = cx.ty(x);
    let most = match cx.has("maxsplit").then(|| cx.int("maxsplit", 0)) {
        Some(n) => Some(u32::try_from(n).map_err(|_| cx.invalid(format!("maxsplit is {n}")))?),
        None => None,
    };
    let declared = cx.declared(0).and_then(|d| d.last().copied().flatten()).and_then(|n| u32::try_from(n).ok());
    let parts = match declared.or(most.and_then(|m| m.checked_add(1))) {
        _ if t.elements() == Dim::Const(0) => 0,
        Some(n) => n,
        None => {
            let d = cx.unsupported("strings of any number of parts");
            return Err(d.with_help("declare the last extent of its result, or give maxsplit"));
        }
    };
    let delimiter = Text(cx.string("delimiter", ""));
    let results = cx.ops(TextSplit { delimiter, most, parts }, &[x])?;
    let (y, counts) = (results[0], results[1]);
    if parts == 0 {
        return Ok(vec![value(y), value(counts)]);
    }
    let axes: Vec<usize> = (0..t.rank()).collect();
    let largest = cx.reduce(ReduceKind::Max, counts, &axes, false)?;
    // Over no strings the maximum is the least number.
    let none = cx.scalar_like(largest, 0.0);
    let largest = cx.binary(BinaryKind::Max, largest, none)?;
    Ok(vec![value(cx.prefix(y, t.rank(), largest)?), value(counts)])
}

fn normalize(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = text(cx, 0)?;
    let shape = cx.ty(x).shape;
    let letters = match cx.string("case_change_action", "NONE").as_str() {
        "NONE" => Letters::Keep,
        "LOWER" => Letters::Lower,
        "UPPER" => Letters::Upper,
        other => return Err(cx.invalid(format!("case_change_action {}", other.escape_debug()))),
    };
    let length = match &shape[..] {
        [n] => n.clone(),
        [one, n] if *one == Dim::Const(1) => n.clone(),
        _ => return Err(cx.invalid(format!("an operand of {}, expected [C] or [1,C]", cx.ty(x)))),
    };
    let sensitive = cx.int("is_case_sensitive", 0) != 0;
    let stopwords: Vec<Text> = cx.strings("stopwords").unwrap_or_default().into_iter().map(Text).collect();
    // Letters change by Unicode's tables.
    cx.string("locale", "");
    let (x, every) = (cx.reshape(x, vec![length])?, stopwords.is_empty());
    let results = cx.ops(TextNormalize { letters, sensitive, stopwords }, &[x])?;
    if every {
        return done(cx.reshape(results[0], shape.to_vec())?);
    }
    let count = cx.reshape(results[1], vec![])?;
    let left = cx.prefix(results[0], 0, count)?;
    let length = cx.ty(left).shape[0].clone();
    let shape = if shape.len() == 1 { vec![length] } else { vec![1.into(), length] };
    done(cx.reshape(left, shape)?)
}

/// Strings as numbers, numbers as strings.
pub(super) fn cast(cx: &mut NodeCx, x: ValueId, to: DType) -> Result<ValueId> {
    let from = cx.ty(x).dtype;
    if from == to {
        return Ok(x);
    }
    // What has a text of its own; other types by way of the next larger one.
    let wide = |d: DType| match d {
        DType::U64 | DType::F64 | DType::F32 | DType::F16 | DType::BF16 | DType::Bool => d,
        d if d.is_float() => DType::F32,
        _ => DType::I64,
    };
    if to == DType::Str {
        let x = cx.cast(x, wide(from))?;
        return cx.op(TextFormat {}, &[x]);
    }
    let x = cx.op(TextParse { to: wide(to) }, &[x])?;
    cx.cast(x, to)
}

/// The strings of an attribute as a list.
pub(super) fn list(cx: &NodeCx, name: &str) -> Result<Option<Tensor>> {
    cx.strings(name).map(|v| string::tensor([v.len()], &v)).transpose()
}

/// The numbers or the strings of one of two attributes as a list; `None` where neither has any.
pub(super) fn labels(cx: &NodeCx, numbers: &str, strings: &str) -> Result<Option<Tensor>> {
    let (numbers, strings) = (cx.ints(numbers).filter(|v| !v.is_empty()), list(cx, strings)?.filter(|t| !t.is_empty()));
    Ok(numbers.map(|v| Tensor::from_i64(DType::I64, [v.len()], &v)).or(strings))
}

pub(super) const OPS: Topic =
    &[("StringConcat", concat), ("StringSplit", split), ("StringNormalizer", normalize), ("RegexFullMatch", matches)];
