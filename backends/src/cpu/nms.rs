//! Greedy non-maximum suppression.
//!
//! A grid point is a class of a batch. Boxes that are kept lie in scratch, coordinate by coordinate, so that a candidate is compared with as many at once as a vector holds.

use super::element;
use super::expr::{Fused, Point, Row};
use crate::emit::{KernelBuilder, Scalar, Ty, Val};
use crate::kernel::{GroupCx, Launch, LaunchBuilder};
use tersor_ir::diag::Result;
use tersor_ir::{DType, Dim, NodeId};

/// Builds the kernel of a group whose anchor is a suppression.
pub fn build(cx: &GroupCx, anchor: NodeId) -> Result<Launch> {
    let node = &cx.f.nodes[anchor];
    let y = node.results[0];
    let [boxes, order, candidate, limit, threshold] = std::array::from_fn(|i| node.operands[i]);
    let sources = [boxes, order, candidate, limit, threshold].map(|v| Fused::new(cx, v));
    let [from_boxes, from_order, from_candidate, from_limit, from_threshold] = sources;
    let (from_boxes, from_order, from_candidate) = (from_boxes?, from_order?, from_candidate?);
    let (from_limit, from_threshold) = (from_limit?, from_threshold?);
    let shape = cx.ty(order).shape.to_vec();
    let mut b = LaunchBuilder::new(format!("f32_nms__{}", cx.isa.suffix()));
    let (classes, n) = (b.extent(&shape[1]), b.extent(&shape[2]));
    let (begin, end) = b.range();
    let (zero, one) = (b.i64(0), b.i64(1));
    let scalar = Point::new(Row::Index(vec![]), zero, 1);
    let limit = from_limit.emit(&mut b, &[], &scalar, &[limit])[0];
    let threshold = from_threshold.emit(&mut b, &[], &scalar, &[threshold])[0];
    // Vectors may reach past the last box that is kept.
    let room = shape[2].clone() + i64::from(cx.isa.lanes()).into();
    let kept = Kept { scratch: b.scratch(), room: b.extent(&room), lanes: cx.isa.lanes() };
    let last = b.sub(n, one);
    b.loop_(begin, end, 1, |b, row| {
        let (batch, class) = (b.div(row, classes), b.rem(row, classes));
        b.for_(zero, n, one, &[zero], |b, k, count| {
            let at = Point::new(Row::Index(vec![batch, class]), k, 1);
            let takes_part = from_candidate.emit(b, &[], &at, &[candidate])[0];
            let open = b.lt(count[0], limit);
            let open = b.and(open, takes_part);
            let keep = b.if_(
                open,
                |b| {
                    let i = from_order.emit(b, &[], &at, &[order])[0];
                    let i = element::cast(b, cx.ty(order).dtype, DType::I64, i);
                    let i = b.max(i, zero);
                    let i = b.min(i, last);
                    let corners: [Val; 4] = std::array::from_fn(|j| {
                        let j = b.i64(j as i64);
                        from_boxes.emit(b, &[], &Point::new(Row::Index(vec![batch, i]), j, 1), &[boxes])[0]
                    });
                    let worst = kept.worst(b, &corners, count[0]);
                    let free = b.le(worst, threshold);
                    b.when(free, |b| kept.push(b, &corners, count[0]));
                    vec![b.select(free, one, zero)]
                },
                |_| vec![zero],
            )[0];
            let flag = b.gt(keep, zero);
            from_candidate.store(b, y, flag, &at);
            vec![b.add(count[0], keep)]
        });
    });
    let scratch = room * 20.into();
    Ok(b.launch(shape[0].clone() * shape[1].clone(), scratch, Dim::from(1)))
}

/// The boxes that are kept: lists of their four coordinates and of their areas.
struct Kept {
    scratch: Val,
    room: Val,
    lanes: u32,
}

impl Kept {
    fn place(&self, b: &mut KernelBuilder, list: i64, k: Val) -> Val {
        let list = b.i64(list);
        let start = b.mul(list, self.room);
        let at = b.add(start, k);
        b.elem(self.scratch, at, Scalar::F32)
    }

    fn push(&self, b: &mut KernelBuilder, corners: &[Val; 4], k: Val) {
        let area = area(b, corners);
        for (list, v) in corners.iter().copied().chain([area]).enumerate() {
            let at = self.place(b, list as i64, k);
            b.store(v, at);
        }
    }

    /// The largest intersection over union with one of the first `count`; minus infinity where none overlaps.
    fn worst(&self, b: &mut LaunchBuilder, corners: &[Val; 4], count: Val) -> Val {
        let lanes = self.lanes;
        let own = area(b, corners);
        let wide: Vec<Val> = corners.iter().chain([&own]).map(|&v| b.splat(v, lanes)).collect();
        let ty = Ty::Scalar(Scalar::F32);
        let least = b.float(ty, f64::NEG_INFINITY);
        let (least, zero) = (b.splat(least, lanes), b.float(ty, 0.0));
        let nothing = b.splat(zero, lanes);
        let (first, step) = (b.i64(0), b.i64(lanes.into()));
        let worst = b.for_(first, count, step, &[least], |b, k, worst| {
            let other: Vec<Val> = (0..5)
                .map(|list| {
                    let at = self.place(b, list, k);
                    b.load(at, Scalar::F32.x(lanes))
                })
                .collect();
            let side = |b: &mut KernelBuilder, i: usize| {
                let (lo, hi) = (b.max(wide[i], other[i]), b.min(wide[i + 2], other[i + 2]));
                b.sub(hi, lo)
            };
            let (height, width) = (side(b, 0), side(b, 1));
            let inside = b.mul(height, width);
            let both = b.add(wide[4], other[4]);
            let union = b.sub(both, inside);
            let iou = b.div(inside, union);
            let left = b.sub(count, k);
            let mut valid = b.first_lanes(lanes, left);
            for v in [height, width, union] {
                let positive = b.gt(v, nothing);
                valid = b.and(valid, positive);
            }
            let iou = b.select(valid, iou, least);
            vec![b.max(worst[0], iou)]
        });
        b.reduce_max(worst[0])
    }
}

fn area(b: &mut KernelBuilder, corners: &[Val; 4]) -> Val {
    let (height, width) = (b.sub(corners[2], corners[0]), b.sub(corners[3], corners[1]));
    b.mul(height, width)
}
