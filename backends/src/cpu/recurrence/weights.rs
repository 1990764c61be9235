//! The recurrent weights, and their product with hidden states.
//!
//! Layout: `[H/L][H][G][L]` for `G` gates and vectors of `L` hidden units, filled up with zeros. Constant weights are packed at compile time, others
//! at the start of each call, into scratch.

use crate::cpu::element;
use crate::emit::{Scalar, Ty, Val};
use crate::kernel::{GroupCx, LaunchBuilder};
use tersor_ir::{Tensor, ValueId};

/// Sums that run side by side, so that multiply-adds need not wait for each other.
const SUMS: usize = 8;

/// The weights of some gates.
pub struct Weights {
    packed: Val,
    /// Where they are while they are not packed yet.
    source: Option<Val>,
    gates: Vec<usize>,
    hidden: i64,
    lanes: u32,
    elem: Scalar,
}

impl Weights {
    /// Weights `[G*H, H]` of some of the gates; those that are not constant are packed at `free` bytes of scratch.
    pub fn new(
        cx: &GroupCx,
        b: &mut LaunchBuilder,
        v: ValueId,
        gates: &[usize],
        hidden: i64,
        lanes: u32,
        free: i64,
    ) -> Weights {
        let dtype = cx.ty(v).dtype;
        let elem = element::storage(dtype).unwrap_or(element::register(dtype));
        let (packed, source) = match cx.constant(v) {
            Some(t) => {
                let layout = format!("{dtype} [{}/{lanes}][{hidden}][{}][{lanes}]", hidden, gates.len());
                (b.packed(layout, packed(&t, gates, hidden as usize, lanes as usize)), None)
            }
            None => {
                let (scratch, from) = (b.scratch(), b.read(cx.view(v).root));
                (b.offset(scratch, free), Some(from))
            }
        };
        Weights { packed, source, gates: gates.to_vec(), hidden, lanes, elem }
    }

    fn blocks(&self) -> i64 {
        (self.hidden as u64).div_ceil(self.lanes.into()) as i64
    }

    /// Elements of all gates for one hidden state.
    fn pitch(&self) -> i64 {
        self.gates.len() as i64 * i64::from(self.lanes)
    }

    /// Bytes of scratch that they take, a multiple of 64.
    pub fn scratch(&self) -> i64 {
        let bytes = self.blocks() * self.hidden * self.pitch() * i64::from(self.elem.bytes());
        if self.source.is_some() { (bytes as u64).next_multiple_of(64) as i64 } else { 0 }
    }

    /// Packs weights that are not constant.
    pub fn pack(&self, b: &mut LaunchBuilder) {
        let Some(source) = self.source else { return };
        // Bits are moved, not numbers.
        let elem = match self.elem.bytes() {
            2 => Scalar::I16,
            4 => Scalar::I32,
            _ => Scalar::I64,
        };
        let (zero, hidden, lanes) = (b.i64(0), b.i64(self.hidden), b.i64(self.lanes.into()));
        let units = b.i64(self.blocks() * i64::from(self.lanes));
        b.loop_(zero, units, 1, |b, j| {
            let (block, lane) = (b.div(j, lanes), b.rem(j, lanes));
            let (most, there) = (b.i64(self.hidden - 1), b.lt(j, hidden));
            let row = b.min(j, most);
            b.loop_(zero, hidden, 1, |b, k| {
                let before = b.mul(block, hidden);
                let before = b.add(before, k);
                for (g, &gate) in self.gates.iter().enumerate() {
                    let first = b.i64(gate as i64 * self.hidden);
                    let from = b.add(first, row);
                    let from = b.mul(from, hidden);
                    let from = b.add(from, k);
                    let from = b.elem(source, from, elem);
                    let v = b.load(from, Ty::Scalar(elem));
                    let none = b.zero(Ty::Scalar(elem));
                    let v = b.select(there, v, none);
                    let (pitch, own) = (b.i64(self.pitch()), b.i64(g as i64 * i64::from(self.lanes)));
                    let to = b.mul(before, pitch);
                    let to = b.add(to, own);
                    let to = b.add(to, lane);
                    let to = b.elem(self.packed, to, elem);
                    b.store(v, to);
                }
            });
        });
    }

    /// For each source (hidden states of a row) the sums of all gates for the vector of hidden units from `j` on.
    pub fn product(&self, b: &mut LaunchBuilder, j: Val, sources: &[Val], register: Scalar) -> Vec<Vec<Val>> {
        let gates = self.gates.len();
        let turns = if sources.len() == 1 { SUMS.div_ceil(gates) } else { 1 };
        let turns = turns.min(self.hidden as usize);
        let size = i64::from(self.elem.bytes());
        let block = b.i64(self.hidden * gates as i64 * size);
        let block = b.mul(j, block);
        let block = b.gep(self.packed, block);
        // Sums by turn, row and gate.
        let add = |b: &mut LaunchBuilder, k: Val, turn: usize, sums: &mut [Val]| {
            let step = b.i64(self.pitch() * size);
            let at = b.mul(k, step);
            let at = b.gep(block, at);
            let states: Vec<Val> = sources
                .iter()
                .map(|&s| {
                    let p = b.elem(s, k, register);
                    b.load(p, Ty::Scalar(register))
                })
                .collect();
            for g in 0..gates {
                let p = b.offset(at, g as i64 * i64::from(self.lanes) * size);
                let w = b.load(p, self.elem.x(self.lanes));
                let w = b.to_float_type(w, register);
                for (i, &h) in states.iter().enumerate() {
                    let sum = &mut sums[(turn * sources.len() + i) * gates + g];
                    *sum = b.fma(w, h, *sum);
                }
            }
        };
        let none = b.zero(register.x(self.lanes));
        let init = vec![none; turns * sources.len() * gates];
        let left = self.hidden % turns as i64;
        let (zero, whole, step) = (b.i64(0), b.i64(self.hidden - left), b.i64(turns as i64));
        let mut sums = b.for_(zero, whole, step, &init, |b, k, sums| {
            let mut sums = sums.to_vec();
            for turn in 0..turns {
                let offset = b.i64(turn as i64);
                let k = b.add(k, offset);
                add(b, k, turn, &mut sums);
            }
            sums
        });
        for turn in 0..left {
            let k = b.i64(self.hidden - left + turn);
            add(b, k, turn as usize, &mut sums);
        }
        let one = |b: &mut LaunchBuilder, i: usize, g: usize| {
            let parts = (0..turns).map(|turn| sums[(turn * sources.len() + i) * gates + g]);
            parts.reduce(|a, c| b.add(a, c)).expect("a turn")
        };
        (0..sources.len()).map(|i| (0..gates).map(|g| one(b, i, g)).collect()).collect()
    }
}

/// Constant weights in their layout.
fn packed(t: &Tensor, gates: &[usize], hidden: usize, lanes: usize) -> Tensor {
    let (blocks, size) = (hidden.div_ceil(lanes), t.dtype().bits() as usize / 8);
    let shape = vec![blocks, hidden, gates.len(), lanes];
    let mut bytes = vec![0u8; shape.iter().product::<usize>() * size];
    let source = t.bytes();
    let mut out = bytes.chunks_exact_mut(size);
    for block in 0..blocks {
        for k in 0..hidden {
            for gate in gates {
                for (j, to) in (block * lanes..(block + 1) * lanes).zip(&mut out) {
                    if j < hidden {
                        to.copy_from_slice(&source[((gate * hidden + j) * hidden + k) * size..][..size]);
                    }
                }
            }
        }
    }
    Tensor::from_blob(t.dtype(), shape, bytes.into()).expect("as many bytes as elements")
}
