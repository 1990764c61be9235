//! `cumsum`: running sums.

use super::declare::{Meaning, Sample};
use super::shape::*;
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::Type;

op! {
    /// Running sum along an axis.
    pub struct CumSum = "cumsum" {
        operands(x: Num),
        results(y),
        attrs {
            /// The axis.
            axis: u8,
            /// The sum of the elements before, without the element itself.
            exclusive: bool = false,
            /// From the end to the beginning.
            reverse: bool = false,
        },
    }
}

impl Meaning for CumSum {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        check_axis(self.axis.into(), t[0].rank())?;
        Ok(vec![t[0].clone()])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let (x, axis) = (x[0], self.axis as usize);
        let step: usize = x.shape()[axis + 1..].iter().product();
        let n = x.shape()[axis];
        let mut y = vec![0.0; x.len()];
        for o in 0..x.len() / (step * n).max(1) {
            for i in 0..step {
                let mut sum = 0.0;
                for k in 0..n {
                    let k = if self.reverse { n - 1 - k } else { k };
                    let p = (o * n + k) * step + i;
                    let before = sum;
                    sum += x.get_f64(p);
                    y[p] = if self.exclusive { before } else { sum };
                }
            }
        }
        let ints = || y.iter().map(|&v| v as i64).collect::<Vec<_>>();
        let float = x.dtype().is_float();
        Ok(vec![if float {
            Tensor::from_f64(x.dtype(), x.shape(), &y)
        } else {
            Tensor::from_i64(x.dtype(), x.shape(), &ints())
        }])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (dtype, rank) = (g.num(), g.int(1, 3) as usize);
        let shape = g.shape(rank);
        (
            CumSum { axis: g.int(0, rank as i64 - 1) as u8, exclusive: g.flip(), reverse: g.flip() },
            vec![g.ty(dtype, &shape)],
        )
    }
}
