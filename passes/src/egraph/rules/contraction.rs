//! Scales into weights, and chains of products.

use super::Rule;
use super::algebra::binary;
use crate::egraph::node::Build;
use crate::egraph::pattern::Bind;
use egg::Id;
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::ops::{Broadcast, Conv, MatMul, Reshape};
use tersor_ir::{Dim, Op};

/// A factor on the channels of a convolution's result, as one on its kernel `[O, I, …]`.
fn on_kernel(b: &mut Build, c: &Conv, s: Id, w: Id) -> Option<Id> {
    let (t, rank, out) = (b.ty(s).clone(), b.ty(w).rank(), b.ty(w).shape[0].clone());
    let one = Dim::from(1);
    if t.elements() == one {
        return b.op(Reshape { shape: vec![] }, &[s]);
    }
    let channel = if c.channels_last { rank - 1 } else { 1 };
    let at = |i: usize| i + t.rank() >= rank && t.shape[i + t.rank() - rank] != one;
    if t.rank() > rank || (0..rank).any(|i| i != channel && at(i)) || t.elements() != out {
        return None;
    }
    let mut shape = vec![one; rank];
    shape[0] = out;
    b.op(Reshape { shape }, &[s])
}

/// `conv(x, w) * s` with `s` for each channel as `conv(x, w * s)`.
fn scale_conv(b: &mut Build, m: &Bind) -> Option<Id> {
    let Op::Conv(c) = m.op("c") else { return None };
    let (x, w, s) = (m.var("x"), m.var("w"), m.var("s"));
    if b.is_weight(x) || !b.ty(w).dtype.is_float() || b.ty(w).dtype != b.ty(s).dtype {
        return None;
    }
    let s = on_kernel(b, c, s, w)?;
    let w = b.scaled(w, s)?;
    b.op(c.clone(), &[x, w])
}

/// `x w * s` with `s` for each column as `x (w * s)`.
fn scale_matmul(b: &mut Build, m: &Bind) -> Option<Id> {
    let Op::MatMul(p) = m.op("m") else { return None };
    let (x, w, s) = (m.var("x"), m.var("w"), m.var("s"));
    let t = b.ty(s).clone();
    if b.is_weight(x) || b.ty(w).rank() != 2 || !b.ty(w).dtype.is_float() || t.dtype != b.ty(w).dtype || p.wide {
        return None;
    }
    let columns = t.shape.split_last().is_none_or(|(_, lead)| lead.iter().all(|d| *d == Dim::Const(1)));
    if !columns {
        return None;
    }
    let n = t.elements();
    let shape = if n == Dim::Const(1) {
        vec![]
    } else if p.trans_b {
        vec![n, 1.into()]
    } else {
        vec![n]
    };
    let s = b.op(Reshape { shape }, &[s])?;
    let w = b.scaled(w, s)?;
    b.op(p.clone(), &[x, w])
}

/// `(y + c) * s` as `y * s + c * s`, so that the scale meets what makes `y`.
fn distribute(b: &mut Build, m: &Bind) -> Option<Id> {
    let Op::Conv(c) = m.op("c") else { return None };
    let (x, w, bias, s) = (m.var("x"), m.var("w"), m.var("b"), m.var("s"));
    let y = b.op(c.clone(), &[x, w])?;
    if b.ty(y).rank() < b.ty(bias).rank() || b.ty(y).rank() < b.ty(s).rank() {
        return None;
    }
    let (y, bias) = (binary(b, BinaryKind::Mul, y, s)?, binary(b, BinaryKind::Mul, bias, s)?);
    binary(b, BinaryKind::Add, y, bias)
}

/// `x yᵀ` without moving `y`.
fn transposed_right(b: &mut Build, m: &Bind) -> Option<Id> {
    let (Op::MatMul(p), Op::Transpose(t), y) = (m.op("m"), m.op("t"), m.var("y")) else { return None };
    let n = t.perm.len();
    let mut swap: Vec<u8> = (0..n as u8).collect();
    if n < 2 || b.is_weight(y) {
        return None;
    }
    swap.swap(n - 1, n - 2);
    if t.perm != swap {
        return None;
    }
    b.op(MatMul { trans_b: !p.trans_b, ..p.clone() }, &[m.var("x"), y])
}

/// A constant of one number for each channel, or one for all, as a tensor of this shape; `None` where it is another.
fn channels_of(b: &mut Build, c: Id, channel: usize, shape: Vec<Dim>) -> Option<Id> {
    let t = b.ty(c);
    let lead = shape.len().checked_sub(t.rank())?;
    let one = |i: usize| t.shape[i] == Dim::Const(1) || i + lead == channel;
    if !(0..t.rank()).all(one) {
        return None;
    }
    b.op(Broadcast { shape }, &[c])
}

/// Whether alternatives stand for a weight: what they make of a constant is known once one is picked.
fn is_open(b: &Build, w: Id) -> bool {
    b.ops(w).iter().any(|(op, _)| matches!(op, Op::Choice(_)))
}

fn absorb_matmul(b: &mut Build, m: &Bind) -> Option<Id> {
    let Op::MatMul(p) = m.op("m") else { return None };
    let (x, c, w) = (m.var("x"), m.var("c"), m.var("w"));
    let t = b.ty(x).clone();
    if b.is_weight(x) || is_open(b, w) || p.trans_a || p.wide || t.rank() < b.ty(c).rank().max(2) {
        return None;
    }
    let mut shape = vec![Dim::Const(1); t.rank() - 1];
    shape.push(t.shape[t.rank() - 1].clone());
    let c = channels_of(b, c, t.rank() - 1, shape)?;
    let (y, bias) = (b.op(p.clone(), &[x, w])?, b.op(p.clone(), &[c, w])?);
    binary(b, BinaryKind::Add, y, bias)
}

fn absorb_conv(b: &mut Build, m: &Bind) -> Option<Id> {
    let Op::Conv(p) = m.op("m") else { return None };
    let (x, c, w) = (m.var("x"), m.var("c"), m.var("w"));
    let (t, kernel) = (b.ty(x).clone(), b.ty(w).shape.clone());
    // At a border that is padded with 0 the constant is missing.
    if b.is_weight(x) || is_open(b, w) || p.pads.iter().any(|&n| n != 0) || t.rank() < b.ty(c).rank() {
        return None;
    }
    let (_, channel, first) = Conv::axes(p.channels_last, t.rank());
    let mut shape = vec![Dim::Const(1); t.rank()];
    shape[channel] = t.shape[channel].clone();
    shape[first..first + kernel.len() - 2].clone_from_slice(&kernel[2..]);
    let c = channels_of(b, c, channel, shape)?;
    let ones = vec![1; kernel.len() - 2];
    let alone = Conv { strides: ones.clone(), dilations: ones, ..p.clone() };
    let (y, bias) = (b.op(p.clone(), &[x, w])?, b.op(alone, &[c, w])?);
    binary(b, BinaryKind::Add, y, bias)
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "conv/fold-scale",
        pattern: "(mul (conv:c ?x ?w:const) ?s:const)",
        apply: scale_conv,
        examples: &[
            "(%x: f32[{A},{B},6,7]) -> (%y: f32[{A},{C},6,7]) {
            const w = f32[{C},{B},3,3]; const s = f32[{C},1,1];
            %c = conv %x, @w {strides=[1,1], pads=[1,1,1,1], dilations=[1,1]} : f32[{A},{C},6,7]
            %y = mul %c, @s : f32[{A},{C},6,7] }",
            "(%x: f32[{A},5,{B}]) -> (%y: f32[{A},4,{C}]) {
            const w = f32[{C},{B},2]; const s = f32[{C}];
            %c = conv %x, @w {strides=[1], pads=[0,0], dilations=[1], channels_last} : f32[{A},4,{C}]
            %y = mul @s, %c : f32[{A},4,{C}] }",
        ],
    },
    Rule {
        name: "conv/distribute-scale",
        pattern: "(mul (add (conv:c ?x ?w:const) ?b:const) ?s:const)",
        apply: distribute,
        examples: &["(%x: f32[{A},{B},5,5]) -> (%y: f32[{A},{C},5,5]) {
            const w = f32[{C},{B},1,1]; const s = f32[{C},1,1]; const b = f32[{C},1,1];
            %c = conv %x, @w {strides=[1,1], pads=[0,0,0,0], dilations=[1,1]} : f32[{A},{C},5,5]
            %a = add %c, @b : f32[{A},{C},5,5]
            %y = mul %a, @s : f32[{A},{C},5,5] }"],
    },
    Rule {
        name: "matmul/fold-scale",
        pattern: "(mul (matmul:m ?x ?w:const) ?s:const)",
        apply: scale_matmul,
        examples: &[
            "(%x: f32[{A},{B}]) -> (%y: f32[{A},{C}]) {
            const w = f32[{B},{C}]; const s = f32[{C}];
            %p = matmul %x, @w : f32[{A},{C}]
            %y = mul %p, @s : f32[{A},{C}] }",
            "(%x: f32[{A},{B}]) -> (%y: f32[{A},{C}]) {
            const w = f32[{C},{B}]; const s = f32[1,{C}];
            %p = matmul %x, @w {trans_b} : f32[{A},{C}]
            %y = mul @s, %p : f32[{A},{C}] }",
            "(%x: f32[{A},{B}]) -> (%y: f32[{A},{C}]) {
            const q = i8[{C},{B}]; const f = f32[{C},1]; const s = f32[{C}];
            %w = decode.affine @q, @f : f32[{C},{B}]
            %p = matmul %x, %w {trans_b} : f32[{A},{C}]
            %y = mul %p, @s : f32[{A},{C}] }",
            "(%x: f32[{A},{B}]) -> (%y: f32[{A},{C}]) {
            const q = i8[{C},{B}]; const f = f32[{C},1]; const s = f32[{C}]; const e = f32[{C},{B}];
            %d = decode.affine @q, @f : f32[{C},{B}]
            %w = choice @site {exact: @e, int8: %d} : f32[{C},{B}]
            %p = matmul %x, %w {trans_b} : f32[{A},{C}]
            %y = mul %p, @s : f32[{A},{C}] }",
        ],
    },
    Rule {
        name: "matmul/transposed-right",
        pattern: "(matmul:m ?x (transpose:t ?y))",
        apply: transposed_right,
        examples: &[
            "(%x: f32[{A},{B},{C}], %z: f32[{A},{D},{C}]) -> (%y: f32[{A},{B},{D}]) {
            %t = transpose %z {perm=[0,2,1]} : f32[{A},{C},{D}]
            %y = matmul %x, %t : f32[{A},{B},{D}] }",
            "(%x: f32[{A},{B}], %z: f32[{B},{C}]) -> (%y: f32[{A},{C}]) {
            %t = transpose %z {perm=[1,0]} : f32[{C},{B}]
            %y = matmul %x, %t {trans_b} : f32[{A},{C}] }",
        ],
    },
    Rule {
        name: "matmul/split-product",
        pattern: "(matmul:m ?x (matmul:n ?u:const ?v:const))",
        apply: |b, m| {
            if b.is_weight(m.var("x")) || *m.op("m") != Op::from(plain()) || *m.op("n") != Op::from(plain()) {
                return None;
            }
            let xu = b.op(plain(), &[m.var("x"), m.var("u")])?;
            b.op(plain(), &[xu, m.var("v")])
        },
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{C}]) {
            const u = f32[{B},{D}]; const v = f32[{D},{C}];
            %w = matmul @u, @v : f32[{B},{C}]
            %y = matmul %x, %w : f32[{A},{C}] }"],
    },
    Rule {
        name: "matmul/join-product",
        pattern: "(matmul:m (matmul:n ?x ?u:const) ?v:const)",
        apply: |b, m| {
            if b.is_weight(m.var("x"))
                || *m.op("m") != Op::from(plain())
                || *m.op("n") != Op::from(plain())
                || b.ty(m.var("u")).rank() != 2
            {
                return None;
            }
            let uv = b.op(plain(), &[m.var("u"), m.var("v")])?;
            b.op(plain(), &[m.var("x"), uv])
        },
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{C}]) {
            const u = f32[{B},{D}]; const v = f32[{D},{C}];
            %p = matmul %x, @u : f32[{A},{D}]
            %y = matmul %p, @v : f32[{A},{C}] }"],
    },
    Rule {
        name: "matmul/absorb-bias",
        pattern: "(matmul:m (add ?x ?c:const) ?w:const)",
        apply: absorb_matmul,
        examples: &[
            "(%x: f32[{A},{B}]) -> (%y: f32[{A},{C}]) {
            const w = f32[{B},{C}]; const c = f32[{B}];
            %s = add %x, @c : f32[{A},{B}]
            %y = matmul %s, @w : f32[{A},{C}] }",
            "(%x: f32[{A},3,{B}]) -> (%y: f32[{A},3,{C}]) {
            const q = i8[{C},{B}]; const f = f32[{C},1]; const c = 1.5;
            %w = decode.affine @q, @f : f32[{C},{B}]
            %s = add @c, %x : f32[{A},3,{B}]
            %y = matmul %s, %w {trans_b} : f32[{A},3,{C}] }",
        ],
    },
    Rule {
        name: "conv/absorb-bias",
        pattern: "(conv:m (add ?x ?c:const) ?w:const)",
        apply: absorb_conv,
        examples: &[
            "(%x: f32[{A},{B},7,9]) -> (%y: f32[{A},{C},3,3]) {
            const w = f32[{C},{B},3,2]; const c = f32[{B},1,1];
            %s = add %x, @c : f32[{A},{B},7,9]
            %y = conv %s, @w {strides=[2,3], pads=[0,0,0,0], dilations=[1,2]} : f32[{A},{C},3,3] }",
            "(%x: f32[{A},5,{B}]) -> (%y: f32[{A},4,{C}]) {
            const w = f32[{C},{B},2]; const c = f32[{B}];
            %s = add %x, @c : f32[{A},5,{B}]
            %y = conv %s, @w {strides=[1], pads=[0,0], dilations=[1], channels_last} : f32[{A},4,{C}] }",
        ],
    },
];

fn plain() -> MatMul {
    MatMul { trans_a: false, trans_b: false, wide: false }
}
