//! `matmul`: products of matrices.

use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// Matrix product over the last two axes; leading axes broadcast. Operands have at least two axes. Operands of 8-bit integers (signed or not, each its own)
    /// give `i32`, wrapping; others one type, accumulated without loss and rounded once, to `f32` with `wide` and else to the operands' type.
    pub struct MatMul = "matmul" {
        operands(a: Num, b: Num),
        results(y),
        attrs {
            /// The last two axes of `a` are exchanged.
            trans_a: bool = false,
            /// The last two axes of `b` are exchanged.
            trans_b: bool = false,
            /// Operands of `bf16` or `f16` give `f32`.
            wide: bool = false,
        },
    }
}

/// The accumulator's and result's type of a product.
pub(super) fn product_dtype(a: DType, b: DType, wide: bool) -> Result<DType> {
    let byte = |d| matches!(d, DType::I8 | DType::U8);
    if wide && !matches!(a, DType::BF16 | DType::F16) {
        return Err(mismatch("T0202", format!("`wide` is for operands of bf16 or f16, not {a}")));
    }
    if byte(a) && byte(b) {
        return Ok(DType::I32);
    }
    if a == b {
        Ok(if wide { DType::F32 } else { a })
    } else {
        Err(mismatch("T0202", format!("operand 1 is {b}, operand 0 is {a}")))
    }
}

/// The last two extents, exchanged where `trans`.
fn matrix<T: Clone>(shape: &[T], trans: bool) -> (T, T) {
    let (r, c) = (shape[shape.len() - 2].clone(), shape[shape.len() - 1].clone());
    if trans { (c, r) } else { (r, c) }
}

impl Meaning for MatMul {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        let (a, b) = (t[0], t[1]);
        if a.rank() < 2 || b.rank() < 2 {
            return Err(mismatch(
                "T0311",
                format!("operands of rank {} and {}, expected at least 2", a.rank(), b.rank()),
            ));
        }
        let ((m, ka), (kb, n)) = (matrix(&a.shape, self.trans_a), matrix(&b.shape, self.trans_b));
        if ka != kb {
            return Err(mismatch("T0312", format!("inner extents differ, {ka} and {kb}"))
                .with_note(format!("operands are {a} and {b}")));
        }
        let mut shape = broadcast(&[&a.shape[..a.rank() - 2], &b.shape[..b.rank() - 2]])?;
        shape.extend([m, n]);
        Ok(vec![Type { dtype: product_dtype(a.dtype, b.dtype, self.wide)?, shape }])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let (a, b) = (x[0], x[1]);
        let ((m, k), (_, n)) = (matrix(a.shape(), self.trans_a), matrix(b.shape(), self.trans_b));
        let (la, lb) = (&a.shape()[..a.shape().len() - 2], &b.shape()[..b.shape().len() - 2]);
        let mut shape = broadcast_static(&[la, lb]);
        let (pa, pb) = (broadcast_positions(la, &shape), broadcast_positions(lb, &shape));
        shape.extend([m, n]);
        let dtype = product_dtype(a.dtype(), b.dtype(), self.wide)?;
        let (sa, sb) = (if self.trans_a { (1, m) } else { (k, 1) }, if self.trans_b { (1, k) } else { (n, 1) });
        Ok(vec![if dtype.is_float() {
            let (av, bv) = (a.to_f64(), b.to_f64());
            let mut y = vec![0.0; shape.iter().product()];
            for (batch, (&ia, &ib)) in pa.iter().zip(&pb).enumerate() {
                for i in 0..m {
                    let row = &mut y[(batch * m + i) * n..][..n];
                    for p in 0..k {
                        let l = av[ia * m * k + i * sa.0 + p * sa.1];
                        for (j, o) in row.iter_mut().enumerate() {
                            *o += l * bv[ib * k * n + p * sb.0 + j * sb.1];
                        }
                    }
                }
            }
            Tensor::from_f64(dtype, shape, &y)
        } else {
            let (av, bv) = (a.to_i64(), b.to_i64());
            let mut y = vec![0i64; shape.iter().product()];
            for (batch, (&ia, &ib)) in pa.iter().zip(&pb).enumerate() {
                for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                    y[(batch * m + i) * n + j] = (0..k).fold(0i64, |s, p| {
                        let (l, r) = (av[ia * m * k + i * sa.0 + p * sa.1], bv[ib * k * n + p * sb.0 + j * sb.1]);
                        s.wrapping_add(l.wrapping_mul(r))
                    });
                }
            }
            Tensor::from_i64(dtype, shape, &y)
        }])
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        Work { madds: outs[0].elements() * matrix(&ins[0].shape, self.trans_a).1, bytes: Work::traffic(ins, outs) }
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let mut op = MatMul { trans_a: g.flip(), trans_b: g.flip(), wide: false };
        let rank = g.int(0, 2) as usize;
        let (batch, mkn) = (g.shape(rank), g.shape(3));
        let lead = g.broadcastable(&batch);
        let (mut a, mut b) = (batch, lead);
        a.extend(if op.trans_a { [mkn[1], mkn[0]] } else { [mkn[0], mkn[1]] });
        b.extend(if op.trans_b { [mkn[2], mkn[1]] } else { [mkn[1], mkn[2]] });
        let (da, db) = g.one_of(&[
            (DType::F32, DType::F32),
            (DType::BF16, DType::BF16),
            (DType::U8, DType::I8),
            (DType::I64, DType::I64),
        ]);
        op.wide = da == DType::BF16 && g.flip();
        (op, vec![g.ty(da, &a), g.ty(db, &b)])
    }
}
