//! Positions in the order of elements: a stable merge sort from the bottom up.
//!
//! A grid point is a row along the axis. Its elements and their positions lie in scratch, twice: each pass merges pairs of sorted runs from one copy to the other.

use super::element;
use super::expr::{Fused, Point, Row};
use super::loops::per_point;
use super::nest::{product, unravel};
use crate::emit::{KernelBuilder, Scalar, Ty, Val};
use crate::kernel::{GroupCx, Launch, LaunchBuilder};
use tersor_ir::diag::Result;
use tersor_ir::ops::ArgSort;
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::{DType, Dim, NodeId};

/// Bytes of an element or a position in scratch.
const SLOT: i64 = 8;
/// Elements worth a thread.
const GRAIN: i64 = 1 << 13;

/// Builds the kernel of a group whose anchor is an argsort.
pub fn build(cx: &GroupCx, anchor: NodeId, op: &ArgSort) -> Result<Launch> {
    let node = &cx.f.nodes[anchor];
    let (x, y) = (node.operands[0], node.results[0]);
    let (dtype, shape, axis) = (cx.ty(x).dtype, cx.ty(x).shape.to_vec(), usize::from(op.axis));
    let mut b = LaunchBuilder::new(format!("{dtype}_argsort__{}", cx.isa.suffix()));
    let from = Fused::new(cx, x)?;
    let n = b.extent(&shape[axis]);
    let others: Vec<Dim> = [&shape[..axis], &shape[axis + 1..]].concat();
    let (begin, end) = b.range();
    let (zero, one, passes) = (b.i64(0), b.i64(1), passes(&mut b, n));
    let list = Lists { scratch: b.scratch(), n, key: Ty::Scalar(element::register(dtype)) };
    b.loop_(begin, end, 1, |b, row| {
        let index = unravel(b, row, &others);
        let point = |k: Val| {
            let mut index = index.clone();
            index.insert(axis, k);
            let last = index.pop().expect("an axis");
            Point::new(Row::Index(index), last, 1)
        };
        b.loop_(zero, n, 1, |b, k| {
            let v = from.emit(b, &[], &point(k), &[x])[0];
            list.store(b, zero, k, v, k);
        });
        let done = b.for_(zero, passes, one, &[zero, one], |b, _, state| {
            let (copy, width) = (state[0], state[1]);
            let other = b.sub(one, copy);
            let double = b.add(width, width);
            b.for_(zero, n, double, &[], |b, lo, _| {
                let (mid, hi) = (b.add(lo, width), b.add(lo, double));
                let (mid, hi) = (b.min(mid, n), b.min(hi, n));
                b.for_(lo, hi, one, &[lo, mid], |b, k, at| merge(b, &list, op, dtype, (copy, other), k, at, (mid, hi)));
                vec![]
            });
            vec![other, double]
        });
        b.loop_(zero, n, 1, |b, k| {
            let v = list.position(b, done[0], k);
            from.store(b, y, v, &point(k));
        });
    });
    let grain = per_point(GRAIN, &shape[axis]);
    let scratch = shape[axis].clone() * (4 * SLOT).into();
    Ok(b.launch(product(&others), scratch, grain))
}

/// How often runs of one element must double to be `n` long.
fn passes(b: &mut LaunchBuilder, n: Val) -> Val {
    let (zero, one, most) = (b.i64(0), b.i64(1), b.i64(62));
    b.for_(zero, most, one, &[zero, one], |b, _, state| {
        let short = b.lt(state[1], n);
        let next = b.add(state[0], one);
        let double = b.add(state[1], state[1]);
        vec![b.select(short, next, state[0]), b.select(short, double, state[1])]
    })[0]
}

/// Two copies of elements, and two of their positions.
struct Lists {
    scratch: Val,
    n: Val,
    key: Ty,
}

impl Lists {
    fn place(&self, b: &mut KernelBuilder, list: Val, k: Val) -> Val {
        let start = b.mul(list, self.n);
        let at = b.add(start, k);
        b.elem(self.scratch, at, Scalar::I64)
    }
    fn element(&self, b: &mut KernelBuilder, copy: Val, k: Val) -> Val {
        let at = self.place(b, copy, k);
        b.load(at, self.key)
    }
    fn position(&self, b: &mut KernelBuilder, copy: Val, k: Val) -> Val {
        let two = b.i64(2);
        let list = b.add(copy, two);
        let at = self.place(b, list, k);
        b.load(at, Ty::Scalar(Scalar::I64))
    }
    fn store(&self, b: &mut KernelBuilder, copy: Val, k: Val, element: Val, position: Val) {
        let at = self.place(b, copy, k);
        b.store(element, at);
        let two = b.i64(2);
        let list = b.add(copy, two);
        let at = self.place(b, list, k);
        b.store(position, at);
    }
}

/// Moves the next element of two runs, of which those at `at` are the first left; gives what then is.
#[allow(clippy::too_many_arguments)]
fn merge(
    b: &mut KernelBuilder,
    list: &Lists,
    op: &ArgSort,
    dtype: DType,
    (from, to): (Val, Val),
    k: Val,
    at: &[Val],
    (mid, hi): (Val, Val),
) -> Vec<Val> {
    let (zero, one) = (b.i64(0), b.i64(1));
    let last = b.sub(list.n, one);
    let [left, right] = [at[0], at[1]].map(|i| b.min(i, last));
    let (l, r) = (list.element(b, from, left), list.element(b, from, right));
    let (some_left, some_right) = (b.lt(at[0], mid), b.lt(at[1], hi));
    let before = before(b, op, dtype, r, l);
    let none_left = b.not(some_left);
    let first = b.or(none_left, before);
    let right_first = b.and(some_right, first);
    let place = b.select(right_first, right, left);
    let (element, position) = (b.select(right_first, r, l), list.position(b, from, place));
    list.store(b, to, k, element, position);
    let (right_step, left_step) = (b.select(right_first, one, zero), b.select(right_first, zero, one));
    vec![b.add(at[0], left_step), b.add(at[1], right_step)]
}

/// Whether `a` comes before `c`; what is not a number, after everything else.
fn before(b: &mut KernelBuilder, op: &ArgSort, dtype: DType, a: Val, c: Val) -> Val {
    let kind = if op.descending { CompareKind::Gt } else { CompareKind::Lt };
    let less = element::compare(b, kind, dtype, a, c);
    if !dtype.is_float() {
        return less;
    }
    let (a, c) = (b.is_nan(a), b.is_nan(c));
    let number = b.not(a);
    let other = b.and(number, c);
    b.or(less, other)
}
