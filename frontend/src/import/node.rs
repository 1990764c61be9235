//! What an operator's importer sees of its node.

use super::{Form, Importer, Known, Meaning};
use crate::proto::{self, AttributeKind, AttributeProto, GraphProto, NodeProto};
use std::cell::{Cell, RefCell};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::ops::unary::UnaryKind;
use tersor_ir::ops::{Binary, Broadcast, Cast, Reshape, Transpose, Unary};
use tersor_ir::{DType, Diagnostic, Dim, Failure, Op, Tensor, Type, ValueId};

/// Code of errors that follow from an error reported before.
pub const UNDEFINED_OPERAND: &str = "O0000";

/// Attributes that change nothing here: of training, of precision inside of an operator, of results that are refused elsewhere.
const HARMLESS: &[&str] = &[
    "consumed_inputs",
    "extrapolation_value",
    "is_test",
    "momentum",
    "output_dtype",
    "output_sequence",
    "precision",
    "qk_matmul_output_mode",
    "ratio",
    "round_mode",
    "saturate",
    "seed",
    "softmax_precision",
    "stash_type",
    "storage_order",
];

/// The end of an import that starts again.
pub(super) fn again() -> Diagnostic {
    Diagnostic::error(UNDEFINED_OPERAND, "the graph is read again")
}

/// One node, and the module that grows.
pub struct NodeCx<'i, 'a, 'n> {
    pub(super) importer: &'i mut Importer<'a>,
    pub(super) node: &'n NodeProto,
    /// Version of the node's domain.
    pub opset: i64,
    inputs: Vec<Option<Meaning>>,
    /// How many inputs were asked for.
    asked: Cell<usize>,
    /// Attributes that were asked for.
    read: RefCell<Vec<String>>,
    /// Attributes of a wrong type.
    faults: RefCell<Vec<Diagnostic>>,
}

/// A result that is a value.
pub(super) fn value(v: ValueId) -> Meaning {
    Meaning { value: Some(v), known: None, form: Form::Tensor }
}

/// A result that is not a tensor.
pub(super) fn formed(form: Form) -> Meaning {
    Meaning { value: None, known: None, form }
}

impl<'i, 'a, 'n> NodeCx<'i, 'a, 'n> {
    /// Decodes a node: its results in order, or what is wrong with it.
    pub(super) fn import(importer: &'i mut Importer<'a>, node: &'n NodeProto) -> Result<Vec<Meaning>, Vec<Diagnostic>> {
        if let Some(f) = importer.function(node) {
            let inputs = NodeCx::new(importer, node).map_err(|d| vec![d])?.inputs;
            return importer.call(f, node, &inputs).map_err(|d| vec![d]);
        }
        // First, so that operators behind one that is not supported are reported with it.
        let decode = super::ops::find(node).map_err(|d| vec![d])?;
        let mut cx = NodeCx::new(importer, node).map_err(|d| vec![d])?;
        let results = super::ops::import(&mut cx, decode);
        let faults = cx.faults.take();
        if !faults.is_empty() {
            return Err(faults);
        }
        let results = results.map_err(|d| vec![d])?;
        let extra = cx.inputs.iter().skip(cx.asked.get()).any(Option::is_some);
        if extra {
            return Err(vec![cx.invalid(format!("{} inputs, it takes {}", cx.inputs.len(), cx.asked.get()))]);
        }
        // Something that nobody looked at may change what the operator means.
        let read = cx.read.borrow();
        let unread = |name: &&str| !read.iter().any(|r| r == name) && !HARMLESS.contains(name);
        if let Some(name) = node.attribute.iter().map(|a| a.name.as_str()).find(unread) {
            return Err(vec![cx.unsupported(format!("attribute {}", name.escape_debug()))]);
        }
        Ok(results)
    }

    /// Says that no attribute matters.
    pub fn ignores_attributes(&self) {
        self.read.borrow_mut().extend(self.node.attribute.iter().map(|a| a.name.clone()));
    }

    fn new(importer: &'i mut Importer<'a>, node: &'n NodeProto) -> Result<Self> {
        let mut inputs = vec![];
        for name in &node.input {
            inputs.push(match name.as_str() {
                "" => None,
                name => Some(importer.scope.get(name).cloned().ok_or_else(|| match importer.absent.get(name) {
                    Some(loc) => super::absent(name, loc),
                    None => Diagnostic::error(UNDEFINED_OPERAND, "undefined operand"),
                })?),
            });
        }
        let opset = importer.opset;
        Ok(NodeCx {
            importer,
            node,
            opset,
            inputs,
            asked: Cell::new(0),
            read: RefCell::default(),
            faults: RefCell::default(),
        })
    }

    /// Two extents must be equal; a symbol among them becomes what makes them so. `what` says of what they are extents.
    pub fn equal(&mut self, a: &Dim, b: &Dim, what: &str) -> Result<()> {
        if a == b {
            return Ok(());
        }
        if self.importer.equate(a, b) {
            return Err(again());
        }
        if self.is_bound(a) || self.is_bound(b) {
            return Err(super::extents::undecidable(a, b));
        }
        let what = format!("{what} {a}, expected {b}");
        // Some extents may still make them equal.
        Err(match (a.clone() - b.clone()).as_const() {
            Some(_) => self.invalid(what),
            None => super::extents::left_open(self.unsupported(what)),
        })
    }
    /// An error about this node: the model is invalid.
    pub fn invalid(&self, what: impl std::fmt::Display) -> Diagnostic {
        Diagnostic::error("O0030", format!("{}: {what}", self.node.op_type))
    }
    /// An error about this node: it is valid but not supported.
    pub fn unsupported(&self, what: impl std::fmt::Display) -> Diagnostic {
        Diagnostic::error("O0031", format!("{}: {what}", self.node.op_type)).failure(Failure::Unsupported)
    }

    /// An error about this node: the form of the operator depends on input `i`, which is not known. Where inputs of the model decide it, says so.
    pub fn undecided(&mut self, i: usize, what: impl std::fmt::Display) -> Diagnostic {
        match self.input(i) {
            Ok(v) => self.undecided_value(v, what),
            Err(d) => d,
        }
    }
    /// As [`NodeCx::undecided`], of a value.
    pub fn undecided_value(&mut self, v: ValueId, what: impl std::fmt::Display) -> Diagnostic {
        let d = self.unsupported(what);
        let names = self.importer.inputs_behind(v);
        if names.is_empty() {
            return d;
        }
        d.with_help(self.importer.asks_for(names))
    }

    /// As [`NodeCx::undecided_value`], of a number that could be bounded.
    pub(super) fn open_extent(&mut self, v: ValueId, what: impl std::fmt::Display) -> Diagnostic {
        let mut d = self.undecided_value(v, what);
        let bound = "--limit computed_extent=NUMBER lets the run compute it, from 0 to that";
        d.help = Some(d.help.take().map_or(bound.into(), |h| format!("{h}; or {bound}")));
        d
    }

    /// A warning about this node.
    pub fn warn(&mut self, code: &'static str, what: impl std::fmt::Display) {
        let d = Diagnostic::warning(code, format!("{}: {what}", self.node.op_type));
        let d = d.at_loc(&self.importer.b.loc);
        self.importer.notes.push(d);
    }

    // ---- operands

    /// How many inputs are written down, absent ones included.
    pub fn input_count(&self) -> usize {
        self.inputs.len()
    }
    /// Says that the operator has an input `i`.
    pub fn takes(&self, i: usize) {
        self.asked.set(self.asked.get().max(i + 1));
    }
    /// Whether input `i` is there.
    pub fn is_given(&self, i: usize) -> bool {
        self.inputs.get(i).is_some_and(Option::is_some)
    }
    /// What is known of an input without asking for it.
    pub(super) fn peek(&self, i: usize) -> Option<&Known> {
        self.inputs.get(i)?.as_ref()?.known.as_ref()
    }
    pub(super) fn meaning(&self, i: usize) -> Result<Meaning> {
        self.takes(i);
        self.inputs.get(i).cloned().flatten().ok_or_else(|| self.invalid(format!("input {i} is missing")))
    }
    /// A required input.
    pub fn input(&mut self, i: usize) -> Result<ValueId> {
        let m = self.meaning(i)?;
        self.importer.value_of(&m)
    }
    /// An optional input.
    pub fn optional(&mut self, i: usize) -> Result<Option<ValueId>> {
        self.takes(i);
        match self.inputs.get(i) {
            Some(Some(_)) => self.input(i).map(Some),
            _ => Ok(None),
        }
    }
    /// All inputs.
    pub fn all_inputs(&mut self) -> Result<Vec<ValueId>> {
        (0..self.inputs.len()).map(|i| self.input(i)).collect()
    }
    /// An input's integers, if they are known.
    pub fn known(&self, i: usize) -> Option<Known> {
        self.takes(i);
        self.inputs.get(i)?.as_ref()?.known.clone()
    }
    /// Whether an extent is one that the data decide.
    pub fn is_bound(&self, d: &Dim) -> bool {
        self.importer.is_bound(d)
    }
    /// An input's integers that are extents, required to be known up to symbols.
    pub fn dims(&mut self, i: usize) -> Result<Vec<Dim>> {
        let items = self.integers(i)?;
        super::extents::check(items.get(..items.len().min(32)).unwrap_or(&items))?;
        Ok(items)
    }
    /// An input's integers, of any size, required to be known up to symbols.
    pub fn integers(&mut self, i: usize) -> Result<Vec<Dim>> {
        self.meaning(i)?;
        if let Some(k) = self.known(i) {
            return Ok(k.items);
        }
        let v = self.input(i)?;
        match self.computed(v)? {
            Some(items) => Ok(items),
            None => Err(self.open_extent(v, format!("input {i} must be known when the model is compiled"))),
        }
    }
    /// An input's integers, required to be numbers.
    pub fn numbers(&mut self, i: usize) -> Result<Vec<i64>> {
        let numbers = |k: Known| k.numbers();
        self.meaning(i)?;
        self.known(i).and_then(numbers).ok_or_else(|| self.undecided(i, format!("input {i} must be constant")))
    }
    /// An input's integers if there is such an input.
    pub fn optional_numbers(&mut self, i: usize) -> Result<Option<Vec<i64>>> {
        self.takes(i);
        match self.inputs.get(i) {
            Some(Some(_)) => self.numbers(i).map(Some),
            _ => Ok(None),
        }
    }
    /// A constant input's elements.
    pub fn constant(&mut self, i: usize) -> Result<Option<Tensor>> {
        let v = self.input(i)?;
        Ok(self.constant_of(v))
    }
    /// The elements of a value that is a constant.
    pub fn constant_of(&self, v: ValueId) -> Option<Tensor> {
        let b = &self.importer.b;
        b.func.def_const(v).and_then(|c| b.consts[c].tensor().cloned())
    }
    /// A constant one-element input as a float.
    pub fn constant_scalar(&mut self, i: usize) -> Result<Option<f64>> {
        if self.optional(i)?.is_none() {
            return Ok(None);
        }
        let t = self.constant(i)?.filter(|t| t.len() == 1);
        let t = t.ok_or_else(|| self.undecided(i, format!("input {i} must be a constant scalar")))?;
        match t.parts().to_f64()[..] {
            [real] | [real, 0.0] => Ok(Some(real)),
            _ => Err(self.unsupported(format!("input {i}, a number that is not real"))),
        }
    }
    /// The type of a value.
    pub fn ty(&self, v: ValueId) -> Type {
        self.importer.b.ty(v).clone()
    }
    /// An axis, counted from the end if negative.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize> {
        let a = if axis < 0 { axis + rank as i64 } else { axis };
        usize::try_from(a)
            .ok()
            .filter(|&a| a < rank)
            .ok_or_else(|| self.invalid(format!("axis {axis} of a tensor of rank {rank}")))
    }
    /// Several axes, sorted; each at most once.
    pub fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<u8>> {
        let mut out = axes.iter().map(|&a| self.axis(a, rank).map(|a| a as u8)).collect::<Result<Vec<_>>>()?;
        out.sort_unstable();
        if out.windows(2).any(|w| w[0] == w[1]) {
            return Err(self.invalid(format!("axes {axes:?} name one twice")));
        }
        Ok(out)
    }

    // ---- attributes

    fn attribute(&self, name: &str, kind: AttributeKind) -> Option<&'n AttributeProto> {
        self.read.borrow_mut().push(name.into());
        let a = self.node.attribute.iter().find(|a| a.name == name)?;
        if proto::attribute_kind(a).is_none_or(|k| k == kind) {
            return Some(a);
        }
        self.faults.borrow_mut().push(self.invalid(format!("attribute {name} must be of type {kind:?}")));
        None
    }
    /// Whether an attribute is there.
    pub fn has(&self, name: &str) -> bool {
        self.read.borrow_mut().push(name.into());
        self.node.attribute.iter().any(|a| a.name == name)
    }
    /// An integer attribute.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name, AttributeKind::INT).map_or(default, |a| a.i)
    }
    /// A float attribute.
    pub fn float(&self, name: &str, default: f64) -> f64 {
        self.attribute(name, AttributeKind::FLOAT).map_or(default, |a| f64::from(a.f))
    }
    /// The element type that a number of a file stands for.
    pub fn element_type(&self, number: i64) -> Result<DType> {
        let found = i32::try_from(number).ok().and_then(crate::tensor::dtype);
        found.ok_or_else(|| self.unsupported(format!("element type {number}")))
    }
    /// A list of integers.
    pub fn ints(&self, name: &str) -> Option<Vec<i64>> {
        self.attribute(name, AttributeKind::INTS).map(|a| a.ints.clone())
    }
    /// A list of floats.
    pub fn floats(&self, name: &str) -> Option<Vec<f32>> {
        self.attribute(name, AttributeKind::FLOATS).map(|a| a.floats.clone())
    }
    /// A list of strings.
    pub fn strings(&self, name: &str) -> Option<Vec<String>> {
        let all = |a: &AttributeProto| a.strings.iter().map(|s| self.text(name, s)).collect();
        self.attribute(name, AttributeKind::STRINGS).map(all)
    }
    /// A string.
    pub fn string(&self, name: &str, default: &str) -> String {
        self.attribute(name, AttributeKind::STRING).map_or(default.into(), |a| self.text(name, &a.s))
    }
    fn text(&self, name: &str, bytes: &[u8]) -> String {
        if std::str::from_utf8(bytes).is_err() {
            self.faults.borrow_mut().push(self.invalid(format!("attribute {name} is not UTF-8")));
        }
        String::from_utf8_lossy(bytes).into_owned()
    }
    /// A tensor.
    pub fn tensor(&mut self, name: &str) -> Result<Option<Tensor>> {
        let Some(t) = self.attribute(name, AttributeKind::TENSOR).and_then(|a| a.t.as_ref()) else { return Ok(None) };
        let of = super::node_name(self.node);
        self.importer.sources.tensor(t, of).map(Some)
    }
    /// Elements that shape arithmetic goes up to.
    pub fn shape_elements(&self) -> usize {
        self.importer.options.limits.shape_elements
    }
    /// A sparse tensor, written out.
    pub fn sparse_tensor(&mut self, name: &str) -> Result<Option<Tensor>> {
        let given = self.attribute(name, AttributeKind::SPARSE_TENSOR).and_then(|a| a.sparse_tensor.as_ref());
        let of = super::node_name(self.node);
        given.map(|t| self.importer.sources.sparse(t, of)).transpose()
    }
    /// A nested graph, which must be there.
    pub fn graph(&self, name: &str) -> Result<&'n GraphProto> {
        let g = self.attribute(name, AttributeKind::GRAPH).and_then(|a| a.g.as_ref());
        g.ok_or_else(|| self.invalid(format!("no graph {name}")))
    }
    /// Axes from an attribute, or from input `i` since an opset.
    pub fn axes_arg(&mut self, i: usize, since: i64) -> Result<Option<Vec<i64>>> {
        if self.opset >= since { self.optional_numbers(i) } else { Ok(self.ints("axes")) }
    }

    /// A number that no other draw of the model has.
    pub fn draw(&mut self) -> u64 {
        self.importer.draws += 1;
        self.importer.draws
    }
    /// The extents that the file declares of result `i`, as far as they are numbers; `None` where it declares no rank.
    pub fn declared(&self, i: usize) -> Option<Vec<Option<usize>>> {
        self.importer.declared.get(self.node.output.get(i)?.as_str()).cloned()
    }

    // ---- results

    /// The results of a nested graph for these arguments.
    pub(super) fn inline(&mut self, g: &GraphProto, arguments: Vec<Meaning>) -> Result<Vec<Meaning>> {
        self.importer.inline(g, arguments)
    }
    /// The value of a meaning.
    pub(super) fn value_of(&mut self, m: &Meaning) -> Result<ValueId> {
        self.importer.value_of(m)
    }
    /// Appends an op with one result.
    pub fn op(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Result<ValueId> {
        Ok(self.ops(op, operands)?[0])
    }
    /// [`Self::op`] with all results.
    pub fn ops(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Result<Vec<ValueId>> {
        self.importer.op(op.into(), operands)
    }
    /// A constant.
    pub fn emit_constant(&mut self, t: &Tensor) -> ValueId {
        let name = self.importer.b.name.clone();
        self.importer.b.constant(&name, t)
    }
    pub(super) fn constant_meaning(&mut self, t: &Tensor) -> Meaning {
        let name = self.importer.b.name.clone();
        self.importer.constant(&name, t)
    }
    /// A scalar of the type of `like`.
    pub fn scalar_like(&mut self, like: ValueId, v: f64) -> ValueId {
        let dtype = self.ty(like).dtype;
        self.emit_constant(&Tensor::scalar(dtype, v))
    }
    /// A function of one operand.
    pub fn unary(&mut self, kind: UnaryKind, x: ValueId) -> Result<ValueId> {
        self.op(Unary { kind }, &[x])
    }
    /// A function of two operands.
    pub fn binary(&mut self, kind: BinaryKind, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.op(Binary { kind }, &[a, b])
    }
    /// A function of an operand and a number.
    pub fn with_scalar(&mut self, kind: BinaryKind, a: ValueId, b: f64) -> Result<ValueId> {
        let s = self.scalar_like(a, b);
        self.binary(kind, a, s)
    }
    /// Another element type; nothing where it is that already.
    pub fn cast(&mut self, x: ValueId, to: DType) -> Result<ValueId> {
        if self.ty(x).dtype == to { Ok(x) } else { self.op(Cast::to(to), &[x]) }
    }
    /// Another shape; nothing where it is that already.
    pub fn reshape(&mut self, x: ValueId, shape: Vec<Dim>) -> Result<ValueId> {
        if self.ty(x).shape[..] == shape { Ok(x) } else { self.op(Reshape { shape }, &[x]) }
    }
    /// Another order of axes; nothing for the identity.
    pub fn transpose(&mut self, x: ValueId, perm: Vec<u8>) -> Result<ValueId> {
        if perm.windows(2).all(|w| w[0] < w[1]) { Ok(x) } else { self.op(Transpose { perm }, &[x]) }
    }
    /// Repetition to a shape; nothing where it is that already.
    pub fn broadcast(&mut self, x: ValueId, shape: Vec<Dim>) -> Result<ValueId> {
        if self.ty(x).shape[..] == shape { Ok(x) } else { self.op(Broadcast { shape }, &[x]) }
    }
}
