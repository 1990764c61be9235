//! Recurrent layers: the product of the inputs of all steps, then one op for each direction.

use super::Topic;
use super::quantized::dynamic_codes;
use crate::import::Meaning;
use crate::import::node::{NodeCx, value};
use tersor_ir::diag::Result;
use tersor_ir::ops::activation::{Activation, ActivationKind};
use tersor_ir::ops::binary::BinaryKind::Add;
use tersor_ir::ops::recurrence::Cell;
use tersor_ir::ops::{DecodeAffine, Real, Recurrence};
use tersor_ir::{Dim, Tensor, ValueId};

/// The activations of all directions.
fn activations(cx: &NodeCx, kind: Cell, directions: usize) -> Result<Vec<Activation>> {
    let all = kind.usual().len() * directions;
    let Some(names) = cx.strings("activations") else {
        return Ok(kind.usual().iter().cycle().take(all).map(|&k| k.into()).collect());
    };
    if names.len() != all {
        return Err(cx.invalid(format!("{} activations for {directions} directions", names.len())));
    }
    // Parameters stand in order for those activations that have them.
    let mut given = ["activation_alpha", "activation_beta"].map(|a| cx.floats(a).unwrap_or_default().into_iter());
    let mut one = |name: &String| {
        let known = ActivationKind::ALL.iter().find(|k| k.name().eq_ignore_ascii_case(name));
        let &kind = known.ok_or_else(|| cx.unsupported(format!("activation {}", name.escape_debug())))?;
        let parameters = kind.parameters().iter().zip(&mut given);
        let parameters: Vec<f64> = parameters.map(|(&usual, given)| given.next().map_or(usual, f64::from)).collect();
        Activation::new(kind, &parameters).ok_or_else(|| cx.invalid("too many parameters of an activation"))
    };
    names.iter().map(&mut one).collect()
}

/// What a bias `[2*G*H]` adds to the product of the inputs, and inside of the reset of a `gru`.
fn biases(cx: &mut NodeCx, bias: ValueId, op: &Recurrence, hidden: &Dim) -> Result<(ValueId, Option<ValueId>)> {
    let width = hidden.clone() * op.kind.gates().into();
    let input = cx.part(bias, 0, 0.into(), width.clone())?;
    let state = cx.part(bias, 0, width.clone(), width.clone())?;
    if !op.reset_after {
        return Ok((cx.binary(Add, input, state)?, None));
    }
    let before = width - hidden.clone();
    let inside = cx.part(state, 0, before.clone(), hidden.clone())?;
    let outside = cx.part(state, 0, 0.into(), before)?;
    let zero = cx.scalar_like(bias, 0.0);
    let zeros = cx.broadcast(zero, vec![hidden.clone()])?;
    let outside = cx.concat(&[outside, zeros], 0)?;
    Ok((cx.binary(Add, input, outside)?, Some(inside)))
}

fn layer(cx: &mut NodeCx, kind: Cell) -> Result<Vec<Meaning>> {
    let operands = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    layer_of(cx, kind, operands)
}

/// A layer with these for its inputs, weights and recurrence weights.
fn layer_of(cx: &mut NodeCx, kind: Cell, [mut x, w, r]: [ValueId; 3]) -> Result<Vec<Meaning>> {
    let (bias, lengths, h0) = (cx.optional(3)?, cx.optional(4)?, cx.optional(5)?);
    let (c0, peephole) = if kind == Cell::Lstm { (cx.optional(6)?, cx.optional(7)?) } else { (None, None) };
    let batch_first = match cx.int("layout", 0) {
        0 => false,
        1 => true,
        other => return Err(cx.invalid(format!("layout {other}"))),
    };
    let (tw, tr) = (cx.ty(w), cx.ty(r));
    if cx.ty(x).rank() != 3 || tw.rank() != 3 || tr.rank() != 3 {
        return Err(cx.invalid(format!("operands {}, {tw} and {tr}, expected three axes each", cx.ty(x))));
    }
    let directions: &[bool] = match cx.string("direction", "forward").as_str() {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => return Err(cx.invalid(format!("direction {}", other.escape_debug()))),
    };
    cx.equal(&tw.shape[0], &(directions.len() as i64).into(), "directions of the weights are")?;
    let hidden = tr.shape[2].clone();
    cx.equal(&tr.shape[1], &(hidden.clone() * kind.gates().into()), "gates of the recurrence have extent")?;
    if cx.has("hidden_size") {
        let stated = cx.int("hidden_size", 0);
        cx.equal(&hidden, &stated.into(), "the hidden state has extent")?;
    }
    if batch_first {
        x = cx.transpose(x, vec![1, 0, 2])?;
    }
    let t = cx.ty(x);
    for v in [h0, c0].into_iter().flatten() {
        // Directions and batch, or the other way round.
        let batch = cx.extent_of(v, usize::from(!batch_first))?;
        cx.equal(&batch, &t.shape[1], "initial states are for a batch of")?;
    }
    let all = activations(cx, kind, directions.len())?;
    let clip = if cx.has("clip") { cx.float("clip", 0.0) } else { f64::INFINITY };
    let (reset_after, input_forget) = (
        kind == Cell::Gru && cx.int("linear_before_reset", 0) == 1,
        kind == Cell::Lstm && cx.int("input_forget", 0) == 1,
    );
    let (mut ys, mut states) = (vec![], vec![vec![]; kind.states()]);
    for ((d, &reverse), activations) in directions.iter().enumerate().zip(all.chunks(kind.usual().len())) {
        let own = |cx: &mut NodeCx, v: ValueId| cx.element(v, 0, Dim::from(d as i64));
        let usual = activations.iter().zip(kind.usual()).all(|(a, &k)| *a == k.into());
        let activations = if usual { vec![] } else { activations.to_vec() };
        let op = Recurrence { kind, reverse, activations, clip: Real(clip), reset_after, input_forget };
        let weights = own(cx, w)?;
        let mut given = cx.matmul(x, weights, true)?;
        let mut parameters = peephole.map(|p| own(cx, p)).transpose()?;
        if let Some(b) = bias {
            let b = own(cx, b)?;
            let (outside, inside) = biases(cx, b, &op, &hidden)?;
            given = cx.binary(Add, given, outside)?;
            parameters = parameters.or(inside);
        }
        let mut start = vec![];
        for v in [h0, c0].into_iter().take(kind.states()) {
            start.push(match v {
                Some(v) => cx.element(v, usize::from(batch_first), Dim::from(d as i64))?,
                None => {
                    let zero = cx.scalar_like(x, 0.0);
                    cx.broadcast(zero, vec![t.shape[1].clone(), hidden.clone()])?
                }
            });
        }
        let mut operands = vec![given, own(cx, r)?, cx.stack(&start, 0)?];
        operands.extend(parameters);
        if let Some(l) = lengths {
            if parameters.is_none() {
                operands.push(cx.emit_constant(&Tensor::from_f64(t.dtype, [0], &[])));
            }
            operands.push(l);
        }
        let results = cx.ops(op, &operands)?;
        ys.push(results[0]);
        for (i, all) in states.iter_mut().enumerate() {
            all.push(cx.part(results[1], 0, Dim::from(i as i64), 1.into())?);
        }
    }
    let y = cx.stack(&ys, 1)?;
    let mut results = vec![value(if batch_first { cx.transpose(y, vec![2, 0, 1, 3])? } else { y })];
    for all in states {
        let s = cx.concat(&all, 0)?;
        results.push(value(if batch_first { cx.transpose(s, vec![1, 0, 2])? } else { s }));
    }
    Ok(results)
}

/// The weights that the codes `[D,K,G*H]` at input `i` stand for, as `[D,G*H,K]`. Their scale is at input `scale`, `[D]` or `[D,G*H]`, and the zero point after it.
fn decoded_weights(cx: &mut NodeCx, i: usize, scale: usize) -> Result<ValueId> {
    let codes = cx.input(i)?;
    if cx.ty(codes).rank() != 3 {
        return Err(cx.invalid(format!("weights {}, expected three axes", cx.ty(codes))));
    }
    let mut operands = vec![cx.transpose(codes, vec![0, 2, 1])?];
    for p in [Some(cx.input(scale)?), cx.optional(scale + 1)?].into_iter().flatten() {
        let mut shape = cx.ty(p).shape.to_vec();
        shape.resize(3, 1.into());
        operands.push(cx.reshape(p, shape)?);
    }
    cx.op(DecodeAffine { axis: 1, group: 0 }, &operands)
}

/// ONNX Runtime rounds the inputs of all steps to codes, and so does this; it also rounds each hidden state before its product, which stays a float here.
fn on_codes(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let codes = dynamic_codes(cx, x)?;
    let x = cx.op(DecodeAffine { axis: 0, group: 0 }, &codes)?;
    let weights = [decoded_weights(cx, 1, 8)?, decoded_weights(cx, 2, 10)?];
    layer_of(cx, Cell::Lstm, [x, weights[0], weights[1]])
}

pub(super) const OPS: Topic = &[
    ("RNN", |cx| layer(cx, Cell::Rnn)),
    ("GRU", |cx| layer(cx, Cell::Gru)),
    ("LSTM", |cx| layer(cx, Cell::Lstm)),
    ("com.microsoft:DynamicQuantizeLSTM", on_codes),
];
