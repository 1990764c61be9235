//! Rows in scratch: converted to what a scheme multiplies, zeros up to its unit.

use crate::emit::{KernelBuilder, Scalar, Ty, Val};

/// From the storage of operands to that of packed rows.
#[derive(Copy, Clone, Debug)]
pub struct Change {
    pub from: Scalar,
    pub to: Scalar,
    /// Whether integers have no sign.
    pub unsigned: bool,
    /// Added to bytes modulo 256: 128 turns signed bytes into unsigned ones.
    pub bias: i64,
}

impl Change {
    /// Whether packed elements are the same bytes as stored ones.
    pub fn none(&self) -> bool {
        self.from == self.to && self.bias == 0
    }

    /// What an element is loaded as: a number of that many bits where it is only copied, for machines without such floats.
    fn loaded(&self) -> Scalar {
        match (self.from, self.from == self.to) {
            (Scalar::BF16 | Scalar::F16, true) => Scalar::I16,
            (from, _) => from,
        }
    }

    fn apply(&self, k: &mut KernelBuilder, v: Val) -> Val {
        let v = match (self.from, self.to) {
            (a, b) if a == b => v,
            (a, b) if a.is_float() && b.is_float() => k.to_float_type(v, b),
            (_, b) if self.unsigned => k.zext(v, b),
            (_, b) => k.sext(v, b),
        };
        if self.bias == 0 {
            return v;
        }
        let bias = k.int(v.ty(), self.bias);
        k.xor(v, bias)
    }

    /// Copies `count` elements.
    pub fn run(&self, k: &mut KernelBuilder, from: Val, to: Val, count: i64) {
        let lanes = 64 / i64::from(self.from.bytes().max(self.to.bytes()));
        let (zero, whole) = (k.i64(0), k.i64(count / lanes * lanes));
        let step = |k: &mut KernelBuilder, i: Val, n: i64| {
            let (a, b) = (k.elem(from, i, self.from), k.elem(to, i, self.to));
            let v = k.load(a, self.loaded().x(n as u32));
            let v = self.apply(k, v);
            k.store(v, b);
        };
        if count / lanes == 1 {
            step(k, zero, lanes);
        } else if count >= lanes {
            k.loop_(zero, whole, lanes, |k, i| step(k, i, lanes));
        }
        each_part(count, lanes, |at, n| {
            let i = k.i64(at);
            step(k, i, n);
        });
    }

    /// Stores `count` packed elements that stand for zero.
    pub fn zeros(&self, k: &mut KernelBuilder, to: Val, count: i64) {
        let lanes = 64 / i64::from(self.to.bytes());
        let value = |k: &mut KernelBuilder, ty: Ty| if self.bias == 0 { k.zero(ty) } else { k.int(ty, self.bias) };
        let (zero, whole) = (k.i64(0), k.i64(count / lanes * lanes));
        if count >= lanes {
            k.loop_(zero, whole, lanes, |k, i| {
                let (at, v) = (k.elem(to, i, self.to), value(k, self.to.x(lanes as u32)));
                k.store(v, at);
            });
        }
        each_part(count, lanes, |at, n| {
            let i = k.i64(at);
            let (at, v) = (k.elem(to, i, self.to), value(k, self.to.x(n as u32)));
            k.store(v, at);
        });
    }
}

/// The powers of two that make up what is left of `count` after whole vectors.
fn each_part(count: i64, lanes: i64, mut part: impl FnMut(i64, i64)) {
    let mut at = count / lanes * lanes;
    let mut n = lanes / 2;
    while n > 0 {
        if (count - at) & n != 0 {
            part(at, n);
            at += n;
        }
        n /= 2;
    }
}
