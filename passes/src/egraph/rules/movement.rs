//! Transposes and reshapes.

use super::Rule;
use crate::egraph::node::Build;
use crate::egraph::pattern::Bind;
use egg::Id;
use tersor_ir::Op;
use tersor_ir::ops::{Reshape, Transpose};

pub(super) fn transpose(b: &mut Build, x: Id, perm: Vec<u8>) -> Option<Id> {
    if perm.windows(2).all(|w| w[0] < w[1]) { Some(x) } else { b.op(Transpose { perm }, &[x]) }
}

pub(super) fn reshape(b: &mut Build, x: Id, shape: Vec<tersor_ir::Dim>) -> Option<Id> {
    if b.ty(x).shape[..] == shape { Some(x) } else { b.op(Reshape { shape }, &[x]) }
}

/// Codes of a moved tensor are moved codes, with one scale for all.
fn quant_first(b: &mut Build, m: &Bind) -> Option<Id> {
    if b.ty(m.var("s")).rank() != 0 {
        return None;
    }
    let q = b.op(m.op("q").clone(), &[m.var("x"), m.var("s")])?;
    b.op(m.op("r").clone(), &[q])
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "transpose/compose",
        pattern: "(transpose:p (transpose:q ?x))",
        apply: |b, m| {
            let (Op::Transpose(p), Op::Transpose(q)) = (m.op("p"), m.op("q")) else { return None };
            transpose(b, m.var("x"), p.perm.iter().map(|&i| q.perm[i as usize]).collect())
        },
        examples: &[
            "(%x: f32[{A},{B},{C}]) -> (%y: f32[{B},{C},{A}]) {
            %t = transpose %x {perm=[2,0,1]} : f32[{C},{A},{B}]
            %y = transpose %t {perm=[2,0,1]} : f32[{B},{C},{A}] }",
            "(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            %t = transpose %x {perm=[1,0]} : f32[{B},{A}]
            %y = transpose %t {perm=[1,0]} : f32[{A},{B}] }",
        ],
    },
    Rule {
        name: "reshape/compose",
        pattern: "(reshape:p (reshape:q ?x))",
        apply: |b, m| {
            let Op::Reshape(p) = m.op("p") else { return None };
            reshape(b, m.var("x"), p.shape.clone())
        },
        examples: &["(%x: f32[{A},{B},{C}]) -> (%y: f32[{B},{A},{C}]) {
            %t = reshape %x {shape=[{A},{B},1,{C}]} : f32[{A},{B},1,{C}]
            %y = reshape %t {shape=[{B},{A},{C}]} : f32[{B},{A},{C}] }"],
    },
    Rule {
        name: "quant/before-reshape",
        pattern: "(quant:q (reshape:r ?x) ?s)",
        apply: quant_first,
        examples: &["(%x: f32[{A},{B}]) -> (%y: i8[{B},1,{A}]) {
            const s = 0.05;
            %r = reshape %x {shape=[{B},1,{A}]} : f32[{B},1,{A}]
            %y = quant %r, @s : i8[{B},1,{A}] }"],
    },
    Rule {
        name: "quant/before-transpose",
        pattern: "(quant:q (transpose:r ?x) ?s)",
        apply: quant_first,
        examples: &["(%x: f32[{A},{B}]) -> (%y: i8[{B},{A}]) {
            const s = 0.05;
            %r = transpose %x {perm=[1,0]} : f32[{B},{A}]
            %y = quant %r, @s : i8[{B},{A}] }"],
    },
];
