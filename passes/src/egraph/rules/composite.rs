//! Attention, norms and rotary embedding from their decomposed forms.

use super::Rule;
use super::movement::{reshape, transpose};
use crate::egraph::causal::HIDDEN;
use crate::egraph::node::Build;
use crate::egraph::pattern::Bind;
use egg::Id;
use tersor_ir::ops::binary::{Binary, BinaryKind};
use tersor_ir::ops::reduce::Reduce;
use tersor_ir::ops::{Attention, LayerNorm, Real, RmsNorm, Rope, Select};
use tersor_ir::{Dim, Op};

/// The first of the trailing axes that a kept reduction runs over.
fn trailing(b: &Build, r: &Op, x: Id) -> Option<u8> {
    let (Op::Reduce(Reduce { axes, keep: true, .. }), rank) = (r, b.ty(x).rank() as u8) else { return None };
    let first = *axes.first()?;
    axes.iter().copied().eq(first..rank).then_some(first)
}

fn rms(b: &mut Build, m: &Bind) -> Option<Id> {
    let x = m.var("x");
    let axis = trailing(b, m.op("r"), x)?;
    let eps = b.splat(m.var("e"))?;
    b.op(RmsNorm { axis, eps: Real(eps) }, &[x])
}

/// A parameter of a norm: it has the normalised axes' extents.
fn fits_norm(b: &Build, x: Id, w: Id, axis: u8) -> bool {
    b.ty(w).rank() <= b.ty(x).rank() - axis as usize
}

fn layer_norm(b: &mut Build, m: &Bind) -> Option<Id> {
    let x = m.var("x");
    let axis = trailing(b, m.op("r"), x)?;
    if trailing(b, m.op("v"), x)? != axis {
        return None;
    }
    let eps = b.splat(m.var("e"))?;
    b.op(LayerNorm { axis, eps: Real(eps) }, &[x])
}

fn rope(b: &mut Build, m: &Bind) -> Option<Id> {
    let (x, c, s) = (m.var("x"), m.var("c"), m.var("s"));
    let (Op::Concat(k), Op::Slice(hi), Op::Slice(lo)) = (m.op("k"), m.op("hi"), m.op("lo")) else { return None };
    let last = b.ty(x).rank() - 1;
    let half = b.ty(x).shape[last].exact_div(&2.into())?;
    let whole = [k.axis, hi.axis, lo.axis].iter().all(|&a| a as usize == last) && hi.step == 1 && lo.step == 1;
    let halves = hi.start == half && hi.len == half && lo.start == Dim::Const(0) && lo.len == half;
    if !(whole && halves) {
        return None;
    }
    b.op(Rope { interleaved: false }, &[x, c, s])
}

/// `[.., S, D]` with the last two axes exchanged.
fn swapped(b: &mut Build, x: Id) -> Option<Id> {
    let rank = b.ty(x).rank();
    let mut perm: Vec<u8> = (0..rank as u8).collect();
    perm.swap(rank - 1, rank - 2);
    transpose(b, x, perm)
}

/// The rows of keys in `q kt`: `kt` itself where the product takes it transposed. `None` where the product is another one.
fn keys(b: &mut Build, scores: &Op, kt: Id) -> Option<Id> {
    match scores {
        Op::MatMul(p) if !p.trans_a && !p.wide => {
            if p.trans_b {
                Some(kt)
            } else {
                swapped(b, kt)
            }
        }
        _ => None,
    }
}

fn is_plain(op: &Op) -> bool {
    matches!(op, Op::MatMul(p) if !p.trans_a && !p.trans_b && !p.wide)
}

/// Attention from scores `q kt * scale + mask` of rank 4, or 3 with a head axis of 1 put in.
fn attention(b: &mut Build, m: &Bind, scale: Option<f64>, mask: Option<Id>) -> Option<Id> {
    let Op::Softmax(s) = m.op("s") else { return None };
    let (q, kt, v) = (m.var("q"), m.var("kt"), m.var("v"));
    let rank = b.ty(q).rank();
    if s.log || s.axis as usize != rank - 1 || !is_plain(m.op("m")) || !matches!(rank, 3 | 4) || b.is_weight(q) {
        return None;
    }
    if b.ty(kt).rank() != rank || b.ty(v).rank() != rank {
        return None;
    }
    let k = keys(b, m.op("n"), kt)?;
    let lift = |b: &mut Build, x: Id| {
        let mut shape = b.ty(x).shape.to_vec();
        shape.insert(1, 1.into());
        reshape(b, x, shape)
    };
    let scale = Real(scale.unwrap_or(1.0));
    if rank == 4 {
        let mut operands = vec![q, k, v];
        operands.extend(mask);
        return b.op(Attention { scale, causal: false }, &operands);
    }
    let shape = b.ty(q).shape[..2].iter().chain(&b.ty(v).shape[2..]).cloned().collect();
    let mut operands = vec![lift(b, q)?, lift(b, k)?, lift(b, v)?];
    if let Some(mask) = mask {
        operands.push(if b.ty(mask).rank() == 3 { lift(b, mask)? } else { mask });
    }
    let y = b.op(Attention { scale, causal: false }, &operands)?;
    reshape(b, y, shape)
}

/// A factor on the queries or keys joins the scale.
fn absorb_scale(b: &mut Build, m: &Bind, operands: &[Id]) -> Option<Id> {
    let Op::Attention(a) = m.op("a") else { return None };
    let c = b.splat(m.var("c"))?;
    b.op(Attention { scale: Real(a.scale.0 * c), ..a.clone() }, operands)
}

/// Queries of several heads for one key head, side by side along the rows: `[B, G, R*S, D]` scores seen as `[B, G, R, S, T]` for the mask.
fn grouped(b: &mut Build, m: &Bind) -> Option<Id> {
    let Op::Softmax(s) = m.op("s") else { return None };
    let (q, kt, v, mask) = (m.var("q"), m.var("kt"), m.var("v"), m.var("mask"));
    let (Op::Reshape(r0), Op::Reshape(r1), true) = (m.op("r0"), m.op("r1"), is_plain(m.op("m"))) else { return None };
    if b.ty(kt).rank() != 4 {
        return None;
    }
    let k = keys(b, m.op("n"), kt)?;
    let (tq, tk) = (b.ty(q).clone(), b.ty(k).clone());
    if tq.rank() != 4 || r0.shape.len() != 4 || r1.shape.len() != 5 || s.axis != 4 || s.log || b.ty(mask).rank() > 2 {
        return None;
    }
    let [n, h, rows, _] = [0, 1, 2, 3].map(|i| tq.shape[i].clone());
    let per = h.exact_div(&tk.shape[1])?;
    let split = [n, tk.shape[1].clone(), per, rows, tk.shape[2].clone()];
    if r1.shape[..] != split {
        return None;
    }
    let y = b.op(Attention { scale: Real(1.0), causal: false }, &[q, k, v, mask])?;
    let mut shape = r0.shape.clone();
    shape[3] = b.ty(v).shape[3].clone();
    reshape(b, y, shape)
}

/// Scores that a causal mask of truth values replaces, as scores to which a mask is added: each row keeps some, and the others' weights are 0 either way.
fn replaced_scores(b: &mut Build, m: &Bind) -> Option<Id> {
    let (Op::Softmax(s), c, x, h) = (m.op("s"), m.var("c"), m.var("x"), m.var("h")) else { return None };
    b.causal(c)?;
    if s.axis as usize + 1 != b.ty(x).rank() || s.log || b.splat(h)? > HIDDEN || b.ty(c).rank() > b.ty(x).rank() {
        return None;
    }
    let zero = b.scalar(b.ty(x).dtype, 0.0);
    let mask = b.op(Select {}, &[c, zero, h])?;
    let y = b.op(Binary { kind: BinaryKind::Add }, &[x, mask])?;
    (b.ty(y) == b.ty(x)).then(|| b.op(s.clone(), &[y]))?
}

/// A causal mask as the attribute, which lets kernels skip what it hides.
fn causal(b: &mut Build, m: &Bind) -> Option<Id> {
    let (Op::Attention(a), q, k) = (m.op("a"), m.var("q"), m.var("k")) else { return None };
    let past = b.ty(k).shape[2].clone() - b.ty(q).shape[2].clone();
    if b.causal(m.var("m"))? != &past {
        return None;
    }
    b.op(Attention { causal: true, ..a.clone() }, &[q, k, m.var("v")])
}

/// Keys and values repeated for each of their query heads need not be.
fn unrepeat(b: &mut Build, m: &Bind, operands: &[Id]) -> Option<Id> {
    let source = |b: &Build, x: Id, wide: &Op, out: &Op| {
        let (Op::Broadcast(w), Op::Reshape(o)) = (wide, out) else { return None };
        let t = b.ty(x);
        let unit = t.rank() == 5 && t.shape[2] == Dim::Const(1) && w.shape.len() == 5;
        let same = unit && [0, 1, 3, 4].iter().all(|&i| w.shape[i] == t.shape[i]);
        let joined =
            [w.shape[0].clone(), w.shape[1].clone() * w.shape[2].clone(), w.shape[3].clone(), w.shape[4].clone()];
        (same && o.shape[..] == joined)
            .then(|| vec![t.shape[0].clone(), t.shape[1].clone(), t.shape[3].clone(), t.shape[4].clone()])
    };
    let (sk, sv) = (source(b, m.var("k"), m.op("wk"), m.op("ok"))?, source(b, m.var("v"), m.op("wv"), m.op("ov"))?);
    let (k, v) = (reshape(b, m.var("k"), sk)?, reshape(b, m.var("v"), sv)?);
    let all: Vec<Id> = [operands[0], k, v].into_iter().chain(operands[1..].iter().copied()).collect();
    b.op(m.op("a").clone(), &all)
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "norm/rms",
        pattern: "(mul ?x (rsqrt (add (reduce.mean:r (mul ?x ?x)) ?e:splat)))",
        apply: rms,
        examples: &["(%x: f32[{A},{B},{C}]) -> (%y: f32[{A},{B},{C}]) {
            const e = 0.00001;
            %q = mul %x, %x : f32[{A},{B},{C}]
            %m = reduce.mean %q {axes=[2], keep} : f32[{A},{B},1]
            %a = add %m, @e : f32[{A},{B},1]
            %r = rsqrt %a : f32[{A},{B},1]
            %y = mul %x, %r : f32[{A},{B},{C}] }"],
    },
    Rule {
        name: "norm/rms-scale",
        pattern: "(mul (rms_norm:n ?x) ?w:const)",
        apply: |b, m| {
            let Op::RmsNorm(n) = m.op("n") else { return None };
            fits_norm(b, m.var("x"), m.var("w"), n.axis).then(|| b.op(n.clone(), &[m.var("x"), m.var("w")]))?
        },
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const w = f32[{B}];
            %n = rms_norm %x {axis=1} : f32[{A},{B}]
            %y = mul @w, %n : f32[{A},{B}] }"],
    },
    Rule {
        name: "norm/layer",
        pattern: "(mul (sub ?x (reduce.mean:r ?x)) (rsqrt (add (reduce.mean:v (mul (sub ?x (reduce.mean:r ?x)) (sub ?x (reduce.mean:r ?x)))) ?e:splat)))",
        apply: layer_norm,
        examples: &["(%x: f32[{A},{B},{C}]) -> (%y: f32[{A},{B},{C}]) {
            const e = 0.001;
            %m = reduce.mean %x {axes=[1,2], keep} : f32[{A},1,1]
            %d = sub %x, %m : f32[{A},{B},{C}]
            %q = mul %d, %d : f32[{A},{B},{C}]
            %v = reduce.mean %q {axes=[1,2], keep} : f32[{A},1,1]
            %a = add @e, %v : f32[{A},1,1]
            %r = rsqrt %a : f32[{A},1,1]
            %y = mul %d, %r : f32[{A},{B},{C}] }"],
    },
    Rule {
        name: "norm/layer-scale",
        pattern: "(mul (layer_norm:n ?x) ?w:const)",
        apply: |b, m| {
            let Op::LayerNorm(n) = m.op("n") else { return None };
            fits_norm(b, m.var("x"), m.var("w"), n.axis).then(|| b.op(n.clone(), &[m.var("x"), m.var("w")]))?
        },
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const w = f32[{B}];
            %n = layer_norm %x {axis=1} : f32[{A},{B}]
            %y = mul @w, %n : f32[{A},{B}] }"],
    },
    Rule {
        name: "norm/layer-bias",
        pattern: "(add (layer_norm:n ?x ?w) ?b:const)",
        apply: |b, m| {
            let Op::LayerNorm(n) = m.op("n") else { return None };
            fits_norm(b, m.var("x"), m.var("b"), n.axis).then(|| b.op(n.clone(), &[m.var("x"), m.var("w"), m.var("b")]))?
        },
        examples: &["(%x: f32[{A},{B}]) -> (%y: f32[{A},{B}]) {
            const w = f32[{B}]; const b = f32[{B}];
            %n = layer_norm %x, @w {axis=1} : f32[{A},{B}]
            %y = add @b, %n : f32[{A},{B}] }"],
    },
    Rule {
        name: "rope/halves",
        pattern: "(add (mul ?x ?c) (mul (concat:k (neg (slice:hi ?x)) (slice:lo ?x)) ?s))",
        apply: rope,
        examples: &["(%x: f32[{A},{B},6], %c: f32[{B},6], %s: f32[{B},6]) -> (%y: f32[{A},{B},6]) {
            %a = mul %x, %c : f32[{A},{B},6]
            %h = slice %x {axis=2, start=3, len=3} : f32[{A},{B},3]
            %n = neg %h : f32[{A},{B},3]
            %l = slice %x {axis=2, len=3} : f32[{A},{B},3]
            %k = concat %n, %l {axis=2} : f32[{A},{B},6]
            %b = mul %k, %s : f32[{A},{B},6]
            %y = add %a, %b : f32[{A},{B},6] }"],
    },
    Rule {
        name: "attention/plain",
        pattern: "(matmul:m (softmax:s (matmul:n ?q ?kt)) ?v)",
        apply: |b, m| attention(b, m, None, None),
        examples: &[
            "(%q: f32[{A},{B},{C},4], %k: f32[{A},{B},4,{D}], %v: f32[{A},{B},{D},3]) -> (%y: f32[{A},{B},{C},3]) {
            %s = matmul %q, %k : f32[{A},{B},{C},{D}]
            %p = softmax %s {axis=3} : f32[{A},{B},{C},{D}]
            %y = matmul %p, %v : f32[{A},{B},{C},3] }",
            "(%q: f32[{A},{C},4], %k: f32[{A},4,{D}], %v: f32[{A},{D},3]) -> (%y: f32[{A},{C},3]) {
            %s = matmul %q, %k : f32[{A},{C},{D}]
            %p = softmax %s {axis=2} : f32[{A},{C},{D}]
            %y = matmul %p, %v : f32[{A},{C},3] }",
        ],
    },
    Rule {
        name: "attention/scaled",
        pattern: "(matmul:m (softmax:s (mul (matmul:n ?q ?kt) ?c:splat)) ?v)",
        apply: |b, m| attention(b, m, Some(b.splat(m.var("c"))?), None),
        examples: &["(%q: f32[{A},{B},{C},4], %k: f32[{A},{B},4,{D}], %v: f32[{A},{B},{D},3]) -> (%y: f32[{A},{B},{C},3]) {
            const c = 0.7;
            %s = matmul %q, %k : f32[{A},{B},{C},{D}]
            %t = mul %s, @c : f32[{A},{B},{C},{D}]
            %p = softmax %t {axis=3} : f32[{A},{B},{C},{D}]
            %y = matmul %p, %v : f32[{A},{B},{C},3] }"],
    },
    Rule {
        name: "attention/masked",
        pattern: "(matmul:m (softmax:s (add (matmul:n ?q ?kt) ?mask)) ?v)",
        apply: |b, m| attention(b, m, None, Some(m.var("mask"))),
        examples: &["(%q: f32[{A},{B},{C},4], %k: f32[{A},{B},4,{D}], %v: f32[{A},{B},{D},3], %m: f32[{C},{D}]) -> (%y: f32[{A},{B},{C},3]) {
            %s = matmul %q, %k : f32[{A},{B},{C},{D}]
            %t = add %s, %m : f32[{A},{B},{C},{D}]
            %p = softmax %t {axis=3} : f32[{A},{B},{C},{D}]
            %y = matmul %p, %v : f32[{A},{B},{C},3] }"],
    },
    Rule {
        name: "attention/scaled-masked",
        pattern: "(matmul:m (softmax:s (add (mul (matmul:n ?q ?kt) ?c:splat) ?mask)) ?v)",
        apply: |b, m| attention(b, m, Some(b.splat(m.var("c"))?), Some(m.var("mask"))),
        examples: &["(%q: f32[{A},{B},{C},4], %k: f32[{A},{B},4,{D}], %v: f32[{A},{B},{D},3], %m: f32[{A},1,1,{D}]) -> (%y: f32[{A},{B},{C},3]) {
            const c = 0.7;
            %s = matmul %q, %k : f32[{A},{B},{C},{D}]
            %u = mul %s, @c : f32[{A},{B},{C},{D}]
            %t = add %u, %m : f32[{A},{B},{C},{D}]
            %p = softmax %t {axis=3} : f32[{A},{B},{C},{D}]
            %y = matmul %p, %v : f32[{A},{B},{C},3] }"],
    },
    Rule {
        name: "attention/scaled-query",
        pattern: "(attention:a (mul ?q ?c:splat) ?k ?v)",
        apply: |b, m| absorb_scale(b, m, &[m.var("q"), m.var("k"), m.var("v")]),
        examples: &["(%q: f32[{A},{B},{C},4], %k: f32[{A},{B},{D},4], %v: f32[{A},{B},{D},3]) -> (%y: f32[{A},{B},{C},3]) {
            const c = 0.7;
            %s = mul %q, @c : f32[{A},{B},{C},4]
            %y = attention %s, %k, %v {scale=0.5} : f32[{A},{B},{C},3] }"],
    },
    Rule {
        name: "attention/scaled-query-masked",
        pattern: "(attention:a (mul ?q ?c:splat) ?k ?v ?m)",
        apply: |b, m| absorb_scale(b, m, &[m.var("q"), m.var("k"), m.var("v"), m.var("m")]),
        examples: &["(%q: f32[{A},{B},{C},4], %k: f32[{A},{B},{D},4], %v: f32[{A},{B},{D},3], %m: f32[{C},{D}]) -> (%y: f32[{A},{B},{C},3]) {
            const c = 0.7;
            %s = mul %q, @c : f32[{A},{B},{C},4]
            %y = attention %s, %k, %v, %m {scale=0.5} : f32[{A},{B},{C},3] }"],
    },
    Rule {
        name: "attention/scaled-key",
        pattern: "(attention:a ?q (mul ?k ?c:splat) ?v)",
        apply: |b, m| absorb_scale(b, m, &[m.var("q"), m.var("k"), m.var("v")]),
        examples: &["(%q: f32[{A},{B},{C},4], %k: f32[{A},{B},{D},4], %v: f32[{A},{B},{D},3]) -> (%y: f32[{A},{B},{C},3]) {
            const c = 0.7;
            %s = mul %k, @c : f32[{A},{B},{D},4]
            %y = attention %q, %s, %v {scale=0.5} : f32[{A},{B},{C},3] }"],
    },
    Rule {
        name: "attention/scaled-key-masked",
        pattern: "(attention:a ?q (mul ?k ?c:splat) ?v ?m)",
        apply: |b, m| absorb_scale(b, m, &[m.var("q"), m.var("k"), m.var("v"), m.var("m")]),
        examples: &["(%q: f32[{A},{B},{C},4], %k: f32[{A},{B},{D},4], %v: f32[{A},{B},{D},3], %m: f32[{C},{D}]) -> (%y: f32[{A},{B},{C},3]) {
            const c = 0.7;
            %s = mul %k, @c : f32[{A},{B},{D},4]
            %y = attention %q, %s, %v, %m {scale=0.5} : f32[{A},{B},{C},3] }"],
    },
    Rule {
        name: "attention/replaced-scores",
        pattern: "(softmax:s (select ?c ?x ?h:splat))",
        apply: replaced_scores,
        examples: &["(%x: f32[2,{B},{A},{A}]) -> (%y: f32[2,{B},{A},{A}]) {
            const m = causal bool[6,6]; const h = -3.0e38;
            %r = slice @m {axis=0, len={A}} : bool[{A},6]
            %s = slice %r {axis=1, len={A}} : bool[{A},{A}]
            %w = select %s, %x, @h : f32[2,{B},{A},{A}]
            %y = softmax %w {axis=3} : f32[2,{B},{A},{A}] }"],
    },
    Rule {
        name: "attention/causal-mask",
        pattern: "(attention:a ?q ?k ?v ?m)",
        apply: causal,
        examples: &[
            "(%q: f32[2,{B},{A},4], %k: f32[2,{B},{A},4], %v: f32[2,{B},{A},3]) -> (%y: f32[2,{B},{A},3]) {
            const m = causal f32[6,6];
            %r = slice @m {axis=0, len={A}} : f32[{A},6]
            %s = slice %r {axis=1, len={A}} : f32[{A},{A}]
            %t = reshape %s {shape=[1,1,{A},{A}]} : f32[1,1,{A},{A}]
            %y = attention %q, %k, %v, %t {scale=0.5} : f32[2,{B},{A},3] }",
            "(%q: f32[2,{B},{A},4], %k: f32[2,{B},{A}+{D},4], %v: f32[2,{B},{A}+{D},3]) -> (%y: f32[2,{B},{A},3]) {
            const m = causal f32[12,12];
            %r = slice @m {axis=0, start={D}, len={A}} : f32[{A},12]
            %s = slice %r {axis=1, len={A}+{D}} : f32[{A},{A}+{D}]
            %y = attention %q, %k, %v, %s {scale=0.5} : f32[2,{B},{A},3] }",
        ],
    },
    Rule {
        name: "attention/grouped-rows",
        pattern: "(matmul:m (reshape (softmax:s (add (reshape:r1 (matmul:n (reshape:r0 ?q) ?kt)) ?mask))) ?v)",
        apply: grouped,
        examples: &["(%q: f32[{A},4,{C},4], %k: f32[{A},2,4,{D}], %v: f32[{A},2,{D},3], %m: f32[{C},{D}]) -> (%y: f32[{A},2,2*{C},3]) {
            %r = reshape %q {shape=[{A},2,2*{C},4]} : f32[{A},2,2*{C},4]
            %s = matmul %r, %k : f32[{A},2,2*{C},{D}]
            %u = reshape %s {shape=[{A},2,2,{C},{D}]} : f32[{A},2,2,{C},{D}]
            %t = add %u, %m : f32[{A},2,2,{C},{D}]
            %p = softmax %t {axis=4} : f32[{A},2,2,{C},{D}]
            %w = reshape %p {shape=[{A},2,2*{C},{D}]} : f32[{A},2,2*{C},{D}]
            %y = matmul %w, %v : f32[{A},2,2*{C},3] }"],
    },
    Rule {
        name: "attention/unrepeat-heads",
        pattern: "(attention:a ?q (reshape:ok (broadcast:wk ?k)) (reshape:ov (broadcast:wv ?v)))",
        apply: |b, m| unrepeat(b, m, &[m.var("q")]),
        examples: &["(%q: f32[{A},4,{C},4], %k: f32[{A},2,1,{D},4], %v: f32[{A},2,1,{D},3]) -> (%y: f32[{A},4,{C},3]) {
            %kb = broadcast %k {shape=[{A},2,2,{D},4]} : f32[{A},2,2,{D},4]
            %kr = reshape %kb {shape=[{A},4,{D},4]} : f32[{A},4,{D},4]
            %vb = broadcast %v {shape=[{A},2,2,{D},3]} : f32[{A},2,2,{D},3]
            %vr = reshape %vb {shape=[{A},4,{D},3]} : f32[{A},4,{D},3]
            %y = attention %q, %kr, %vr {scale=0.5} : f32[{A},4,{C},3] }"],
    },
    Rule {
        name: "attention/unrepeat-heads-masked",
        pattern: "(attention:a ?q (reshape:ok (broadcast:wk ?k)) (reshape:ov (broadcast:wv ?v)) ?m)",
        apply: |b, m| unrepeat(b, m, &[m.var("q"), m.var("m")]),
        examples: &["(%q: f32[{A},4,{C},4], %k: f32[{A},2,1,{D},4], %v: f32[{A},2,1,{D},3], %m: f32[{C},{D}]) -> (%y: f32[{A},4,{C},3]) {
            %kb = broadcast %k {shape=[{A},2,2,{D},4]} : f32[{A},2,2,{D},4]
            %kr = reshape %kb {shape=[{A},4,{D},4]} : f32[{A},4,{D},4]
            %vb = broadcast %v {shape=[{A},2,2,{D},3]} : f32[{A},2,2,{D},3]
            %vr = reshape %vb {shape=[{A},4,{D},3]} : f32[{A},4,{D},3]
            %y = attention %q, %kr, %vr, %m {scale=0.5} : f32[{A},4,{C},3] }"],
    },
];
