//! What a variant executes: a flat list of steps over buffers, with every dynamic quantity in one table of extents.
//!
//! These are wire types (prost by derive). Unknown numbers and bad indices are possible until `validate` has seen them;
//! after that every index in a program is in range.

use std::collections::HashMap;

use tersor_host::Function;

use crate::error::{Error, Kind, Result};

/// Index of an entry in the extents table. Entry 0 is always the constant 0.
pub type ExtentId = u32;

/// How an entry of the extents table is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ExtentOp {
    /// The number `a`.
    Constant = 0,
    /// The symbol with index `a`.
    Symbol = 1,
    /// Sum of the entries `a` and `b`.
    Add = 2,
    /// Difference of the entries `a` and `b`.
    Sub = 3,
    /// Product of the entries `a` and `b`.
    Mul = 4,
    /// Quotient of the entries `a` and `b`, rounded down.
    FloorDiv = 5,
    /// The larger of the entries `a` and `b`.
    Max = 6,
    /// The smaller of the entries `a` and `b`.
    Min = 7,
}

/// One entry of the extents table; operands are earlier entries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Extent {
    #[prost(enumeration = "ExtentOp", tag = "1")]
    pub op: i32,
    #[prost(sint64, tag = "2")]
    pub a: i64,
    #[prost(sint64, tag = "3")]
    pub b: i64,
}

/// Evaluates one operation; `None` on overflow or division by zero.
pub(crate) fn apply(op: ExtentOp, a: i64, b: i64) -> Option<i64> {
    match op {
        ExtentOp::Constant | ExtentOp::Symbol => None,
        ExtentOp::Add => a.checked_add(b),
        ExtentOp::Sub => a.checked_sub(b),
        ExtentOp::Mul => a.checked_mul(b),
        ExtentOp::FloorDiv => {
            let q = a.checked_div(b)?;
            if a % b != 0 && (a < 0) != (b < 0) { q.checked_sub(1) } else { Some(q) }
        }
        ExtentOp::Max => Some(a.max(b)),
        ExtentOp::Min => Some(a.min(b)),
    }
}

/// The value of entry `i` for the given symbols, those of the entries before being there.
pub(crate) fn value(table: &[Extent], i: usize, values: &[i64], symbols: &[i64]) -> Result<i64> {
    let e = &table[i];
    let operand = |x: i64| usize::try_from(x).ok().and_then(|x| values.get(x)).copied();
    let value = match e.op() {
        ExtentOp::Constant => Some(e.a),
        ExtentOp::Symbol => usize::try_from(e.a).ok().and_then(|s| symbols.get(s)).copied(),
        op => operand(e.a).zip(operand(e.b)).and_then(|(a, b)| apply(op, a, b)),
    };
    value.ok_or_else(|| no_value(i))
}

pub(crate) fn no_value(i: usize) -> Error {
    Error::new(Kind::Extent, format!("extent {i} has no value for these inputs (overflow or division by zero)"))
}

/// The symbol and the factor, where entry `i` of a checked table is a symbol or a positive multiple of one.
pub(crate) fn multiple(table: &[Extent], i: ExtentId) -> Option<(usize, i64)> {
    let e = &table[i as usize];
    let (one, other) = match e.op() {
        ExtentOp::Symbol => return Some((e.a as usize, 1)),
        ExtentOp::Mul => (&table[e.a as usize], &table[e.b as usize]),
        _ => return None,
    };
    let (factor, symbol) = if one.op() == ExtentOp::Constant { (one, other) } else { (other, one) };
    let fits = factor.op() == ExtentOp::Constant && factor.a > 0 && symbol.op() == ExtentOp::Symbol;
    fits.then_some((symbol.a as usize, factor.a))
}

/// The values of all entries of a table for the given symbols. Intermediate values may be negative; overflow and
/// division by zero are errors.
pub fn evaluate(table: &[Extent], symbols: &[i64]) -> Result<Vec<i64>> {
    let mut values = Vec::with_capacity(table.len());
    for i in 0..table.len() {
        values.push(value(table, i, &values, symbols)?);
    }
    Ok(values)
}

/// Builds an extents table: equal entries are shared, constants folded.
#[derive(Clone, Debug)]
pub struct Extents {
    entries: Vec<Extent>,
    index: HashMap<Extent, ExtentId>,
}

impl Default for Extents {
    fn default() -> Self {
        let mut table = Extents { entries: Vec::new(), index: HashMap::new() };
        table.constant(0);
        table
    }
}

impl Extents {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn entries(&self) -> &[Extent] {
        &self.entries
    }

    pub fn into_entries(self) -> Vec<Extent> {
        self.entries
    }

    fn intern(&mut self, op: ExtentOp, a: i64, b: i64) -> ExtentId {
        let entry = Extent { op: op as i32, a, b };
        *self.index.entry(entry).or_insert_with(|| {
            self.entries.push(entry);
            self.entries.len() as u32 - 1
        })
    }

    pub fn constant(&mut self, value: i64) -> ExtentId {
        self.intern(ExtentOp::Constant, value, 0)
    }

    /// The symbol with that index in `Manifest::symbols`.
    pub fn symbol(&mut self, index: u32) -> ExtentId {
        self.intern(ExtentOp::Symbol, index.into(), 0)
    }

    /// The value of an entry that is a constant.
    pub fn as_constant(&self, id: ExtentId) -> Option<i64> {
        let e = self.entries.get(id as usize)?;
        (e.op() == ExtentOp::Constant).then_some(e.a)
    }

    /// `op` applied to two entries.
    pub fn apply(&mut self, op: ExtentOp, a: ExtentId, b: ExtentId) -> ExtentId {
        use ExtentOp::{Add, FloorDiv, Max, Min, Mul, Sub};
        match (self.as_constant(a), self.as_constant(b)) {
            (Some(x), Some(y)) => {
                if let Some(v) = apply(op, x, y) {
                    return self.constant(v);
                }
            }
            (_, Some(0)) if matches!(op, Add | Sub) => return a,
            (Some(0), _) if op == Add => return b,
            (_, Some(1)) if matches!(op, Mul | FloorDiv) => return a,
            (Some(1), _) if op == Mul => return b,
            (_, Some(0)) | (Some(0), _) if op == Mul => return self.constant(0),
            _ => {}
        }
        if a == b && matches!(op, Max | Min) {
            return a;
        }
        let (a, b) = if matches!(op, Add | Mul | Max | Min) && a > b { (b, a) } else { (a, b) };
        self.intern(op, a.into(), b.into())
    }

    pub fn add(&mut self, a: ExtentId, b: ExtentId) -> ExtentId {
        self.apply(ExtentOp::Add, a, b)
    }

    pub fn sub(&mut self, a: ExtentId, b: ExtentId) -> ExtentId {
        self.apply(ExtentOp::Sub, a, b)
    }

    pub fn mul(&mut self, a: ExtentId, b: ExtentId) -> ExtentId {
        self.apply(ExtentOp::Mul, a, b)
    }

    /// `a / n`, rounded up, for `n > 0`.
    pub fn ceil_div(&mut self, a: ExtentId, n: i64) -> ExtentId {
        let (less, n) = (self.constant(n - 1), self.constant(n));
        let sum = self.add(a, less);
        self.apply(ExtentOp::FloorDiv, sum, n)
    }

    /// The product of all `dims` and `factor`.
    pub fn product(&mut self, dims: &[ExtentId], factor: i64) -> ExtentId {
        let factor = self.constant(factor);
        dims.iter().fold(factor, |p, &d| self.mul(p, d))
    }
}

/// Where a buffer's bytes are.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum Place {
    /// The caller's tensor for that input; never written.
    #[prost(uint32, tag = "2")]
    Input(u32),
    /// The caller's tensor for that output.
    #[prost(uint32, tag = "3")]
    Output(u32),
    /// That entry of `Manifest::constants`; never written.
    #[prost(uint32, tag = "4")]
    Constant(u32),
    /// Memory that the planner places; lives from the first step that uses it to the last.
    #[prost(message, tag = "5")]
    Arena(()),
    /// The same bytes, from the start, as an earlier buffer.
    #[prost(uint32, tag = "6")]
    Alias(u32),
}

/// A run of bytes that steps read or write.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Buffer {
    /// Bytes.
    #[prost(uint32, tag = "1")]
    pub size: ExtentId,
    #[prost(oneof = "Place", tags = "2, 3, 4, 5, 6")]
    pub place: Option<Place>,
}

impl Buffer {
    pub fn new(place: Place, size: ExtentId) -> Buffer {
        Buffer { size, place: Some(place) }
    }
}

/// An operand of a step.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Arg {
    /// Index into `Program::buffers`.
    #[prost(uint32, tag = "1")]
    pub buffer: u32,
    /// Bytes from the buffer's start.
    #[prost(uint32, tag = "2")]
    pub offset: ExtentId,
    /// Whether the step writes it. A step that works in place says so on the written operand; both name the same bytes.
    #[prost(bool, tag = "3")]
    pub write: bool,
}

impl Arg {
    pub fn read(buffer: u32) -> Arg {
        Arg { buffer, offset: 0, write: false }
    }

    pub fn write(buffer: u32) -> Arg {
        Arg { buffer, offset: 0, write: true }
    }

    pub fn at(self, offset: ExtentId) -> Arg {
        Arg { offset, ..self }
    }
}

/// A call of a kernel over its whole grid.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Call {
    /// Index into `Variant::kernels`.
    #[prost(uint32, tag = "1")]
    pub kernel: u32,
    /// The kernel's `args`, in its order.
    #[prost(message, repeated, tag = "2")]
    pub args: Vec<Arg>,
    /// The kernel's `dims`, in its order.
    #[prost(uint32, repeated, tag = "3")]
    pub dims: Vec<ExtentId>,
    /// Grid points; with 0 the step does nothing.
    #[prost(uint32, tag = "4")]
    pub grid: ExtentId,
    /// Scratch bytes for each thread.
    #[prost(uint32, tag = "5")]
    pub scratch: ExtentId,
    /// Fewest grid points worth handing to another thread; 0 counts as 1. A step of at most this many runs on one thread.
    #[prost(uint32, tag = "6")]
    pub grain: ExtentId,
}

/// Copies bytes between buffers that do not overlap.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct CopyBytes {
    #[prost(message, required, tag = "1")]
    pub from: Arg,
    #[prost(message, required, tag = "2")]
    pub to: Arg,
    #[prost(uint32, tag = "3")]
    pub bytes: ExtentId,
    /// Bytes more from the start of `to`, which may change from one repetition of a loop to the next.
    #[prost(uint32, tag = "4")]
    pub at: ExtentId,
}

/// Begins or ends the repetition of steps. One that leads forward sets `index` to 0, one that leads back adds 1 to it. The steps between them run while `index` is below
/// `trip` and `cond` holds: else the first leads behind the second, and the second leads to the step behind the first while they do.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Branch {
    /// The step that it leads to.
    #[prost(uint32, tag = "1")]
    pub to: u32,
    /// An `i64`, which it writes.
    #[prost(message, required, tag = "2")]
    pub index: Arg,
    /// An `i64`.
    #[prost(message, required, tag = "3")]
    pub trip: Arg,
    /// A byte, other than 0 where the condition holds.
    #[prost(message, required, tag = "4")]
    pub cond: Arg,
}

/// Gives a symbol with a cap the number that earlier steps computed. A number above the cap, or below 0, ends the run.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Bind {
    /// Index into `Manifest::symbols`.
    #[prost(uint32, tag = "1")]
    pub symbol: u32,
    /// An `i64`.
    #[prost(message, required, tag = "2")]
    pub count: Arg,
}

/// A call of a function of strings or images.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Host {
    /// With the tags of all its variants.
    #[prost(oneof = "Function", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub function: Option<Function>,
    /// The function's operands, then its results.
    #[prost(message, repeated, tag = "14")]
    pub args: Vec<Arg>,
    /// Elements of each of these.
    #[prost(uint32, repeated, tag = "15")]
    pub elements: Vec<ExtentId>,
}

/// What a step does.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum Action {
    #[prost(message, tag = "2")]
    Call(Call),
    #[prost(message, tag = "3")]
    Copy(CopyBytes),
    #[prost(message, tag = "4")]
    Bind(Bind),
    #[prost(message, tag = "5")]
    Host(Host),
    #[prost(message, tag = "6")]
    Branch(Branch),
}

/// One step; steps run in order but for branches, each after the previous one has finished.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Step {
    /// What the step computes (ONNX node names), for profiles.
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(oneof = "Action", tags = "2, 3, 4, 5, 6")]
    pub action: Option<Action>,
}

impl Step {
    pub fn call(name: impl Into<String>, call: Call) -> Step {
        Step { name: name.into(), action: Some(Action::Call(call)) }
    }

    pub fn copy(name: impl Into<String>, from: u32, to: u32, bytes: ExtentId) -> Step {
        Step::copy_to(name, from, to, bytes, 0)
    }

    /// A copy to a place of the buffer.
    pub fn copy_to(name: impl Into<String>, from: u32, to: u32, bytes: ExtentId, at: ExtentId) -> Step {
        let copy = CopyBytes { from: Arg::read(from), to: Arg::write(to), bytes, at };
        Step { name: name.into(), action: Some(Action::Copy(copy)) }
    }

    pub fn branch(name: impl Into<String>, branch: Branch) -> Step {
        Step { name: name.into(), action: Some(Action::Branch(branch)) }
    }

    pub fn bind(name: impl Into<String>, symbol: u32, count: u32) -> Step {
        Step { name: name.into(), action: Some(Action::Bind(Bind { symbol, count: Arg::read(count) })) }
    }

    pub fn host(name: impl Into<String>, host: Host) -> Step {
        Step { name: name.into(), action: Some(Action::Host(host)) }
    }

    /// The operands, in order.
    pub fn args(&self) -> impl Iterator<Item = Arg> + '_ {
        let (many, few) = match &self.action {
            Some(Action::Call(c)) => (c.args.as_slice(), [None; 3]),
            Some(Action::Host(h)) => (h.args.as_slice(), [None; 3]),
            Some(Action::Copy(c)) => (&[][..], [Some(c.from), Some(c.to), None]),
            Some(Action::Bind(b)) => (&[][..], [Some(b.count), None, None]),
            Some(Action::Branch(b)) => (&[][..], [Some(b.index), Some(b.trip), Some(b.cond)]),
            None => (&[][..], [None; 3]),
        };
        many.iter().copied().chain(few.into_iter().flatten())
    }
}

/// What extents must be for steps to stay within their operands.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Need {
    /// Must not be negative.
    #[prost(uint32, tag = "1")]
    pub extent: ExtentId,
    /// What takes the elements (an ONNX node's name).
    #[prost(string, tag = "2")]
    pub name: String,
}

/// The steps that a loop repeats, the branch at their end among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoopSteps {
    pub first: u32,
    pub last: u32,
    /// The number of the loop around this one.
    pub around: Option<usize>,
}

/// The steps of one variant and the buffers they work on.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Program {
    #[prost(message, repeated, tag = "1")]
    pub buffers: Vec<Buffer>,
    #[prost(message, repeated, tag = "2")]
    pub steps: Vec<Step>,
    /// Checked where symbols are bound.
    #[prost(message, repeated, tag = "3")]
    pub needs: Vec<Need>,
}

impl Program {
    /// Adds a buffer and returns its index.
    pub fn buffer(&mut self, place: Place, size: ExtentId) -> u32 {
        self.buffers.push(Buffer::new(place, size));
        self.buffers.len() as u32 - 1
    }

    /// Every buffer's bytes, given the values of all extents.
    pub fn sizes(&self, extents: &[i64]) -> Result<Vec<u64>> {
        let size = |(i, b): (usize, &Buffer)| {
            let v = extents.get(b.size as usize).copied().and_then(|v| u64::try_from(v).ok());
            v.ok_or_else(|| Error::new(Kind::Extent, format!("the size of buffer {i} is negative for these inputs")))
        };
        self.buffers.iter().enumerate().map(size).collect()
    }

    /// The loops, inner ones before those around them.
    pub fn loops(&self) -> Vec<LoopSteps> {
        let (mut out, mut open): (Vec<LoopSteps>, Vec<Vec<usize>>) = (vec![], vec![]);
        for (i, step) in self.steps.iter().enumerate() {
            let Some(Action::Branch(b)) = &step.action else { continue };
            if b.to as usize > i {
                open.push(vec![]);
                continue;
            }
            let inner = open.pop().unwrap_or_default();
            inner.into_iter().for_each(|k| out[k].around = Some(out.len()));
            open.last_mut().into_iter().for_each(|o| o.push(out.len()));
            out.push(LoopSteps { first: b.to, last: i as u32, around: None });
        }
        out
    }

    /// The buffer whose bytes buffer `b` shares: itself, unless it is an alias.
    pub fn root(&self, mut b: u32) -> u32 {
        while let Some(Place::Alias(to)) = self.buffers[b as usize].place {
            b = to;
        }
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_fold_share_and_evaluate() {
        let mut x = Extents::new();
        let (n, t) = (x.symbol(0), x.symbol(1));
        let bytes = x.product(&[n, t], 4);
        assert_eq!(bytes, x.product(&[n, t], 4));
        let blocks = x.ceil_div(t, 16);
        let twelve = x.product(&[], 12);
        assert_eq!(x.as_constant(twelve), Some(12));
        let zero = x.constant(0);
        assert_eq!(x.add(t, zero), t);
        let values = evaluate(x.entries(), &[3, 17]).unwrap();
        assert_eq!((values[bytes as usize], values[blocks as usize], values[0]), (204, 2, 0));
    }

    #[test]
    fn overflow_and_division_by_zero_are_errors() {
        let mut x = Extents::new();
        let n = x.symbol(0);
        x.mul(n, n);
        assert_eq!(evaluate(x.entries(), &[i64::MAX]).unwrap_err().kind, Kind::Extent);
        let mut x = Extents::new();
        let n = x.symbol(0);
        let one = x.constant(1);
        x.apply(ExtentOp::FloorDiv, one, n);
        assert_eq!(evaluate(x.entries(), &[0]).unwrap_err().kind, Kind::Extent);
        assert_eq!(apply(ExtentOp::FloorDiv, -7, 2), Some(-4));
        assert_eq!(apply(ExtentOp::FloorDiv, i64::MIN, -1), None);
    }
}
