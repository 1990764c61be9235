//! Functions of one element that exporters write out in several ops.

use super::Rule;
use crate::egraph::node::Build;
use crate::egraph::pattern::Bind;
use egg::Id;
use tersor_ir::ops::Unary;
use tersor_ir::ops::unary::UnaryKind;

pub(super) fn of_x(b: &mut Build, m: &Bind, kind: UnaryKind) -> Option<Id> {
    if !b.ty(m.var("x")).dtype.is_float() {
        return None;
    }
    b.op(Unary { kind }, &[m.var("x")])
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "function/sigmoid",
        pattern: "(reciprocal (add (exp (neg ?x)) 1))",
        apply: |b, m| of_x(b, m, UnaryKind::Sigmoid),
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const one = 1.0;
            %n = neg %x : f32[{A},{B}]
            %e = exp %n : f32[{A},{B}]
            %s = add @one, %e : f32[{A},{B}]
            %y = reciprocal %s : f32[{A},{B}] }"],
    },
    Rule {
        name: "function/sigmoid-divided",
        pattern: "(div 1 (add (exp (neg ?x)) 1))",
        apply: |b, m| of_x(b, m, UnaryKind::Sigmoid),
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const one = 1.0;
            %n = neg %x : f32[{A},{B}]
            %e = exp %n : f32[{A},{B}]
            %s = add %e, @one : f32[{A},{B}]
            %y = div @one, %s : f32[{A},{B}] }"],
    },
    Rule {
        name: "function/silu-divided",
        pattern: "(div ?x (add (exp (neg ?x)) 1))",
        apply: |b, m| of_x(b, m, UnaryKind::Silu),
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const one = 1.0;
            %n = neg %x : f32[{A},{B}]
            %e = exp %n : f32[{A},{B}]
            %s = add %e, @one : f32[{A},{B}]
            %y = div %x, %s : f32[{A},{B}] }"],
    },
    Rule {
        name: "function/softplus",
        pattern: "(log (add (exp ?x) 1))",
        apply: |b, m| of_x(b, m, UnaryKind::Softplus),
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const one = 1.0;
            %e = exp %x : f32[{A},{B}]
            %s = add @one, %e : f32[{A},{B}]
            %y = log %s : f32[{A},{B}] }"],
    },
    Rule {
        name: "function/gelu-tanh-halved-last",
        pattern: "(mul (mul ?x (add (tanh (mul (add ?x (mul (pow ?x 3) 0.044715)) 0.79788456)) 1)) 0.5)",
        apply: |b, m| of_x(b, m, UnaryKind::GeluTanh),
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const three = 3.0; const k = 0.044715; const r = 0.7978845608; const one = 1.0; const half = 0.5;
            %c = pow %x, @three : f32[{A},{B}]
            %d = mul @k, %c : f32[{A},{B}]
            %e = add %x, %d : f32[{A},{B}]
            %f = mul %e, @r : f32[{A},{B}]
            %t = tanh %f : f32[{A},{B}]
            %s = add %t, @one : f32[{A},{B}]
            %p = mul %x, %s : f32[{A},{B}]
            %y = mul @half, %p : f32[{A},{B}] }"],
    },
    Rule {
        name: "function/gelu-tanh-of-products",
        pattern: "(mul (mul ?x 0.5) (add (tanh (mul (add ?x (mul (mul ?x (mul ?x ?x)) 0.044715)) 0.79788456)) 1))",
        apply: |b, m| of_x(b, m, UnaryKind::GeluTanh),
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const k = 0.044715; const r = 0.7978845608; const one = 1.0; const half = 0.5;
            %q = mul %x, %x : f32[{A},{B}]
            %c = mul %q, %x : f32[{A},{B}]
            %d = mul @k, %c : f32[{A},{B}]
            %e = add %x, %d : f32[{A},{B}]
            %f = mul %e, @r : f32[{A},{B}]
            %t = tanh %f : f32[{A},{B}]
            %s = add %t, @one : f32[{A},{B}]
            %h = mul @half, %x : f32[{A},{B}]
            %y = mul %h, %s : f32[{A},{B}] }"],
    },
    Rule {
        name: "function/gelu-tanh-of-products-halved-last",
        pattern: "(mul (mul ?x (add (tanh (mul (add ?x (mul (mul ?x (mul ?x ?x)) 0.044715)) 0.79788456)) 1)) 0.5)",
        apply: |b, m| of_x(b, m, UnaryKind::GeluTanh),
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const k = 0.044715; const r = 0.7978845608; const one = 1.0; const half = 0.5;
            %q = mul %x, %x : f32[{A},{B}]
            %c = mul %q, %x : f32[{A},{B}]
            %d = mul @k, %c : f32[{A},{B}]
            %e = add %x, %d : f32[{A},{B}]
            %f = mul %e, @r : f32[{A},{B}]
            %t = tanh %f : f32[{A},{B}]
            %s = add %t, @one : f32[{A},{B}]
            %p = mul %x, %s : f32[{A},{B}]
            %y = mul @half, %p : f32[{A},{B}] }"],
    },
    Rule {
        name: "function/gelu-tanh-fast",
        pattern: "(mul (mul ?x 0.5) (add (tanh (mul (mul ?x 0.79788456) (add (mul (mul ?x 0.044715) ?x) 1))) 1))",
        apply: |b, m| of_x(b, m, UnaryKind::GeluTanh),
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const k = 0.044715; const r = 0.7978845608; const one = 1.0; const half = 0.5;
            %a = mul %x, @r : f32[{A},{B}]
            %c = mul %x, @k : f32[{A},{B}]
            %d = mul %c, %x : f32[{A},{B}]
            %e = add %d, @one : f32[{A},{B}]
            %f = mul %a, %e : f32[{A},{B}]
            %t = tanh %f : f32[{A},{B}]
            %s = add %t, @one : f32[{A},{B}]
            %h = mul @half, %x : f32[{A},{B}]
            %y = mul %h, %s : f32[{A},{B}] }"],
    },
];
