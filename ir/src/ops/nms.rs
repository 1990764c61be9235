//! `nms`: non-maximum suppression.

use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// Greedy non-maximum suppression, for each batch and class by itself. `boxes: f32[B,N,4]` are corners `y1 x1 y2 x2` with `y1 <= y2` and `x1 <= x2`; `order: [B,C,N]` are
    /// numbers of boxes, the best first; `candidate: [B,C,N]` says of each place in that order whether it takes part. A candidate is kept while fewer than `limit` are, unless
    /// its intersection over union with one that was kept is above `threshold`; boxes that do not overlap, or have no area, never suppress. `kept` is over places in the order.
    pub struct Nms = "nms" {
        operands(boxes: Float, order: Int, candidate: Bool, limit: Int, threshold: Float),
        results(kept),
        attrs {},
    }
}

/// Intersection over union in `f32`, step by step as kernels do it; `None` for boxes that do not overlap.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> Option<f32> {
    let area = |b: &[f32; 4]| (b[2] - b[0]) * (b[3] - b[1]);
    let height = a[2].min(b[2]) - a[0].max(b[0]);
    let width = a[3].min(b[3]) - a[1].max(b[1]);
    let inside = height * width;
    let union = area(a) + area(b) - inside;
    (height > 0.0 && width > 0.0 && union > 0.0).then(|| inside / union)
}

impl Meaning for Nms {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        let [boxes, order, candidate, limit, threshold] = t else { unreachable!("operands are counted") };
        let lists = order.rank() == 3 && order.shape == candidate.shape;
        let fits = || boxes.shape[..2] == [order.shape[0].clone(), order.shape[2].clone()];
        if boxes.dtype != DType::F32 || boxes.rank() != 3 || boxes.shape[2] != Dim::from(4) || !lists || !fits() {
            return Err(mismatch("T0399", format!("boxes {boxes}, order {order}, candidates {candidate}")));
        }
        if **limit != Type::scalar(DType::I64) || **threshold != Type::scalar(DType::F32) {
            return Err(mismatch("T0399", format!("limit {limit}, threshold {threshold}, expected i64[] and f32[]")));
        }
        Ok(vec![(*candidate).clone()])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let (classes, n) = (x[1].shape()[1], x[1].shape()[2]);
        let (limit, threshold) = (x[3].get_i64(0), x[4].get_f64(0) as f32);
        let mut y = vec![0; x[1].len()];
        for (row, y) in y.chunks_mut(n.max(1)).enumerate() {
            let mut kept: Vec<[f32; 4]> = vec![];
            for (place, y) in y.iter_mut().enumerate() {
                let k = row * n + place;
                let i = x[1].get_i64(k).clamp(0, n as i64 - 1) as usize;
                let one: [f32; 4] = std::array::from_fn(|j| x[0].get_f64((row / classes * n + i) * 4 + j) as f32);
                let free = |other: &[f32; 4]| overlap(&one, other).is_none_or(|iou| iou <= threshold);
                if x[2].get_i64(k) != 0 && (kept.len() as i64) < limit && kept.iter().all(free) {
                    kept.push(one);
                    *y = 1;
                }
            }
        }
        Ok(vec![Tensor::from_i64(DType::Bool, x[1].shape(), &y)])
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        // How many are kept is not known: 32 each.
        Work { madds: ins[1].elements() * Dim::from(8 * 32), bytes: Work::traffic(ins, outs) }
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (b, c, n) = (g.int(1, 2) as usize, g.int(1, 3) as usize, g.int(1, 40) as usize);
        let (order, it) = ([b, c, n], g.one_of(&[DType::I64, DType::I32]));
        let lists = [g.ty(it, &order), g.ty(DType::Bool, &order)];
        let scalars = [Type::scalar(DType::I64), Type::scalar(DType::F32)];
        (Nms {}, [g.ty(DType::F32, &[b, n, 4])].into_iter().chain(lists).chain(scalars).collect())
    }
}
