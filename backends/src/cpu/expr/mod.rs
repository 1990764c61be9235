//! Fused nodes as instructions at a point of their index space.
//!
//! [`Fused`] gives the values of a group's nodes at a [`Point`]: a vector of neighbours along the last axis (or several last axes taken as one). Operands
//! are read where the index maps of broadcasts, transposes, slices, pads, gathers and concatenations lead; what is the same in all lanes stays a scalar, which
//! LLVM moves out of the loop around it. Nodes whose values are given (an accumulator) are not entered.
//!
//! Invariants: a vector point starts at a multiple of its lanes. Nothing outside the operands is read, also by lanes past `count`.

mod index;
mod moves;
mod packed;
mod random;

use super::element;
use crate::emit::{KernelBuilder, Scalar, Ty, Val};
use crate::fuse::{Role, role};
use crate::kernel::{GroupCx, LaunchBuilder, View, is_exact};
use foldhash::{HashMap, HashSet};
use index::{Coord, Pos, Span};
use tersor_ir::diag::Result;
use tersor_ir::{DType, Def, Diagnostic, Dim, Failure, Node, Op, ValueId};

/// Which elements: lanes `col..col + lanes` of the last axes taken as one, in a row.
#[derive(Clone, Debug)]
pub struct Point {
    /// The index over all other axes.
    pub row: Row,
    /// Index of the first lane, a multiple of `lanes`.
    pub col: Val,
    /// How many lanes; 1 for scalars.
    pub lanes: u32,
    /// How many of the lanes exist; `None` for all.
    pub count: Option<Val>,
    /// How many of the last axes `col` runs over.
    pub merged: usize,
}

/// A row of the index space.
#[derive(Clone, Debug)]
pub enum Row {
    /// Its row-major number.
    Flat(Val),
    /// Its index along each axis.
    Index(Vec<Val>),
}

impl Point {
    /// A whole vector along the last axis.
    pub fn new(row: Row, col: Val, lanes: u32) -> Point {
        Point { row, col, lanes, count: None, merged: 1 }
    }
    /// The same with only the first lanes there.
    pub fn first(self, count: Val) -> Point {
        Point { count: Some(count), ..self }
    }
}

/// The nodes of a group over one index space.
pub struct Fused<'a> {
    cx: &'a GroupCx<'a>,
    domain: Vec<Dim>,
    inside: HashSet<ValueId>,
}

impl<'a> Fused<'a> {
    /// Over the index space of a value. Fails where a kernel other than a loop is to write elements of which several share a byte.
    pub fn new(cx: &'a GroupCx<'a>, domain_of: ValueId) -> Result<Fused<'a>> {
        for &v in &cx.group.outputs {
            let ty = cx.ty(v);
            if ty.dtype.is_packed() && cx.group.anchor.is_some() {
                let message = format!("no such kernel writes {} (%{} is {ty})", ty.dtype, cx.f.values[v].name);
                return Err(Diagnostic::error("B0111", message).failure(Failure::Internal));
            }
        }
        for &n in &cx.group.nodes {
            let op = &cx.f.nodes[n].op;
            if Some(n) != cx.group.anchor && role(op) != Role::Elementwise && !moves::is_movement(op) {
                let message = format!("{} cannot be part of another kernel", op.mnemonic());
                return Err(Diagnostic::error("B0112", message).failure(Failure::Internal));
            }
        }
        let nodes = &cx.group.nodes;
        let mut inside: HashSet<ValueId> = nodes.iter().flat_map(|&n| cx.f.nodes[n].results.iter().copied()).collect();
        inside.extend(nodes.iter().filter_map(|&n| packed::table(cx, n)));
        Ok(Fused { cx, domain: cx.ty(domain_of).shape.to_vec(), inside })
    }

    /// The index space.
    pub fn domain(&self) -> &[Dim] {
        &self.domain
    }

    /// The values of `roots` at a point, in registers (see [`element::register`]); `known` values are taken as they are.
    pub fn emit(&self, b: &mut LaunchBuilder, known: &[(ValueId, Val)], at: &Point, roots: &[ValueId]) -> Vec<Val> {
        let mut e = Emit { fused: self, b, lanes: at.lanes, known, count: None, memo: HashMap::default() };
        e.set_count(at.count);
        let pos = e.pos(at);
        let mut at_root = |&v: &ValueId| {
            let pos = pos.broadcast(e.b, &self.domain, &self.cx.ty(v).shape, e.lanes);
            let y = e.value(v, &pos);
            if y.lanes() < e.lanes { e.b.splat(y, e.lanes) } else { y }
        };
        roots.iter().map(&mut at_root).collect()
    }

    /// Evaluates and stores every output of the group that has this index space.
    pub fn store_outputs(&self, b: &mut LaunchBuilder, known: &[(ValueId, Val)], at: &Point) {
        let outputs = self.outputs();
        let values = self.emit(b, known, at, &outputs);
        for (&v, y) in outputs.iter().zip(values) {
            self.store(b, v, y, at);
        }
    }

    /// The outputs of the group that have this index space.
    pub fn outputs(&self) -> Vec<ValueId> {
        let fits = |&&v: &&ValueId| self.cx.ty(v).shape[..] == self.domain[..];
        self.cx.group.outputs.iter().filter(fits).copied().collect()
    }

    /// Stores a register value of an output at a point.
    pub fn store(&self, b: &mut LaunchBuilder, v: ValueId, y: Val, at: &Point) {
        let ty = self.cx.ty(v);
        let mut e = Emit { fused: self, b, lanes: at.lanes, known: &[], count: None, memo: HashMap::default() };
        let pos = e.pos(at);
        let address = pos.address(e.b, &View::dense(v, ty), &ty.shape, at.lanes);
        let y = element::to_store(b, ty.dtype, y);
        let to = b.write(v);
        let to = b.elem(to, address.base, y.elem());
        match at.count {
            Some(count) if at.lanes > 1 => b.store_first(y, to, count),
            _ => b.store(y, to),
        }
    }

    /// Whether every operand read at points of this space is dense over the last `merged` axes or constant along them, through elementwise
    /// nodes only: such axes may be taken as one.
    pub fn merges(&self, merged: usize) -> bool {
        let rank = self.domain.len();
        let tail = &self.domain[rank - merged..];
        let dense = |v: ValueId| {
            let shape = &self.cx.ty(v).shape;
            let there = shape.len().min(merged);
            let own = &shape[shape.len() - there..];
            let view = self.cx.view(v);
            let unit = own.iter().all(|d| *d == Dim::Const(1));
            let real: Vec<usize> = (shape.len() - there..shape.len()).filter(|&i| shape[i] != Dim::Const(1)).collect();
            let run = |w: &[usize]| view.strides[w[0]] == view.strides[w[1]].clone() * shape[w[1]].clone();
            let still = real.iter().all(|&i| view.strides[i] == Dim::Const(0));
            unit || (own == tail && (still || real.windows(2).all(run)))
        };
        self.cx.group.inputs.iter().all(|&v| dense(v))
            && self.cx.group.nodes.iter().filter(|&&n| Some(n) != self.cx.group.anchor).all(|&n| {
                let node = &self.cx.f.nodes[n];
                let plain = role(&node.op) == Role::Elementwise;
                let fits = |&v: &ValueId| {
                    let shape = &self.cx.ty(v).shape;
                    let own = &shape[shape.len() - shape.len().min(merged)..];
                    own == tail || own.iter().all(|d| *d == Dim::Const(1))
                };
                plain && node.results.iter().all(fits)
            })
    }
}

/// One evaluation.
struct Emit<'e, 'a> {
    fused: &'e Fused<'a>,
    b: &'e mut LaunchBuilder,
    lanes: u32,
    known: &'e [(ValueId, Val)],
    /// The lanes that exist, as a mask.
    count: Option<Val>,
    memo: HashMap<(ValueId, Pos), Val>,
}

impl Emit<'_, '_> {
    fn set_count(&mut self, count: Option<Val>) {
        self.count = count.map(|n| match self.lanes {
            1 => {
                let zero = self.b.i64(0);
                self.b.gt(n, zero)
            }
            lanes => self.b.first_lanes(lanes, n),
        });
    }

    fn pos(&mut self, at: &Point) -> Pos {
        let rank = self.fused.domain.len();
        let merged = at.merged.min(rank);
        let mut spans = vec![];
        match &at.row {
            Row::Flat(v) if rank > merged => spans.push(Span { axes: rank - merged, at: Coord::One(*v) }),
            Row::Flat(_) => {}
            Row::Index(v) => spans.extend(v.iter().map(|&v| Span { axes: 1, at: Coord::One(v) })),
        }
        if merged > 0 {
            let at = if at.lanes == 1 { Coord::One(at.col) } else { Coord::Run { start: at.col, step: 1 } };
            spans.push(Span { axes: merged, at });
        }
        Pos { spans, mask: None }
    }

    fn shape(&self, v: ValueId) -> Vec<Dim> {
        self.fused.cx.ty(v).shape.to_vec()
    }

    /// A value at a position of its own index space.
    fn value(&mut self, v: ValueId, pos: &Pos) -> Val {
        if let Some(&(_, y)) = self.known.iter().find(|k| k.0 == v) {
            return y;
        }
        let key = (v, pos.clone());
        if let Some(&y) = self.memo.get(&key) {
            return y;
        }
        let y = match self.fused.cx.f.values[v].def {
            Def::Node(n, _) if self.fused.inside.contains(&v) => self.node(&self.fused.cx.f.nodes[n], v, pos),
            _ => self.read(v, pos),
        };
        self.memo.insert(key, y);
        y
    }

    /// An operand of a node with result shape `shape`, at the place that broadcasts to `pos`.
    fn operand(&mut self, v: ValueId, shape: &[Dim], pos: &Pos) -> Val {
        let to = self.shape(v);
        let pos = pos.broadcast(self.b, shape, &to, self.lanes);
        self.value(v, &pos)
    }

    fn node(&mut self, node: &Node, result: ValueId, pos: &Pos) -> Val {
        let shape = self.shape(result);
        let (cx, ops) = (self.fused.cx, &node.operands);
        let dtype = |i: usize| cx.ty(ops[i]).dtype;
        let elementwise = match &node.op {
            Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select(_) | Op::Cast(_) | Op::Quant(_) => true,
            Op::Random(_) => true,
            Op::BitCast(_) => self.fused.inside.contains(&ops[0]),
            Op::DecodeAffine(d) => d.group == 0,
            _ => false,
        };
        if !elementwise {
            return self.movement(node, result, pos);
        }
        let x: Vec<Val> = ops.iter().map(|&v| self.operand(v, &shape, pos)).collect();
        let k: &mut KernelBuilder = self.b;
        match &node.op {
            Op::Unary(u) => element::unary(k, u.kind, dtype(0), x[0]),
            Op::Binary(op) => element::binary(k, op.kind, dtype(0), x[0], x[1]),
            Op::Compare(op) => element::compare(k, op.kind, dtype(0), x[0], x[1]),
            Op::Select(_) => element::select(k, x[0], x[1], x[2]),
            Op::Cast(op) => element::convert(k, dtype(0), op, x[0]),
            Op::BitCast(op) => element::bitcast(k, dtype(0), op.to, x[0]),
            Op::Random(r) => {
                let counter = element::cast(k, dtype(0), DType::I64, x[0]);
                random::bits(k, counter, r.key)
            }
            Op::Quant(q) => element::quant(k, x[0], x[1], x.get(2).copied(), q.to, q.narrow),
            _ => self.decode(&x, dtype(0), dtype(1)),
        }
    }

    /// `(q - zero) * scale`.
    fn decode(&mut self, x: &[Val], code: DType, to: DType) -> Val {
        let k: &mut KernelBuilder = self.b;
        let mut q = element::cast(k, code, to, x[0]);
        if let Some(&z) = x.get(2) {
            let z = element::cast(k, code, to, z);
            let (a, z) = element::alike(k, q, z);
            q = k.sub(a, z);
        }
        let (q, s) = element::alike(k, q, x[1]);
        k.mul(q, s)
    }

    /// The lanes that are to be read at `pos`; `None` where all are.
    fn mask(&mut self, pos: &Pos) -> Option<Val> {
        match (self.count, pos.mask) {
            (Some(a), Some(b)) => Some(self.b.and(a, b)),
            (a, b) => a.or(b),
        }
    }

    /// Reads a value of another step, an input or a constant.
    fn read(&mut self, v: ValueId, pos: &Pos) -> Val {
        match self.known_number(v) {
            Some(y) => y,
            None => self.read_as(v, self.fused.cx.ty(v).dtype, pos),
        }
    }

    /// Reads the bits in memory as elements of a type that has as many.
    fn read_as(&mut self, v: ValueId, dtype: DType, pos: &Pos) -> Val {
        let cx = self.fused.cx;
        let ty = cx.ty(v);
        if dtype.is_packed() {
            return self.packed(v, dtype, pos);
        }
        let view = cx.view(v);
        let address = pos.address(self.b, &view, &ty.shape, self.lanes);
        let from = self.b.read(view.root);
        let s = element::storage(dtype).unwrap_or(Scalar::I8);
        let bytes = i64::from(s.bytes());
        let mask = self.mask(pos);
        let scattered = address.lanes.is_some() || !(0..=1).contains(&address.step);
        let base = self.b.elem(from, address.base, s);
        let raw = if self.lanes == 1 {
            let base = match address.lanes {
                Some(l) => self.b.elem(base, l, s),
                None => base,
            };
            match mask {
                None => self.b.load(base, Ty::Scalar(s)),
                Some(m) => self.b.if_(m, |b| vec![b.load(base, Ty::Scalar(s))], |b| vec![b.zero(Ty::Scalar(s))])[0],
            }
        } else if scattered {
            let zero = self.b.i64(0);
            let mut lanes = Coord::Run { start: zero, step: address.step * bytes }.vector(self.b, self.lanes);
            if let Some(l) = address.lanes {
                let size = self.b.i64(bytes);
                let l = self.b.mul(l, size);
                lanes = self.b.add(lanes, l);
            }
            match mask {
                Some(m) => self.b.gather_mask(base, lanes, s, m),
                None => self.b.gather(base, lanes, s),
            }
        } else if address.step == 1 {
            match mask {
                Some(m) => self.b.load_mask(base, s.x(self.lanes), m),
                None => self.b.load(base, s.x(self.lanes)),
            }
        } else {
            self.b.load(base, Ty::Scalar(s))
        };
        element::loaded(self.b, dtype, raw)
    }

    /// A constant whose elements are all one small number.
    fn known_number(&mut self, v: ValueId) -> Option<Val> {
        let cx = self.fused.cx;
        let ty = cx.ty(v);
        let number = match cx.f.values[v].def {
            Def::Node(..) if ty.static_elements() == Some(1) => cx.constant(v).map(|t| t.get_f64(0)),
            _ => cx.number(v),
        };
        number.filter(|&x| is_exact(ty.dtype, x)).map(|x| element::immediate(self.b, ty.dtype, x))
    }
}
