//! Alternatives at sites. Programs with choices are equal when they are equal under every plan; all of this holds whatever is picked.

use super::Rule;
use super::movement::{reshape, transpose};
use crate::egraph::node::Build;
use crate::egraph::pattern::Bind;
use egg::Id;
use tersor_ir::Op;
use tersor_ir::ops::Choice;

fn choice(op: &Op) -> Option<&Choice> {
    if let Op::Choice(c) = op { Some(c) } else { None }
}

/// A choice among the alternatives of another one at the same site: both pick alike.
fn inside(b: &mut Build, m: &Bind) -> Option<Id> {
    let c = choice(m.op("c"))?;
    let picked = |i: usize, a: Id| b.ops(a).iter().find_map(|(op, x)| (choice(op)? == c).then(|| x[i])).unwrap_or(a);
    let direct: Vec<Id> = m.list("a").iter().enumerate().map(|(i, &a)| picked(i, a)).collect();
    if direct == m.list("a") { None } else { b.op(c.clone(), &direct) }
}

/// `choice(f(a, x), f(b, x))` as `f(choice(a, b), x)`: what all alternatives do is done once.
fn shared(b: &mut Build, m: &Bind) -> Option<Id> {
    let (c, all) = (choice(m.op("c"))?, m.list("a"));
    let made: Vec<Vec<(Op, Vec<Id>)>> = all.iter().map(|&a| b.ops(a)).collect();
    for (op, x) in made[0].iter().filter(|(op, _)| choice(op).is_none()) {
        for k in 0..x.len() {
            let same = |y: &[Id]| y.len() == x.len() && (0..x.len()).all(|i| i == k || b.find(y[i]) == b.find(x[i]));
            let of = |ops: &Vec<(Op, Vec<Id>)>| ops.iter().find(|(o, y)| o == op && same(y)).map(|(_, y)| y[k]);
            let Some(each) = made.iter().map(of).collect::<Option<Vec<Id>>>() else { continue };
            if let Some(inner) = b.op(c.clone(), &each) {
                let mut operands = x.clone();
                operands[k] = inner;
                return b.op(op.clone(), &operands);
            }
        }
    }
    None
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "choice/of-equal",
        pattern: "(choice:c ?a...)",
        apply: |_, m| m.list("a").iter().all(|a| *a == m.list("a")[0]).then(|| m.list("a")[0]),
        examples: &[
            "(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            %y = choice @s {exact: %x, other: %x, third: %x} : f32[{A},{B}] }",
            "(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            %y = choice @s {exact: %x} : f32[{A},{B}] }",
        ],
    },
    Rule {
        name: "choice/inside-itself",
        pattern: "(choice:c ?a...)",
        apply: inside,
        examples: &["(%x: f32[{A}], %z: f32[{A}]) -> (%y: f32[{A}]) {
            %n = neg %x : f32[{A}]
            %i = choice @s {exact: %x, other: %z} : f32[{A}]
            %y = choice @s {exact: %n, other: %i} : f32[{A}] }"],
    },
    Rule {
        name: "choice/after-what-is-shared",
        pattern: "(choice:c ?a...)",
        apply: shared,
        examples: &[
            "(%x: f32[{A}], %z: f32[{A}]) -> (%y: f32[{A}]) {
            %t = tanh %x : f32[{A}]
            %u = tanh %z : f32[{A}]
            %y = choice @s {exact: %t, other: %u} : f32[{A}] }",
            "(%x: f32[{A},{B}]) -> (%y: f32[{A},{C}]) {
            const w = f32[{B},{C}]; const q = i8[{B},{C}]; const f = f32[1,{C}];
            %d = decode.affine @q, @f : f32[{B},{C}]
            %p = matmul %x, @w : f32[{A},{C}]
            %r = matmul %x, %d : f32[{A},{C}]
            %y = choice @s {exact: %p, int8: %r} : f32[{A},{C}] }",
        ],
    },
    Rule {
        name: "choice/after-transpose",
        pattern: "(transpose:t (choice:c ?a...))",
        apply: |b, m| {
            let Op::Transpose(t) = m.op("t") else { return None };
            b.choice(choice(m.op("c"))?, m.list("a"), |b, a| transpose(b, a, t.perm.clone()))
        },
        examples: &["(%x: f32[{A},{B}], %z: f32[{A},{B}]) -> (%y: f32[{B},{A}]) {
            %c = choice @s {exact: %x, other: %z} : f32[{A},{B}]
            %y = transpose %c {perm=[1,0]} : f32[{B},{A}] }"],
    },
    Rule {
        name: "choice/after-reshape",
        pattern: "(reshape:r (choice:c ?a...))",
        apply: |b, m| {
            let Op::Reshape(r) = m.op("r") else { return None };
            b.choice(choice(m.op("c"))?, m.list("a"), |b, a| reshape(b, a, r.shape.clone()))
        },
        examples: &["(%x: f32[{A},{B}], %z: f32[{A},{B}]) -> (%y: f32[{B},{A}]) {
            %c = choice @s {exact: %x, other: %z} : f32[{A},{B}]
            %y = reshape %c {shape=[{B},{A}]} : f32[{B},{A}] }"],
    },
];
