//! `loop`: a function again and again.

use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// Calls the function `body` while a condition holds, and no more than `trip` times (ONNX's `Loop`). The function takes the operands `x`: the first `carried` are what the call
    /// before gave, the others stay. The symbol `over` is the number of the call, from 0, in the extents of the function. It gives the condition, what is carried, then tensors
    /// that are collected along a new first axis of `most`, behind the last call undefined. The results are the number of calls, what was carried last, and what was
    /// collected. More than `most` calls are an error of the run.
    pub struct Loop = "loop" {
        operands(trip: Int, cond: Bool, x: Any(many)),
        results(count, y),
        attrs {
            /// The function; no other op calls it.
            body: String,
            /// The symbol.
            over: Dim,
            /// The most calls.
            most: Dim,
            /// How many operands are carried.
            carried: u32,
            /// Types of the results but the count.
            results: Vec<Type>,
        },
    }
}

impl Meaning for Loop {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        if *t[0] != Type::scalar(DType::I64) || *t[1] != Type::scalar(DType::Bool) {
            return Err(mismatch("T0376", format!("trip is {}, condition {}, expected i64[] and bool[]", t[0], t[1])));
        }
        let (x, carried) = (&t[2..], self.carried as usize);
        let fits = self.results.len() >= carried && x.len() >= carried;
        if !fits || x.iter().zip(&self.results[..carried]).any(|(x, y)| *x != y) {
            return Err(mismatch("T0376", "what is carried does not have the types of the results"));
        }
        let collected = |t: &Type| t.shape.first() == Some(&self.most) && t.dtype.bits() >= 8 && t.dtype != DType::Str;
        if let Some(t) = self.results[carried..].iter().find(|t| !collected(t)) {
            let message = format!("collected are {t}, expected a first extent of {} and whole bytes", self.most);
            return Err(mismatch("T0376", message));
        }
        if self.over.as_symbol().is_none() {
            return Err(mismatch("T0376", format!("over is {}, expected a symbol", self.over)));
        }
        Ok([vec![Type::scalar(DType::I64)], self.results.clone()].concat())
    }
    fn eval(&self, _: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        Err(mismatch("T0375", "functions are run by the interpreter").failure(crate::diag::Failure::Internal))
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        Work::movement(ins, outs)
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let ty = g.ty(DType::F32, &[2, 3]);
        let op = Loop {
            body: "body".into(),
            over: "i".into(),
            most: 4.into(),
            carried: 1,
            results: vec![ty.clone(), g.ty(DType::F32, &[4, 3])],
        };
        (op, vec![Type::scalar(DType::I64), Type::scalar(DType::Bool), ty])
    }
}
