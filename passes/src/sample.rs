//! Small inputs on which an alternative is compared with the exact op.

use crate::statistics::Statistics;
use tersor_ir::constant::{Distribution, Rng};
use tersor_ir::{Func, Module, NodeId, Op, Tensor, ValueId};

/// Rows of a product, and results of a convolution along each spatial axis.
const ROWS: usize = 8;
const SPATIAL: usize = 2;

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

/// The part of a tensor around its middle that has these extents; `None` when the tensor is smaller.
pub fn crop(t: &Tensor, shape: &[usize]) -> Option<Tensor> {
    if t.shape().len() != shape.len() || t.shape().iter().zip(shape).any(|(a, b)| a < b) {
        return None;
    }
    let strides = tersor_ir::ops::shape::strides(t.shape());
    let start: usize = t.shape().iter().zip(shape).zip(&strides).map(|((a, b), s)| (a - b) / 2 * s).sum();
    let mut at = Vec::with_capacity(shape.iter().product());
    tersor_ir::ops::shape::for_each_index(shape, |ix| {
        at.push(start + ix.iter().zip(&strides).map(|(i, s)| i * s).sum::<usize>())
    });
    Some(t.gathered(shape.to_vec(), &at))
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
