//! `Resize` and `Upsample` with known extents: along each axis, gathers with constant positions, weighted for linear and cubic modes.

use super::Topic;
use crate::import::Meaning;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::Gather;
use tersor_ir::ops::binary::BinaryKind::{Add, Mul};
use tersor_ir::{DType, Dim, Tensor, ValueId};

/// The most that an axis shrinks with antialiasing.
const WIDEST: f64 = 32.0;

/// How output positions map to input positions.
struct Mapping {
    mode: String,
    coordinates: String,
    nearest: String,
    cubic: f64,
    exclude_outside: bool,
    /// Shrinking widens the windows of linear and cubic modes.
    antialias: bool,
}

impl Mapping {
    /// The place in an input of `from` elements of position `i` of `to`.
    fn place(&self, i: usize, from: usize, to: usize, scale: f64) -> f64 {
        let (x, n, m) = (i as f64, from as f64, to as f64);
        match self.coordinates.as_str() {
            "asymmetric" => x / scale,
            "align_corners" => {
                if to == 1 {
                    0.0
                } else {
                    // By the extent before it is rounded down.
                    x * (n - 1.0) / (n * scale - 1.0)
                }
            }
            "pytorch_half_pixel" => {
                if to > 1 {
                    (x + 0.5) / scale - 0.5
                } else {
                    0.0
                }
            }
            "half_pixel_symmetric" => {
                let adjustment = m / (scale * n);
                n / 2.0 * (1.0 - adjustment) + (x + 0.5) / scale - 0.5
            }
            "tf_half_pixel_for_nn" => (x + 0.5) / scale,
            _ => (x + 0.5) / scale - 0.5,
        }
    }

    /// For each output position: input positions and their weights, where `crop` is the part of the axis that is taken.
    fn taps(&self, from: usize, to: usize, scale: f64, crop: Option<Crop>) -> Vec<Vec<(usize, f64)>> {
        let clamp = |p: f64| (p.max(0.0) as usize).min(from - 1);
        let one = |i: usize| {
            let x = crop.map_or_else(|| self.place(i, from, to, scale), |c| c.place(i, from, to));
            match self.mode.as_str() {
                "nearest" => {
                    let p = match self.nearest.as_str() {
                        "round_prefer_ceil" => (x + 0.5).floor(),
                        "floor" => x.floor(),
                        "ceil" => x.ceil(),
                        _ => (x - 0.5).ceil(),
                    };
                    vec![(clamp(p), 1.0)]
                }
                _ if self.antialias && scale < 1.0 => self.wide(x, from, scale),
                "linear" | "bilinear" => {
                    let x = x.clamp(0.0, (from - 1) as f64);
                    let t = x - x.floor();
                    vec![(clamp(x.floor()), 1.0 - t), (clamp(x.floor() + 1.0), t)]
                }
                _ => self.cubic(x, from),
            }
        };
        (0..to).map(one).collect()
    }

    /// How often each element of an axis of unknown extent stands in the result, where that is all there is to it.
    fn repeats(&self, from: &Dim, scale: Option<f64>, size: Option<&Dim>) -> Option<i64> {
        let times = match (scale, size) {
            (Some(s), _) if s.fract() == 0.0 && (1.0..65536.0).contains(&s) => s as i64,
            (None, Some(d)) => d.exact_div(from)?.as_const().filter(|n| (1..65536).contains(n))?,
            _ => return None,
        };
        let place = (self.coordinates.as_str(), self.nearest.as_str());
        let plain = matches!(
            place,
            ("asymmetric", "floor")
                | ("half_pixel" | "half_pixel_symmetric", "round_prefer_floor" | "round_prefer_ceil")
        );
        (from.as_const().is_none() && self.mode == "nearest" && plain).then_some(times)
    }

    /// Keys' cubic convolution (1981) at a distance.
    fn keys(&self, d: f64) -> f64 {
        let (a, d) = (self.cubic, d.abs());
        if d <= 1.0 {
            ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
        } else if d < 2.0 {
            a * (((d - 5.0) * d + 8.0) * d - 4.0)
        } else {
            0.0
        }
    }

    /// Weights of neighbours, those beyond the ends as `exclude_outside` says, else given to the last element.
    fn weighted(&self, mut taps: Vec<(f64, f64)>, from: usize) -> Vec<(usize, f64)> {
        if self.exclude_outside {
            taps.iter_mut().filter(|(p, _)| *p < 0.0 || *p >= from as f64).for_each(|t| t.1 = 0.0);
        }
        if self.exclude_outside || self.antialias {
            let sum: f64 = taps.iter().map(|t| t.1).sum();
            taps.iter_mut().for_each(|t| t.1 /= sum);
        }
        taps.into_iter().map(|(p, w)| ((p.max(0.0) as usize).min(from - 1), w)).collect()
    }

    /// Four neighbours.
    fn cubic(&self, x: f64, from: usize) -> Vec<(usize, f64)> {
        let base = x.floor();
        let tap = |k: i32| (base + f64::from(k), self.keys(x - base - f64::from(k)));
        self.weighted((-1..=2).map(tap).collect(), from)
    }

    /// As many neighbours as the result's elements are apart.
    fn wide(&self, x: f64, from: usize, scale: f64) -> Vec<(usize, f64)> {
        let cubic = self.mode == "cubic";
        let reach = (if cubic { 2.0 } else { 1.0 } / scale).ceil() as i64;
        let weight = |d: f64| if cubic { self.keys(d) } else { (1.0 - d.abs()).max(0.0) };
        let base = x.floor();
        let tap = |k: i64| (base + k as f64, weight((x - base - k as f64) * scale));
        self.weighted((1 - reach..=reach).map(tap).collect(), from)
    }
}

/// A part of an axis, by fractions of its length.
#[derive(Clone, Copy)]
struct Crop {
    start: f64,
    end: f64,
}

impl Crop {
    fn place(self, i: usize, from: usize, to: usize) -> f64 {
        let last = from as f64 - 1.0;
        match to {
            1 => 0.5 * (self.start + self.end) * last,
            _ => self.start * last + i as f64 * (self.end - self.start) * last / (to as f64 - 1.0),
        }
    }

    /// Which positions lie outside of the input.
    fn outside(self, from: usize, to: usize) -> Vec<i64> {
        (0..to).map(|i| i64::from(!(0.0..=from as f64 - 1.0).contains(&self.place(i, from, to)))).collect()
    }
}

fn along(cx: &mut NodeCx, x: ValueId, axis: usize, taps: &[Vec<(usize, f64)>]) -> Result<ValueId> {
    let (t, n) = (cx.ty(x), taps.len());
    let mut sum = None;
    for k in 0..taps[0].len() {
        let at: Vec<i64> = taps.iter().map(|t| t[k].0 as i64).collect();
        let index = cx.emit_constant(&Tensor::from_i64(DType::I64, [n], &at));
        let mut part = cx.op(Gather { axis: axis as u8 }, &[x, index])?;
        if taps.iter().any(|t| t[k].1 != 1.0) {
            let weights: Vec<f64> = taps.iter().map(|t| t[k].1).collect();
            let mut shape = vec![1; t.rank() - axis];
            shape[0] = n;
            let w = cx.emit_constant(&Tensor::from_f64(t.dtype, shape, &weights));
            part = cx.binary(Mul, part, w)?;
        }
        sum = Some(match sum {
            Some(s) => cx.binary(Add, s, part)?,
            None => part,
        });
    }
    sum.ok_or_else(|| cx.invalid("an empty axis"))
}

/// Each element of an axis several times: `[…, d, …] -> […, d, 1, …] -> […, d, times, …] -> […, d*times, …]`.
fn repeat(cx: &mut NodeCx, x: ValueId, axis: usize, times: i64) -> Result<ValueId> {
    let mut shape = cx.ty(x).shape.to_vec();
    let d = shape[axis].clone();
    shape.insert(axis + 1, 1.into());
    let x = cx.reshape(x, shape.clone())?;
    shape[axis + 1] = times.into();
    let x = cx.broadcast(x, shape.clone())?;
    shape.remove(axis + 1);
    shape[axis] = d * times.into();
    cx.reshape(x, shape)
}

/// The one scale of all axes where sizes are a frame in which, or around which, the result keeps its aspect ratio.
fn kept_ratio(cx: &NodeCx, policy: &str, shape: &[Dim], sizes: &[Dim], axes: &[i64]) -> Result<Option<f64>> {
    let smaller = match policy {
        "stretch" => return Ok(None),
        "not_larger" => true,
        "not_smaller" => false,
        _ => return Err(cx.invalid(format!("keep_aspect_ratio_policy {}", policy.escape_debug()))),
    };
    let mut ratio: Option<f64> = None;
    for (&a, size) in axes.iter().zip(sizes) {
        let from = cx.fixed(&shape[cx.axis(a, shape.len())?], "a kept aspect ratio")?;
        let r = cx.fixed(size, "a kept aspect ratio")? as f64 / from as f64;
        ratio = Some(ratio.map_or(r, |other| if smaller { other.min(r) } else { other.max(r) }));
    }
    Ok(ratio)
}

fn resize(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let mut x = cx.input(0)?;
    let t = cx.ty(x);
    let rank = t.rank();
    let upsample = cx.node.op_type == "Upsample";
    let at = if upsample || cx.opset < 11 { 1 } else { 2 };
    // The region of interest only matters for cropping.
    cx.takes(1);
    let cropped = cx.string("coordinate_transformation_mode", "") == "tf_crop_and_resize";
    let roi = if cropped {
        let roi = cx.constant(1)?.ok_or_else(|| cx.undecided(1, "a region that is not constant"))?;
        roi.to_f64()
    } else {
        vec![]
    };
    let scales = if upsample && cx.has("scales") {
        cx.floats("scales").map(|s| s.into_iter().map(f64::from).collect::<Vec<_>>())
    } else if cx.optional(at)?.is_some() {
        let s = cx.constant(at)?.ok_or_else(|| cx.undecided(at, "scales that are not constant"))?;
        (!s.is_empty()).then(|| s.to_f64())
    } else {
        None
    };
    let sizes = if scales.is_none() { Some(cx.dims(3)?) } else { None };
    let axes = cx.ints("axes").unwrap_or_else(|| (0..rank as i64).collect());
    let old = at == 1;
    let mapping = Mapping {
        mode: cx.string("mode", "nearest"),
        coordinates: cx.string("coordinate_transformation_mode", if old { "asymmetric" } else { "half_pixel" }),
        nearest: cx.string("nearest_mode", if old { "floor" } else { "round_prefer_floor" }),
        cubic: cx.float("cubic_coeff_a", -0.75),
        exclude_outside: cx.int("exclude_outside", 0) == 1,
        antialias: cx.int("antialias", 0) == 1,
    };
    if !["nearest", "linear", "cubic", "bilinear"].contains(&mapping.mode.as_str()) {
        return Err(cx.invalid(format!("mode {}", mapping.mode)));
    }
    let count = scales.as_ref().map_or_else(|| sizes.as_ref().map_or(0, Vec::len), Vec::len);
    if count != axes.len() {
        return Err(cx.invalid(format!("{count} scales or sizes for {} axes", axes.len())));
    }
    if cropped && roi.len() != 2 * axes.len() {
        return Err(cx.invalid(format!("a region of {} numbers for {} axes", roi.len(), axes.len())));
    }
    let policy = cx.string("keep_aspect_ratio_policy", "stretch");
    let ratio = match &sizes {
        Some(s) => kept_ratio(cx, &policy, &t.shape, s, &axes)?,
        None => None,
    };
    for (i, &a) in axes.iter().enumerate() {
        let axis = cx.axis(a, rank)?;
        let crop = cropped.then(|| Crop { start: roi[i], end: roi[axes.len() + i] });
        let same = match (&scales, &sizes) {
            _ if crop.is_some_and(|c| (c.start, c.end) != (0.0, 1.0)) || ratio.is_some() => false,
            (Some(s), _) => s[i] == 1.0,
            (_, Some(s)) => s[i] == t.shape[axis],
            _ => true,
        };
        if same {
            continue;
        }
        if !cropped
            && ratio.is_none()
            && let Some(times) =
                mapping.repeats(&t.shape[axis], scales.as_ref().map(|s| s[i]), sizes.as_ref().map(|s| &s[i]))
        {
            x = repeat(cx, x, axis, times)?;
            continue;
        }
        let from = t.shape[axis]
            .as_const()
            .filter(|&n| n > 0)
            .ok_or_else(|| cx.unsupported("resizing an extent that is not known"))? as usize;
        let (to, scale) = match (&scales, &sizes) {
            (Some(s), _) if s[i].is_finite() && s[i] > 0.0 => ((from as f64 * s[i]).floor(), s[i]),
            _ if let Some(r) = ratio => ((r * from as f64 + 0.5).floor(), r),
            (_, Some(s)) => {
                let n = s[i].as_const().ok_or_else(|| cx.unsupported("a size that is not known"))?;
                (n as f64, n as f64 / from as f64)
            }
            _ => return Err(cx.invalid("a scale that is not positive")),
        };
        if !(1.0..=f64::from(1 << 24)).contains(&to) {
            return Err(cx.invalid(format!("{to} elements along axis {axis}")));
        }
        if mapping.coordinates == "align_corners" && to > 1.0 && scale * from as f64 != to {
            cx.warn("O0041", format!("corners of axis {axis} are aligned by the extent {}, as ONNX's reference does; runtimes that round it first give other elements", scale * from as f64));
        }
        if mapping.antialias && scale < 1.0 / WIDEST {
            return Err(cx.unsupported(format!("antialiasing where {from} elements become {to}")));
        }
        let taps = mapping.taps(from, to as usize, scale, crop);
        x = along(cx, x, axis, &taps)?;
        let outside = crop.map_or(vec![], |c| c.outside(from, to as usize));
        if outside.contains(&1) {
            let outside = cx.emit_constant(&Tensor::from_i64(DType::Bool, [outside.len()], &outside));
            let outside = cx.along(outside, axis, rank)?;
            let fill = cx.scalar_like(x, cx.float("extrapolation_value", 0.0));
            x = cx.select(outside, fill, x)?;
        }
    }
    Ok(vec![value(x)])
}

pub(super) const OPS: Topic = &[("Resize", resize), ("Upsample", resize)];
