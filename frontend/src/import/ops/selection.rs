//! Operators whose data decide how many elements they give.
//!
//! Each computes at the most that there can be: elements that are taken are counted, and scattered to the place that the count before them gives. The extent is then bound to
//! the whole count by `prefix`.

use super::Topic;
use super::indexing::elements;
use crate::import::build::{done, product};
use crate::import::node::{NodeCx, value};
use crate::import::{Importer, Meaning};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::{Add, Div, Max, Min, Mod, Mul, Or, Sub};
use tersor_ir::ops::compare::CompareKind::{Eq, Gt, Ne};
use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::ops::scatter::ScatterKind;
use tersor_ir::ops::{ArgSort, CumSum, Extent, Gather, Nms, Scatter};
use tersor_ir::{DType, Dim, ValueId};

/// Columns by which rows are ordered one after the other.
const COLUMNS: usize = 64;

/// What was selected already, the first `len` elements of `by`, or for a `len` of 0 as many as the number `by` says. Equal selections are one, so that their extents are
/// equal: files have one for each use of a mask.
pub(in crate::import) struct Selected {
    pub(in crate::import) by: ValueId,
    pub(in crate::import) len: Dim,
    pub(in crate::import) cap: Dim,
    pub(in crate::import) at: ValueId,
}

impl Selected {
    /// Nodes that are looked at to find that two selections are by the same condition.
    pub(in crate::import) const COMPARED: usize = 64;

    /// Whether it is by a number up to `cap`.
    pub(in crate::import) fn counts(&self, cap: &Dim) -> bool {
        self.len == Dim::Const(0) && self.cap == *cap
    }
}

impl Importer<'_> {
    /// Whether two values are computed alike, as far as `budget` nodes show.
    pub(in crate::import) fn same(&self, a: ValueId, b: ValueId, budget: &mut usize) -> bool {
        if a == b {
            return true;
        }
        let f = &self.b.func;
        if let (Some(c), Some(d)) = (f.def_const(a), f.def_const(b)) {
            return self.b.consts[c].ty == self.b.consts[d].ty && self.b.consts[c].hash() == self.b.consts[d].hash();
        }
        let (Some(m), Some(n)) = (f.def_node(a), f.def_node(b)) else { return false };
        let Some(left) = budget.checked_sub(1) else { return false };
        *budget = left;
        m.op == n.op
            && m.results.iter().position(|v| *v == a) == n.results.iter().position(|v| *v == b)
            && m.operands.len() == n.operands.len()
            && m.operands.iter().zip(&n.operands).all(|(&v, &w)| self.same(v, w, budget))
    }
}

/// Which places of a list are taken, and how many are before each.
struct Taken {
    mask: ValueId,
    before: ValueId,
    count: ValueId,
}

fn taken(cx: &mut NodeCx, mask: ValueId) -> Result<Taken> {
    let ones = cx.cast(mask, DType::I64)?;
    let before = cx.op(CumSum { axis: 0, exclusive: true, reverse: false }, &[ones])?;
    let count = cx.reduce(ReduceKind::Sum, ones, &[0], false)?;
    Ok(Taken { mask, before, count })
}

impl Taken {
    /// A list of `cap` with `items` of the places that are taken, one after the other, and zeros after them.
    fn packed(&self, cx: &mut NodeCx, items: ValueId, cap: &Dim) -> Result<ValueId> {
        let dtype = cx.ty(items).dtype;
        // Everything else goes to one place more, which is cut off.
        let rest = cx.op(Extent { of: cap.clone() }, &[])?;
        let to = cx.select(self.mask, self.before, rest)?;
        let zero = cx.emit_constant(&tersor_ir::Tensor::scalar(dtype, 0.0));
        let room = cx.broadcast(zero, vec![cap.clone() + 1.into()])?;
        let all = cx.op(Scatter { kind: ScatterKind::Set }, &[room, to, items])?;
        cx.part(all, 0, 0.into(), cap.clone())
    }
}

impl NodeCx<'_, '_, '_> {
    /// The numbers of the elements of `x`, one after the other, that are other than 0. There are no more than `cap`, and nothing past the first `len` counts.
    fn numbers_where(&mut self, x: ValueId, len: &Dim, cap: &Dim) -> Result<ValueId> {
        let known = |s: &&Selected| {
            s.len == *len && s.cap == *cap && self.importer.same(s.by, x, &mut Selected::COMPARED.clone())
        };
        if let Some(s) = self.importer.selected.iter().find(known) {
            return Ok(s.at);
        }
        let t = self.ty(x);
        let mask = if t.dtype == DType::Bool { x } else { self.compare_scalar(Ne, x, 0.0)? };
        let mask = self.reshape(mask, vec![t.elements()])?;
        let mask = self.part(mask, 0, 0.into(), len.clone())?;
        let taken = taken(self, mask)?;
        let numbers = self.positions(len, 0, 1, DType::I64)?;
        let packed = taken.packed(self, numbers, cap)?;
        let at = self.prefix(packed, 0, taken.count)?;
        self.importer.selected.push(Selected { by: x, len: len.clone(), cap: cap.clone(), at });
        Ok(at)
    }

    /// The position along each axis of elements with these numbers.
    fn coordinates(&mut self, numbers: ValueId, shape: &[Dim]) -> Result<Vec<ValueId>> {
        let mut out = vec![];
        for (a, d) in shape.iter().enumerate() {
            let (inner, mut at) = (product(&shape[a + 1..]), numbers);
            if inner != Dim::Const(1) {
                let inner = self.op(Extent { of: inner }, &[])?;
                at = self.binary(Div, at, inner)?;
            }
            if a > 0 {
                let d = self.op(Extent { of: d.clone() }, &[])?;
                at = self.binary(Mod, at, d)?;
            }
            out.push(at);
        }
        Ok(out)
    }
}

fn non_zero(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let t = cx.ty(x);
    let n = t.elements();
    let at = cx.numbers_where(x, &n, &n)?;
    let shape = if t.rank() == 0 { vec![Dim::from(1)] } else { t.shape.to_vec() };
    let places = cx.coordinates(at, &shape)?;
    done(cx.stack(&places, 0)?)
}

/// Slices along an axis, or elements, where a condition holds; the condition may be shorter.
fn compress(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (mut x, cond) = (cx.input(0)?, cx.input(1)?);
    let axis = match cx.has("axis") {
        true => cx.axis(cx.int("axis", 0), cx.ty(x).rank())?,
        false => {
            let n = cx.ty(x).elements();
            x = cx.reshape(x, vec![n])?;
            0
        }
    };
    let (n, len) = (cx.ty(x).shape[axis].clone(), cx.ty(cond).elements());
    let longer = (len.clone() - n.clone()).as_const().is_some_and(|more| more > 0);
    let cap = if longer { n } else { len };
    let at = cx.numbers_where(cond, &cap, &cap)?;
    done(cx.op(Gather { axis: axis as u8 }, &[x, at])?)
}

/// Rows of `[rows, columns]` in the order of their elements, the first column before the others; equal rows keep their order.
fn row_order(cx: &mut NodeCx, rows: ValueId) -> Result<ValueId> {
    let t = cx.ty(rows);
    let columns = cx.fixed(&t.shape[1], "columns")?;
    if columns > COLUMNS {
        return Err(cx.unsupported(format!("slices of {columns} elements, up to {COLUMNS} are")));
    }
    let mut order = cx.positions(&t.shape[0], 0, 1, DType::I64)?;
    for c in (0..columns).rev() {
        let column = cx.element(rows, 1, c.into())?;
        let column = cx.op(Gather { axis: 0 }, &[column, order])?;
        let next = cx.op(ArgSort { axis: 0, descending: false }, &[column])?;
        order = cx.op(Gather { axis: 0 }, &[order, next])?;
    }
    Ok(order)
}

/// Slices along an axis, or elements, each once: in their order, or as they come.
fn unique(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = cx.input(0)?;
    let (t, by_axis) = (cx.ty(x), cx.has("axis"));
    let axis = if by_axis { cx.axis(cx.int("axis", 0), t.rank())? } else { 0 };
    // As a list of slices, and these as rows of numbers.
    let list = if by_axis { x } else { cx.reshape(x, vec![t.elements()])? };
    let n = cx.ty(list).shape[axis].clone();
    let mut perm: Vec<u8> = (0..cx.ty(list).rank() as u8).collect();
    perm.remove(axis);
    perm.insert(0, axis as u8);
    let rows = cx.transpose(list, perm)?;
    let width = product(&cx.ty(rows).shape[1..]);
    let rows = cx.reshape(rows, vec![n.clone(), width])?;
    let rows = if t.dtype == DType::Bool { cx.cast(rows, DType::U8)? } else { rows };
    let order = row_order(cx, rows)?;
    let sorted = cx.op(Gather { axis: 0 }, &[rows, order])?;
    // A row starts a group unless it equals the one before.
    let places = cx.positions(&n, 0, 1, DType::I64)?;
    let previous = cx.with_scalar(Sub, places, 1.0)?;
    let previous = cx.with_scalar(Max, previous, 0.0)?;
    let previous = cx.op(Gather { axis: 0 }, &[sorted, previous])?;
    let differs = cx.compare(Ne, sorted, previous)?;
    let differs = cx.cast(differs, DType::I64)?;
    let differs = cx.reduce(ReduceKind::Max, differs, &[1], false)?;
    let differs = cx.compare_scalar(Gt, differs, 0.0)?;
    let first = cx.compare_scalar(Eq, places, 0.0)?;
    let starts = cx.binary(Or, first, differs)?;
    let groups = taken(cx, starts)?;
    // The number of each sorted row's group, and the first row of each group: sorting keeps the order of equal ones.
    let ones = cx.cast(starts, DType::I64)?;
    let group = cx.binary(Add, groups.before, ones)?;
    let group = cx.with_scalar(Sub, group, 1.0)?;
    let zero = cx.scalar_like(order, 0.0);
    let room = cx.broadcast(zero, vec![n.clone()])?;
    let mut inverse = cx.op(Scatter { kind: ScatterKind::Set }, &[room, order, group])?;
    let mut indices = groups.packed(cx, order, &n)?;
    if cx.int("sorted", 1) == 0 {
        // Groups by their first row, from the first to the last: the number of a row's group is how many began before.
        let start = cx.op(Gather { axis: 0 }, &[indices, inverse])?;
        let begins = cx.compare(Eq, start, places)?;
        let new = taken(cx, begins)?;
        inverse = cx.op(Gather { axis: 0 }, &[new.before, start])?;
        indices = new.packed(cx, places, &n)?;
    }
    let one = cx.scalar_like(order, 1.0);
    let every = cx.broadcast(one, vec![n.clone()])?;
    let counts = cx.op(Scatter { kind: ScatterKind::Add }, &[room, inverse, every])?;
    let indices = cx.prefix(indices, 0, groups.count)?;
    let counts = cx.part(counts, 0, 0.into(), cx.ty(indices).shape[0].clone())?;
    let y = cx.op(Gather { axis: axis as u8 }, &[list, indices])?;
    Ok([y, indices, inverse, counts].map(value).to_vec())
}

/// One number: an optional input of one element, or what it is by default.
fn scalar(cx: &mut NodeCx, i: usize, dtype: DType) -> Result<Option<ValueId>> {
    let Some(v) = cx.optional(i)? else { return Ok(None) };
    let v = cx.cast(v, dtype)?;
    cx.reshape(v, vec![]).map(Some)
}

/// Corners `y1 x1 y2 x2`, the lower ones first, from corners in any order or from centers `x y` with width and height.
fn corners(cx: &mut NodeCx, boxes: ValueId) -> Result<ValueId> {
    let centers = match cx.int("center_point_box", 0) {
        0 => false,
        1 => true,
        other => return Err(cx.invalid(format!("center_point_box {other}"))),
    };
    let [a, b, c, d] = [0, 1, 2, 3].map(|i| cx.part(boxes, 2, i.into(), 1.into()));
    let (a, b, c, d) = (a?, b?, c?, d?);
    let all = if centers {
        let (w, h) = (cx.with_scalar(Div, c, 2.0)?, cx.with_scalar(Div, d, 2.0)?);
        [cx.binary(Sub, b, h)?, cx.binary(Sub, a, w)?, cx.binary(Add, b, h)?, cx.binary(Add, a, w)?]
    } else {
        [cx.binary(Min, a, c)?, cx.binary(Min, b, d)?, cx.binary(Max, a, c)?, cx.binary(Max, b, d)?]
    };
    cx.concat(&all, 2)
}

fn non_max_suppression(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (boxes, scores) = (cx.input(0)?, cx.input(1)?);
    let (tb, ts) = (cx.ty(boxes), cx.ty(scores));
    if tb.rank() != 3 || ts.rank() != 3 || tb.shape[2] != Dim::from(4) {
        return Err(cx.invalid(format!("boxes {tb} and scores {ts}, expected [batch,N,4] and [batch,classes,N]")));
    }
    cx.equal(&tb.shape[0], &ts.shape[0], "boxes have a batch of")?;
    cx.equal(&tb.shape[1], &ts.shape[2], "the number of boxes is")?;
    let (classes, n) = (ts.shape[1].clone(), ts.shape[2].clone());
    let limit = scalar(cx, 2, DType::I64)?;
    let limit = match limit {
        Some(v) => v,
        // Without a limit nothing is selected.
        None => cx.emit_constant(&tersor_ir::Tensor::from_i64(DType::I64, [], &[0])),
    };
    let most = cx.constant_of(limit).map(|t| t.get_i64(0).max(0));
    let threshold = match scalar(cx, 3, DType::F32)? {
        Some(v) => v,
        None => cx.table(DType::F32, &[], &[0.0]),
    };
    let boxes = cx.cast(boxes, DType::F32)?;
    let boxes = corners(cx, boxes)?;
    let order = cx.op(ArgSort { axis: 2, descending: true }, &[scores])?;
    let candidate = match scalar(cx, 4, ts.dtype)? {
        Some(least) => {
            let sorted = elements(cx, scores, order, 2)?;
            cx.compare(Gt, sorted, least)?
        }
        None => {
            let yes = cx.table(DType::Bool, &[], &[1.0]);
            cx.broadcast(yes, ts.shape.to_vec())?
        }
    };
    let kept = cx.op(Nms {}, &[boxes, order, candidate, limit, threshold])?;
    let each = most.map_or(n.clone(), |m| if n.as_const().is_some_and(|n| n <= m) { n.clone() } else { m.into() });
    // No more are kept than there are boxes; where neither number is known to be the smaller, there is room for either.
    let cap = match (each.as_const(), n.as_const()) {
        (Some(_), None) => ts.shape[0].clone() * classes.clone() * each.min(n.clone()),
        _ => ts.shape[0].clone() * classes.clone() * each,
    };
    let at = cx.numbers_where(kept, &ts.elements(), &cap)?;
    let number = cx.take(order, at)?;
    let places = cx.coordinates(at, &ts.shape)?;
    done(cx.stack(&[places[0], places[1], number], 1)?)
}

/// Some elements along an axis, by positions that the run computes: clamped as `Slice` says.
pub(super) fn computed_slice(
    cx: &mut NodeCx,
    x: ValueId,
    axis: usize,
    start: ValueId,
    end: ValueId,
    step: i64,
) -> Result<ValueId> {
    let extent = cx.ty(x).shape[axis].clone();
    let n = cx.op(Extent { of: extent.clone() }, &[])?;
    let (low, high) = match step > 0 {
        true => (0.0, n),
        false => (-1.0, cx.with_scalar(Sub, n, 1.0)?),
    };
    let mut bounds = vec![];
    for v in [start, end] {
        let v = super::indexing::wrap(cx, v, &extent)?;
        let v = cx.with_scalar(Max, v, low)?;
        bounds.push(cx.binary(Min, v, high)?);
    }
    let way = if step > 0 { cx.binary(Sub, bounds[1], bounds[0])? } else { cx.binary(Sub, bounds[0], bounds[1])? };
    let way = cx.with_scalar(Max, way, 0.0)?;
    let way = cx.with_scalar(Add, way, (step.abs() - 1) as f64)?;
    let count = cx.with_scalar(Div, way, step.abs() as f64)?;
    let places = cx.positions(&extent, 0, 1, DType::I64)?;
    let places = cx.with_scalar(Mul, places, step as f64)?;
    let places = cx.binary(Add, places, bounds[0])?;
    // Those past the end are cut off.
    let places = cx.with_scalar(Max, places, 0.0)?;
    let places = cx.prefix(places, 0, count)?;
    cx.op(Gather { axis: axis as u8 }, &[x, places])
}

/// What export writes for an `nms`.
fn nms(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = (0..5).map(|i| cx.input(i)).collect::<Result<Vec<_>>>()?;
    done(cx.op(Nms {}, &x)?)
}

pub(super) const OPS: Topic = &[
    ("NonZero", non_zero),
    ("Compress", compress),
    ("Unique", unique),
    ("NonMaxSuppression", non_max_suppression),
    ("tersor:Nms", nms),
];
