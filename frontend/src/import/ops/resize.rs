//! `Resize` and `Upsample` with known extents: along each axis, gathers with constant positions, weighted for linear and cubic modes.

use super::Topic;
use crate::import::Meaning;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::Gather;
use tersor_ir::ops::binary::BinaryKind::{Add, Mul};
use tersor_ir::{DType, Dim, Tensor, ValueId};

/// How output positions map to input positions.
struct Mapping {
    mode: String,
    coordinates: String,
    nearest: String,
    cubic: f64,
    exclude_outside: bool,
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
                    x * (n - 1.0) / (m - 1.0)
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

    /// For each output position: input positions and their weights.
    fn taps(&self, from: usize, to: usize, scale: f64) -> Vec<Vec<(usize, f64)>> {
        let clamp = |p: f64| (p.max(0.0) as usize).min(from - 1);
        let one = |i: usize| {
            let x = self.place(i, from, to, scale);
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

    /// Keys' cubic convolution over four neighbours (1981).
    fn cubic(&self, x: f64, from: usize) -> Vec<(usize, f64)> {
        let (a, base) = (self.cubic, x.floor());
        let weight = |d: f64| {
            let d = d.abs();
            if d <= 1.0 {
                ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
            } else if d < 2.0 {
                a * (((d - 5.0) * d + 8.0) * d - 4.0)
            } else {
                0.0
            }
        };
        let mut taps: Vec<(f64, f64)> =
            (-1..=2).map(|k| (base + f64::from(k), weight(x - base - f64::from(k)))).collect();
        if self.exclude_outside {
            taps.iter_mut().filter(|(p, _)| *p < 0.0 || *p >= from as f64).for_each(|t| t.1 = 0.0);
            let sum: f64 = taps.iter().map(|t| t.1).sum();
            taps.iter_mut().for_each(|t| t.1 /= sum);
        }
        taps.into_iter().map(|(p, w)| ((p.max(0.0) as usize).min(from - 1), w)).collect()
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

fn resize(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let mut x = cx.input(0)?;
    let t = cx.ty(x);
    let rank = t.rank();
    let upsample = cx.node.op_type == "Upsample";
    let at = if upsample || cx.opset < 11 { 1 } else { 2 };
    // The region of interest only matters for cropping.
    cx.takes(1);
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
    };
    if mapping.coordinates == "tf_crop_and_resize"
        || cx.int("antialias", 0) == 1
        || cx.string("keep_aspect_ratio_policy", "stretch") != "stretch"
    {
        return Err(cx.unsupported("cropping, antialiasing or a kept aspect ratio"));
    }
    if !["nearest", "linear", "cubic", "bilinear"].contains(&mapping.mode.as_str()) {
        return Err(cx.invalid(format!("mode {}", mapping.mode)));
    }
    let count = scales.as_ref().map_or_else(|| sizes.as_ref().map_or(0, Vec::len), Vec::len);
    if count != axes.len() {
        return Err(cx.invalid(format!("{count} scales or sizes for {} axes", axes.len())));
    }
    for (i, &a) in axes.iter().enumerate() {
        let axis = cx.axis(a, rank)?;
        let same = match (&scales, &sizes) {
            (Some(s), _) => s[i] == 1.0,
            (_, Some(s)) => s[i] == t.shape[axis],
            _ => true,
        };
        if same {
            continue;
        }
        if let Some(times) =
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
            (_, Some(s)) => {
                let n = s[i].as_const().ok_or_else(|| cx.unsupported("a size that is not known"))?;
                (n as f64, n as f64 / from as f64)
            }
            _ => return Err(cx.invalid("a scale that is not positive")),
        };
        if !(1.0..=f64::from(1 << 24)).contains(&to) {
            return Err(cx.invalid(format!("{to} elements along axis {axis}")));
        }
        let taps = mapping.taps(from, to as usize, scale);
        x = along(cx, x, axis, &taps)?;
    }
    Ok(vec![value(x)])
}

pub(super) const OPS: Topic = &[("Resize", resize), ("Upsample", resize)];
