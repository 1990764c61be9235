//! Sums and products with constants, and functions of one element.

use super::Rule;
use super::function::of_x;
use crate::egraph::node::Build;
use crate::egraph::pattern::Bind;
use egg::Id;
use tersor_ir::ops::Unary;
use tersor_ir::ops::binary::{Binary, BinaryKind};
use tersor_ir::ops::unary::UnaryKind;

fn unary(b: &mut Build, kind: UnaryKind, x: Id) -> Option<Id> {
    b.op(Unary { kind }, &[x])
}

pub(super) fn binary(b: &mut Build, kind: BinaryKind, x: Id, y: Id) -> Option<Id> {
    b.op(Binary { kind }, &[x, y])
}

fn scalar(b: &mut Build, like: Id, v: f64) -> Id {
    let dtype = b.ty(like).dtype;
    b.scalar(dtype, v)
}

/// `f(f(x, c), d)` as `f(x, f(c, d))`: the constants meet.
fn constants_meet(b: &mut Build, m: &Bind, kind: BinaryKind) -> Option<Id> {
    let (x, c, d) = (m.var("x"), m.var("c"), m.var("d"));
    if b.is_weight(x) || !b.ty(x).dtype.is_float() {
        return None;
    }
    // What is known is computed, and neutral elements drop out: otherwise `r = r * 1` would grow without end.
    let neutral = if kind == BinaryKind::Mul { 1.0 } else { 0.0 };
    let joined = match (b.splat(c), b.splat(d)) {
        (Some(u), Some(v)) => scalar(b, x, if kind == BinaryKind::Mul { u * v } else { u + v }),
        (Some(u), None) if u == neutral => d,
        (None, Some(v)) if v == neutral => c,
        _ => binary(b, kind, c, d)?,
    };
    let size = |b: &Build, id: Id| b.ty(id).static_elements();
    if size(b, joined) > size(b, c).max(size(b, d)) {
        return None;
    }
    binary(b, kind, x, joined)
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "algebra/product-of-constants",
        pattern: "(mul (mul ?x ?c:const) ?d:const)",
        apply: |b, m| constants_meet(b, m, BinaryKind::Mul),
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const c = f32[{B}]; const d = f32[1];
            %a = mul %x, @c : f32[{A},{B}]
            %y = mul @d, %a : f32[{A},{B}] }"],
    },
    Rule {
        name: "algebra/sum-of-constants",
        pattern: "(add (add ?x ?c:const) ?d:const)",
        apply: |b, m| constants_meet(b, m, BinaryKind::Add),
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const c = f32[{B}]; const d = f32[1];
            %a = add @c, %x : f32[{A},{B}]
            %y = add %a, @d : f32[{A},{B}] }"],
    },
    Rule {
        name: "algebra/divide-by-constant",
        pattern: "(div ?x ?c:splat)",
        apply: |b, m| {
            let c = b.splat(m.var("c"))?;
            let dtype = b.ty(m.var("x")).dtype;
            if !dtype.is_float()
                || c == 0.0
                || !(1.0 / c).is_finite()
                || b.ty(m.var("c")).rank() > b.ty(m.var("x")).rank()
            {
                return None;
            }
            let s = b.scalar(dtype, 1.0 / c);
            binary(b, BinaryKind::Mul, m.var("x"), s)
        },
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const c = 1.5;
            %y = div %x, @c : f32[{A},{B}] }"],
    },
    Rule {
        name: "algebra/reciprocal-of-sqrt",
        pattern: "(div 1 (sqrt ?x))",
        apply: |b, m| unary(b, UnaryKind::Rsqrt, m.var("x")),
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const c = 1.0;
            %e = exp %x : f32[{A},{B}]
            %s = sqrt %e : f32[{A},{B}]
            %y = div @c, %s : f32[{A},{B}] }"],
    },
    Rule {
        name: "algebra/reciprocal-of-sqrt-op",
        pattern: "(reciprocal (sqrt ?x))",
        apply: |b, m| unary(b, UnaryKind::Rsqrt, m.var("x")),
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            %e = exp %x : f32[{A},{B}]
            %s = sqrt %e : f32[{A},{B}]
            %y = reciprocal %s : f32[{A},{B}] }"],
    },
    Rule {
        name: "algebra/divide-by-sqrt",
        pattern: "(div ?x (sqrt ?v))",
        apply: |b, m| {
            if b.is_weight(m.var("x")) {
                return None;
            }
            let r = unary(b, UnaryKind::Rsqrt, m.var("v"))?;
            binary(b, BinaryKind::Mul, m.var("x"), r)
        },
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            %e = exp %x : f32[{A},{B}]
            %s = sqrt %e : f32[{A},{B}]
            %y = div %x, %s : f32[{A},{B}] }"],
    },
    Rule {
        name: "algebra/silu",
        pattern: "(mul ?x (sigmoid ?x))",
        apply: |b, m| of_x(b, m, UnaryKind::Silu),
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            %s = sigmoid %x : f32[{A},{B}]
            %y = mul %s, %x : f32[{A},{B}] }"],
    },
    Rule {
        name: "algebra/gelu-halved-last",
        pattern: "(mul (mul ?x (add (erf (mul ?x 0.70710678)) 1)) 0.5)",
        apply: |b, m| of_x(b, m, UnaryKind::Gelu),
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const r = 0.70710678118; const one = 1.0; const half = 0.5;
            %a = mul %x, @r : f32[{A},{B}]
            %e = erf %a : f32[{A},{B}]
            %s = add @one, %e : f32[{A},{B}]
            %p = mul %x, %s : f32[{A},{B}]
            %y = mul %p, @half : f32[{A},{B}] }"],
    },
    Rule {
        name: "algebra/gelu-halved-first",
        pattern: "(mul (mul ?x 0.5) (add (erf (mul ?x 0.70710678)) 1))",
        apply: |b, m| of_x(b, m, UnaryKind::Gelu),
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const r = 0.70710678118; const one = 1.0; const half = 0.5;
            %a = mul %x, @r : f32[{A},{B}]
            %e = erf %a : f32[{A},{B}]
            %s = add @one, %e : f32[{A},{B}]
            %p = mul %x, @half : f32[{A},{B}]
            %y = mul %p, %s : f32[{A},{B}] }"],
    },
    Rule {
        name: "algebra/gelu-halved-inside",
        pattern: "(mul ?x (mul (add (erf (mul ?x 0.70710678)) 1) 0.5))",
        apply: |b, m| of_x(b, m, UnaryKind::Gelu),
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const r = 0.70710678118; const one = 1.0; const half = 0.5;
            %a = mul %x, @r : f32[{A},{B}]
            %e = erf %a : f32[{A},{B}]
            %s = add @one, %e : f32[{A},{B}]
            %p = mul %s, @half : f32[{A},{B}]
            %y = mul %x, %p : f32[{A},{B}] }"],
    },
    Rule {
        name: "algebra/gelu-tanh",
        pattern: "(mul (mul ?x 0.5) (add (tanh (mul (add ?x (mul (pow ?x 3) 0.044715)) 0.79788456)) 1))",
        apply: |b, m| of_x(b, m, UnaryKind::GeluTanh),
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const three = 3.0; const k = 0.044715; const r = 0.7978845608; const one = 1.0; const half = 0.5;
            %c = pow %x, @three : f32[{A},{B}]
            %d = mul @k, %c : f32[{A},{B}]
            %e = add %x, %d : f32[{A},{B}]
            %f = mul %e, @r : f32[{A},{B}]
            %t = tanh %f : f32[{A},{B}]
            %s = add %t, @one : f32[{A},{B}]
            %h = mul @half, %x : f32[{A},{B}]
            %y = mul %h, %s : f32[{A},{B}] }"],
    },
];
