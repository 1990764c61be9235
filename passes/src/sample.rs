//! Small inputs on which an alternative is compared with the exact op.

use crate::statistics::Statistics;
use tersor_ir::constant::{Distribution, Rng};
use tersor_ir::dim::{Bindings, SymbolInfo};
use tersor_ir::ops::shape::{for_each_index, strides};
use tersor_ir::{Func, Module, NodeId, Op, Tensor, ValueId};

/// Rows of a product, and results of a convolution along each spatial axis.
const ROWS: usize = 8;
const SPATIAL: usize = 2;
/// The most of an extent that is not fixed.
const POSITIONS: i64 = 16;

/// Extents for each operand of a node: those that it contracts whole, the others cut short.
pub fn shapes(m: &Module, f: &Func, node: NodeId) -> Vec<Vec<usize>> {
    let hints = m.hints();
    let full = |v: ValueId| -> Vec<usize> {
        f.values[v].ty.shape.iter().map(|d| d.eval(&hints).map_or(1, |d| d.clamp(1, 1 << 20) as usize)).collect()
    };
    let n = &f.nodes[node];
    let cut = |index: usize, v: ValueId| {
        let mut s = full(v);
        let rank = s.len();
        match &n.op {
            Op::MatMul(op) if index == 0 && rank >= 2 => {
                s[..rank - 2].fill(1);
                let row = if op.trans_a { rank - 1 } else { rank - 2 };
                s[row] = s[row].min(ROWS);
            }
            Op::Conv(op) if index == 0 && rank >= 3 => {
                let kernel = full(n.operands[1]);
                let first = if op.channels_last { 1 } else { 2 };
                s[0] = 1;
                for i in 0..rank - 2 {
                    let reach = op.dilations[i] as usize * kernel[2 + i].saturating_sub(1) + 1;
                    s[first + i] = s[first + i].min(reach + op.strides[i] as usize * (SPATIAL - 1));
                }
            }
            _ => {}
        }
        s
    };
    n.operands.iter().enumerate().map(|(i, &v)| cut(i, v)).collect()
}

/// Extents of a sample of a value with all elements of one input: the first extent of a parameter of `@main`, the batch, is 1, and other extents that are not fixed
/// are short. Samples of all values that have them fit each other. `None` where an extent has no value.
pub fn whole(m: &Module, f: &Func, v: ValueId) -> Option<Vec<usize>> {
    let bindings = whole_extents(m, f);
    f.values[v].ty.shape.iter().map(|d| d.eval(&bindings).and_then(|d| usize::try_from(d).ok())).collect()
}

/// The extents with which [`whole`] samples are taken.
pub fn whole_extents(m: &Module, f: &Func) -> Bindings {
    let batch = |s: &str| {
        let first = |v: &ValueId| f.values[*v].ty.shape.first().and_then(|d| d.as_symbol().cloned());
        f.body().params.iter().filter_map(first).any(|b| &*b == s)
    };
    let short = |s: &str, i: &SymbolInfo| i.hint.min(if batch(s) { 1 } else { POSITIONS }).max(i.min);
    m.symbols.iter().map(|(s, i)| (s.clone(), short(s, i))).collect()
}

/// The part of a tensor around its middle that has these extents; `None` when the tensor is smaller.
pub fn crop(t: &Tensor, shape: &[usize]) -> Option<Tensor> {
    if t.shape().len() != shape.len() || t.shape().iter().zip(shape).any(|(a, b)| a < b) {
        return None;
    }
    let strides = strides(t.shape());
    let start: usize = t.shape().iter().zip(shape).zip(&strides).map(|((a, b), s)| (a - b) / 2 * s).sum();
    let mut at = Vec::with_capacity(shape.iter().product());
    for_each_index(shape, |ix| at.push(start + ix.iter().zip(&strides).map(|(i, s)| i * s).sum::<usize>()));
    Some(t.gathered(shape.to_vec(), &at))
}

/// These positions of each axis; `None` where the tensor has not as many.
pub fn part(t: &Tensor, kept: &[Option<Vec<usize>>]) -> Option<Tensor> {
    let fits = |(n, k): (&usize, &Option<Vec<usize>>)| k.iter().flatten().all(|i| i < n);
    if t.shape().len() != kept.len() || !t.shape().iter().zip(kept).all(fits) {
        return None;
    }
    let extents = t.shape().iter().zip(kept).map(|(&n, k)| k.as_ref().map_or(n, Vec::len));
    let shape: Vec<usize> = extents.collect();
    let steps = strides(t.shape());
    let mut at = Vec::with_capacity(shape.iter().product());
    for_each_index(&shape, |ix| {
        let position = |(axis, &i): (usize, &usize)| kept[axis].as_ref().map_or(i, |k| k[i]) * steps[axis];
        at.push(ix.iter().enumerate().map(position).sum());
    });
    Some(t.gathered(shape, &at))
}

/// A sample of a value: from calibration where there is one of at most these extents, else normal numbers seeded by the value's name.
pub fn tensor(f: &Func, v: ValueId, shape: &[usize], statistics: Option<&Statistics>) -> Tensor {
    let value = &f.values[v];
    let stored = statistics.and_then(|s| s.get(&value.name)).and_then(|s| s.sample.as_ref());
    if let Some(t) = stored.filter(|t| t.shape().len() == shape.len() && t.dtype() == value.ty.dtype) {
        return t.clone();
    }
    let seed = value.name.bytes().fold(0u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    Rng { dist: Distribution::Normal(0.0, 1.0), seed }.tensor(value.ty.dtype, shape)
}
