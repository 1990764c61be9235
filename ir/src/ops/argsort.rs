//! `argsort`: the order of elements.

use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};
use std::cmp::Ordering;

op! {
    /// Positions along an axis in the order of the elements there: the smallest first, or with `descending` the largest. Elements that are equal keep their order; what is not a
    /// number comes last.
    pub struct ArgSort = "argsort" {
        operands(x: Num),
        results(order),
        attrs {
            /// The axis.
            axis: u8,
            /// From the largest to the smallest.
            descending: bool = false,
        },
    }
}

impl ArgSort {
    fn order(&self, x: &Tensor, a: usize, b: usize) -> Ordering {
        let turned = |o: Ordering| if self.descending { o.reverse() } else { o };
        match x.dtype() {
            DType::U64 => turned((x.get_i64(a) as u64).cmp(&(x.get_i64(b) as u64))),
            d if d.is_int() => turned(x.get_i64(a).cmp(&x.get_i64(b))),
            _ => {
                let (a, b) = (x.get_f64(a), x.get_f64(b));
                a.partial_cmp(&b).map_or_else(|| a.is_nan().cmp(&b.is_nan()), turned)
            }
        }
    }
}

impl Meaning for ArgSort {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        check_axis(self.axis.into(), t[0].rank())?;
        Ok(vec![t[0].with_dtype(DType::I64)])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let (x, axis) = (x[0], self.axis as usize);
        let (step, n) = (x.shape()[axis + 1..].iter().product::<usize>(), x.shape()[axis]);
        let mut y = vec![0; x.len()];
        for o in 0..x.len() / (step * n).max(1) {
            for i in 0..step {
                let place = |k: usize| (o * n + k) * step + i;
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by(|&a, &b| self.order(x, place(a), place(b)));
                order.into_iter().enumerate().for_each(|(k, at)| y[place(k)] = at as i64);
            }
        }
        Ok(vec![Tensor::from_i64(DType::I64, x.shape(), &y)])
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        // Comparisons of a merge sort, at the length that is known.
        let n = ins[0].shape[self.axis as usize].as_const().unwrap_or(1024).max(2);
        let passes = i64::from((n as u64).next_power_of_two().trailing_zeros());
        Work { madds: ins[0].elements() * Dim::from(4 * passes), bytes: Work::traffic(ins, outs) }
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (dtype, rank) = (g.num(), g.int(1, 3) as usize);
        let mut shape = g.shape(rank);
        let axis = g.int(0, rank as i64 - 1) as usize;
        shape[axis] = g.int(1, 40) as usize;
        (ArgSort { axis: axis as u8, descending: g.flip() }, vec![g.ty(dtype, &shape)])
    }
}
