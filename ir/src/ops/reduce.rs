//! Reductions over axes.

use super::declare::{Meaning, Sample, Work};
use super::shape::{check_axes, check_axis, for_each_index, mismatch, strides};
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

crate::attr_enum! {
    /// What the elements along the axes become.
    pub enum ReduceKind {
        /// sum; 0 over nothing
        Sum = "reduce.sum",
        /// sum divided by the count
        Mean = "reduce.mean",
        /// largest; the type's lowest value over nothing
        Max = "reduce.max",
        /// smallest; the type's highest value over nothing
        Min = "reduce.min",
        /// product; 1 over nothing
        Prod = "reduce.prod",
    }
}

op! {
    /// Reduces the given axes; without `keep` they vanish.
    pub struct Reduce by ReduceKind {
        operands(x: Any),
        results(y),
        attrs {
            /// Axes, increasing.
            axes: Vec<u8>,
            /// Keep the axes with extent 1.
            keep: bool = false,
        },
    }
}

crate::attr_enum! {
    /// Which extreme.
    pub enum ArgKind {
        /// largest
        Max = "argmax",
        /// smallest
        Min = "argmin",
    }
}

op! {
    /// Index of the extreme element along an axis, as `i64`.
    pub struct ArgReduce by ArgKind {
        operands(x: Num),
        results(index),
        attrs {
            /// The axis.
            axis: u8,
            /// Keep the axis with extent 1.
            keep: bool = false,
            /// Among equals take the last instead of the first.
            last: bool = false,
        },
    }
}

fn reduced(t: &Type, axes: &[u8], keep: bool) -> Vec<Dim> {
    let on = |i: usize| axes.contains(&(i as u8));
    let dims = t.shape.iter().enumerate();
    dims.filter(|(i, _)| keep || !on(*i)).map(|(i, d)| if on(i) { Dim::from(1) } else { d.clone() }).collect()
}

/// Calls `f(output position, input position)` for every input element in row-major order.
fn for_each_pair(shape: &[usize], axes: &[u8], mut f: impl FnMut(usize, usize)) {
    let kept: Vec<usize> = (0..shape.len()).map(|i| if axes.contains(&(i as u8)) { 1 } else { shape[i] }).collect();
    let s = strides(&kept);
    let mut i = 0;
    for_each_index(shape, |ix| {
        let o = ix.iter().enumerate().filter(|(a, _)| kept[*a] != 1).map(|(a, &x)| x * s[a]).sum();
        f(o, i);
        i += 1;
    });
}

impl Meaning for Reduce {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        check_axes(&self.axes, t[0].rank())?;
        let boolean = t[0].dtype == DType::Bool && matches!(self.kind, ReduceKind::Max | ReduceKind::Min);
        if !boolean && !super::Class::Num.accepts(t[0].dtype) {
            return Err(mismatch("T0210", format!("not defined for {}", t[0].dtype)));
        }
        Ok(vec![Type::new(t[0].dtype, reduced(t[0], &self.axes, self.keep))])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        use ReduceKind::*;
        let x = x[0];
        let out = reduced(&x.ty(), &self.axes, self.keep);
        let out: Vec<usize> = out.iter().map(|d| d.as_const().expect("static") as usize).collect();
        let n: usize = out.iter().product();
        let count: usize = self.axes.iter().map(|&a| x.shape()[a as usize]).product();
        if x.dtype().is_float() {
            let start = match self.kind {
                Sum | Mean => 0.0,
                Max => f64::NEG_INFINITY,
                Min => f64::INFINITY,
                Prod => 1.0,
            };
            let mut y = vec![start; n];
            for_each_pair(x.shape(), &self.axes, |o, i| {
                let v = x.get_f64(i);
                y[o] = match self.kind {
                    Sum | Mean => y[o] + v,
                    Max => {
                        if v.is_nan() || y[o].is_nan() {
                            f64::NAN
                        } else {
                            y[o].max(v)
                        }
                    }
                    Min => {
                        if v.is_nan() || y[o].is_nan() {
                            f64::NAN
                        } else {
                            y[o].min(v)
                        }
                    }
                    Prod => y[o] * v,
                };
            });
            if self.kind == Mean {
                y.iter_mut().for_each(|v| *v /= count as f64);
            }
            return Ok(vec![Tensor::from_f64(x.dtype(), out, &y)]);
        }
        let (lo, hi) = x.dtype().int_range().unwrap_or((0, 1));
        let start = match self.kind {
            Sum | Mean => 0,
            Max => lo,
            Min => hi,
            Prod => 1,
        };
        let mut y = vec![start; n];
        for_each_pair(x.shape(), &self.axes, |o, i| {
            let v: i128 = if x.dtype() == DType::U64 { (x.get_i64(i) as u64).into() } else { x.get_i64(i).into() };
            y[o] = match self.kind {
                Sum | Mean => y[o] + v,
                Max => y[o].max(v),
                Min => y[o].min(v),
                Prod => i128::from((y[o] as i64).wrapping_mul(v as i64)),
            };
        });
        if self.kind == Mean && count > 0 {
            y.iter_mut().for_each(|v| *v /= count as i128);
        }
        let y: Vec<i64> = y.into_iter().map(|v| v as i64).collect();
        Ok(vec![Tensor::from_i64(x.dtype(), out, &y)])
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        Work { madds: ins[0].elements(), bytes: Work::traffic(ins, outs) }
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (kind, dtype, rank) = (g.one_of(ReduceKind::ALL), g.num(), g.int(1, 4) as usize);
        let shape = g.shape(rank);
        let axes: Vec<u8> = (0..rank as u8).filter(|_| g.flip()).collect();
        (Reduce { kind, axes, keep: g.flip() }, vec![g.ty(dtype, &shape)])
    }
}

impl Meaning for ArgReduce {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        check_axis(self.axis.into(), t[0].rank())?;
        Ok(vec![Type::new(DType::I64, reduced(t[0], &[self.axis], self.keep))])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let x = x[0];
        let out = reduced(&x.ty(), &[self.axis], self.keep);
        let out: Vec<usize> = out.iter().map(|d| d.as_const().expect("static") as usize).collect();
        let n: usize = out.iter().product();
        let (mut best, mut index, mut seen) = (vec![f64::NAN; n], vec![0i64; n], vec![0i64; n]);
        for_each_pair(x.shape(), &[self.axis], |o, i| {
            let v = if self.kind == ArgKind::Max { x.get_f64(i) } else { -x.get_f64(i) };
            if seen[o] == 0 || v > best[o] || (self.last && v == best[o]) {
                (best[o], index[o]) = (v, seen[o]);
            }
            seen[o] += 1;
        });
        Ok(vec![Tensor::from_i64(DType::I64, out, &index)])
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        Work { madds: ins[0].elements(), bytes: Work::traffic(ins, outs) }
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (kind, dtype, rank) = (g.one_of(ArgKind::ALL), g.num(), g.int(1, 4) as usize);
        let shape = g.shape(rank);
        let axis = g.int(0, rank as i64 - 1) as u8;
        (ArgReduce { kind, axis, keep: g.flip(), last: g.flip() }, vec![g.ty(dtype, &shape)])
    }
}
