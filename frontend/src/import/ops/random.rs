//! Numbers by chance. A node with a seed draws the same numbers wherever it is run; one without gets a key of its own here, so that the same model gives the same
//! artifact, and that the same numbers at every run.

use super::Topic;
use crate::import::Meaning;
use crate::import::build::{done, product};
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{Add, Div, Min, Mul, Sub};
use tersor_ir::ops::compare::CompareKind::{Ge, Lt};
use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::ops::unary::UnaryKind::{Cos, Log, Sqrt};
use tersor_ir::ops::{CumSum, Iota, Random, Softmax};
use tersor_ir::{DType, Dim, Tensor, ValueId};

/// The bits of keys that tell apart the draws of one node.
const SECOND: u64 = 1 << 62;
/// The bit of keys of nodes without a seed.
const UNSEEDED: u64 = 1 << 63;

/// The key of a node: the bits of its seed, or the number of its draw.
fn key(cx: &mut NodeCx) -> u64 {
    let seed = cx.has("seed").then(|| u64::from((cx.float("seed", 0.0) as f32).to_bits()));
    seed.unwrap_or_else(|| UNSEEDED | cx.draw())
}

/// Uniform in `[0, 1)`, of 24 random bits in `f32`, of 32 in `f64`.
fn unit(cx: &mut NodeCx, shape: &[Dim], dtype: DType, key: u64) -> Result<ValueId> {
    let counter = cx.op(Iota { len: product(shape), dtype: DType::I64 }, &[])?;
    let bits = cx.op(Random { key }, &[counter])?;
    let (bits, step) = match dtype {
        DType::F64 => (bits, 2f64.powi(-32)),
        _ => (cx.with_scalar(Div, bits, 256.0)?, 2f64.powi(-24)),
    };
    let number = cx.cast(bits, if dtype == DType::F64 { dtype } else { DType::F32 })?;
    let u = cx.with_scalar(Mul, number, step)?;
    cx.reshape(u, shape.to_vec())
}

fn uniform(cx: &mut NodeCx, shape: &[Dim], dtype: DType) -> Result<ValueId> {
    let (low, high, key) = (cx.float("low", 0.0), cx.float("high", 1.0), key(cx));
    let u = unit(cx, shape, dtype, key)?;
    let u = cx.with_scalar(Mul, u, high - low)?;
    let u = cx.with_scalar(Add, u, low)?;
    cx.cast(u, dtype)
}

/// Box and Muller, 1958.
fn normal(cx: &mut NodeCx, shape: &[Dim], dtype: DType) -> Result<ValueId> {
    let (mean, scale, key) = (cx.float("mean", 0.0), cx.float("scale", 1.0), key(cx));
    let (u, v) = (unit(cx, shape, dtype, key)?, unit(cx, shape, dtype, key | SECOND)?);
    // In (0, 1], which has logarithms.
    let one = cx.scalar_like(u, 1.0);
    let u = cx.binary(Sub, one, u)?;
    let log = cx.unary(Log, u)?;
    let square = cx.with_scalar(Mul, log, -2.0)?;
    let radius = cx.unary(Sqrt, square)?;
    let angle = cx.with_scalar(Mul, v, std::f64::consts::TAU)?;
    let cos = cx.unary(Cos, angle)?;
    let z = cx.binary(Mul, radius, cos)?;
    let z = cx.with_scalar(Mul, z, scale)?;
    let z = cx.with_scalar(Add, z, mean)?;
    cx.cast(z, dtype)
}

/// The floats of an attribute `dtype`.
fn floats(cx: &NodeCx, default: DType) -> Result<DType> {
    match cx.dtype_attr("dtype", default)? {
        d @ (DType::F32 | DType::F64 | DType::F16 | DType::BF16) => Ok(d),
        d => Err(cx.invalid(format!("numbers of {d}, expected floats"))),
    }
}

type Draw = fn(&mut NodeCx, &[Dim], DType) -> Result<ValueId>;

fn shaped(cx: &mut NodeCx, draw: Draw) -> Result<Vec<Meaning>> {
    let dtype = floats(cx, DType::F32)?;
    let shape = cx.ints("shape").ok_or_else(|| cx.invalid("no shape"))?;
    if shape.iter().any(|&n| n < 0) {
        return Err(cx.invalid(format!("shape {shape:?}")));
    }
    let shape: Vec<Dim> = shape.into_iter().map(Dim::from).collect();
    done(draw(cx, &shape, dtype)?)
}

fn like(cx: &mut NodeCx, draw: Draw) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let t = cx.ty(x);
    let dtype = floats(cx, t.dtype)?;
    done(draw(cx, &t.shape, dtype)?)
}

/// Ones with the probabilities that the operand holds.
fn bernoulli(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let p = cx.input(0)?;
    let t = cx.ty(p);
    let to = cx.dtype_attr("dtype", t.dtype)?;
    let wide = if t.dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let (p, key) = (cx.cast(p, wide)?, key(cx));
    let u = unit(cx, &t.shape, wide, key)?;
    let hit = cx.compare(Lt, u, p)?;
    done(cx.cast(hit, to)?)
}

/// Numbers of classes, by logarithms of their weights: how many of the cumulative probabilities a uniform number has reached.
fn multinomial(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let t = cx.ty(x);
    let to = cx.dtype_attr("dtype", DType::I32)?;
    let (samples, key) = (cx.int("sample_size", 1), key(cx));
    let ([batch, classes], 1..) = (&t.shape[..], samples) else {
        return Err(cx.invalid(format!("{samples} samples of {t}, expected some of [batch,classes]")));
    };
    let x = cx.cast(x, DType::F32)?;
    let p = cx.op(Softmax { axis: 1, log: false }, &[x])?;
    let reached = cx.op(CumSum { axis: 1, exclusive: false, reverse: false }, &[p])?;
    let reached = cx.insert_axis(reached, 1)?;
    let u = unit(cx, &[batch.clone(), samples.into()], DType::F32, key)?;
    let u = cx.insert_axis(u, 2)?;
    let past = cx.compare(Ge, u, reached)?;
    let past = cx.cast(past, DType::I64)?;
    let number = cx.reduce(ReduceKind::Sum, past, &[2], false)?;
    // The last sum may be less than 1 by rounding.
    let last = cx.fixed(classes, "classes")? as i64 - 1;
    let last = cx.emit_constant(&Tensor::from_i64(DType::I64, [], &[last]));
    let number = cx.binary(Min, number, last)?;
    done(cx.cast(number, to)?)
}

/// Zeros with the probability `ratio`, other elements larger in that proportion; and which elements are left.
pub(super) fn dropped(cx: &mut NodeCx, x: ValueId, ratio: f64) -> Result<Vec<Meaning>> {
    if !(0.0..1.0).contains(&ratio) {
        return Err(cx.invalid(format!("ratio {ratio}, expected 0 to below 1")));
    }
    // Here a seed is an integer.
    let seed = cx.has("seed").then(|| cx.int("seed", 0) as u64 & !(SECOND | UNSEEDED));
    let (t, key) = (cx.ty(x), seed.unwrap_or_else(|| UNSEEDED | cx.draw()));
    let u = unit(cx, &t.shape, DType::F32, key)?;
    let left = cx.compare_scalar(Ge, u, ratio)?;
    let scaled = cx.with_scalar(Mul, x, 1.0 / (1.0 - ratio))?;
    let zero = cx.scalar_like(x, 0.0);
    Ok(vec![value(cx.select(left, scaled, zero)?), value(left)])
}

pub(super) const OPS: Topic = &[
    ("RandomUniform", |cx| shaped(cx, uniform)),
    ("RandomUniformLike", |cx| like(cx, uniform)),
    ("RandomNormal", |cx| shaped(cx, normal)),
    ("RandomNormalLike", |cx| like(cx, normal)),
    ("Bernoulli", bernoulli),
    ("Multinomial", multinomial),
];
