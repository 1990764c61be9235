//! Fourier transforms as products with constant matrices, and the windows and filters that go with them.

use super::Topic;
use crate::import::Meaning;
use crate::import::build::done;
use crate::import::node::{NodeCx, value};
use std::f64::consts::PI;
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{Add, Mul, Sub};
use tersor_ir::ops::pad::PadMode;
use tersor_ir::ops::{Gather, Pad, Real};
use tersor_ir::{DType, Dim, Tensor, ValueId};

/// Longest transform: its matrices are constants.
const LONGEST: usize = 4096;

/// What a transform does along an axis.
struct Transform {
    /// Its length.
    n: usize,
    inverse: bool,
    /// Only the lower half of a spectrum that mirrors itself.
    onesided: bool,
}

impl Transform {
    fn results(&self) -> usize {
        if self.onesided && !self.inverse { self.n / 2 + 1 } else { self.n }
    }

    /// Cosines and sines `[operands, results]`, the sines with the sign of the exponent.
    fn matrices(&self, operands: usize) -> (Vec<f64>, Vec<f64>) {
        let (mut cos, mut sin) = (vec![], vec![]);
        for i in 0..operands {
            // The other half of the spectrum is the mirrored first one.
            let mirrored = self.inverse && self.onesided && i > 0 && 2 * i != self.n;
            let weight = match (self.inverse, mirrored) {
                (false, _) => 1.0,
                (true, false) => 1.0 / self.n as f64,
                (true, true) => 2.0 / self.n as f64,
            };
            for k in 0..self.results() {
                let angle = 2.0 * PI * ((i * k) % self.n) as f64 / self.n as f64;
                cos.push(weight * angle.cos());
                sin.push(weight * angle.sin() * if self.inverse { 1.0 } else { -1.0 });
            }
        }
        (cos, sin)
    }

    /// Of `[…, operands, 1 or 2]` with the second axis from the end transformed: real and imaginary parts, or real ones where the spectrum is one-sided.
    fn apply(&self, cx: &mut NodeCx, x: ValueId) -> Result<ValueId> {
        let t = cx.ty(x);
        let rank = t.rank();
        let operands = cx.fixed(&t.shape[rank - 2], "a transform")?;
        let parts = cx.fixed(&t.shape[rank - 1], "complex numbers")?;
        if !(1..=2).contains(&parts) {
            return Err(cx.invalid(format!("{parts} parts of a complex number")));
        }
        let (cos, sin) = self.matrices(operands);
        let shape = [operands, self.results()];
        let (cos, sin) = (cx.table(t.dtype, &shape, &cos), cx.table(t.dtype, &shape, &sin));
        let real = self.part(cx, x, 0)?;
        let (mut re, mut im) = (cx.matmul(real, cos, false)?, cx.matmul(real, sin, false)?);
        if parts == 2 {
            let imaginary = self.part(cx, x, 1)?;
            let s = cx.matmul(imaginary, sin, false)?;
            re = cx.binary(Sub, re, s)?;
            let c = cx.matmul(imaginary, cos, false)?;
            im = cx.binary(Add, im, c)?;
        }
        if self.inverse && self.onesided { cx.insert_axis(re, rank - 1) } else { cx.stack(&[re, im], rank - 1) }
    }

    /// Real or imaginary parts as rows; a vector becomes a matrix of one row.
    fn part(&self, cx: &mut NodeCx, x: ValueId, i: i64) -> Result<ValueId> {
        let last = cx.ty(x).rank() - 1;
        cx.element(x, last, i.into())
    }
}

/// An axis cut off or filled with zeros.
fn fit(cx: &mut NodeCx, x: ValueId, axis: usize, n: usize) -> Result<ValueId> {
    let t = cx.ty(x);
    let have = cx.fixed(&t.shape[axis], "a transform")?;
    if have >= n {
        return cx.part(x, axis, 0.into(), (n as i64).into());
    }
    let mut hi = vec![0; t.rank()];
    hi[axis] = (n - have) as i64;
    cx.op(Pad { lo: vec![0; t.rank()], hi, mode: PadMode::Constant, value: Real(0.0) }, &[x])
}

fn length(cx: &NodeCx, n: i64) -> Result<usize> {
    match usize::try_from(n) {
        Ok(n @ 1..=LONGEST) => Ok(n),
        _ if n > 0 => Err(cx.unsupported(format!("a transform of length {n}, the longest is {LONGEST}"))),
        _ => Err(cx.invalid(format!("a transform of length {n}"))),
    }
}

fn dft(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let rank = cx.ty(x).rank();
    if rank < 3 {
        return Err(cx.invalid(format!("a signal of rank {rank}")));
    }
    let given = cx.optional_numbers(1)?.and_then(|n| n.first().copied());
    let axis = match cx.opset {
        ..20 => cx.int("axis", 1),
        _ => cx.optional_numbers(2)?.and_then(|n| n.first().copied()).unwrap_or(-2),
    };
    let axis = cx.axis(axis, rank)?;
    if axis == rank - 1 {
        return Err(cx.invalid("the axis of complex numbers is transformed"));
    }
    let (inverse, onesided) = (cx.int("inverse", 0) == 1, cx.int("onesided", 0) == 1);
    let have = cx.fixed(&cx.ty(x).shape[axis], "a transform")? as i64;
    let n = length(cx, given.unwrap_or(if inverse && onesided { 2 * (have - 1) } else { have }))?;
    let transform = Transform { n, inverse, onesided };
    let x = fit(cx, x, axis, if inverse && onesided { n / 2 + 1 } else { n })?;
    let mut perm: Vec<u8> = (0..rank as u8).collect();
    perm.swap(axis, rank - 2);
    let x = cx.transpose(x, perm.clone())?;
    let y = transform.apply(cx, x)?;
    done(cx.transpose(y, perm)?)
}

fn stft(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (x, window) = (cx.input(0)?, cx.optional(2)?);
    let step = cx.numbers(1)?.first().copied().unwrap_or(0);
    let t = cx.ty(x);
    let x = if t.rank() == 2 { cx.insert_axis(x, 2)? } else { x };
    if cx.ty(x).rank() != 3 || step < 1 {
        return Err(cx.invalid(format!("a signal of {t} with a step of {step}")));
    }
    let signal = cx.fixed(&t.shape[1], "frames")? as i64;
    let given = cx.optional_numbers(3)?.and_then(|n| n.first().copied());
    let n = match (given, window) {
        (Some(n), _) => n,
        (None, Some(w)) => cx.fixed(&cx.ty(w).shape[0], "a window")? as i64,
        (None, None) => signal,
    };
    let n = length(cx, n)?;
    if n as i64 > signal {
        return Err(cx.invalid(format!("frames of {n} in a signal of {signal}")));
    }
    let frames = (signal - n as i64) / step + 1;
    let at: Vec<i64> = (0..frames).flat_map(|f| (0..n as i64).map(move |i| f * step + i)).collect();
    let at = cx.emit_constant(&Tensor::from_i64(DType::I64, [frames as usize, n], &at));
    let mut y = cx.op(Gather { axis: 1 }, &[x, at])?;
    if let Some(w) = window {
        let w = cx.along(w, 2, 4)?;
        y = cx.binary(Mul, y, w)?;
    }
    let transform = Transform { n, inverse: false, onesided: cx.int("onesided", 1) == 1 };
    done(transform.apply(cx, y)?)
}

/// `a0 - a1 cos(2πi/n) + a2 cos(4πi/n)`
fn window(cx: &mut NodeCx, [a0, a1, a2]: [f64; 3]) -> Result<Vec<Meaning>> {
    let size = cx.numbers(0)?.first().copied().unwrap_or(0);
    let dtype = cx.dtype_attr("output_datatype", DType::F32)?;
    if !(0..=1 << 24).contains(&size) {
        return Err(cx.invalid(format!("a window of {size}")));
    }
    let n = if cx.int("periodic", 1) == 1 { size } else { size - 1 } as f64;
    let one = |i: i64| {
        let angle = 2.0 * PI * i as f64 / n;
        a0 - a1 * angle.cos() + a2 * (2.0 * angle).cos()
    };
    let values: Vec<f64> = (0..size).map(one).collect();
    done(cx.table(dtype, &[size as usize], &values))
}

/// Triangular filters whose corners have equal distances on the mel scale.
fn mel_weights(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (bins, n, rate) = (cx.numbers(0)?, cx.numbers(1)?, cx.numbers(2)?);
    let mut edges = vec![];
    for i in 3..5 {
        edges.push(cx.constant_scalar(i)?.ok_or_else(|| cx.invalid(format!("input {i} is missing")))?);
    }
    let dtype = cx.dtype_attr("output_datatype", DType::F32)?;
    let ([bins], [n], [rate]) = (&bins[..], &n[..], &rate[..]) else {
        return Err(cx.invalid("an operand of more than one number"));
    };
    if !(1..=1 << 16).contains(bins) || !(1..=1 << 16).contains(n) || *rate < 1 || bins * n > 1 << 24 {
        return Err(cx.invalid(format!("{bins} filters of a transform of {n} at {rate} Hz")));
    }
    let (bins, rows) = (*bins as usize, *n as usize / 2 + 1);
    let mel = |hertz: f64| 2595.0 * (hertz / 700.0).ln_1p() / std::f64::consts::LN_10;
    let (low, high) = (mel(edges[0]), mel(edges[1]));
    let step = (high - low) / (bins + 2) as f64;
    let corner = |i: usize| {
        let hertz = 700.0 * ((i as f64 * step + low) / 2595.0 * std::f64::consts::LN_10).exp_m1();
        ((*n + 1) as f64 * hertz / *rate as f64).floor()
    };
    let corners: Vec<f64> = (0..bins + 2).map(corner).collect();
    if corners.iter().any(|c| !(0.0..=rows as f64).contains(c)) {
        return Err(cx.invalid("edges outside of the spectrum"));
    }
    let mut y = vec![0.0; rows * bins];
    for i in 0..bins {
        let [left, centre, right] = [corners[i], corners[i + 1], corners[i + 2]];
        for row in 0..rows {
            let j = row as f64;
            let up = if centre == left && j == centre {
                Some(1.0)
            } else {
                (left..=centre).contains(&j).then(|| (j - left) / (centre - left))
            };
            let down = (centre..right).contains(&j).then(|| (right - j) / (right - centre));
            y[row * bins + i] = down.or(up).unwrap_or(0.0);
        }
    }
    done(cx.table(dtype, &[rows, bins], &y))
}

/// The determinant of matrices of up to four rows, by the first row.
fn determinant(cx: &mut NodeCx, x: ValueId) -> Result<ValueId> {
    let t = cx.ty(x);
    let (rank, n) = (t.rank(), cx.fixed(&t.shape[t.rank() - 1], "determinants")?);
    let at = |cx: &mut NodeCx, x: ValueId, row: i64, column: i64| -> Result<ValueId> {
        let r = cx.element(x, rank - 2, row.into())?;
        cx.element(r, rank - 2, column.into())
    };
    if n == 1 {
        return at(cx, x, 0, 0);
    }
    let below = cx.part(x, rank - 2, 1.into(), Dim::from(n as i64 - 1))?;
    let mut sum: Option<ValueId> = None;
    for k in 0..n as i64 {
        let mut columns = vec![];
        if k > 0 {
            columns.push(cx.part(below, rank - 1, 0.into(), k.into())?);
        }
        if k + 1 < n as i64 {
            columns.push(cx.part(below, rank - 1, (k + 1).into(), (n as i64 - k - 1).into())?);
        }
        let minor = cx.concat(&columns, rank - 1)?;
        let (a, d) = (at(cx, x, 0, k)?, determinant(cx, minor)?);
        let term = cx.binary(Mul, a, d)?;
        sum = Some(match sum {
            Some(s) => cx.binary(if k % 2 == 0 { Add } else { Sub }, s, term)?,
            None => term,
        });
    }
    sum.ok_or_else(|| cx.invalid("an empty matrix"))
}

fn det(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let t = cx.ty(x);
    if t.rank() < 2 || t.shape[t.rank() - 1] != t.shape[t.rank() - 2] {
        return Err(cx.invalid(format!("{t} is not square")));
    }
    if cx.fixed(&t.shape[t.rank() - 1], "determinants")? > 4 {
        return Err(cx.unsupported("determinants of more than four rows"));
    }
    let y = determinant(cx, x)?;
    Ok(vec![value(y)])
}

pub(super) const OPS: Topic = &[
    ("DFT", dft),
    ("STFT", stft),
    ("HannWindow", |cx| window(cx, [0.5, 0.5, 0.0])),
    ("HammingWindow", |cx| window(cx, [25.0 / 46.0, 21.0 / 46.0, 0.0])),
    ("BlackmanWindow", |cx| window(cx, [0.42, 0.5, 0.08])),
    ("MelWeightMatrix", mel_weights),
    ("Det", det),
];
