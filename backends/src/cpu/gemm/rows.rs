//! Rows in scratch: converted to what a scheme multiplies, zeros up to its unit.

use crate::cpu::encoded::codes::{Codes, PARAM_BYTES};
use crate::emit::{Intrinsic, KernelBuilder, Scalar, Ty, Val};
use crate::kernel::GroupCx;
use tersor_ir::{Def, Op, ValueId};

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

/// Rows of codes with a scale for each `group` neighbours, which a product takes as they are.
#[derive(Copy, Clone, Debug)]
pub struct Coded {
    pub codes: ValueId,
    pub scales: ValueId,
    pub group: i64,
}

impl Coded {
    /// What a group's own `decode` of a left operand reads.
    pub fn of(cx: &GroupCx, a: ValueId) -> Option<Coded> {
        let Def::Node(n, _) = cx.f.values[a].def else { return None };
        let (Op::DecodeAffine(d), true) = (&cx.f.nodes[n].op, cx.inside(a)) else { return None };
        let [codes, scales] = cx.f.nodes[n].operands[..] else { return None };
        Some(Coded { codes, scales, group: d.group.into() })
    }

    /// Copies a row, with scales and sums of codes beside it for each segment.
    pub fn copy(&self, k: &mut KernelBuilder, c: &Codes, (from, scales): (Val, Val), to: Val, depth: i64) {
        let change = Change { from: Scalar::I8, to: Scalar::I8, unsigned: false, bias: 0 };
        change.run(k, from, to, depth);
        let (zero, count, size) = (k.i64(0), k.i64(depth / c.segment), k.i64(c.segment));
        k.loop_(zero, count, 1, |k, segment| {
            let first = k.mul(segment, size);
            let (from, step) = (k.gep(from, first), k.i64(PARAM_BYTES));
            let beside = k.mul(segment, step);
            let beside = k.gep(to, beside);
            let beside = k.offset(beside, depth);
            let group = k.i64(self.group);
            let group = k.div(first, group);
            let scale = k.elem(scales, group, Scalar::F32);
            let scale = k.load(scale, Ty::F32);
            k.store(scale, beside);
            let sum = sum(k, from, c.segment);
            let factor = k.i32(c.factor() as i32);
            let sum = k.mul(sum, factor);
            let beside = k.offset(beside, 4);
            k.store(sum, beside);
        });
    }

    /// Decodes a row to `f32`.
    pub fn decode(&self, k: &mut KernelBuilder, (from, scales): (Val, Val), to: Val, depth: i64) {
        let (zero, count, size) = (k.i64(0), k.i64(depth / self.group), k.i64(self.group));
        k.loop_(zero, count, 1, |k, group| {
            let first = k.mul(group, size);
            let (from, to) = (k.gep(from, first), k.elem(to, first, Scalar::F32));
            let scale = k.elem(scales, group, Scalar::F32);
            let scale = k.load(scale, Ty::F32);
            let step = |k: &mut KernelBuilder, at: Val, n: i64| {
                let (from, to) = (k.gep(from, at), k.elem(to, at, Scalar::F32));
                let q = k.load(from, Scalar::I8.x(n as u32));
                let q = k.to_float(q, Scalar::F32);
                let scale = k.splat(scale, n as u32);
                let x = k.mul(q, scale);
                k.store(x, to);
            };
            let whole = k.i64(self.group / LANES * LANES);
            k.loop_(zero, whole, LANES, |k, at| step(k, at, LANES));
            each_part(self.group, LANES, |at, n| {
                let at = k.i64(at);
                step(k, at, n);
            });
        });
    }
}

/// Floats of a vector.
const LANES: i64 = 16;

/// The sum of `count` bytes, a multiple of 4, on machines with VNNI.
fn sum(k: &mut KernelBuilder, from: Val, count: i64) -> Val {
    let (bytes, word) = (Scalar::I8.x(32), Scalar::I32.x(8));
    let (ones, mut sums) = (k.int(bytes, 1), k.zero(word));
    let whole = count / 32 * 32;
    let (zero, end, step) = (k.i64(0), k.i64(whole), k.i64(32));
    let add = |k: &mut KernelBuilder, at: Val, sums: Val| {
        let at = k.gep(from, at);
        let x = k.load(at, bytes);
        k.intrinsic(Intrinsic::Vpdpbusd256, &[sums, ones, x])
    };
    if whole > 0 {
        sums = k.for_(zero, end, step, &[sums], |k, at, sums| vec![add(k, at, sums[0])])[0];
    }
    let mut sum = k.reduce_add(sums);
    each_part(count, 32, |at, n| {
        let at = k.offset(from, at);
        let x = k.load(at, Scalar::I8.x(n as u32));
        let x = k.sext(x, Scalar::I32);
        let x = k.reduce_add(x);
        sum = k.add(sum, x);
    });
    sum
}
