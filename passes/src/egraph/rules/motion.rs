//! Transposes move after elementwise ops, where they meet others; codes that are decoded only to be coded again stay codes.

use super::Rule;
use super::movement::{reshape, transpose};
use crate::egraph::node::Build;
use crate::egraph::pattern::Bind;
use egg::Id;
use tersor_ir::ops::Unary;
use tersor_ir::ops::binary::{Binary, BinaryKind};
use tersor_ir::ops::unary::UnaryKind;
use tersor_ir::{Dim, Op};

fn perm(op: &Op) -> Vec<u8> {
    if let Op::Transpose(t) = op { t.perm.clone() } else { vec![] }
}

fn after_unary(b: &mut Build, m: &Bind, kind: UnaryKind) -> Option<Id> {
    if b.is_weight(m.var("x")) {
        return None;
    }
    let y = b.op(Unary { kind }, &[m.var("x")])?;
    transpose(b, y, perm(m.op("p")))
}

/// Two operands that are transposed in the same way.
fn after_binary(b: &mut Build, m: &Bind, kind: BinaryKind) -> Option<Id> {
    let (x, y, p) = (m.var("x"), m.var("y"), perm(m.op("p")));
    if p != perm(m.op("q")) || b.is_weight(x) || b.is_weight(y) {
        return None;
    }
    let z = b.op(Binary { kind }, &[x, y])?;
    transpose(b, z, p)
}

/// A transposed operand and a constant, which is transposed back.
fn after_constant(b: &mut Build, m: &Bind, kind: BinaryKind) -> Option<Id> {
    let (x, mut c, p) = (m.var("x"), m.var("c"), perm(m.op("p")));
    let t = b.ty(c).clone();
    if b.is_weight(x) || t.rank() > p.len() {
        return None;
    }
    if t.elements() != Dim::Const(1) {
        let mut shape = vec![Dim::from(1); p.len() - t.rank()];
        shape.extend(t.shape.iter().cloned());
        c = reshape(b, c, shape)?;
        let mut back = vec![0; p.len()];
        p.iter().enumerate().for_each(|(i, &a)| back[a as usize] = i as u8);
        c = transpose(b, c, back)?;
    }
    let y = b.op(Binary { kind }, &[x, c])?;
    transpose(b, y, p)
}

/// `quant(decode(x))` with one scale for both gives the codes back, to the last bit for codes of 8 bits.
fn coded_again(b: &mut Build, m: &Bind) -> Option<Id> {
    let (Op::Quant(q), Op::DecodeAffine(d)) = (m.op("q"), m.op("d")) else { return None };
    let x = m.var("x");
    let exact = d.group == 0 && !q.narrow && q.to.bits() <= 8 && b.ty(x).dtype == q.to && b.is_weight(m.var("s"));
    exact.then_some(x)
}

macro_rules! unary_rule {
    ($kind:ident, $name:literal) => {
        Rule {
            name: concat!("transpose/after-", $name),
            pattern: concat!("(", $name, " (transpose:p ?x))"),
            apply: |b, m| after_unary(b, m, UnaryKind::$kind),
            examples: &[concat!(
                "(%x: f32[{A},{B},{C}]) -> (%y: f32[{C},{A},{B}]) {
            %t = transpose %x {perm=[2,0,1]} : f32[{C},{A},{B}]
            %y = ",
                $name,
                " %t : f32[{C},{A},{B}] }"
            )],
        }
    };
}

macro_rules! both_rule {
    ($kind:ident, $name:literal) => {
        Rule {
            name: concat!("transpose/after-", $name),
            pattern: concat!("(", $name, " (transpose:p ?x) (transpose:q ?y))"),
            apply: |b, m| after_binary(b, m, BinaryKind::$kind),
            examples: &[concat!(
                "(%x: f32[{A},{B},{C}], %z: f32[{A},1,{C}]) -> (%y: f32[{C},{A},{B}]) {
            %t = transpose %x {perm=[2,0,1]} : f32[{C},{A},{B}]
            %u = transpose %z {perm=[2,0,1]} : f32[{C},{A},1]
            %y = ",
                $name,
                " %t, %u : f32[{C},{A},{B}] }"
            )],
        }
    };
}

macro_rules! constant_rule {
    ($kind:ident, $name:literal) => {
        Rule {
            name: concat!("transpose/after-", $name, "-of-constant"),
            pattern: concat!("(", $name, " (transpose:p ?x) ?c:const)"),
            apply: |b, m| after_constant(b, m, BinaryKind::$kind),
            examples: &[
                concat!(
                    "(%x: f32[{A},{B},{C}]) -> (%y: f32[{C},{A},{B}]) {
            const c = f32[{A},1];
            %t = transpose %x {perm=[2,0,1]} : f32[{C},{A},{B}]
            %y = ",
                    $name,
                    " @c, %t : f32[{C},{A},{B}] }"
                ),
                concat!(
                    "(%x: f32[{A},{B},{C}]) -> (%y: f32[{C},{A},{B}]) {
            const c = 1.5;
            %t = transpose %x {perm=[2,0,1]} : f32[{C},{A},{B}]
            %y = ",
                    $name,
                    " %t, @c : f32[{C},{A},{B}] }"
                ),
            ],
        }
    };
}

pub(super) const RULES: &[Rule] = &[
    unary_rule!(Relu, "relu"),
    unary_rule!(Sigmoid, "sigmoid"),
    unary_rule!(Tanh, "tanh"),
    unary_rule!(Silu, "silu"),
    unary_rule!(Gelu, "gelu"),
    both_rule!(Add, "add"),
    both_rule!(Mul, "mul"),
    constant_rule!(Add, "add"),
    constant_rule!(Mul, "mul"),
    Rule {
        name: "quant/of-decode",
        pattern: "(quant:q (decode.affine:d ?x ?s) ?s)",
        apply: coded_again,
        examples: &["(%x: i8[{A},{B}]) -> (%y: i8[{A},{B}]) {
            const s = 0.05;
            %d = decode.affine %x, @s : f32[{A},{B}]
            %y = quant %d, @s : i8[{A},{B}] }"],
    },
    Rule {
        name: "quant/of-decode-with-zero",
        pattern: "(quant:q (decode.affine:d ?x ?s ?z) ?s ?z)",
        apply: coded_again,
        examples: &["(%x: i8[{A},{B}], %z: i8[{B}]) -> (%y: i8[{A},{B}]) {
            const s = 0.05;
            %d = decode.affine %x, @s, %z : f32[{A},{B}]
            %y = quant %d, @s, %z : i8[{A},{B}] }"],
    },
];
