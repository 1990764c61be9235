//! Images read between their pixels: each place is a weighted sum of pixels around it, and each of those one gather of channels.

use super::Topic;
use crate::import::Meaning;
use crate::import::build::{done, product};
use crate::import::node::NodeCx;
use tersor_ir::diag::Result;
use tersor_ir::ops::Gather;
use tersor_ir::ops::binary::BinaryKind::{Add, And, Max, Min, Mod, Mul, Sub};
use tersor_ir::ops::compare::CompareKind::{Ge, Le};
use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::ops::unary::UnaryKind::{Abs, Floor, Round};
use tersor_ir::{DType, Dim, ValueId};

/// A pixel along one axis: its position, a whole number as a float inside of the axis, and its weight.
struct Tap {
    at: ValueId,
    weight: Option<ValueId>,
}

/// For every combination of one tap of each axis its weighted pixels, channels last. `x` is `[B, C, spatial…]`; positions and weights broadcast to a shape whose
/// first axis is `B`'s, or that of `batch`, numbers of images.
fn weighted(cx: &mut NodeCx, x: ValueId, batch: Option<ValueId>, taps: &[Vec<Tap>]) -> Result<Vec<ValueId>> {
    let t = cx.ty(x);
    let n = t.rank() - 2;
    let mut perm: Vec<u8> = (0..t.rank() as u8).filter(|&a| a != 1).collect();
    perm.push(1);
    let rows = cx.transpose(x, perm)?;
    let rows = cx.reshape(rows, vec![t.shape[0].clone() * product(&t.shape[2..]), t.shape[1].clone()])?;
    let rank = taps.iter().flatten().map(|p| cx.ty(p.at).rank()).max().unwrap_or(1);
    let image = match batch {
        Some(b) => cx.cast(b, DType::I64).and_then(|b| cx.along(b, 0, rank))?,
        None => cx.positions(&t.shape[0], 0, rank, DType::I64)?,
    };
    let combinations: usize = taps.iter().map(Vec::len).product();
    let mut results = vec![];
    for mut c in 0..combinations {
        let (mut at, mut weight) = (image, None);
        for (i, axis) in taps.iter().enumerate() {
            let tap = &axis[c % axis.len()];
            c /= axis.len();
            let extent = cx.op(tersor_ir::ops::Extent { of: t.shape[2 + i].clone() }, &[])?;
            let scaled = cx.binary(Mul, at, extent)?;
            let position = cx.cast(tap.at, DType::I64)?;
            at = cx.binary(Add, scaled, position)?;
            weight = match (weight, tap.weight) {
                (Some(a), Some(b)) => Some(cx.binary(Mul, a, b)?),
                (a, b) => a.or(b),
            };
        }
        let mut y = cx.op(Gather { axis: 0 }, &[rows, at])?;
        if let Some(w) = weight {
            let w = cx.cast(w, t.dtype)?;
            let last = cx.ty(w).rank();
            let w = cx.insert_axis(w, last)?;
            y = cx.binary(Mul, y, w)?;
        }
        results.push(y);
    }
    debug_assert_eq!(taps.len(), n);
    Ok(results)
}

fn sum(cx: &mut NodeCx, parts: &[ValueId]) -> Result<ValueId> {
    let (&first, rest) = parts.split_first().ok_or_else(|| cx.invalid("no pixels"))?;
    rest.iter().try_fold(first, |a, &b| cx.binary(Add, a, b))
}

/// The channel axis from the last place to the second.
fn channels_second(cx: &mut NodeCx, y: ValueId) -> Result<ValueId> {
    let rank = cx.ty(y).rank() as u8;
    let perm = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    cx.transpose(y, perm)
}

/// What is outside of an image.
#[derive(Copy, Clone, PartialEq)]
enum Outside {
    Zeros,
    Border,
    Reflection,
}

/// One axis of an image.
struct Axis {
    extent: f64,
    outside: Outside,
    align_corners: bool,
}

impl Axis {
    /// The mirrored coordinate: `low + span - |span - (|x - low| mod 2 span)|`.
    fn reflect(&self, cx: &mut NodeCx, x: ValueId) -> Result<ValueId> {
        let (low, span) = if self.align_corners { (0.0, self.extent - 1.0) } else { (-0.5, self.extent) };
        if span == 0.0 {
            return cx.with_scalar(Mul, x, 0.0);
        }
        let d = cx.with_scalar(Sub, x, low)?;
        let d = cx.unary(Abs, d)?;
        let d = cx.with_scalar(Mod, d, 2.0 * span)?;
        let d = cx.with_scalar(Sub, d, span)?;
        let d = cx.unary(Abs, d)?;
        let top = cx.scalar_like(d, low + span);
        cx.binary(Sub, top, d)
    }

    /// The pixel at a whole coordinate; outside of an image that ends in zeros its weight is 0.
    fn pixel(&self, cx: &mut NodeCx, at: ValueId, weight: Option<ValueId>) -> Result<Tap> {
        let last = self.extent - 1.0;
        let mut p = at;
        if self.outside == Outside::Reflection {
            p = self.reflect(cx, p)?;
            // Half pixels at the edges belong to the pixel inside.
            let whole = cx.unary(Floor, p)?;
            p = cx.with_scalar(Max, whole, 0.0)?;
        }
        let low = cx.with_scalar(Max, p, 0.0)?;
        let inside = cx.with_scalar(Min, low, last)?;
        if self.outside != Outside::Zeros {
            return Ok(Tap { at: inside, weight });
        }
        let (from, to) = (cx.compare_scalar(Ge, at, 0.0)?, cx.compare_scalar(Le, at, last)?);
        let hit = cx.binary(And, from, to)?;
        let (zero, one) = (cx.scalar_like(at, 0.0), cx.scalar_like(at, 1.0));
        let weight = cx.select(hit, weight.unwrap_or(one), zero)?;
        Ok(Tap { at: inside, weight: Some(weight) })
    }

    fn taps(&self, cx: &mut NodeCx, x: ValueId, mode: &str) -> Result<Vec<Tap>> {
        let x = if mode == "nearest" { cx.unary(Round, x)? } else { x };
        let x = match self.outside {
            Outside::Zeros => x,
            Outside::Border => {
                let low = cx.with_scalar(Max, x, 0.0)?;
                cx.with_scalar(Min, low, self.extent - 1.0)?
            }
            Outside::Reflection => self.reflect(cx, x)?,
        };
        match mode {
            "nearest" => {
                let x = cx.unary(Round, x)?;
                Ok(vec![self.pixel(cx, x, None)?])
            }
            "linear" | "bilinear" => {
                let base = cx.unary(Floor, x)?;
                let t = cx.binary(Sub, x, base)?;
                let one = cx.scalar_like(t, 1.0);
                let (rest, next) = (cx.binary(Sub, one, t)?, cx.with_scalar(Add, base, 1.0)?);
                Ok(vec![self.pixel(cx, base, Some(rest))?, self.pixel(cx, next, Some(t))?])
            }
            "cubic" | "bicubic" => {
                let base = cx.unary(Floor, x)?;
                let t = cx.binary(Sub, x, base)?;
                let mut taps = vec![];
                for k in -1..=2 {
                    let at = cx.with_scalar(Add, base, f64::from(k))?;
                    let w = keys(cx, t, k)?;
                    taps.push(self.pixel(cx, at, Some(w))?);
                }
                Ok(taps)
            }
            other => Err(cx.invalid(format!("mode {}", other.escape_debug()))),
        }
    }
}

/// Keys' cubic weight (1981, `a = -0.75`) of the neighbour at distance `|t - k|`, as a polynomial in the distance.
fn keys(cx: &mut NodeCx, t: ValueId, k: i32) -> Result<ValueId> {
    let a = -0.75;
    let d = cx.with_scalar(Sub, t, f64::from(k))?;
    let d = cx.unary(Abs, d)?;
    let terms = if k == 0 || k == 1 { [a + 2.0, -(a + 3.0), 0.0, 1.0] } else { [a, -5.0 * a, 8.0 * a, -4.0 * a] };
    let mut y = cx.with_scalar(Mul, d, terms[0])?;
    for c in &terms[1..3] {
        y = cx.with_scalar(Add, y, *c)?;
        y = cx.binary(Mul, y, d)?;
    }
    cx.with_scalar(Add, y, terms[3])
}

fn grid_sample(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, grid) = (cx.input(0)?, cx.input(1)?);
    let (t, tg) = (cx.ty(x), cx.ty(grid));
    let n = t.rank().saturating_sub(2);
    if n == 0 || tg.rank() != t.rank() || tg.shape.last() != Some(&Dim::from(n as i64)) {
        return Err(cx.invalid(format!("a grid of {tg} for {t}")));
    }
    let outside = match cx.string("padding_mode", "zeros").as_str() {
        "zeros" => Outside::Zeros,
        "border" => Outside::Border,
        "reflection" => Outside::Reflection,
        other => return Err(cx.invalid(format!("padding_mode {}", other.escape_debug()))),
    };
    let align_corners = cx.int("align_corners", 0) == 1;
    let mode = cx.string("mode", if cx.opset < 20 { "bilinear" } else { "linear" });
    let mut taps = vec![];
    for i in 0..n {
        let extent = cx.fixed(&t.shape[2 + i], "places")? as f64;
        // The grid names the last axis first.
        let g = cx.element(grid, tg.rank() - 1, Dim::from((n - 1 - i) as i64))?;
        let g = cx.with_scalar(Add, g, 1.0)?;
        let place = if align_corners {
            cx.with_scalar(Mul, g, (extent - 1.0) / 2.0)?
        } else {
            let scaled = cx.with_scalar(Mul, g, extent / 2.0)?;
            cx.with_scalar(Sub, scaled, 0.5)?
        };
        taps.push(Axis { extent, outside, align_corners }.taps(cx, place, &mode)?);
    }
    let parts = weighted(cx, x, None, &taps)?;
    let y = sum(cx, &parts)?;
    done(channels_second(cx, y)?)
}

/// Coordinates of all pixels, with 1 as the last one, times a matrix for each image.
fn affine_grid(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let theta = cx.input(0)?;
    let size = cx.numbers(1)?;
    let t = cx.ty(theta);
    let spatial: Vec<usize> = size.iter().skip(2).filter_map(|&n| usize::try_from(n).ok()).collect();
    let n = spatial.len();
    let all = spatial.iter().try_fold(1usize, |a, &b| a.checked_mul(b)).filter(|&a| a <= 1 << 24);
    let Some(all) = all.filter(|_| size.len() == n + 2 && (n == 2 || n == 3) && t.rank() == 3) else {
        return Err(cx.invalid(format!("a grid of {size:?} by matrices of {t}")));
    };
    let align = cx.int("align_corners", 0) == 1;
    let mut points = vec![1.0; all * (n + 1)];
    for p in 0..all {
        let mut rest = p;
        for (i, &extent) in spatial.iter().enumerate().rev() {
            let k = (rest % extent) as f64;
            rest /= extent;
            let e = extent as f64;
            let c =
                if align { if e > 1.0 { 2.0 * k / (e - 1.0) - 1.0 } else { -1.0 } } else { (2.0 * k + 1.0) / e - 1.0 };
            points[p * (n + 1) + (n - 1 - i)] = c;
        }
    }
    let points = cx.table(t.dtype, &[all, n + 1], &points);
    let y = cx.matmul(points, theta, true)?;
    let shape = [t.shape[0].clone()].into_iter().chain(spatial.iter().map(|&n| Dim::from(n as i64)));
    let shape = shape.chain([Dim::from(n as i64)]).collect();
    done(cx.reshape(y, shape)?)
}

/// Places inside of each region along one axis, `[R, parts*grid]`, as two pixels with weights (He et al., 2017).
fn region_axis(
    cx: &mut NodeCx,
    start: ValueId,
    end: ValueId,
    extent: f64,
    parts: i64,
    grid: i64,
    aligned: bool,
) -> Result<Vec<Tap>> {
    let mut size = cx.binary(Sub, end, start)?;
    if !aligned {
        size = cx.with_scalar(Max, size, 1.0)?;
    }
    let n = (parts * grid) as usize;
    let steps: Vec<f64> = (0..n).map(|i| (i as f64 + 0.5) / n as f64).collect();
    let dtype = cx.ty(start).dtype;
    let steps = cx.table(dtype, &[1, n], &steps);
    let (size, start) = (cx.insert_axis(size, 1)?, cx.insert_axis(start, 1)?);
    let place = cx.binary(Mul, size, steps)?;
    let place = cx.binary(Add, place, start)?;
    let (from, to) = (cx.compare_scalar(Ge, place, -1.0)?, cx.compare_scalar(Le, place, extent)?);
    let inside = cx.binary(And, from, to)?;
    let place = cx.with_scalar(Max, place, 0.0)?;
    let place = cx.with_scalar(Min, place, extent - 1.0)?;
    let low = cx.unary(Floor, place)?;
    let high = cx.with_scalar(Add, low, 1.0)?;
    let high = cx.with_scalar(Min, high, extent - 1.0)?;
    let t = cx.binary(Sub, place, low)?;
    let (zero, one) = (cx.scalar_like(t, 0.0), cx.scalar_like(t, 1.0));
    let rest = cx.binary(Sub, one, t)?;
    let (rest, t) = (cx.select(inside, rest, zero)?, cx.select(inside, t, zero)?);
    Ok(vec![Tap { at: low, weight: Some(rest) }, Tap { at: high, weight: Some(t) }])
}

fn roi_align(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, rois, batch) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (t, tr) = (cx.ty(x), cx.ty(rois));
    if t.rank() != 4 || tr.rank() != 2 || tr.shape[1] != Dim::from(4) {
        return Err(cx.invalid(format!("regions of {tr} in {t}")));
    }
    let (height, width) = (cx.int("output_height", 1), cx.int("output_width", 1));
    let (grid, scale) = (cx.int("sampling_ratio", 0), cx.float("spatial_scale", 1.0));
    if grid == 0 {
        return Err(cx.unsupported("as many places as a region is large (sampling_ratio 0)"));
    }
    let sane = |v: i64| (1..=1 << 12).contains(&v);
    if !sane(height) || !sane(width) || !sane(grid) {
        return Err(cx.invalid(format!("{height} x {width} parts of {grid} places")));
    }
    let default = if cx.opset < 16 { "output_half_pixel" } else { "half_pixel" };
    let aligned = cx.string("coordinate_transformation_mode", default) == "half_pixel";
    let mut corners = vec![];
    for i in 0..4 {
        let c = cx.element(rois, 1, i.into())?;
        let c = cx.with_scalar(Mul, c, scale)?;
        corners.push(if aligned { cx.with_scalar(Sub, c, 0.5)? } else { c });
    }
    let extents = [cx.fixed(&t.shape[2], "regions")? as f64, cx.fixed(&t.shape[3], "regions")? as f64];
    let mut taps = vec![];
    for (i, parts) in [height, width].into_iter().enumerate() {
        let (start, end) = (corners[1 - i], corners[3 - i]);
        let mut axis = region_axis(cx, start, end, extents[i], parts, grid, aligned)?;
        for tap in &mut axis {
            // [R, rows, 1] and [R, 1, columns]
            let place = if i == 0 { 2 } else { 1 };
            tap.at = cx.insert_axis(tap.at, place)?;
            if let Some(w) = tap.weight {
                tap.weight = Some(cx.insert_axis(w, place)?);
            }
        }
        taps.push(axis);
    }
    let parts = weighted(cx, x, Some(batch), &taps)?;
    let (y, kind) = match cx.string("mode", "avg").as_str() {
        "avg" => (sum(cx, &parts)?, ReduceKind::Mean),
        "max" => {
            let first = parts[0];
            (parts[1..].iter().try_fold(first, |a, &b| cx.binary(Max, a, b))?, ReduceKind::Max)
        }
        other => return Err(cx.invalid(format!("mode {}", other.escape_debug()))),
    };
    let shape = vec![tr.shape[0].clone(), height.into(), grid.into(), width.into(), grid.into(), t.shape[1].clone()];
    let y = cx.reshape(y, shape)?;
    let y = cx.reduce(kind, y, &[2, 4], false)?;
    done(channels_second(cx, y)?)
}

/// A convolution whose taps are moved by offsets (Dai et al., 2017) and weighted by a mask (Zhu et al., 2019).
fn deform_conv(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, w, offset, bias, mask) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.optional(3)?, cx.optional(4)?);
    let (t, tw, to) = (cx.ty(x), cx.ty(w), cx.ty(offset));
    if t.rank() != 4 || tw.rank() != 4 || to.rank() != 4 {
        return Err(cx.unsupported(format!("operands {t}, {tw} and {to}, other than images")));
    }
    let list = |cx: &NodeCx, name: &str, n: usize, default: i64| {
        let v = cx.ints(name).unwrap_or_else(|| vec![default; n]);
        let sane = v.len() == n && v.iter().all(|v| (0..=1 << 31).contains(v));
        if sane { Ok(v) } else { Err(cx.invalid(format!("{name} {v:?}"))) }
    };
    let (strides, dilations, pads) =
        (list(cx, "strides", 2, 1)?, list(cx, "dilations", 2, 1)?, list(cx, "pads", 4, 0)?);
    cx.ints("kernel_shape");
    let (groups, parts) = (cx.int("group", 1), cx.int("offset_group", 1));
    if groups < 1 || parts < 1 {
        return Err(cx.invalid(format!("{groups} groups, {parts} of offsets")));
    }
    let kernel = [cx.fixed(&tw.shape[2], "a kernel")?, cx.fixed(&tw.shape[3], "a kernel")?];
    let k = (kernel[0] * kernel[1]) as i64;
    let (n, out) = (t.shape[0].clone(), [to.shape[2].clone(), to.shape[3].clone()]);
    let whole = |cx: &NodeCx, d: &Dim, by: i64| {
        d.exact_div(&by.into()).ok_or_else(|| cx.invalid(format!("{d} channels in {by} groups")))
    };
    let (per_part, per_group, per_out) =
        (whole(cx, &t.shape[1], parts)?, whole(cx, &t.shape[1], groups)?, whole(cx, &tw.shape[0], groups)?);
    let images = n.clone() * parts.into();
    let offset = cx.reshape(offset, vec![images.clone(), k.into(), 2.into(), out[0].clone(), out[1].clone()])?;
    let mut taps = vec![];
    for i in 0..2 {
        let extent = cx.fixed(&t.shape[2 + i], "places")? as f64;
        let moved = cx.element(offset, 2, Dim::from(i as i64))?;
        let tap = |j: usize| if i == 0 { j / kernel[1] } else { j % kernel[1] };
        let base: Vec<f64> = (0..k as usize).map(|j| tap(j) as f64 * dilations[i] as f64 - pads[i] as f64).collect();
        let dtype = cx.ty(moved).dtype;
        let base = cx.table(dtype, &[1, k as usize, 1, 1], &base);
        let steps = cx.positions(&out[i], 2 + i, 4, DType::I64)?;
        let steps = cx.cast(steps, dtype)?;
        let steps = cx.with_scalar(Mul, steps, strides[i] as f64)?;
        let place = cx.binary(Add, base, steps)?;
        let place = cx.binary(Add, place, moved)?;
        taps.push(Axis { extent, outside: Outside::Zeros, align_corners: true }.taps(cx, place, "linear")?);
    }
    let x = cx.reshape(x, vec![images.clone(), per_part.clone(), t.shape[2].clone(), t.shape[3].clone()])?;
    let all = weighted(cx, x, None, &taps)?;
    let mut y = sum(cx, &all)?;
    if let Some(m) = mask {
        let m = cx.reshape(m, vec![images.clone(), k.into(), out[0].clone(), out[1].clone(), 1.into()])?;
        y = cx.binary(Mul, y, m)?;
    }
    // [N*P, K, OH, OW, C/P] to [N, G, C/G * K, OH*OW]
    let y = cx.transpose(y, vec![0, 4, 1, 2, 3])?;
    let place = out[0].clone() * out[1].clone();
    let columns = cx.reshape(y, vec![n.clone(), groups.into(), per_group.clone() * k.into(), place])?;
    let w = cx.reshape(w, vec![groups.into(), per_out, per_group * k.into()])?;
    let y = cx.matmul(w, columns, false)?;
    let y = cx.reshape(y, vec![n, tw.shape[0].clone(), out[0].clone(), out[1].clone()])?;
    done(super::nn::conv_bias(cx, y, bias)?)
}

pub(super) const OPS: Topic =
    &[("GridSample", grid_sample), ("AffineGrid", affine_grid), ("RoiAlign", roi_align), ("DeformConv", deform_conv)];
