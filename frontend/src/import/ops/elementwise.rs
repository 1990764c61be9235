//! Operators on elements.

use super::{Topic, random, text};
use crate::import::Meaning;
use crate::import::build::done;
use crate::import::node::{NodeCx, value};
use crate::tensor::dtype;
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{self, *};
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::ops::unary::UnaryKind::{self, *};
use tersor_ir::ops::{BitCast, Cast, Compare, Reshape, Select};
use tersor_ir::small::{Rounding, SmallFloat};
use tersor_ir::{DType, Dim, Tensor, ValueId};

fn map(cx: &mut NodeCx, kind: UnaryKind) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    done(cx.unary(kind, x)?)
}

/// Two operands. Before opset 7 the axes of the second stand from `axis` of the first on, where it is said, and not at its end.
fn operands(cx: &mut NodeCx) -> Result<(ValueId, ValueId)> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    if cx.opset >= 7 || cx.int("broadcast", 0) == 0 || !cx.has("axis") {
        return Ok((a, b));
    }
    let (rank, mut shape) = (cx.ty(a).rank(), cx.ty(b).shape.to_vec());
    let after = rank.checked_sub(cx.axis(cx.int("axis", 0), rank)? + shape.len());
    let after = after
        .ok_or_else(|| cx.invalid(format!("an operand of rank {} from axis {}", shape.len(), cx.int("axis", 0))))?;
    shape.extend(vec![Dim::from(1); after]);
    Ok((a, cx.reshape(b, shape)?))
}

fn zip(cx: &mut NodeCx, kind: BinaryKind) -> Result<Vec<Meaning>> {
    let (a, b) = operands(cx)?;
    done(cx.binary(kind, a, b)?)
}

fn compare(cx: &mut NodeCx, kind: CompareKind) -> Result<Vec<Meaning>> {
    let (a, b) = operands(cx)?;
    done(cx.op(Compare { kind }, &[a, b])?)
}

fn variadic(cx: &mut NodeCx, kind: BinaryKind) -> Result<ValueId> {
    let all = cx.all_inputs()?;
    let (&first, rest) = all.split_first().ok_or_else(|| cx.invalid("no inputs"))?;
    rest.iter().try_fold(first, |a, &b| cx.binary(kind, a, b))
}

/// `x` where `cond`, by a comparison with zero.
fn where_positive(cx: &mut NodeCx, x: ValueId, then: ValueId, other: ValueId) -> Result<ValueId> {
    let zero = cx.scalar_like(x, 0.0);
    let cond = cx.op(Compare { kind: CompareKind::Gt }, &[x, zero])?;
    cx.op(Select {}, &[cond, then, other])
}

/// `alpha * (e^(x/beta) - 1)`. The difference leaves too few digits of a float of 16 bits.
fn exp_minus_one(cx: &mut NodeCx, x: ValueId, alpha: f64, beta: f64) -> Result<ValueId> {
    let dtype = cx.ty(x).dtype;
    let x = if dtype.bits() < 32 { cx.cast(x, DType::F32)? } else { x };
    let scaled = if beta == 1.0 { x } else { cx.with_scalar(Div, x, beta)? };
    let e = cx.unary(Exp, scaled)?;
    let e = cx.with_scalar(Sub, e, 1.0)?;
    let y = if alpha == 1.0 { e } else { cx.with_scalar(Mul, e, alpha)? };
    cx.cast(y, dtype)
}

fn clip(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let mut x = cx.input(0)?;
    let (lo, hi) = if cx.opset >= 11 {
        (cx.optional(1)?, cx.optional(2)?)
    } else {
        let lo = cx.has("min").then(|| cx.float("min", 0.0)).map(|v| cx.scalar_like(x, v));
        (lo, cx.has("max").then(|| cx.float("max", 0.0)).map(|v| cx.scalar_like(x, v)))
    };
    if let Some(lo) = lo {
        x = cx.binary(Max, x, lo)?;
    }
    if let Some(hi) = hi {
        x = cx.binary(Min, x, hi)?;
    }
    done(x)
}

fn hard_sigmoid(cx: &mut NodeCx, x: ValueId, alpha: f64, beta: f64) -> Result<ValueId> {
    let y = cx.with_scalar(Mul, x, alpha)?;
    let y = cx.with_scalar(Add, y, beta)?;
    let y = cx.with_scalar(Max, y, 0.0)?;
    cx.with_scalar(Min, y, 1.0)
}

fn prelu(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, mut slope) = (cx.input(0)?, cx.input(1)?);
    // Before opset 7 there was one slope, or one for each channel.
    if cx.opset < 7 && cx.ty(slope).rank() == 1 && cx.ty(slope).shape[0] != Dim::from(1) {
        let mut shape = cx.ty(slope).shape.to_vec();
        shape.extend(vec![Dim::from(1); cx.ty(x).rank().saturating_sub(2)]);
        slope = cx.reshape(slope, shape)?;
    }
    let y = cx.binary(Mul, x, slope)?;
    done(where_positive(cx, x, x, y)?)
}

fn pow(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, mut e) = operands(cx)?;
    let (tx, te) = (cx.ty(x).dtype, cx.ty(e).dtype);
    // The result has the base's type; an exponent of another type is computed in the wider of the two.
    if tx != te {
        if !tx.is_float() && te.is_float() {
            let wide = cx.cast(x, te)?;
            let y = cx.binary(Pow, wide, e)?;
            return done(cx.cast(y, tx)?);
        }
        e = cx.cast(e, tx)?;
    }
    if let Some(2.0) = splat(cx, 1)? {
        return done(cx.binary(Mul, x, x)?);
    }
    done(cx.binary(Pow, x, e)?)
}

/// The number that a constant one-element input holds.
fn splat(cx: &mut NodeCx, i: usize) -> Result<Option<f64>> {
    Ok(cx.constant(i)?.filter(|t| t.len() == 1 && t.shape().len() <= 1).map(|t| t.get_f64(0)))
}

/// Element types by their numbers, as models before opset 6 name them.
const NAMES: [&str; 14] = [
    "UNDEFINED",
    "FLOAT",
    "UINT8",
    "INT8",
    "UINT16",
    "INT16",
    "INT32",
    "INT64",
    "STRING",
    "BOOL",
    "FLOAT16",
    "DOUBLE",
    "UINT32",
    "UINT64",
];

fn cast(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let to = if cx.node.op_type == "CastLike" {
        let like = cx.input(1)?;
        cx.ty(like).dtype
    } else if cx.opset < 6 {
        let name = cx.string("to", "");
        let number = NAMES.iter().position(|n| n.eq_ignore_ascii_case(&name));
        number.and_then(|n| dtype(n as i32)).ok_or_else(|| cx.unsupported(format!("element type {name}")))?
    } else {
        cx.element_type(cx.int("to", 0))?
    };
    let from = cx.ty(x).dtype;
    if from == DType::Str || to == DType::Str {
        cx.ignores_attributes();
        return done(text::cast(cx, x, to)?);
    }
    // Narrow integers keep the low bits of the truncated number.
    let x = if from.is_float() && to.is_int() && to.is_packed() { cx.cast(x, DType::I32)? } else { x };
    if to.bits() != 8 || SmallFloat::of(to).is_none() || from == to {
        return done(cx.cast(x, to)?);
    }
    let overflow = cx.int("saturate", 1) == 0;
    let round = match cx.string("round_mode", "up").as_str() {
        _ if to != DType::F8E8M0 => Rounding::Nearest,
        "up" => Rounding::Up,
        "down" => Rounding::Down,
        "nearest" => Rounding::Nearest,
        other => return Err(cx.invalid(format!("round_mode \"{}\"", other.escape_debug()))),
    };
    done(cx.op(Cast { to, overflow, round }, &[x])?)
}

fn bitcast(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, number) = (cx.input(0)?, cx.int("to", 0));
    let to = dtype(number as i32).ok_or_else(|| cx.unsupported(format!("element type {number}")))?;
    done(cx.op(BitCast { to }, &[x])?)
}

/// A shift by `n` is a product with `2^n`, or a quotient. Where all bits go, that power wraps to 0, as does the product, and a quotient by 0 is 0.
fn bit_shift(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, n) = (cx.input(0)?, cx.input(1)?);
    let two = cx.scalar_like(x, 2.0);
    let power = cx.binary(Pow, two, n)?;
    match cx.string("direction", "").as_str() {
        "LEFT" => done(cx.binary(Mul, x, power)?),
        "RIGHT" if matches!(cx.ty(x).dtype, DType::U8 | DType::U16 | DType::U32 | DType::U64) => {
            done(cx.binary(Div, x, power)?)
        }
        "RIGHT" => {
            // Rounds down, so that the sign stays; it is all that stays beyond the last bit.
            let widest = f64::from(cx.ty(x).dtype.bits()) - 1.0;
            let (negative, far) =
                (cx.compare_scalar(CompareKind::Lt, n, 0.0)?, cx.compare_scalar(CompareKind::Ge, n, widest)?);
            let far = cx.binary(Or, negative, far)?;
            let below = cx.compare_scalar(CompareKind::Lt, x, 0.0)?;
            let (ones, zero) = (cx.scalar_like(x, -1.0), cx.scalar_like(x, 0.0));
            let sign = cx.select(below, ones, zero)?;
            let rest = cx.binary(Mod, x, power)?;
            let even = cx.binary(Sub, x, rest)?;
            let y = cx.binary(Div, even, power)?;
            done(cx.select(far, sign, y)?)
        }
        other => Err(cx.invalid(format!("direction \"{}\"", other.escape_debug()))),
    }
}

/// `x sigmoid(alpha x)`
pub(super) fn swish(cx: &mut NodeCx, x: ValueId, alpha: f64) -> Result<ValueId> {
    let alpha = cx.float("alpha", alpha);
    if alpha == 1.0 {
        return cx.unary(Silu, x);
    }
    let s = cx.with_scalar(Mul, x, alpha)?;
    let s = cx.unary(Sigmoid, s)?;
    cx.binary(Mul, x, s)
}

fn gelu(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let kind = if cx.string("approximate", "none") == "tanh" { GeluTanh } else { Gelu };
    map(cx, kind)
}

fn is_nan(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    done(cx.op(Compare { kind: CompareKind::Ne }, &[x, x])?)
}

/// `(e^x ± e^-x) / 2`
fn hyperbolic(cx: &mut NodeCx, kind: BinaryKind) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let n = cx.unary(Neg, x)?;
    let (a, b) = (cx.unary(Exp, x)?, cx.unary(Exp, n)?);
    let y = cx.binary(kind, a, b)?;
    done(cx.with_scalar(Mul, y, 0.5)?)
}

fn is_inf(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let mut x = cx.input(0)?;
    match (cx.int("detect_negative", 1) == 1, cx.int("detect_positive", 1) == 1) {
        (true, true) => x = cx.unary(Abs, x)?,
        (true, false) => x = cx.unary(Neg, x)?,
        (false, true) => {}
        (false, false) => return Err(cx.unsupported("detection of nothing")),
    }
    let infinity = cx.scalar_like(x, f64::INFINITY);
    done(cx.op(Compare { kind: CompareKind::Eq }, &[x, infinity])?)
}

fn identity(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    Ok(vec![cx.meaning(0)?])
}

/// In training some elements become zero, by chance. Where nothing is dropped (inference, or a ratio of 0): the input, and a mask of `true` where one is asked for.
fn dropout(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    cx.takes(1);
    let training = match cx.optional(2)? {
        Some(_) => {
            let mode = cx.constant(2)?.ok_or_else(|| cx.undecided(2, "a training mode that is not constant"))?;
            mode.to_i64().iter().any(|&v| v != 0)
        }
        None => false,
    };
    let ratio = match (training, cx.opset < 7 && cx.int("is_test", 0) == 0) {
        (true, _) => cx.constant_scalar(1)?.unwrap_or(0.5),
        (false, true) => cx.float("ratio", 0.5),
        (false, false) => 0.0,
    };
    if ratio != 0.0 {
        let x = cx.input(0)?;
        return random::dropped(cx, x, ratio);
    }
    let m = cx.meaning(0)?;
    if cx.node.output.get(1).is_none_or(|o| o.is_empty()) {
        return Ok(vec![m]);
    }
    let x = cx.input(0)?;
    let one = cx.emit_constant(&Tensor::scalar(DType::Bool, 1.0));
    let shape = cx.ty(x).shape.to_vec();
    let mask = cx.broadcast(one, shape)?;
    Ok(vec![m, value(mask)])
}

fn sum_of(cx: &mut NodeCx, mean: bool) -> Result<Vec<Meaning>> {
    let n = cx.input_count() as f64;
    let s = variadic(cx, Add)?;
    done(if mean { cx.with_scalar(Div, s, n)? } else { s })
}

pub(super) const OPS: Topic = &[
    ("Abs", |cx| map(cx, Abs)),
    ("Neg", |cx| map(cx, Neg)),
    ("Sign", |cx| map(cx, Sign)),
    ("Relu", |cx| map(cx, Relu)),
    ("Not", |cx| map(cx, Not)),
    ("Exp", |cx| map(cx, Exp)),
    ("Log", |cx| map(cx, Log)),
    ("Sqrt", |cx| map(cx, Sqrt)),
    ("Reciprocal", |cx| map(cx, Reciprocal)),
    ("Sigmoid", |cx| map(cx, Sigmoid)),
    ("Tanh", |cx| map(cx, Tanh)),
    ("Erf", |cx| map(cx, Erf)),
    ("Softplus", |cx| map(cx, Softplus)),
    ("Sin", |cx| map(cx, Sin)),
    ("Cos", |cx| map(cx, Cos)),
    ("Floor", |cx| map(cx, Floor)),
    ("Ceil", |cx| map(cx, Ceil)),
    ("Round", |cx| map(cx, Round)),
    ("Gelu", gelu),
    ("IsNaN", is_nan),
    ("Add", |cx| zip(cx, Add)),
    ("Sub", |cx| zip(cx, Sub)),
    ("Mul", |cx| zip(cx, Mul)),
    ("Div", |cx| zip(cx, Div)),
    ("Pow", pow),
    ("Mod", |cx| {
        let kind = if cx.int("fmod", 0) == 1 { Rem } else { Mod };
        zip(cx, kind)
    }),
    ("And", |cx| zip(cx, And)),
    ("Or", |cx| zip(cx, Or)),
    ("Xor", |cx| zip(cx, Xor)),
    ("Max", |cx| variadic(cx, Max).and_then(done)),
    ("Min", |cx| variadic(cx, Min).and_then(done)),
    ("Sum", |cx| sum_of(cx, false)),
    ("Mean", |cx| sum_of(cx, true)),
    ("Equal", |cx| compare(cx, CompareKind::Eq)),
    ("Less", |cx| compare(cx, CompareKind::Lt)),
    ("LessOrEqual", |cx| compare(cx, CompareKind::Le)),
    ("Greater", |cx| compare(cx, CompareKind::Gt)),
    ("GreaterOrEqual", |cx| compare(cx, CompareKind::Ge)),
    ("Where", |cx| {
        let (c, a, b) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        done(cx.op(Select {}, &[c, a, b])?)
    }),
    ("Clip", clip),
    ("LeakyRelu", |cx| {
        let x = cx.input(0)?;
        let y = cx.with_scalar(Mul, x, cx.float("alpha", 0.01))?;
        done(where_positive(cx, x, x, y)?)
    }),
    ("PRelu", prelu),
    ("ThresholdedRelu", |cx| {
        let x = cx.input(0)?;
        let (zero, limit) = (cx.scalar_like(x, 0.0), cx.scalar_like(x, cx.float("alpha", 1.0)));
        let cond = cx.op(Compare { kind: CompareKind::Gt }, &[x, limit])?;
        done(cx.op(Select {}, &[cond, x, zero])?)
    }),
    ("Elu", |cx| {
        let x = cx.input(0)?;
        let y = exp_minus_one(cx, x, cx.float("alpha", 1.0), 1.0)?;
        done(where_positive(cx, x, x, y)?)
    }),
    ("Celu", |cx| {
        let (x, alpha) = (cx.input(0)?, cx.float("alpha", 1.0));
        let y = exp_minus_one(cx, x, alpha, alpha)?;
        done(where_positive(cx, x, x, y)?)
    }),
    ("Selu", |cx| {
        let (alpha, gamma) =
            if cx.opset < 6 { (1.6732, 1.0507) } else { (1.673_263_192_176_818_8, 1.050_701_022_148_132_3) };
        let (x, gamma) = (cx.input(0)?, cx.float("gamma", gamma));
        let y = exp_minus_one(cx, x, cx.float("alpha", alpha), 1.0)?;
        let y = where_positive(cx, x, x, y)?;
        done(cx.with_scalar(Mul, y, gamma)?)
    }),
    ("HardSigmoid", |cx| {
        let x = cx.input(0)?;
        done(hard_sigmoid(cx, x, cx.float("alpha", 0.2), cx.float("beta", 0.5))?)
    }),
    ("HardSwish", |cx| {
        let x = cx.input(0)?;
        let y = hard_sigmoid(cx, x, 1.0 / 6.0, 0.5)?;
        done(cx.binary(Mul, x, y)?)
    }),
    ("Softsign", |cx| {
        let x = cx.input(0)?;
        let a = cx.unary(Abs, x)?;
        let a = cx.with_scalar(Add, a, 1.0)?;
        done(cx.binary(Div, x, a)?)
    }),
    ("Mish", |cx| {
        let x = cx.input(0)?;
        let y = cx.unary(Softplus, x)?;
        let y = cx.unary(Tanh, y)?;
        done(cx.binary(Mul, x, y)?)
    }),
    ("Swish", |cx| cx.input(0).and_then(|x| swish(cx, x, 1.0)).and_then(done)),
    ("SwiGLU", |cx| {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let a = swish(cx, a, 1.0)?;
        done(cx.binary(Mul, a, b)?)
    }),
    ("BitShift", bit_shift),
    ("Tan", |cx| {
        let x = cx.input(0)?;
        let (s, c) = (cx.unary(Sin, x)?, cx.unary(Cos, x)?);
        done(cx.binary(Div, s, c)?)
    }),
    ("Sinh", |cx| hyperbolic(cx, Sub)),
    ("Cosh", |cx| hyperbolic(cx, Add)),
    ("Shrink", |cx| {
        let (x, lambda, bias) = (cx.input(0)?, cx.float("lambd", 0.5), cx.float("bias", 0.0));
        let (low, high) = (cx.scalar_like(x, -lambda), cx.scalar_like(x, lambda));
        let below = cx.op(Compare { kind: CompareKind::Lt }, &[x, low])?;
        let above = cx.op(Compare { kind: CompareKind::Gt }, &[x, high])?;
        let (up, down, zero) = (cx.with_scalar(Add, x, bias)?, cx.with_scalar(Sub, x, bias)?, cx.scalar_like(x, 0.0));
        let y = cx.op(Select {}, &[above, down, zero])?;
        done(cx.op(Select {}, &[below, up, y])?)
    }),
    ("IsInf", is_inf),
    ("BitwiseAnd", |cx| zip(cx, And)),
    ("BitwiseOr", |cx| zip(cx, Or)),
    ("BitwiseXor", |cx| zip(cx, Xor)),
    ("BitwiseNot", |cx| {
        let x = cx.input(0)?;
        let ones = cx.emit_constant(&Tensor::from_i64(cx.ty(x).dtype, [], &[-1]));
        done(cx.binary(Xor, x, ones)?)
    }),
    ("Cast", cast),
    ("CastLike", cast),
    ("BitCast", bitcast),
    ("Identity", identity),
    ("Dropout", dropout),
    ("Flatten", |cx| {
        let x = cx.input(0)?;
        let t = cx.ty(x);
        let axis = cx.int("axis", 1);
        let axis = if axis == t.rank() as i64 { t.rank() } else { cx.axis(axis, t.rank().max(1))? };
        let product = |d: &[Dim]| d.iter().fold(Dim::from(1), |a, d| a * d.clone());
        let shape = vec![product(&t.shape[..axis]), product(&t.shape[axis..])];
        done(cx.op(Reshape { shape }, &[x])?)
    }),
];
