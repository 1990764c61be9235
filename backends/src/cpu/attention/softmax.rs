//! Softmax of one row of scores at a time, block after block: the running maximum and sum of a row are kept, and what was summed before is scaled
//! when the maximum grows (Milakov and Gimelshein, 2018).

use super::rows::Rows;
use super::tile::V16;
use crate::emit::{KernelBuilder, Scalar, Ty, Val, math};

/// A row of scores and what is kept of it between blocks.
pub struct Row {
    /// Scores, replaced by weights.
    pub scores: Val,
    /// How many of them count.
    pub valid: Val,
    /// Weights from there up to this multiple of 16 become zero.
    pub fill: Val,
    /// The running maximum, then the running sum.
    pub state: Val,
    /// Factor on scores, where queries were not scaled.
    pub scale: Option<f32>,
    /// How weights are stored, from where the scores begin.
    pub weights: Scalar,
}

/// Scores as softmax takes them.
fn finish(k: &mut KernelBuilder, score: Val, scale: Option<f32>, mask: Option<Val>) -> Val {
    let scale = scale.map(|s| k.f32(s));
    match (scale, mask) {
        (Some(scale), Some(mask)) => k.fma(score, scale, mask),
        (Some(scale), None) => k.mul(score, scale),
        (None, Some(mask)) => k.add(score, mask),
        (None, None) => score,
    }
}

/// Turns scores (plus the mask at `mask`) into weights relative to the running maximum, and updates it and the sum. Returns the factor for what was
/// summed with the weights of former blocks.
pub fn update(k: &mut KernelBuilder, row: &Row, mask: Option<(&Rows, Val)>) -> Val {
    let (zero, step) = (k.i64(0), k.i64(16));
    let lowest = k.f32(f32::NEG_INFINITY);
    let whole = k.div(row.valid, step);
    let whole = k.mul(whole, step);
    let rest = k.sub(row.valid, whole);
    let start = k.float(V16, f64::NEG_INFINITY);
    let most = k.for_(zero, whole, step, &[start], |k, t, most| {
        let at = k.elem(row.scores, t, Scalar::F32);
        let s = k.load(at, V16);
        let m = mask.map(|(mask, from)| {
            let from = mask.step(k, from, 3, t);
            mask.chunk(k, from, 3, 16, 16)
        });
        let s = finish(k, s, row.scale, m);
        if mask.is_some() || row.scale.is_some() {
            k.store(s, at);
        }
        vec![k.max(s, most[0])]
    });
    let some = k.gt(rest, zero);
    let most = k.if_(
        some,
        |k| {
            let at = k.elem(row.scores, whole, Scalar::F32);
            let s = k.load(at, V16);
            let m = mask.map(|(mask, from)| {
                let from = mask.step(k, from, 3, whole);
                mask.chunk_first(k, from, 3, 16, rest)
            });
            let s = finish(k, s, row.scale, m);
            let counts = k.first_lanes(16, rest);
            let s = k.select(counts, s, start);
            k.store(s, at);
            vec![k.max(s, most[0])]
        },
        |_| vec![most[0]],
    );
    let most = k.reduce_max(most[0]);
    let sum_at = k.offset(row.state, 4);
    let (before, sum) = (k.load(row.state, Ty::F32), k.load(sum_at, Ty::F32));
    let most = k.max(most, before);
    let nothing = k.eq(most, lowest);
    let origin = k.f32(0.0);
    let origin = k.select(nothing, origin, most);
    let factor = k.sub(before, origin);
    let factor = math::exp(k, factor);
    let (none, rounded) = (k.zero(V16), k.i64(15));
    let rounded = k.add(row.valid, rounded);
    let rounded = k.div(rounded, step);
    let rounded = k.mul(rounded, step);
    let total = k.for_(zero, rounded, step, &[none], |k, t, total| {
        let at = k.elem(row.scores, t, Scalar::F32);
        let s = k.load(at, V16);
        let s = k.sub(s, origin);
        let w = math::exp(k, s);
        // Never past the scores still to be read: weights are no wider.
        let (at, stored) = (k.elem(row.scores, t, row.weights), k.to_float_type(w, row.weights));
        k.store(stored, at);
        vec![k.add(total[0], w)]
    });
    k.for_(rounded, row.fill, step, &[], |k, t, _| {
        let (at, none) = (k.elem(row.scores, t, row.weights), k.zero(row.weights.x(16)));
        k.store(none, at);
        vec![]
    });
    let total = k.reduce_add(total[0]);
    let sum = k.fma(sum, factor, total);
    k.store(most, row.state);
    k.store(sum, sum_at);
    factor
}
