//! Loops that write elements of which several share a byte.
//!
//! A grid point owns eight elements in row-major order, whatever the rows, and with them whole bytes of every output: no byte is written by two threads.
//! Elements are evaluated one by one and gathered in a word.

use super::expr::{Fused, Point, Row};
use super::loops::GRAIN;
use super::nest::product;
use crate::emit::{Scalar, Val};
use crate::kernel::{GroupCx, Launch, LaunchBuilder};
use tersor_ir::ValueId;
use tersor_ir::diag::Result;

/// Elements of a grid point: as many as fill bytes for any number of bits.
const TOGETHER: i64 = 8;

/// Whether the group writes such elements.
pub fn fits(cx: &GroupCx) -> bool {
    cx.group.outputs.iter().any(|&v| cx.ty(v).dtype.is_packed())
}

/// Builds the kernel of a loop group over the index space of `domain_of`.
pub fn build(cx: &GroupCx, domain_of: ValueId) -> Result<Launch> {
    let fused = Fused::new(cx, domain_of)?;
    let (packed, whole): (Vec<ValueId>, Vec<ValueId>) =
        fused.outputs().into_iter().partition(|&v| cx.ty(v).dtype.is_packed());
    let roots: Vec<ValueId> = packed.iter().chain(&whole).copied().collect();
    let bits: Vec<i64> = packed.iter().map(|&v| cx.ty(v).dtype.bits().into()).collect();
    let mut b = LaunchBuilder::new(format!("{}_packed__{}", cx.ty(domain_of).dtype, cx.isa.suffix()));
    let elements = product(fused.domain());
    let count = b.extent(&elements);
    let (begin, end) = b.range();
    b.loop_(begin, end, 1, |b, i| {
        let together = b.i64(TOGETHER);
        let first = b.mul(i, together);
        let last = b.add(first, together);
        let last = b.min(last, count);
        let (zero, one) = (b.i64(0), b.i64(1));
        let words = b.for_(first, last, one, &vec![zero; packed.len()], |b, col, words| {
            let at = Point { row: Row::Flat(zero), col, lanes: 1, count: None, merged: fused.domain().len() };
            let values = fused.emit(b, &[], &at, &roots);
            for (&v, &y) in whole.iter().zip(&values[packed.len()..]) {
                fused.store(b, v, y, &at);
            }
            let place = b.sub(col, first);
            let put = |(&word, (&y, &bits)): (&Val, (&Val, &i64))| {
                let (mask, size) = (b.i64((1 << bits) - 1), b.i64(bits));
                let y = b.zext(y, Scalar::I64);
                let y = b.and(y, mask);
                let shift = b.mul(place, size);
                let y = b.shl(y, shift);
                b.or(word, y)
            };
            words.iter().zip(values.iter().zip(&bits)).map(put).collect()
        });
        let there = b.sub(last, first);
        for ((&v, &word), &bits) in packed.iter().zip(&words).zip(&bits) {
            let size = b.i64(bits);
            let used = b.mul(there, size);
            let bytes = b.ceil_div(used, 8);
            let (to, start) = (b.write(v), b.mul(i, size));
            let to = b.gep(to, start);
            b.loop_(zero, bytes, 1, |b, j| {
                let eight = b.i64(8);
                let shift = b.mul(j, eight);
                let byte = b.shr(word, shift);
                let byte = b.trunc(byte, Scalar::I8);
                b.store_at(byte, to, j);
            });
        }
    });
    Ok(b.launch(elements.ceil_div(TOGETHER), 0, GRAIN / TOGETHER))
}
