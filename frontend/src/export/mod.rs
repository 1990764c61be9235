//! Modules into ONNX models.
//!
//! Every op says its ONNX form in `ops`, once; this file has what they write with: names, initializers, extents as values. Values keep their names, nodes those of
//! the ONNX nodes that they come from, inputs and outputs their outside names. What has no ONNX form is an error that names the op; all are found in one go.

pub(crate) mod functions;
mod integers;
mod loops;
mod nbits;
mod ops;
mod quantized;
mod recurrent;

use crate::import::BODY_OF_NODE;
use crate::message::{self, Attr, field, number};
use std::cell::Cell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, Write};
use tersor_ir::blob::Blob;
use tersor_ir::diag::Result;
use tersor_ir::dim::{Atom, Bindings};
use tersor_ir::module::{Def, RegionId};
use tersor_ir::{DType, Diagnostic, Dim, Failure, Func, Module, NodeId, Tensor, ValueId};

/// `ai.onnx` version that is written: the first with blocks in `DequantizeLinear`.
const OPSET: i64 = 21;
/// The version with `Attention` and `RMSNormalization`, written where one is needed.
const OPSET_23: i64 = 23;
/// The version with `BitCast`.
const OPSET_26: i64 = 26;
/// Where parts of the data file begin.
const ALIGN: usize = 64;

/// What codes become. Where a form cannot say it, the one before it does.
#[derive(Copy, Clone, PartialEq, Eq, Default, Debug)]
pub enum Form {
    /// Weights are floats; codes of activations are rounded and decoded in place.
    Plain,
    /// Codes and `DequantizeLinear`, of ONNX itself, around products of floats.
    #[default]
    Qdq,
    /// Operators on codes: `QLinearConv` and `QLinearMatMul` where codes come out, else `ConvInteger` and `MatMulInteger`; weights alone as in `Qdq`.
    QOperator,
    /// `MatMulNBits` of ONNX Runtime, for products with weights in blocks.
    NBits,
}

/// How to write a model.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// What encoded weights become.
    pub form: Form,
    /// The name of the file beside the model that holds tensors of at least so many bytes; none means all are in the model.
    pub external: Option<(String, usize)>,
}

/// A model as bytes.
#[derive(Debug, Default)]
pub struct Exported {
    /// The `ModelProto`.
    pub model: Vec<u8>,
    /// Remarks: what is stored otherwise than the module has it.
    pub notes: Vec<Diagnostic>,
    data: Vec<(usize, Blob)>,
}

impl Exported {
    /// Whether there is a data file to write.
    pub fn has_data(&self) -> bool {
        !self.data.is_empty()
    }
    /// Writes the data file.
    pub fn write_data(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut at = 0;
        for (offset, blob) in &self.data {
            out.write_all(&vec![0; offset - at])?;
            out.write_all(blob)?;
            at = offset + blob.len();
        }
        Ok(())
    }
}

/// Writes a resolved module. Errors name every op that has no ONNX form.
pub fn export(m: &Module, options: &ExportOptions) -> Result<Exported, Vec<Diagnostic>> {
    let floats = match options.form {
        Form::QOperator => None,
        _ => Some(integers::dequantized(m).map_err(|d| vec![d])?),
    };
    let m = floats.as_ref().unwrap_or(m);
    let f = &m.funcs[m.main().map_err(|d| vec![d])?];
    let mut e = Exporter::new(m, f, options);
    let graph = e.graph(&m.name, f.body_id(), true);
    if !e.errors.is_empty() {
        return Err(e.errors);
    }
    let mut model = vec![];
    number(&mut model, 1, file_version(e.opset.get()));
    field(&mut model, 2, b"tersor");
    field(&mut model, 3, env!("CARGO_PKG_VERSION").as_bytes());
    field(&mut model, 7, &graph);
    field(&mut model, 8, &message::opset("", e.opset.get()));
    let domains: BTreeSet<_> = e.foreign.iter().map(|o| o.0.as_str()).collect();
    domains.into_iter().for_each(|domain| field(&mut model, 8, &message::opset(domain, 1)));
    if !m.pipeline.is_empty() {
        field(&mut model, 14, &message::entry("tersor.pipeline", &m.pipeline.join(",")));
    }
    for (_, name) in e.foreign.iter().filter(|o| o.0 == functions::DOMAIN) {
        field(&mut model, 25, &functions::function(name, e.opset.get()));
    }
    Ok(Exported { model, notes: e.notes, data: e.data })
}

/// The version of the file format that came with a version of `ai.onnx`.
fn file_version(opset: i64) -> u64 {
    match opset {
        ..23 => 10,
        23 => 11,
        24 => 12,
        _ => 13,
    }
}

/// The version of `ai.onnx` in which an element type came.
fn since(dtype: DType) -> i64 {
    match dtype {
        DType::F4E2M1 => OPSET_23,
        DType::F8E8M0 => 24,
        DType::I2 | DType::U2 => 25,
        _ => OPSET,
    }
}

struct Exporter<'m> {
    m: &'m Module,
    f: &'m Func,
    options: &'m ExportOptions,
    /// Node fields of the graph that is being written.
    nodes: Vec<u8>,
    /// Names and `TensorProto`s.
    initializers: Vec<(String, Vec<u8>)>,
    /// Names that some node reads.
    read: HashSet<String>,
    /// Operators of other domains than `ai.onnx`, by domain and name.
    foreign: BTreeSet<(String, String)>,
    data: Vec<(usize, Blob)>,
    end: usize,
    names: HashMap<ValueId, String>,
    /// Values whose elements were computed here.
    folded: HashMap<ValueId, Tensor>,
    taken: HashSet<String>,
    /// The functions around that one, with the names of their values.
    around: Vec<(&'m Func, HashMap<ValueId, String>)>,
    /// Ops that others have inside in their ONNX form.
    inside: HashSet<NodeId>,
    /// Products of codes that are rounded to codes, by the op that rounds.
    linears: foldhash::HashMap<NodeId, integers::Linear>,
    /// Extents that are values already.
    dims: HashMap<Dim, String>,
    /// The version that what was written so far needs.
    opset: Cell<i64>,
    notes: Vec<Diagnostic>,
    errors: Vec<Diagnostic>,
}

impl<'m> Exporter<'m> {
    fn new(m: &'m Module, f: &'m Func, options: &'m ExportOptions) -> Exporter<'m> {
        let mut e = Exporter {
            m,
            f,
            options,
            nodes: vec![],
            initializers: vec![],
            read: HashSet::new(),
            foreign: BTreeSet::new(),
            data: vec![],
            end: 0,
            names: HashMap::new(),
            folded: HashMap::new(),
            taken: f.inputs.iter().chain(&f.outputs).map(|n| n.to_string()).collect(),
            around: vec![],
            inside: HashSet::new(),
            linears: Default::default(),
            dims: HashMap::new(),
            opset: Cell::new(OPSET),
            notes: vec![],
            errors: vec![],
        };
        e.look_ahead();
        for (&p, name) in f.body().params.iter().zip(&f.inputs) {
            e.names.insert(p, name.to_string());
        }
        // A result that a node of the body makes takes the output's name; another is copied to it.
        for (&r, name) in f.body().results.iter().zip(&f.outputs) {
            let own = matches!(f.values[r].def, Def::Node(n, _) if f.body().nodes.contains(&n));
            if own && !f.inputs.contains(name) {
                e.names.entry(r).or_insert_with(|| name.to_string());
            }
        }
        e
    }

    /// Finds the ops of the function that others have inside in their ONNX form.
    fn look_ahead(&mut self) {
        (self.inside, self.linears) = (recurrent::inside(self.f), Default::default());
        if self.options.form == Form::QOperator {
            self.linears = integers::linears(self.m, self.f);
            self.inside.extend(self.linears.values().flat_map(|l| l.nodes.iter().copied()));
        }
    }

    /// A region as a `GraphProto`; all initializers go to the outermost.
    fn graph(&mut self, name: &str, region: RegionId, outermost: bool) -> Vec<u8> {
        let f = self.f;
        let (mut graph, outputs) = self.nodes_and_outputs(region, outermost);
        field(&mut graph, 2, name.as_bytes());
        if outermost {
            // Operands of what was computed here are needed no more.
            let read = |i: &&(String, Vec<u8>)| self.read.contains(&i.0);
            self.initializers.iter().filter(read).for_each(|i| field(&mut graph, 5, &i.1));
            for (&p, name) in f.body().params.iter().zip(&f.inputs) {
                match self.element(f.values[p].ty.dtype) {
                    Ok(_) => field(&mut graph, 11, &message::value_info(name, &f.values[p].ty)),
                    Err(d) => self.errors.push(d),
                }
            }
        }
        outputs.iter().for_each(|info| field(&mut graph, 12, info));
        graph
    }

    /// The node fields of a region's graph, and its outputs.
    fn nodes_and_outputs(&mut self, region: RegionId, outermost: bool) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (nodes, dims) = (std::mem::take(&mut self.nodes), self.dims.clone());
        let f = self.f;
        for &n in &f.regions[region].nodes {
            let node = &f.nodes[n];
            if let Err(d) = self.op(n) {
                let at = node.results.iter().map(|&v| format!("%{}", f.values[v].name)).collect::<Vec<_>>().join(", ");
                self.errors.push(d.at_loc(&node.loc).at_op(format!("{at} = {}", node.op.mnemonic())));
                // Later nodes are still looked at.
                for &v in &node.results {
                    self.name_result(v);
                }
            }
        }
        let mut infos = vec![];
        for (i, &r) in f.regions[region].results.iter().enumerate() {
            let wanted = if outermost { f.outputs[i].to_string() } else { self.fresh("out") };
            match self.name(r) {
                Ok(made) if made == wanted => {}
                Ok(made) => self.emit("Identity", &[&made], std::slice::from_ref(&wanted), &[]),
                Err(d) => self.errors.push(d),
            }
            match self.element(f.values[r].ty.dtype) {
                Ok(_) => infos.push(message::value_info(&wanted, &f.values[r].ty)),
                Err(d) => self.errors.push(d),
            }
        }
        self.dims = dims;
        (std::mem::replace(&mut self.nodes, nodes), infos)
    }

    fn fresh(&mut self, base: &str) -> String {
        let mut name = base.to_string();
        let mut n = 1;
        while !self.taken.insert(name.clone()) {
            n += 1;
            name = format!("{base}.{n}");
        }
        name
    }

    /// The name of a node's result, from now on.
    fn name_result(&mut self, v: ValueId) -> String {
        if let Some(name) = self.names.get(&v) {
            return name.clone();
        }
        let name = self.fresh(&self.f.values[v].name.clone());
        self.names.insert(v, name.clone());
        name
    }

    /// The name of a value that is there; constants become initializers when they are first named.
    fn name(&mut self, v: ValueId) -> Result<String> {
        if let Some(name) = self.names.get(&v) {
            return Ok(name.clone());
        }
        let t = self.tensor(v).ok_or_else(|| {
            let message = format!("the elements of %{} are not there", self.f.values[v].name);
            Diagnostic::error("O0201", message).with_help("export the model or .tir that has the weights")
        })?;
        let name = self.initializer(&self.f.values[v].name.clone(), &t)?;
        self.names.insert(v, name.clone());
        Ok(name)
    }

    /// The elements of a constant, or of what was computed from some.
    fn tensor(&self, v: ValueId) -> Option<Tensor> {
        let constant = || self.f.def_const(v).and_then(|c| self.m.consts[c].tensor()).cloned();
        self.folded.get(&v).cloned().or_else(constant)
    }

    /// Notes that an operator or type of that version is written.
    fn needs(&self, opset: i64) {
        self.opset.set(self.opset.get().max(opset));
    }

    fn element(&self, dtype: DType) -> Result<u64> {
        self.needs(since(dtype));
        message::element(dtype).ok_or_else(|| unsupported(format!("ONNX has no element type {dtype}")))
    }

    fn initializer(&mut self, base: &str, t: &Tensor) -> Result<String> {
        self.element(t.dtype())?;
        let name = self.fresh(base);
        let external = self
            .options
            .external
            .as_ref()
            .filter(|(_, least)| t.dtype() != DType::Str && t.bytes().len() >= (*least).max(1));
        let proto = match external {
            None => message::tensor(&name, t),
            Some((file, _)) => {
                let offset = self.end.next_multiple_of(ALIGN);
                self.end = offset + t.bytes().len();
                self.data.push((offset, t.blob().clone()));
                message::external_tensor(&name, t, file, offset)
            }
        };
        self.initializers.push((name.clone(), proto));
        Ok(name)
    }

    fn numbers(&mut self, values: &[i64]) -> Result<String> {
        self.initializer("n", &Tensor::from_i64(DType::I64, [values.len()], values))
    }

    fn scalar(&mut self, dtype: DType, v: f64) -> Result<String> {
        self.initializer("c", &Tensor::scalar(dtype, v))
    }

    fn emit(&mut self, op: &str, inputs: &[&str], outputs: &[String], attrs: &[(&str, Attr)]) {
        let name = format!("{}:{}", op.rsplit(':').next().unwrap_or(op), outputs[0]);
        self.emit_as(&name, op, inputs, outputs, attrs, &[]);
    }

    /// A node with a name and metadata: keys and values.
    fn emit_as(
        &mut self,
        name: &str,
        op: &str,
        inputs: &[&str],
        outputs: &[String],
        attrs: &[(&str, Attr)],
        metadata: &[(&str, &str)],
    ) {
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        self.read.extend(inputs.iter().map(|i| i.to_string()));
        self.foreign.extend(op.split_once(':').map(|(domain, name)| (domain.into(), name.into())));
        let mut node = message::node(name, op, inputs, &outputs, attrs);
        metadata.iter().for_each(|(key, value)| field(&mut node, 9, &message::entry(key, value)));
        field(&mut self.nodes, 1, &node);
    }

    /// A node with one result that the module does not have.
    fn temp(&mut self, op: &str, inputs: &[&str], attrs: &[(&str, Attr)]) -> String {
        let name = self.fresh(&op.to_lowercase());
        self.emit(op, inputs, std::slice::from_ref(&name), attrs);
        name
    }

    /// The node that makes the only result of `n`.
    fn last(&mut self, n: NodeId, op: &str, inputs: &[&str], attrs: &[(&str, Attr)]) -> Result<()> {
        let name = self.name_result(self.f.nodes[n].results[0]);
        self.emit(op, inputs, &[name], attrs);
        Ok(())
    }

    /// An extent as a list of one number.
    fn dim(&mut self, d: &Dim) -> Result<String> {
        if let Some(name) = self.dims.get(d) {
            return Ok(name.clone());
        }
        let mut sum: Option<String> = None;
        for (atoms, c) in d.terms() {
            let mut product = if c == 1 && !atoms.is_empty() { None } else { Some(self.numbers(&[c])?) };
            for a in &atoms {
                let a = self.atom(a)?;
                product = Some(match product {
                    None => a,
                    Some(p) => self.temp("Mul", &[&p, &a], &[]),
                });
            }
            let product = product.expect("a factor");
            sum = Some(match sum {
                None => product,
                Some(s) => self.temp("Add", &[&s, &product], &[]),
            });
        }
        let name = match sum {
            Some(s) => s,
            None => self.numbers(&[0])?,
        };
        self.dims.insert(d.clone(), name.clone());
        Ok(name)
    }

    fn atom(&mut self, a: &Atom) -> Result<String> {
        match a {
            Atom::Symbol(s) => {
                if let Some(known) = self.dims.get(&Dim::symbol(s.clone())) {
                    return Ok(known.clone());
                }
                let place = |f: &Func| {
                    let bound = f.binders().get(s).map(|&n| f.nodes[n].results[0]);
                    let axis = |p| Some((p, f.values[p].ty.shape.iter().position(|d| d.as_symbol() == Some(s))?));
                    f.body().params.iter().copied().chain(bound).find_map(axis)
                };
                let outside = || {
                    let named = |(f, names): &(&Func, HashMap<ValueId, String>)| {
                        let (p, i) = place(f)?;
                        Some((names.get(&p)?.clone(), i))
                    };
                    self.around.iter().rev().find_map(named)
                };
                let (input, i) = match place(self.f) {
                    Some((p, i)) => (self.name(p)?, i),
                    None => outside().ok_or_else(|| unsupported(format!("nothing has the extent {s}")))?,
                };
                let i = i as i64;
                Ok(self.temp("Shape", &[&input], &[("start", i.into()), ("end", (i + 1).into())]))
            }
            Atom::FloorDiv(x, y) => self.pair("Div", x, y),
            Atom::Max(x, y) => self.pair("Max", x, y),
        }
    }

    fn pair(&mut self, op: &str, x: &Dim, y: &Dim) -> Result<String> {
        let (x, y) = (self.dim(x)?, self.dim(y)?);
        Ok(self.temp(op, &[&x, &y], &[]))
    }

    /// Extents as a list of numbers.
    fn extents(&mut self, dims: &[Dim]) -> Result<String> {
        if let Some(numbers) = dims.iter().map(Dim::as_const).collect::<Option<Vec<_>>>() {
            return self.numbers(&numbers);
        }
        let parts = dims.iter().map(|d| self.dim(d)).collect::<Result<Vec<_>>>()?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        Ok(if let [one] = parts[..] { one.to_string() } else { self.temp("Concat", &parts, &[("axis", 0.into())]) })
    }

    /// Another shape of a value.
    fn reshaped(&mut self, x: &str, shape: &[Dim]) -> Result<String> {
        let shape = self.extents(shape)?;
        Ok(self.temp("Reshape", &[x, &shape], &[("allowzero", 1.into())]))
    }

    /// Evaluates a node whose operands' elements are all there, and keeps the result; false where one is not.
    fn fold(&mut self, n: NodeId) -> Result<bool> {
        let node = &self.f.nodes[n];
        let Some(x) = node.operands.iter().map(|&v| self.tensor(v)).collect::<Option<Vec<_>>>() else {
            return Ok(false);
        };
        let y = node.op.eval(&x.iter().collect::<Vec<_>>(), &Bindings::new())?;
        // No node makes them, not even where an output's name was kept for them.
        for v in &node.results {
            self.names.remove(v);
        }
        self.folded.extend(node.results.iter().copied().zip(y));
        Ok(true)
    }
}

fn unsupported(what: impl Into<String>) -> Diagnostic {
    Diagnostic::error("O0202", what).failure(Failure::Unsupported)
}
