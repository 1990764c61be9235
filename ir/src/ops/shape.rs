//! Helpers for shape rules and for the loops of reference evaluation.

use crate::diag::{Diagnostic, Result};
use crate::dim::{Bindings, Dim};
use crate::types::{Shape, Type};

/// The joint extents of operands under the multidirectional broadcasting of ONNX (`docs/Broadcasting.md`).
pub fn broadcast(shapes: &[&[Dim]]) -> Result<Shape> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out: Shape = (0..rank).map(|_| Dim::from(1)).collect();
    for s in shapes {
        for (i, d) in s.iter().enumerate() {
            let o = &mut out[rank - s.len() + i];
            if *o == Dim::Const(1) {
                *o = d.clone();
            } else if *d != Dim::Const(1) && o != d {
                return Err(Diagnostic::error("T0201", format!("extents {o} and {d} do not broadcast")).with_note(
                    format!("shapes are {}", shapes.iter().map(|s| show(s)).collect::<Vec<_>>().join(" and ")),
                ));
            }
        }
    }
    Ok(out)
}

/// `[2,N]`.
pub fn show(shape: &[Dim]) -> String {
    format!("[{}]", shape.iter().map(Dim::to_string).collect::<Vec<_>>().join(","))
}

/// Fails unless all operands have one element type.
pub fn same_dtype(t: &[&Type]) -> Result<()> {
    match t.iter().position(|x| x.dtype != t[0].dtype) {
        Some(i) => {
            Err(Diagnostic::error("T0202", format!("operand {i} is {}, operand 0 is {}", t[i].dtype, t[0].dtype)))
        }
        None => Ok(()),
    }
}

/// Fails unless `axis` is one of `rank`.
pub fn check_axis(axis: usize, rank: usize) -> Result<()> {
    if axis < rank {
        Ok(())
    } else {
        Err(Diagnostic::error("T0203", format!("axis {axis} of a tensor of rank {rank}")))
    }
}

/// Fails unless the axes are increasing and below `rank`.
pub fn check_axes(axes: &[u8], rank: usize) -> Result<()> {
    axes.iter().try_for_each(|&a| check_axis(a.into(), rank))?;
    if axes.windows(2).all(|w| w[0] < w[1]) {
        Ok(())
    } else {
        Err(Diagnostic::error("T0204", format!("axes {axes:?} are not increasing")))
    }
}

/// A shape error.
pub fn mismatch(code: &'static str, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error(code, message)
}

/// An extent's value at evaluation.
pub fn value(d: &Dim, env: &Bindings) -> Result<i64> {
    d.eval(env).ok_or_else(|| Diagnostic::error("T0205", format!("extent {d} is not known at evaluation")))
}

/// Extents' values at evaluation, none negative.
pub fn values(shape: &[Dim], env: &Bindings) -> Result<Vec<usize>> {
    let one = |d: &Dim| {
        usize::try_from(value(d, env)?).map_err(|_| Diagnostic::error("T0206", format!("extent {d} is negative")))
    };
    shape.iter().map(one).collect()
}

/// Row-major strides.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut s = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        s[i - 1] = s[i] * shape[i];
    }
    s
}

/// Calls `f` with every index of `shape` in row-major order.
pub fn for_each_index(shape: &[usize], mut f: impl FnMut(&[usize])) {
    if shape.contains(&0) {
        return;
    }
    let mut index = vec![0; shape.len()];
    loop {
        f(&index);
        let mut axis = shape.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}

/// For each element of `out` in row-major order: the position in a tensor of shape `from` that broadcasts to it.
pub fn broadcast_positions(from: &[usize], out: &[usize]) -> Vec<usize> {
    let s = strides(from);
    let skip = out.len() - from.len();
    let step: Vec<usize> =
        (0..out.len()).map(|i| if i < skip || from[i - skip] == 1 { 0 } else { s[i - skip] }).collect();
    let mut positions = Vec::with_capacity(out.iter().product());
    for_each_index(out, |ix| positions.push(ix.iter().zip(&step).map(|(i, s)| i * s).sum()));
    positions
}

/// The joint shape of concrete operands; they were inferred to broadcast.
pub fn broadcast_static(shapes: &[&[usize]]) -> Vec<usize> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![1; rank];
    for s in shapes {
        for (i, &d) in s.iter().enumerate() {
            if d != 1 {
                out[rank - s.len() + i] = d;
            }
        }
    }
    out
}

/// The elements at these positions under a new shape, bit for bit.
pub fn pick(x: &crate::tensor::Tensor, shape: Vec<usize>, at: Vec<usize>) -> crate::tensor::Tensor {
    x.gathered(shape, &at)
}
