//! Maps of `ai.onnx.ml`: lists of keys beside lists of values, so that the module has tensors alone.

use super::{Topic, text};
use crate::import::build::done;
use crate::import::node::{NodeCx, formed, value};
use crate::import::{Form, Meaning};
use tersor_ir::diag::Result;
use tersor_ir::ops::compare::CompareKind::Eq;
use tersor_ir::ops::reduce::ArgKind;
use tersor_ir::ops::{ArgReduce, ArgSort, Gather};
use tersor_ir::{DType, Dim, Tensor, ValueId, string};

/// The keys and the values of an input that is a map, `[n]` both.
fn map(cx: &mut NodeCx) -> Result<[ValueId; 2]> {
    let Form::Map(parts) = cx.meaning(0)?.form else { return Err(cx.invalid("input 0 is not a map")) };
    let [keys, values] = [cx.value_of(&parts[0])?, cx.value_of(&parts[1])?];
    match cx.ty(keys).shape == cx.ty(values).shape {
        true => Ok([keys, values]),
        false => Err(cx.unsupported("maps side by side")),
    }
}

/// The values of the `wanted` keys, `[1, wanted]`; those of keys that are not there are 0 or a string without a character.
fn look_up(cx: &mut NodeCx, [keys, values]: [ValueId; 2], wanted: ValueId, other: &Tensor) -> Result<Vec<Meaning>> {
    let count = cx.ty(wanted).elements();
    let (rows, columns) = (cx.along(wanted, 0, 2)?, cx.along(keys, 1, 2)?);
    let hit = cx.compare(Eq, rows, columns)?;
    let hit = cx.cast(hit, DType::I32)?;
    // What is nowhere is found behind the last key.
    let end = cx.emit_constant(&Tensor::scalar(DType::I32, 1.0));
    let end = cx.broadcast(end, vec![count.clone(), 1.into()])?;
    let hit = cx.concat(&[hit, end], 1)?;
    let other = cx.emit_constant(other);
    let other = cx.reshape(other, vec![1.into()])?;
    let values = cx.concat(&[values, other], 0)?;
    let at = cx.op(ArgReduce { kind: ArgKind::Max, axis: 1, keep: false, last: false }, &[hit])?;
    let found = cx.op(Gather { axis: 0 }, &[values, at])?;
    done(cx.reshape(found, vec![1.into(), count])?)
}

/// The values by a vocabulary of keys.
fn dict_vectorizer(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let parts = map(cx)?;
    let vocabulary = text::labels(cx, "int64_vocabulary", "string_vocabulary")?;
    let vocabulary = vocabulary.ok_or_else(|| cx.invalid("no vocabulary"))?;
    let [keys, values] = parts.map(|v| cx.ty(v).dtype);
    if keys != vocabulary.dtype() {
        return Err(cx.invalid(format!("a vocabulary of {} for keys of {keys}", vocabulary.dtype())));
    }
    let other = match values {
        DType::Str => string::tensor([], &[""])?,
        d => Tensor::scalar(d, 0.0),
    };
    let wanted = cx.emit_constant(&vocabulary);
    look_up(cx, parts, wanted, &other)
}

/// The values in the order of their keys, or at the places that the keys say.
fn cast_map(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let [keys, values] = map(cx)?;
    if cx.ty(keys).dtype != DType::I64 {
        return Err(cx.invalid(format!("keys of {}, expected i64", cx.ty(keys).dtype)));
    }
    let to = match cx.string("cast_to", "TO_FLOAT").as_str() {
        "TO_FLOAT" => DType::F32,
        "TO_INT64" => DType::I64,
        "TO_STRING" => DType::Str,
        other => return Err(cx.invalid(format!("cast_to \"{}\"", other.escape_debug()))),
    };
    let cast = match [to, cx.ty(values).dtype].contains(&DType::Str) {
        true => text::cast(cx, values, to)?,
        false => cx.cast(values, to)?,
    };
    match cx.string("map_form", "DENSE").as_str() {
        "DENSE" => {
            cx.has("max_map");
            let order = cx.op(ArgSort { axis: 0, descending: false }, &[keys])?;
            let sorted = cx.op(Gather { axis: 0 }, &[cast, order])?;
            let n = cx.ty(sorted).elements();
            done(cx.reshape(sorted, vec![1.into(), n])?)
        }
        "SPARSE" => {
            let length = cx.int("max_map", 1);
            if !(0..=i64::from(i32::MAX)).contains(&length) {
                return Err(cx.invalid(format!("max_map is {length}")));
            }
            let other = match to {
                DType::Str => string::tensor([], &["0"])?,
                to => Tensor::scalar(to, 0.0),
            };
            let wanted = cx.positions(&Dim::from(length), 0, 1, DType::I64)?;
            look_up(cx, [keys, cast], wanted, &other)
        }
        other => Err(cx.invalid(format!("map_form \"{}\"", other.escape_debug()))),
    }
}

/// A map for each row, of the same keys.
fn zip_map(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let keys = text::labels(cx, "classlabels_int64s", "classlabels_strings")?;
    let keys = keys.ok_or_else(|| cx.invalid("no classlabels"))?;
    // One row may come without its axis.
    let x = if cx.ty(x).rank() == 1 { cx.insert_axis(x, 0)? } else { x };
    let t = cx.ty(x);
    if t.rank() != 2 {
        return Err(cx.invalid(format!("an operand of {t}, expected rows")));
    }
    cx.equal(&t.shape[1], &Dim::from(keys.len()), "rows have")?;
    let keys = cx.emit_constant(&keys);
    Ok(vec![formed(Form::Map(Box::new([value(keys), value(x)])))])
}

pub(super) const OPS: Topic =
    &[("ai.onnx.ml:CastMap", cast_map), ("ai.onnx.ml:DictVectorizer", dict_vectorizer), ("ai.onnx.ml:ZipMap", zip_map)];
