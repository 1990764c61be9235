//! Recurrent layers: all steps in one kernel.
//!
//! A grid point is a block of rows of the batch. Their states stay in scratch while the loop over steps runs: a step multiplies the hidden states with the packed
//! weights (`weights.rs`), a vector of hidden units after the other, and finishes the units at once (`cell.rs`). Hidden states have two places, one that a step reads and one that it writes.
//! Rows that fill no block, and rows with lengths of their own, are taken one by one.

mod cell;
#[cfg(test)]
mod tests;
mod weights;

use super::element;
use crate::emit::{Scalar, Ty, Val};
use crate::kernel::{GroupCx, Isa, Launch, LaunchBuilder};
use cell::Unit;
use tersor_ir::diag::Result;
use tersor_ir::ops::Recurrence;
use tersor_ir::ops::recurrence::Cell;
use tersor_ir::{DType, Diagnostic, Dim, Failure, NodeId};
use weights::Weights;

/// Multiply-adds worth another thread.
const THREAD_WORK: i64 = 1 << 19;
/// Most rows of a block.
const ROWS: i64 = 4;

/// What a step multiplies before it can go on: gates that one pass over a source gives.
struct Pass {
    gates: Vec<usize>,
    /// From the reset hidden states in place of the hidden states.
    reset: bool,
}

fn passes(op: &Recurrence) -> Vec<Pass> {
    let pass = |gates: &[usize], reset: bool| Pass { gates: gates.to_vec(), reset };
    match op.kind {
        Cell::Gru if !op.reset_after => vec![pass(&[0, 1], false), pass(&[2], true)],
        kind => vec![pass(&(0..kind.gates()).collect::<Vec<_>>(), false)],
    }
}

/// Builds the kernel of a group whose anchor is a recurrent layer.
pub fn build(cx: &GroupCx, anchor: NodeId, op: &Recurrence) -> Result<Launch> {
    let unsupported = |what: String| Err(Diagnostic::error("B0350", what).failure(Failure::Unsupported));
    let node = &cx.f.nodes[anchor];
    let (x, w) = (cx.ty(node.operands[0]), cx.ty(node.operands[1]));
    let dtype = x.dtype;
    let (Some(storage), Some(hidden)) = (element::storage(dtype), w.shape[1].as_const()) else {
        return unsupported(format!("{} with weights {w}, expected a known number of hidden units", op.kind.name()));
    };
    let (steps, batch) = (x.shape[0].clone(), x.shape[1].clone());
    let passes = passes(op);
    let most = passes.iter().map(|p| p.gates.len()).max().unwrap_or(1) as i64;
    let accumulators = if cx.isa == Isa::V3 { 12 } else { 24 };
    let lengths = node.operands.get(4).copied();
    let rows = match (lengths, batch.as_const()) {
        (Some(_), _) => 1,
        (None, known) => ROWS.min(accumulators / most).min(known.unwrap_or(ROWS)).max(1),
    };
    let register = element::register(dtype);
    let lanes = if register == Scalar::F64 { cx.isa.lanes() / 2 } else { cx.isa.lanes() };
    let name = format!("{dtype}_{}_{rows}x{lanes}__{}", op.kind.name(), cx.isa.suffix());
    let mut b = LaunchBuilder::new(name);
    let given = node.operands.get(3).filter(|&&p| cx.ty(p).shape[0] != Dim::Const(0)).copied();
    let written = [0, 1].map(|i| cx.group.outputs.contains(&node.results[i]).then_some(node.results[i]));
    let size = i64::from(register.bytes());
    let plane = rows * (hidden as u64).next_multiple_of(lanes.into()) as i64 * size;
    // Two places of hidden states, then the cell states, or update gates and reset hidden states.
    let places = 4;
    let weights: Vec<Weights> = {
        let mut free = places * plane;
        let one = |p: &Pass| {
            let w = Weights::new(cx, &mut b, node.operands[1], &p.gates, hidden, lanes, free);
            free += w.scratch();
            w
        };
        passes.iter().map(one).collect()
    };
    let scratch = places * plane + weights.iter().map(Weights::scratch).sum::<i64>();
    let body = Body {
        op,
        dtype,
        storage,
        register,
        lanes,
        hidden,
        plane,
        x: b.read(cx.view(node.operands[0]).root),
        state: b.read(cx.view(node.operands[2]).root),
        parameters: given.map(|p| b.read(cx.view(p).root)),
        lengths: lengths.map(|l| (b.read(cx.view(l).root), cx.ty(l).dtype)),
        y: written[0].map(|v| b.write(v)),
        last: written[1].map(|v| b.write(v)),
        steps: b.extent(&steps),
        batch: b.extent(&batch),
        passes,
        weights,
    };
    body.grid(&mut b, rows, batch.as_const());
    let point = steps * (rows * hidden * hidden * op.kind.gates() as i64).into();
    let grain = Dim::from(THREAD_WORK).floor_div(point + Dim::from(1)).max(1.into());
    Ok(b.launch(batch.ceil_div(rows), scratch, grain))
}

/// Where hidden units are: all lanes from `j` on, or the first `count`.
#[derive(Copy, Clone)]
struct Columns {
    j: Val,
    count: Option<i64>,
}

struct Body<'a> {
    op: &'a Recurrence,
    dtype: DType,
    storage: Scalar,
    register: Scalar,
    lanes: u32,
    hidden: i64,
    /// Bytes of a block's vectors in scratch.
    plane: i64,
    x: Val,
    state: Val,
    parameters: Option<Val>,
    lengths: Option<(Val, DType)>,
    y: Option<Val>,
    last: Option<Val>,
    steps: Val,
    batch: Val,
    passes: Vec<Pass>,
    weights: Vec<Weights>,
}

impl Body<'_> {
    fn grid(&self, b: &mut LaunchBuilder, rows: i64, batch: Option<i64>) {
        let (begin, end) = b.range();
        for w in &self.weights {
            w.pack(b);
        }
        b.loop_(begin, end, 1, |b, i| {
            let size = b.i64(rows);
            let first = b.mul(i, size);
            if rows == 1 || batch.is_some_and(|n| n % rows == 0) {
                return self.rows(b, first, rows);
            }
            let left = b.sub(self.batch, first);
            let whole = b.ge(left, size);
            b.if_(
                whole,
                |b| {
                    self.rows(b, first, rows);
                    vec![]
                },
                |b| {
                    b.loop_(first, self.batch, 1, |b, row| self.rows(b, row, 1));
                    vec![]
                },
            );
        });
    }

    /// Calls `body` for the hidden units, a vector at a time.
    fn columns(&self, b: &mut LaunchBuilder, body: impl Fn(&mut LaunchBuilder, Columns)) {
        let left = self.hidden % i64::from(self.lanes);
        let (zero, whole) = (b.i64(0), b.i64(self.hidden - left));
        if self.hidden > left {
            b.loop_(zero, whole, self.lanes.into(), |b, j| body(b, Columns { j, count: None }));
        }
        if left > 0 {
            body(b, Columns { j: whole, count: Some(left) });
        }
    }

    /// A vector from memory, zero in lanes that do not exist, at element `at + columns.j`.
    fn load(&self, b: &mut LaunchBuilder, from: Val, at: Val, columns: Columns) -> Val {
        let index = b.add(at, columns.j);
        let p = b.elem(from, index, self.storage);
        let ty = self.storage.x(self.lanes);
        let v = match columns.count {
            Some(n) => {
                let n = b.i64(n);
                b.load_first(p, ty, n)
            }
            None => b.load(p, ty),
        };
        element::loaded(b, self.dtype, v)
    }

    fn store(&self, b: &mut LaunchBuilder, v: Val, to: Val, at: Val, columns: Columns) {
        let index = b.add(at, columns.j);
        let p = b.elem(to, index, self.storage);
        let v = element::to_store(b, self.dtype, v);
        match columns.count {
            Some(n) => {
                let n = b.i64(n);
                b.store_first(v, p, n);
            }
            None => b.store(v, p),
        }
    }

    /// The address in scratch of row `i` of a block's vectors that start at `place` bytes.
    fn place(&self, b: &mut LaunchBuilder, place: Val, i: i64) -> Val {
        let padded = (self.hidden as u64).next_multiple_of(self.lanes.into()) as i64;
        let row = b.i64(i * padded * i64::from(self.register.bytes()));
        let at = b.add(place, row);
        let scratch = b.scratch();
        b.gep(scratch, at)
    }

    fn vector(&self) -> Ty {
        self.register.x(self.lanes)
    }

    /// The element of the first hidden unit of a state of row `row`.
    fn state_at(&self, b: &mut LaunchBuilder, which: i64, row: Val) -> Val {
        let (which, hidden) = (b.i64(which), b.i64(self.hidden));
        let before = b.mul(which, self.batch);
        let row = b.add(before, row);
        b.mul(row, hidden)
    }

    /// All steps of `rows` rows from `first` on.
    fn rows(&self, b: &mut LaunchBuilder, first: Val, rows: i64) {
        let (zero, one, plane) = (b.i64(0), b.i64(1), b.i64(self.plane));
        let cells = b.i64(2 * self.plane);
        let each: Vec<(i64, Val)> = (0..rows)
            .map(|i| {
                let offset = b.i64(i);
                (i, b.add(first, offset))
            })
            .collect();
        let states = [zero, cells];
        let states = &states[..self.op.kind.states()];
        self.columns(b, |b, columns| {
            for (which, &place) in states.iter().enumerate() {
                for &(i, row) in &each {
                    let from = self.state_at(b, which as i64, row);
                    let v = self.load(b, self.state, from, columns);
                    let to = self.place(b, place, i);
                    let to = b.elem(to, columns.j, self.register);
                    b.store(v, to);
                }
            }
        });
        let length = self.length(b, first);
        b.loop_(zero, length, 1, |b, step| {
            let odd = b.and(step, one);
            let now = b.mul(odd, plane);
            let next = b.sub(plane, now);
            let t = match self.op.reverse {
                true => {
                    let end = b.sub(length, one);
                    b.sub(end, step)
                }
                false => step,
            };
            self.step(b, &each, t, [now, next]);
        });
        let odd = b.and(length, one);
        let now = b.mul(odd, plane);
        if let Some(last) = self.last {
            self.columns(b, |b, columns| {
                for (which, &place) in [now, cells][..states.len()].iter().enumerate() {
                    for &(i, row) in &each {
                        let from = self.place(b, place, i);
                        let from = b.elem(from, columns.j, self.register);
                        let v = b.load(from, self.vector());
                        let to = self.state_at(b, which as i64, row);
                        self.store(b, v, last, to, columns);
                    }
                }
            });
        }
        if let (Some(y), Some(_)) = (self.y, self.lengths) {
            b.loop_(length, self.steps, 1, |b, t| {
                let at = self.result_at(b, t, first);
                self.columns(b, |b, columns| {
                    let none = b.zero(self.vector());
                    self.store(b, none, y, at, columns);
                });
            });
        }
    }

    /// How many steps a row has.
    fn length(&self, b: &mut LaunchBuilder, row: Val) -> Val {
        let Some((lengths, dtype)) = self.lengths else { return self.steps };
        let elem = element::register(dtype);
        let p = b.elem(lengths, row, elem);
        let n = b.load(p, Ty::Scalar(elem));
        let n = element::cast(b, dtype, DType::I64, n);
        let zero = b.i64(0);
        let n = b.max(n, zero);
        b.min(n, self.steps)
    }

    /// The first element of row `row` in the results of step `t`.
    fn result_at(&self, b: &mut LaunchBuilder, t: Val, row: Val) -> Val {
        let (before, hidden) = (b.mul(t, self.batch), b.i64(self.hidden));
        let row = b.add(before, row);
        b.mul(row, hidden)
    }

    fn step(&self, b: &mut LaunchBuilder, each: &[(i64, Val)], t: Val, [now, next]: [Val; 2]) {
        let reset = b.i64(3 * self.plane);
        let gates = b.i64(self.op.kind.gates() as i64);
        let places: Vec<(Val, Val)> = each
            .iter()
            .map(|&(_, row)| {
                let result = self.result_at(b, t, row);
                (b.mul(result, gates), result)
            })
            .collect();
        for (number, (pass, weights)) in self.passes.iter().zip(&self.weights).enumerate() {
            let sources: Vec<Val> =
                each.iter().map(|&(i, _)| self.place(b, if pass.reset { reset } else { now }, i)).collect();
            self.columns(b, |b, columns| {
                let sums = weights.product(b, columns.j, &sources, self.register);
                for ((&(i, _), &(given, result)), sums) in each.iter().zip(&places).zip(&sums) {
                    let unit = Unit { body: self, columns, row: i, given, result, now, next };
                    unit.finish(b, number, sums);
                }
            });
        }
    }
}
