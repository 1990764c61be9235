//! Recurrent layers over sequences of known length: one step after another.

use super::Topic;
use super::indexing::reversed;
use crate::import::Meaning;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{Add, Div, Max, Min, Mul, Sub};
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::ops::unary::UnaryKind::{Abs, Exp, Relu, Sigmoid, Softplus, Tanh};
use tersor_ir::{DType, Dim, Tensor, ValueId};

/// Most steps of one layer.
const LONGEST: usize = 1024;

/// An activation and its parameters.
#[derive(Clone, Debug)]
struct Activation {
    name: String,
    alpha: Option<f64>,
    beta: Option<f64>,
}

impl Activation {
    fn apply(&self, cx: &mut NodeCx, x: ValueId) -> Result<ValueId> {
        let (alpha, beta) = (|d: f64| self.alpha.unwrap_or(d), |d: f64| self.beta.unwrap_or(d));
        match self.name.to_ascii_lowercase().as_str() {
            "tanh" => cx.unary(Tanh, x),
            "sigmoid" => cx.unary(Sigmoid, x),
            "relu" => cx.unary(Relu, x),
            "softplus" => cx.unary(Softplus, x),
            "softsign" => {
                let a = cx.unary(Abs, x)?;
                let a = cx.with_scalar(Add, a, 1.0)?;
                cx.binary(Div, x, a)
            }
            "affine" => {
                let y = cx.with_scalar(Mul, x, alpha(1.0))?;
                cx.with_scalar(Add, y, beta(0.0))
            }
            "scaledtanh" => {
                let y = cx.with_scalar(Mul, x, beta(1.0))?;
                let y = cx.unary(Tanh, y)?;
                cx.with_scalar(Mul, y, alpha(1.0))
            }
            "hardsigmoid" => {
                let y = cx.with_scalar(Mul, x, alpha(0.2))?;
                let y = cx.with_scalar(Add, y, beta(0.5))?;
                let y = cx.with_scalar(Max, y, 0.0)?;
                cx.with_scalar(Min, y, 1.0)
            }
            name @ ("leakyrelu" | "thresholdedrelu" | "elu") => {
                let limit = if name == "thresholdedrelu" { alpha(1.0) } else { 0.0 };
                let above = cx.compare_scalar(CompareKind::Gt, x, limit)?;
                let other = match name {
                    "leakyrelu" => cx.with_scalar(Mul, x, alpha(0.01))?,
                    "elu" => {
                        let e = cx.unary(Exp, x)?;
                        let e = cx.with_scalar(Sub, e, 1.0)?;
                        cx.with_scalar(Mul, e, alpha(1.0))?
                    }
                    _ => cx.scalar_like(x, 0.0),
                };
                cx.select(above, x, other)
            }
            _ => Err(cx.unsupported(format!("activation {}", self.name.escape_debug()))),
        }
    }
}

#[derive(Copy, Clone, PartialEq)]
enum Cell {
    Rnn,
    Gru,
    Lstm,
}

/// One direction of a layer.
struct Direction {
    cell: Cell,
    /// `[gates*H, H]`
    recurrence: ValueId,
    /// `[gates*H]`, added to what the recurrence gives.
    bias: Option<ValueId>,
    /// `[3*H]`, input, output, forget.
    peephole: Option<ValueId>,
    activations: Vec<Activation>,
    hidden: Dim,
    clip: Option<f64>,
    linear_before_reset: bool,
    input_forget: bool,
}

impl Direction {
    fn gate(&self, cx: &mut NodeCx, x: ValueId, i: i64) -> Result<ValueId> {
        let last = cx.ty(x).rank() - 1;
        cx.part(x, last, self.hidden.clone() * i.into(), self.hidden.clone())
    }
    fn activate(&self, cx: &mut NodeCx, i: usize, x: ValueId) -> Result<ValueId> {
        let x = match self.clip {
            Some(c) => {
                let low = cx.with_scalar(Max, x, -c)?;
                cx.with_scalar(Min, low, c)?
            }
            None => x,
        };
        self.activations[i].apply(cx, x)
    }
    /// What the state adds to gates.
    fn recur(&self, cx: &mut NodeCx, h: ValueId) -> Result<ValueId> {
        let y = cx.matmul(h, self.recurrence, true)?;
        match self.bias {
            Some(b) => cx.binary(Add, y, b),
            None => Ok(y),
        }
    }
    fn peep(&self, cx: &mut NodeCx, gate: ValueId, c: ValueId, i: i64) -> Result<ValueId> {
        let Some(p) = self.peephole else { return Ok(gate) };
        let p = self.gate(cx, p, i)?;
        let seen = cx.binary(Mul, p, c)?;
        cx.binary(Add, gate, seen)
    }

    /// The states after a step; `x` is what the input gives to all gates, `[B, gates*H]`.
    fn step(&self, cx: &mut NodeCx, x: ValueId, h: ValueId, c: Option<ValueId>) -> Result<(ValueId, Option<ValueId>)> {
        match (self.cell, c) {
            (Cell::Rnn, _) => {
                let r = self.recur(cx, h)?;
                let s = cx.binary(Add, x, r)?;
                Ok((self.activate(cx, 0, s)?, None))
            }
            (Cell::Gru, _) => Ok((self.gru(cx, x, h)?, None)),
            (Cell::Lstm, Some(c)) => {
                let r = self.recur(cx, h)?;
                let all = cx.binary(Add, x, r)?;
                let [i, o, f, g] = [0, 1, 2, 3].map(|k| self.gate(cx, all, k));
                let i = self.peep(cx, i?, c, 0)?;
                let i = self.activate(cx, 0, i)?;
                let f = if self.input_forget {
                    let one = cx.scalar_like(i, 1.0);
                    cx.binary(Sub, one, i)?
                } else {
                    let f = self.peep(cx, f?, c, 2)?;
                    self.activate(cx, 0, f)?
                };
                let g = self.activate(cx, 1, g?)?;
                let (kept, new) = (cx.binary(Mul, f, c)?, cx.binary(Mul, i, g)?);
                let c = cx.binary(Add, kept, new)?;
                let o = self.peep(cx, o?, c, 1)?;
                let o = self.activate(cx, 0, o)?;
                let shown = self.activations[2].apply(cx, c)?;
                Ok((cx.binary(Mul, o, shown)?, Some(c)))
            }
            (Cell::Lstm, None) => Err(cx.invalid("no cell state")),
        }
    }

    fn gru(&self, cx: &mut NodeCx, x: ValueId, h: ValueId) -> Result<ValueId> {
        let last = |cx: &mut NodeCx, v: ValueId, axis: usize| {
            cx.part(v, axis, self.hidden.clone() * 2.into(), self.hidden.clone())
        };
        let all = self.recur(cx, h)?;
        let gates = |cx: &mut NodeCx, k: i64| -> Result<ValueId> {
            let (a, b) = (self.gate(cx, x, k)?, self.gate(cx, all, k)?);
            let s = cx.binary(Add, a, b)?;
            self.activate(cx, 0, s)
        };
        let (z, r) = (gates(cx, 0)?, gates(cx, 1)?);
        let own = self.gate(cx, x, 2)?;
        let other = if self.linear_before_reset {
            let recurred = self.gate(cx, all, 2)?;
            cx.binary(Mul, r, recurred)?
        } else {
            let (reset, weights) = (cx.binary(Mul, r, h)?, last(cx, self.recurrence, 0)?);
            let y = cx.matmul(reset, weights, true)?;
            match self.bias {
                Some(b) => {
                    let b = last(cx, b, 0)?;
                    cx.binary(Add, y, b)?
                }
                None => y,
            }
        };
        let s = cx.binary(Add, own, other)?;
        let new = self.activate(cx, 1, s)?;
        // (1 - z) new + z h
        let d = cx.binary(Sub, h, new)?;
        let d = cx.binary(Mul, z, d)?;
        cx.binary(Add, new, d)
    }
}

fn activations(cx: &NodeCx, cell: Cell, directions: usize) -> Result<Vec<Activation>> {
    let usual: &[&str] = match cell {
        Cell::Rnn => &["Tanh"],
        Cell::Gru => &["Sigmoid", "Tanh"],
        Cell::Lstm => &["Sigmoid", "Tanh", "Tanh"],
    };
    let names =
        cx.strings("activations").unwrap_or_else(|| usual.repeat(directions).into_iter().map(String::from).collect());
    if names.len() != usual.len() * directions {
        return Err(cx.invalid(format!("{} activations for {directions} directions", names.len())));
    }
    let (mut alpha, mut beta) = (
        cx.floats("activation_alpha").unwrap_or_default().into_iter().map(f64::from),
        cx.floats("activation_beta").unwrap_or_default().into_iter().map(f64::from),
    );
    // Parameters stand in order for those activations that have them.
    let one = |name: String| {
        let (a, b) = match name.to_ascii_lowercase().as_str() {
            "affine" | "scaledtanh" | "hardsigmoid" => (alpha.next(), beta.next()),
            "leakyrelu" | "thresholdedrelu" | "elu" => (alpha.next(), None),
            _ => (None, None),
        };
        Activation { name, alpha: a, beta: b }
    };
    Ok(names.into_iter().map(one).collect())
}

fn layer(cx: &mut NodeCx, cell: Cell) -> Result<Vec<Meaning>> {
    let (mut x, w, r) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (bias, lengths, h0) = (cx.optional(3)?, cx.optional(4)?, cx.optional(5)?);
    let (c0, peephole) = if cell == Cell::Lstm { (cx.optional(6)?, cx.optional(7)?) } else { (None, None) };
    let batch_first = cx.int("layout", 0) == 1;
    let gates: i64 = match cell {
        Cell::Rnn => 1,
        Cell::Gru => 3,
        Cell::Lstm => 4,
    };
    let (tw, tr) = (cx.ty(w), cx.ty(r));
    if cx.ty(x).rank() != 3 || tw.rank() != 3 || tr.rank() != 3 {
        return Err(cx.invalid(format!("operands {}, {tw} and {tr}, expected three axes each", cx.ty(x))));
    }
    let kinds: &[bool] = match cx.string("direction", "forward").as_str() {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => return Err(cx.invalid(format!("direction {}", other.escape_debug()))),
    };
    cx.equal(&tw.shape[0], &(kinds.len() as i64).into(), "directions of the weights are")?;
    let hidden = tr.shape[2].clone();
    cx.equal(&tr.shape[1], &(hidden.clone() * gates.into()), "gates of the recurrence have extent")?;
    if cx.has("hidden_size") {
        let stated = cx.int("hidden_size", 0);
        cx.equal(&hidden, &stated.into(), "the hidden state has extent")?;
    }
    if batch_first {
        x = cx.transpose(x, vec![1, 0, 2])?;
    }
    let t = cx.ty(x);
    let steps = cx.fixed(&t.shape[0], "a sequence")?;
    if steps == 0 || steps > LONGEST {
        return Err(cx.unsupported(format!("a sequence of {steps} steps, the longest is {LONGEST}")));
    }
    let batch = t.shape[1].clone();
    let all = activations(cx, cell, kinds.len())?;
    let lengths = match lengths {
        Some(l) => Some(cx.cast(l, DType::I64)?),
        None => None,
    };
    let clip = cx.has("clip").then(|| cx.float("clip", 0.0));
    let (linear_before_reset, input_forget) = (
        cell == Cell::Gru && cx.int("linear_before_reset", 0) == 1,
        cell == Cell::Lstm && cx.int("input_forget", 0) == 1,
    );
    let (mut ys, mut hs, mut cs) = (vec![], vec![], vec![]);
    for (d, &backwards) in kinds.iter().enumerate() {
        let own = |cx: &mut NodeCx, v: ValueId| cx.element(v, 0, Dim::from(d as i64));
        let width = hidden.clone() * gates.into();
        let (input_bias, state_bias) = match bias {
            Some(b) => {
                let b = own(cx, b)?;
                (Some(cx.part(b, 0, 0.into(), width.clone())?), Some(cx.part(b, 0, width.clone(), width)?))
            }
            None => (None, None),
        };
        let direction = Direction {
            cell,
            recurrence: own(cx, r)?,
            bias: state_bias,
            peephole: peephole.map(|p| own(cx, p)).transpose()?,
            activations: all[d * all.len() / kinds.len()..(d + 1) * all.len() / kinds.len()].to_vec(),
            hidden: hidden.clone(),
            clip,
            linear_before_reset,
            input_forget,
        };
        let start = |cx: &mut NodeCx, v: Option<ValueId>| -> Result<ValueId> {
            match v {
                Some(v) => {
                    let axis = usize::from(batch_first);
                    cx.element(v, axis, Dim::from(d as i64))
                }
                None => {
                    let zero = cx.emit_constant(&Tensor::scalar(t.dtype, 0.0));
                    cx.broadcast(zero, vec![batch.clone(), hidden.clone()])
                }
            }
        };
        let mut h = start(cx, h0)?;
        let mut c = if cell == Cell::Lstm { Some(start(cx, c0)?) } else { None };
        let turn = |cx: &mut NodeCx, v: ValueId| match lengths {
            Some(l) => {
                let l = cx.along(l, 1, 3)?;
                reversed(cx, v, l, 0)
            }
            None => cx.flip(v, 0),
        };
        let forward = if backwards { turn(cx, x)? } else { x };
        let weights = own(cx, w)?;
        let mut given = cx.matmul(forward, weights, true)?;
        if let Some(b) = input_bias {
            given = cx.binary(Add, given, b)?;
        }
        let mut outputs = vec![];
        for step in 0..steps as i64 {
            let x = cx.element(given, 0, step.into())?;
            let (new_h, new_c) = direction.step(cx, x, h, c)?;
            let mut shown = new_h;
            match lengths {
                // Past the end of its sequence a state stays as it is, and the output is 0.
                Some(l) => {
                    let l = cx.along(l, 0, 2)?;
                    let inside = cx.compare_scalar(CompareKind::Gt, l, step as f64)?;
                    let zero = cx.scalar_like(new_h, 0.0);
                    shown = cx.select(inside, new_h, zero)?;
                    h = cx.select(inside, new_h, h)?;
                    c = match (new_c, c) {
                        (Some(n), Some(c)) => Some(cx.select(inside, n, c)?),
                        _ => None,
                    };
                }
                None => (h, c) = (new_h, new_c),
            }
            outputs.push(shown);
        }
        let y = cx.stack(&outputs, 0)?;
        ys.push(if backwards { turn(cx, y)? } else { y });
        hs.push(h);
        cs.extend(c);
    }
    let (y, h) = (cx.stack(&ys, 1)?, cx.stack(&hs, 0)?);
    let mut states = vec![h];
    if cell == Cell::Lstm {
        states.push(cx.stack(&cs, 0)?);
    }
    let mut results = vec![value(if batch_first { cx.transpose(y, vec![2, 0, 1, 3])? } else { y })];
    for s in states {
        results.push(value(if batch_first { cx.transpose(s, vec![1, 0, 2])? } else { s }));
    }
    Ok(results)
}

pub(super) const OPS: Topic =
    &[("RNN", |cx| layer(cx, Cell::Rnn)), ("GRU", |cx| layer(cx, Cell::Gru)), ("LSTM", |cx| layer(cx, Cell::Lstm))];
