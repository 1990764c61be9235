//! Integer codes from floats.

use super::declare::{Meaning, Sample};
use super::shape::*;
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// `clamp(round(x / scale) + zero)` to the range of `to`, rounding to nearest even (ONNX `QuantizeLinear`). `scale` and `zero` broadcast to `x`; without `zero` it
    /// is 0, and with `narrow` the lowest code of a signed type is not used.
    pub struct Quant = "quant" {
        operands(x: Float, scale: Float, zero: Code(opt)),
        results(q),
        attrs {
            /// An integer type.
            to: DType = DType::I8,
            /// Codes are symmetric: -127..=127.
            narrow: bool = false,
        },
    }
}

op! {
    /// Symmetric codes with one scale for each row of the last axis, or for each `group` neighbours in it, which divide it: `scale = max|x| / 127`,
    /// `q = round(x / scale)`; rows of zeros get scale 0 and codes 0. `decode.affine` along the last axis is the way back.
    pub struct QuantDynamic = "quant.dynamic" {
        operands(x: Float),
        results(q, scale),
        attrs {
            /// How many neighbours share a scale; 0 for a row.
            group: u32 = 0,
        },
    }
}

impl Meaning for Quant {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        if !self.to.is_int() {
            return Err(mismatch("T0360", format!("codes of type {}", self.to)));
        }
        same_dtype(&t[..2])?;
        for p in &t[1..] {
            if broadcast(&[&t[0].shape, &p.shape])? != t[0].shape {
                return Err(mismatch("T0361", format!("{p} does not broadcast to {}", t[0])));
            }
        }
        if t.get(2).is_some_and(|z| z.dtype != self.to) {
            return Err(mismatch("T0362", format!("the zero point is {}, the codes are {}", t[2].dtype, self.to)));
        }
        Ok(vec![t[0].with_dtype(self.to)])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let at: Vec<Vec<usize>> = x.iter().map(|t| broadcast_positions(t.shape(), x[0].shape())).collect();
        let (lo, hi) = self.to.int_range().expect("integer");
        let lo = if self.narrow && lo < 0 { -hi } else { lo };
        // The quotient is rounded to the operand's own precision first: kernels divide or multiply there.
        let one = |i: usize| {
            let q = x[0].get_f64(i) / x[1].get_f64(at[1][i]);
            let q = if x[0].dtype() == DType::F64 { q } else { f64::from(q as f32) };
            let zero = x.get(2).map_or(0, |z| z.get_i64(at[2][i]));
            (q.round_ties_even() as i128 + i128::from(zero)).clamp(lo, hi) as i64
        };
        Ok(vec![Tensor::from_i64(self.to, x[0].shape(), &(0..x[0].len()).map(one).collect::<Vec<_>>())])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (dtype, rank) = (g.one_of(&[DType::F32, DType::F64]), g.int(0, 3) as usize);
        let to = g.one_of(&[DType::I8, DType::U8, DType::I4, DType::U2, DType::I16]);
        let shape = g.shape(rank);
        let s = g.broadcastable(&shape);
        let mut t = vec![g.ty(dtype, &shape), g.ty(dtype, &s)];
        if g.flip() {
            t.push(g.ty(to, &s));
        }
        (Quant { to, narrow: g.flip() }, t)
    }
}

impl Meaning for QuantDynamic {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        if t[0].rank() == 0 {
            return Err(mismatch("T0363", "a scalar has no rows"));
        }
        let mut scale = t[0].clone();
        let last = scale.shape.last_mut().expect("one axis");
        *last = match (self.group, last.exact_div(&i64::from(self.group.max(1)).into())) {
            (0, _) => Dim::from(1),
            (_, Some(groups)) => groups,
            (group, None) => return Err(mismatch("T0369", format!("groups of {group} do not divide {last}"))),
        };
        Ok(vec![t[0].with_dtype(DType::I8), scale])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let (v, mut shape) = (x[0].to_f64(), x[0].shape().to_vec());
        let all = *shape.last().expect("one axis");
        let n = if self.group == 0 { all } else { self.group as usize };
        let (mut q, mut s) = (Vec::with_capacity(v.len()), vec![]);
        for row in v.chunks(n.max(1)) {
            let max = row.iter().fold(0f64, |m, a| m.max(a.abs()));
            let scale = Tensor::scalar(x[0].dtype(), max / 127.0).get_f64(0);
            s.push(scale);
            let code = |&a: &f64| {
                if scale == 0.0 {
                    0
                } else {
                    f64::from((a / scale) as f32).round_ties_even().clamp(-127.0, 127.0) as i64
                }
            };
            q.extend(row.iter().map(code));
        }
        let codes = Tensor::from_i64(DType::I8, shape.clone(), &q);
        *shape.last_mut().expect("one axis") = if self.group == 0 { 1 } else { all / n };
        s.resize(shape.iter().product(), 0.0);
        Ok(vec![codes, Tensor::from_f64(x[0].dtype(), shape, &s)])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let rank = g.int(1, 3) as usize;
        let mut shape = g.shape(rank);
        let group = g.one_of(&[0, 0, 1, 3, 32]);
        if group > 0 {
            shape[rank - 1] = group * g.int(1, 2) as usize;
        }
        (QuantDynamic { group: group as u32 }, vec![g.ty(DType::F32, &shape)])
    }
}
