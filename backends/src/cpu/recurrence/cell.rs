//! What a step does to a vector of hidden units once the products are there.

use super::{Body, Columns};
use crate::cpu::element;
use crate::emit::{KernelBuilder, Val, math};
use crate::kernel::LaunchBuilder;
use tersor_ir::DType;
use tersor_ir::ops::activation::{Activation, ActivationKind};
use tersor_ir::ops::recurrence::Cell;
use tersor_ir::ops::unary::UnaryKind;

/// A vector of hidden units of a row.
pub struct Unit<'a> {
    pub body: &'a Body<'a>,
    pub columns: Columns,
    /// Row of the block.
    pub row: i64,
    /// Element of `x` at the first gate of the row, and of `y` at the row.
    pub given: Val,
    pub result: Val,
    /// Bytes of scratch where the hidden states are read and written.
    pub now: Val,
    pub next: Val,
}

impl Unit<'_> {
    fn address(&self, b: &mut LaunchBuilder, place: Val) -> Val {
        let p = self.body.place(b, place, self.row);
        b.elem(p, self.columns.j, self.body.register)
    }
    fn kept(&self, b: &mut LaunchBuilder, place: Val) -> Val {
        let p = self.address(b, place);
        b.load(p, self.body.vector())
    }
    fn keep(&self, b: &mut LaunchBuilder, v: Val, place: Val) {
        let p = self.address(b, place);
        b.store(v, p);
    }
    /// What the input gives to a gate, plus `sum`.
    fn gate(&self, b: &mut LaunchBuilder, gate: i64, sum: Val) -> Val {
        let first = b.i64(gate * self.body.hidden);
        let at = b.add(self.given, first);
        let x = self.body.load(b, self.body.x, at, self.columns);
        b.add(x, sum)
    }
    fn parameter(&self, b: &mut LaunchBuilder, which: i64) -> Option<Val> {
        let parameters = self.body.parameters?;
        let at = b.i64(which * self.body.hidden);
        Some(self.body.load(b, parameters, at, self.columns))
    }
    fn peep(&self, b: &mut LaunchBuilder, which: i64, gate: Val, c: Val) -> Val {
        match self.parameter(b, which) {
            Some(p) => b.fma(p, c, gate),
            None => gate,
        }
    }
    /// An activation of what is held within the clip.
    fn activate(&self, b: &mut LaunchBuilder, f: &Activation, x: Val) -> Val {
        let clip = self.body.op.clip.0;
        let x = if clip < f64::INFINITY { math::clamp(b, x, -clip, clip) } else { x };
        activation(b, f, x)
    }

    /// From the sums of a pass on.
    pub fn finish(&self, b: &mut LaunchBuilder, pass: usize, sums: &[Val]) {
        let (op, f) = (self.body.op, self.body.op.functions());
        let (cells, reset) = (b.i64(2 * self.body.plane), b.i64(3 * self.body.plane));
        let h = match (op.kind, pass) {
            (Cell::Rnn, _) => {
                let a = self.gate(b, 0, sums[0]);
                self.activate(b, &f[0], a)
            }
            (Cell::Gru, 0) => {
                let [z, r] = [0, 1].map(|k| {
                    let a = self.gate(b, k, sums[k as usize]);
                    self.activate(b, &f[0], a)
                });
                let h = self.kept(b, self.now);
                if !op.reset_after {
                    self.keep(b, z, cells);
                    let h = b.mul(r, h);
                    return self.keep(b, h, reset);
                }
                let seen = match self.parameter(b, 0) {
                    Some(p) => b.add(sums[2], p),
                    None => sums[2],
                };
                let seen = b.mul(r, seen);
                self.updated(b, &f[1], seen, z, h)
            }
            (Cell::Gru, _) => {
                let (z, h) = (self.kept(b, cells), self.kept(b, self.now));
                self.updated(b, &f[1], sums[0], z, h)
            }
            (Cell::Lstm, _) => {
                let c = self.kept(b, cells);
                let i = self.gate(b, 0, sums[0]);
                let i = self.peep(b, 0, i, c);
                let i = self.activate(b, &f[0], i);
                let forget = if op.input_forget {
                    let one = b.float(i.ty(), 1.0);
                    b.sub(one, i)
                } else {
                    let a = self.gate(b, 2, sums[2]);
                    let a = self.peep(b, 2, a, c);
                    self.activate(b, &f[0], a)
                };
                let new = self.gate(b, 3, sums[3]);
                let new = self.activate(b, &f[1], new);
                let new = b.mul(i, new);
                let c = b.fma(forget, c, new);
                self.keep(b, c, cells);
                let o = self.gate(b, 1, sums[1]);
                let o = self.peep(b, 1, o, c);
                let o = self.activate(b, &f[0], o);
                let shown = activation(b, &f[2], c);
                b.mul(o, shown)
            }
        };
        self.keep(b, h, self.next);
        if let Some(y) = self.body.y {
            self.body.store(b, h, y, self.result, self.columns);
        }
    }

    /// The hidden state of a `gru`.
    fn updated(&self, b: &mut LaunchBuilder, f: &Activation, seen: Val, z: Val, h: Val) -> Val {
        let a = self.gate(b, 2, seen);
        let n = self.activate(b, f, a);
        let d = b.sub(h, n);
        b.fma(z, d, n)
    }
}

fn activation(k: &mut KernelBuilder, f: &Activation, x: Val) -> Val {
    use ActivationKind::*;
    let ty = x.ty();
    let unary = |k: &mut KernelBuilder, kind: UnaryKind, x: Val| element::unary(k, kind, DType::F32, x);
    let (alpha, beta, zero) = (k.float(ty, f.alpha.0), k.float(ty, f.beta.0), k.zero(ty));
    match f.kind {
        Tanh => unary(k, UnaryKind::Tanh, x),
        Sigmoid => unary(k, UnaryKind::Sigmoid, x),
        Relu => unary(k, UnaryKind::Relu, x),
        Softplus => unary(k, UnaryKind::Softplus, x),
        Softsign => {
            let (size, one) = (k.abs(x), k.float(ty, 1.0));
            let d = k.add(one, size);
            k.div(x, d)
        }
        Affine => k.fma(alpha, x, beta),
        ScaledTanh => {
            let y = k.mul(beta, x);
            let y = unary(k, UnaryKind::Tanh, y);
            k.mul(alpha, y)
        }
        HardSigmoid => {
            let y = k.fma(alpha, x, beta);
            math::clamp(k, y, 0.0, 1.0)
        }
        LeakyRelu => {
            let (above, y) = (k.gt(x, zero), k.mul(alpha, x));
            k.select(above, x, y)
        }
        ThresholdedRelu => {
            let above = k.gt(x, alpha);
            k.select(above, x, zero)
        }
        Elu => {
            let (above, one) = (k.gt(x, zero), k.float(ty, 1.0));
            let y = unary(k, UnaryKind::Exp, x);
            let y = k.sub(y, one);
            let y = k.mul(alpha, y);
            k.select(above, x, y)
        }
    }
}
