//! `TfIdfVectorizer`: how often each of some sequences of numbers occurs.

use super::{Topic, text};
use crate::import::Meaning;
use crate::import::build::done;
use crate::import::node::NodeCx;
use tersor_ir::diag::Result;
use tersor_ir::ops::Gather;
use tersor_ir::ops::binary::BinaryKind::{Add, Mul};
use tersor_ir::ops::compare::CompareKind::{Eq, Gt};
use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::{DType, Tensor, ValueId};

/// Most comparisons of one row.
const COMPARISONS: usize = 1 << 24;

/// The sequences of the pool that have `n` numbers, with the column of each.
struct Grams {
    n: usize,
    items: Tensor,
    columns: Vec<usize>,
}

fn grams(cx: &NodeCx) -> Result<(Vec<Grams>, usize)> {
    let list = |name: &str| cx.ints(name).ok_or_else(|| cx.invalid(format!("no {name}")));
    let pool = text::labels(cx, "pool_int64s", "pool_strings")?;
    let pool = pool.ok_or_else(|| cx.invalid("neither pool_int64s nor pool_strings"))?;
    let (starts, columns) = (list("ngram_counts")?, list("ngram_indexes")?);
    let columns: Option<Vec<usize>> =
        columns.into_iter().map(|c| usize::try_from(c).ok().filter(|&c| c < COMPARISONS)).collect();
    let columns = columns.ok_or_else(|| cx.invalid("ngram_indexes outside the result"))?;
    let width = columns.iter().max().map_or(0, |c| c + 1);
    let (mut out, mut taken) = (vec![], 0);
    for (i, &start) in starts.iter().enumerate() {
        let end = starts.get(i + 1).copied().unwrap_or(pool.len() as i64);
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let part = |&(s, e): &(usize, usize)| s <= e && e <= pool.len() && (e - s).is_multiple_of(i + 1);
        let items = range.filter(part).map(|(s, e)| pool.rows(s, e));
        let items = items.ok_or_else(|| cx.invalid(format!("ngram_counts {starts:?} for {} items", pool.len())))?;
        let count = items.len() / (i + 1);
        let columns = columns.get(taken..taken + count);
        let columns = columns.ok_or_else(|| cx.invalid("fewer ngram_indexes than sequences in the pool"))?;
        taken += count;
        out.push(Grams { n: i + 1, items, columns: columns.to_vec() });
    }
    Ok((out, width))
}

/// `[rows, sequences]`: how often each sequence stands in a row, its numbers `step` apart.
fn occurrences(cx: &mut NodeCx, x: ValueId, g: &Grams, length: usize, step: usize) -> Result<Option<ValueId>> {
    let Some(places) = length.checked_sub((g.n - 1) * step).filter(|&p| p > 0) else { return Ok(None) };
    let count = g.columns.len();
    if places.checked_mul(g.items.len()).is_none_or(|n| n > COMPARISONS) {
        return Err(cx.unsupported(format!("{count} sequences in rows of {length}")));
    }
    let at: Vec<i64> = (0..places).flat_map(|p| (0..g.n).map(move |k| (p + k * step) as i64)).collect();
    let at = cx.emit_constant(&Tensor::from_i64(DType::I64, [places, 1, g.n], &at));
    let windows = cx.op(Gather { axis: 1 }, &[x, at])?;
    let wanted = cx.emit_constant(&g.items);
    let wanted = cx.cast(wanted, cx.ty(x).dtype)?;
    let wanted = cx.reshape(wanted, vec![count.into(), g.n.into()])?;
    let equal = cx.compare(Eq, windows, wanted)?;
    let equal = cx.cast(equal, DType::F32)?;
    let whole = cx.reduce(ReduceKind::Min, equal, &[3], false)?;
    Ok(Some(cx.reduce(ReduceKind::Sum, whole, &[1], false)?))
}

/// Weights belong to columns of the result, as in ONNX's reference implementation.
fn tf_idf(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let t = cx.ty(x);
    if t.rank() == 0 || t.rank() > 2 {
        return Err(cx.invalid(format!("an operand of {t}, expected a row or rows")));
    }
    let length = cx.fixed(&t.shape[t.rank() - 1], "sequences in a row")?;
    let rows = if t.rank() == 1 { cx.insert_axis(x, 0)? } else { x };
    let (grams, width) = grams(cx)?;
    let bound = |name: &str, low: i64| match cx.int(name, low) {
        n if (low..=64).contains(&n) => Ok(n as usize),
        n => Err(cx.invalid(format!("{name} is {n}, expected {low} to 64"))),
    };
    let (shortest, longest, skips) =
        (bound("min_gram_length", 1)?, bound("max_gram_length", 1)?, bound("max_skip_count", 0)?);
    let weights = cx.floats("weights");
    let mode = cx.string("mode", "");
    // Lists of counts, then a column of zeros for columns without a sequence.
    let (mut lists, mut place, mut found) = (vec![], vec![None; width], 0);
    for g in grams.iter().filter(|g| (shortest..=longest).contains(&g.n) && !g.columns.is_empty()) {
        let mut sum: Option<ValueId> = None;
        for step in 1..=if g.n == 1 { 1 } else { skips + 1 } {
            if let Some(v) = occurrences(cx, rows, g, length, step)? {
                sum = Some(match sum {
                    Some(s) => cx.binary(Add, s, v)?,
                    None => v,
                });
            }
        }
        let Some(sum) = sum else { continue };
        for (i, &c) in g.columns.iter().enumerate() {
            if place[c].replace((found + i) as i64).is_some() {
                return Err(cx.unsupported("two sequences for one column"));
            }
        }
        found += g.columns.len();
        lists.push(sum);
    }
    let zero = cx.emit_constant(&Tensor::scalar(DType::F32, 0.0));
    let none = cx.broadcast(zero, vec![cx.ty(rows).shape[0].clone(), 1.into()])?;
    lists.push(none);
    let all = cx.concat(&lists, 1)?;
    let at: Vec<i64> = place.iter().map(|p| p.unwrap_or(found as i64)).collect();
    let at = cx.emit_constant(&Tensor::from_i64(DType::I64, [width], &at));
    let mut y = cx.op(Gather { axis: 1 }, &[all, at])?;
    if !["TF", "IDF", "TFIDF"].contains(&mode.as_str()) {
        return Err(cx.invalid(format!("mode {}", mode.escape_debug())));
    }
    if mode == "IDF" {
        let some = cx.compare_scalar(Gt, y, 0.0)?;
        y = cx.cast(some, DType::F32)?;
    }
    if let Some(w) = weights.filter(|_| mode != "TF") {
        if w.len() != width {
            return Err(cx.invalid(format!("{} weights for {width} columns", w.len())));
        }
        let w: Vec<f64> = w.into_iter().map(f64::from).collect();
        let w = cx.table(DType::F32, &[width], &w);
        y = cx.binary(Mul, y, w)?;
    }
    done(if t.rank() == 1 { cx.reshape(y, vec![width.into()])? } else { y })
}

pub(super) const OPS: Topic = &[("TfIdfVectorizer", tf_idf)];
