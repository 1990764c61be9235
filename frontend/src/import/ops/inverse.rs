//! Inverse circular and hyperbolic functions, put together from square roots, logarithms and a short series.

use super::Topic;
use crate::import::build::done;
use crate::import::node::NodeCx;
use tersor_ir::ValueId;
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{Add, Div, Mul, Sub};
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::ops::unary::UnaryKind::{Abs, Log, Neg, Reciprocal, Sign, Sqrt};

/// `x² + add`, or `add - x²` if negated.
fn square_plus(cx: &mut NodeCx, x: ValueId, negate: bool, add: f64) -> Result<ValueId> {
    let mut s = cx.binary(Mul, x, x)?;
    if negate {
        s = cx.unary(Neg, s)?;
    }
    cx.with_scalar(Add, s, add)
}

/// Magnitudes above 1 go by `π/2 - atan(1/x)`, then two halvings of the angle, `atan(x) = 2 atan(x / (1 + sqrt(1 + x²)))`, leave at most tan(π/16), where
/// the series to the 15th power is exact to 1e-13.
fn atan(cx: &mut NodeCx, x: ValueId) -> Result<ValueId> {
    let a = cx.unary(Abs, x)?;
    let large = cx.compare_scalar(CompareKind::Gt, a, 1.0)?;
    let inverse = cx.unary(Reciprocal, a)?;
    let mut z = cx.select(large, inverse, a)?;
    for _ in 0..2 {
        let root = square_plus(cx, z, false, 1.0)?;
        let root = cx.unary(Sqrt, root)?;
        let d = cx.with_scalar(Add, root, 1.0)?;
        z = cx.binary(Div, z, d)?;
    }
    let s = cx.binary(Mul, z, z)?;
    let mut sum = cx.scalar_like(x, -1.0 / 15.0);
    for k in (0..7).rev() {
        let term = cx.binary(Mul, sum, s)?;
        let sign = if k % 2 == 0 { 1.0 } else { -1.0 };
        sum = cx.with_scalar(Add, term, sign / f64::from(2 * k + 1))?;
    }
    let y = cx.binary(Mul, z, sum)?;
    let y = cx.with_scalar(Mul, y, 4.0)?;
    let right = cx.scalar_like(y, std::f64::consts::FRAC_PI_2);
    let turned = cx.binary(Sub, right, y)?;
    let y = cx.select(large, turned, y)?;
    let sign = cx.unary(Sign, x)?;
    cx.binary(Mul, y, sign)
}

/// `asin(x) = 2 atan(x / (1 + sqrt(1 - x²)))`
fn asin(cx: &mut NodeCx, x: ValueId) -> Result<ValueId> {
    let root = square_plus(cx, x, true, 1.0)?;
    let root = cx.unary(Sqrt, root)?;
    let d = cx.with_scalar(Add, root, 1.0)?;
    let t = cx.binary(Div, x, d)?;
    let y = atan(cx, t)?;
    cx.with_scalar(Mul, y, 2.0)
}

fn acos(cx: &mut NodeCx, x: ValueId) -> Result<ValueId> {
    let y = asin(cx, x)?;
    let right = cx.scalar_like(y, std::f64::consts::FRAC_PI_2);
    cx.binary(Sub, right, y)
}

/// `log(x + sqrt(x² ± 1))`
fn log_of_root(cx: &mut NodeCx, x: ValueId, add: f64) -> Result<ValueId> {
    let root = square_plus(cx, x, false, add)?;
    let root = cx.unary(Sqrt, root)?;
    let sum = cx.binary(Add, x, root)?;
    cx.unary(Log, sum)
}

/// Of the magnitude, so that nothing cancels.
fn asinh(cx: &mut NodeCx, x: ValueId) -> Result<ValueId> {
    let a = cx.unary(Abs, x)?;
    let (y, sign) = (log_of_root(cx, a, 1.0)?, cx.unary(Sign, x)?);
    cx.binary(Mul, y, sign)
}

/// `log((1 + x) / (1 - x)) / 2`
fn atanh(cx: &mut NodeCx, x: ValueId) -> Result<ValueId> {
    let one = cx.scalar_like(x, 1.0);
    let (up, down) = (cx.binary(Add, one, x)?, cx.binary(Sub, one, x)?);
    let q = cx.binary(Div, up, down)?;
    let l = cx.unary(Log, q)?;
    cx.with_scalar(Mul, l, 0.5)
}

pub(super) const OPS: Topic = &[
    ("Atan", |cx| cx.input(0).and_then(|x| atan(cx, x)).and_then(done)),
    ("Asin", |cx| cx.input(0).and_then(|x| asin(cx, x)).and_then(done)),
    ("Acos", |cx| cx.input(0).and_then(|x| acos(cx, x)).and_then(done)),
    ("Asinh", |cx| cx.input(0).and_then(|x| asinh(cx, x)).and_then(done)),
    ("Acosh", |cx| cx.input(0).and_then(|x| log_of_root(cx, x, -1.0)).and_then(done)),
    ("Atanh", |cx| cx.input(0).and_then(|x| atanh(cx, x)).and_then(done)),
];
