//! Graphs to functions.

mod known;
mod node;
mod ops;

use crate::proto::{self, Extent, GraphProto, ModelProto, NodeProto};
use crate::tensor::{self, Sources};
use crate::wire;
pub use known::Known;
use node::NodeCx;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use tersor_ir::blob::Blob;
use tersor_ir::diag::Result;
use tersor_ir::dim::SymbolInfo;
use tersor_ir::module::Builder;
use tersor_ir::{Diagnostic, Dim, Failure, Func, Loc, Module, Op, Tensor, Type, ValueId};

/// What a dynamic extent becomes.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum DimBinding {
    /// This number.
    Fixed(i64),
    /// A symbol with bounds, and the value that cost estimates assume.
    Range(SymbolInfo),
}

/// Choices of an import.
#[derive(Clone, Default, Debug)]
pub struct ImportOptions {
    /// What named extents become; the others stay symbols without bounds.
    pub dims: BTreeMap<String, DimBinding>,
    /// Shapes of inputs that override the declared ones.
    pub shapes: BTreeMap<String, Vec<i64>>,
}

/// A module and where it is from.
#[derive(Debug)]
pub struct Imported {
    /// The module; its function is `@main`.
    pub module: Module,
    /// Remarks and warnings.
    pub notes: Vec<Diagnostic>,
    /// Version of `ai.onnx` that the file asks for.
    pub opset: i64,
    /// Version of the file format.
    pub ir_version: i64,
    /// Who wrote it.
    pub producer: String,
    /// Bytes of the model file, external data apart.
    pub file_bytes: usize,
    /// blake3 of the model file.
    pub source_hash: String,
    /// Nodes in the file's graph.
    pub nodes: usize,
    /// External data files, for hashing and reports.
    pub external: Vec<std::path::PathBuf>,
}

/// Reads an ONNX file. All findings of the first stage that finds any are returned together.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Imported, Vec<Diagnostic>> {
    let name = path.display().to_string();
    let file = tensor::map(path)
        .map_err(|e| vec![Diagnostic::error("O0003", format!("cannot read {name}: {e}")).failure(Failure::File)])?;
    let dir =
        path.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".").to_path_buf() } else { p.to_path_buf() });
    let stem = path.file_stem().map_or_else(|| "model".into(), |s| s.to_string_lossy().into_owned());
    import_blob(file, dir, &stem, options).map_err(|errors| errors.into_iter().map(|d| d.in_file(&*name)).collect())
}

/// Reads a model from memory; external data are refused.
pub fn import_bytes(bytes: Vec<u8>, name: &str, options: &ImportOptions) -> Result<Imported, Vec<Diagnostic>> {
    import_blob(bytes.into(), None, name, options)
}

fn import_blob(
    file: Blob,
    dir: Option<std::path::PathBuf>,
    name: &str,
    options: &ImportOptions,
) -> Result<Imported, Vec<Diagnostic>> {
    let skeleton = wire::skeleton(&file).map_err(|d| vec![d])?;
    let model = proto::decode(&skeleton.bytes).map_err(|d| vec![d])?;
    let opset = check_header(&model)?;
    let source_hash = blake3::hash(&file).to_hex().to_string();
    let file_bytes = file.len();
    let sources = Sources { file, raw: skeleton.raw, dir, mapped: HashMap::new() };
    let mut module = Module::new(name);
    let mut func = Func::new("main");
    let Module { consts, symbols, .. } = &mut module;
    let mut importer = Importer {
        b: Builder::new(consts, &mut func),
        symbols,
        opset,
        sources,
        options,
        scope: HashMap::new(),
        errors: vec![],
        notes: vec![],
    };
    importer.graph(&model.graph)?;
    let (notes, mapped) = (std::mem::take(&mut importer.notes), std::mem::take(&mut importer.sources.mapped));
    func.remove_dead();
    module.funcs.push(func);
    let producer = format!("{} {}", model.producer_name, model.producer_version).trim().to_string();
    let mut external: Vec<_> = mapped.into_keys().collect();
    external.sort();
    Ok(Imported {
        module,
        notes,
        opset,
        ir_version: model.ir_version,
        producer,
        file_bytes,
        source_hash,
        nodes: model.graph.node.len(),
        external,
    })
}

/// The opset versions that operators are decoded for.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=23;

fn check_header(model: &ModelProto) -> Result<i64, Vec<Diagnostic>> {
    let mut errors = vec![];
    let mut opset = None;
    for o in &model.opset_import {
        if o.domain.is_empty() || o.domain == "ai.onnx" {
            if opset.replace(o.version).is_some_and(|v| v != o.version) {
                errors.push(Diagnostic::error("O0004", "two versions of domain ai.onnx are imported"));
            }
            if !OPSETS.contains(&o.version) {
                let d = Diagnostic::error("O0005", format!("opset {} of domain ai.onnx is not supported", o.version));
                let d = d.with_note(format!("supported are {} to {}", OPSETS.start(), OPSETS.end()));
                errors.push(if (1..=40).contains(&o.version) { d.failure(Failure::Unsupported) } else { d });
            }
        }
    }
    if model.graph.is_none() {
        errors.push(Diagnostic::error("O0006", "the file has no graph: it is not an ONNX model, or cut short"));
    } else if opset.is_none() && errors.is_empty() {
        errors.push(Diagnostic::error("O0004", "the model imports no version of domain ai.onnx"));
    }
    if errors.is_empty() { Ok(opset.unwrap_or(0)) } else { Err(errors) }
}

/// What a name stands for: a value, integers known at import, or both.
#[derive(Clone, Debug)]
struct Meaning {
    value: Option<ValueId>,
    known: Option<Known>,
}

struct Importer<'a> {
    b: Builder<'a>,
    symbols: &'a mut BTreeMap<Arc<str>, SymbolInfo>,
    opset: i64,
    sources: Sources,
    options: &'a ImportOptions,
    scope: HashMap<String, Meaning>,
    errors: Vec<Diagnostic>,
    notes: Vec<Diagnostic>,
}

/// Constants of at most this many elements are looked into for shape arithmetic.
const KNOWN_LIMIT: usize = 1024;
/// Results of at most this many elements are computed at import when all operands are constants.
const FOLD_LIMIT: usize = 1 << 16;

impl Importer<'_> {
    fn graph(&mut self, g: &GraphProto) -> Result<(), Vec<Diagnostic>> {
        self.check_names(g);
        self.bail()?;
        for t in &g.initializer {
            self.b.loc = Loc::Onnx { node: t.name.as_str().into(), op: "initializer".into() };
            match self.sources.tensor(t, &t.name) {
                Ok(tensor) => {
                    let m = self.constant(&clean(&t.name), &tensor);
                    self.scope.insert(t.name.clone(), m);
                }
                Err(d) => self.errors.push(d),
            }
        }
        self.inputs(g);
        self.bail()?;
        for node in order(g, &self.scope)? {
            self.node(node);
        }
        self.bail()?;
        let mut results = vec![];
        for o in &g.output {
            match self.scope.get(&o.name).cloned() {
                Some(m) => {
                    let m = self.value_of(&m);
                    results.push(m.map_err(|d| vec![d])?);
                    self.b.func.outputs.push(o.name.as_str().into());
                }
                None => self.errors.push(Diagnostic::error(
                    "O0022",
                    format!("nothing makes the output \"{}\"", o.name.escape_debug()),
                )),
            }
        }
        self.bail()?;
        self.b.func.body_mut().results = results;
        Ok(())
    }

    fn bail(&mut self) -> Result<(), Vec<Diagnostic>> {
        if self.errors.is_empty() { Ok(()) } else { Err(std::mem::take(&mut self.errors)) }
    }

    /// Every name is written once.
    fn check_names(&mut self, g: &GraphProto) {
        let mut seen = HashSet::new();
        for t in &g.initializer {
            if !seen.insert(t.name.as_str()) {
                self.errors.push(Diagnostic::error(
                    "O0020",
                    format!("two initializers are named \"{}\"", t.name.escape_debug()),
                ));
            }
        }
        let inputs: HashSet<&str> = g.input.iter().map(|i| i.name.as_str()).collect();
        for node in &g.node {
            for name in node.output.iter().filter(|n| !n.is_empty()) {
                if !seen.insert(name) || inputs.contains(name.as_str()) {
                    let d = Diagnostic::error("O0020", format!("\"{}\" is written twice", name.escape_debug()));
                    self.errors.push(d.at_loc(&loc_of(node)));
                }
            }
        }
    }

    fn inputs(&mut self, g: &GraphProto) {
        let body = self.b.func.body_id();
        for i in &g.input {
            // Before IR version 4 initializers had to be inputs as well; they are constants.
            if self.scope.contains_key(&i.name) {
                continue;
            }
            let ty = match self.input_type(i) {
                Ok(ty) => ty,
                Err(d) => {
                    self.errors.push(d);
                    continue;
                }
            };
            let v = self.b.func.add_param(body, &clean(&i.name), ty);
            self.b.func.inputs.push(i.name.as_str().into());
            if self.scope.insert(i.name.clone(), Meaning { value: Some(v), known: None }).is_some() {
                self.errors
                    .push(Diagnostic::error("O0020", format!("two inputs are named \"{}\"", i.name.escape_debug())));
            }
        }
        for name in self.options.shapes.keys().filter(|n| !g.input.iter().any(|i| i.name == **n)) {
            let d = Diagnostic::error(
                "O0024",
                format!("a shape is given for \"{}\", which is not an input", name.escape_debug()),
            );
            let names: Vec<&str> = self.b.func.inputs.iter().map(|n| &**n).collect();
            self.errors.push(d.failure(Failure::Usage).with_help(format!("inputs are {}", names.join(", "))));
        }
        for name in self.options.dims.keys().filter(|n| !self.symbols.contains_key(n.as_str())) {
            let used = g.input.iter().filter_map(proto::tensor_type).filter_map(|t| t.1).flatten();
            if !used.into_iter().any(|e| matches!(e, Extent::Param(p) if symbol_name(&p) == *name || p == *name))
                && !name.contains('.')
            {
                let d = Diagnostic::error("O0025", format!("no input has a dynamic extent named {name}"));
                let all: Vec<&str> = self.symbols.keys().map(|n| &**n).collect();
                self.errors
                    .push(d.failure(Failure::Usage).with_help(format!("dynamic extents are {}", all.join(", "))));
            }
        }
    }

    fn input_type(&mut self, i: &proto::ValueInfoProto) -> Result<Type> {
        let bad = |what: &str| Diagnostic::error("O0023", format!("input \"{}\" {what}", i.name.escape_debug()));
        let (number, dims) =
            proto::tensor_type(i).ok_or_else(|| bad("is not a tensor").failure(Failure::Unsupported))?;
        let dtype = tensor::dtype(number).ok_or_else(|| {
            bad(&format!("has element type {number}, which is not supported")).failure(Failure::Unsupported)
        })?;
        let given = self.options.shapes.get(&i.name);
        let dims = match (given, dims) {
            (Some(shape), Some(dims)) if shape.len() != dims.len() => {
                return Err(bad(&format!("has {} axes, the given shape has {}", dims.len(), shape.len())));
            }
            (Some(shape), _) => shape.iter().map(|&n| Extent::Value(n)).collect(),
            (None, Some(dims)) => dims,
            (None, None) => return Err(bad("has no declared rank").with_help("give its shape with --shape")),
        };
        if dims.len() > 32 {
            return Err(bad("has a rank above 32"));
        }
        let mut shape = vec![];
        for (axis, d) in dims.into_iter().enumerate() {
            shape.push(match d {
                Extent::Value(n) if n < 0 => return Err(bad(&format!("has extent {n}"))),
                Extent::Value(n) => Dim::Const(n),
                Extent::Param(p) => self.symbol(&symbol_name(&p)),
                Extent::Unknown => self.symbol(&format!("{}.{axis}", symbol_name(&i.name))),
            });
        }
        Ok(Type::new(dtype, shape))
    }

    fn symbol(&mut self, name: &str) -> Dim {
        let info = match self.options.dims.get(name) {
            Some(DimBinding::Fixed(n)) => return Dim::Const(*n),
            Some(DimBinding::Range(info)) => *info,
            None => SymbolInfo::default(),
        };
        self.symbols.entry(name.into()).or_insert(info);
        Dim::symbol(name)
    }

    fn node(&mut self, node: &NodeProto) {
        self.b.loc = loc_of(node);
        let first = node.output.iter().find(|n| !n.is_empty());
        self.b.name = clean(if node.name.is_empty() { first.map_or("", |n| n) } else { &node.name });
        let result = NodeCx::new(self, node).and_then(|mut cx| ops::import(&mut cx));
        match result {
            Ok(results) => {
                for (name, m) in node.output.iter().zip(results) {
                    self.scope.insert(name.clone(), m);
                }
            }
            // Operands that failed before are not reported again.
            Err(d) if d.code == node::UNDEFINED_OPERAND => {}
            Err(d) => self.errors.push(d.at_loc(&loc_of(node))),
        }
    }

    /// A constant, looked into if it may take part in shape arithmetic.
    fn constant(&mut self, name: &str, t: &Tensor) -> Meaning {
        let known = (t.dtype().is_int() && t.len() <= KNOWN_LIMIT && t.shape().len() <= 1).then(|| Known::of(t));
        Meaning { value: Some(self.b.constant(name, t)), known }
    }

    /// Appends an op; computes it here when all operands are small constants.
    fn op(&mut self, op: Op, operands: &[ValueId]) -> Result<Vec<ValueId>> {
        if !operands.is_empty()
            && let Some(results) = self.fold(&op, operands)?
        {
            return Ok(results);
        }
        Ok(self.b.ops(op, operands)?.to_vec())
    }

    fn fold(&mut self, op: &Op, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let types: Vec<&Type> = operands.iter().map(|&v| self.b.ty(v)).collect();
        if types.iter().any(|t| t.static_elements().is_none_or(|n| n > FOLD_LIMIT)) {
            return Ok(None);
        }
        let constants: Option<Vec<Tensor>> =
            operands.iter().map(|&v| self.b.consts[self.b.func.def_const(v)?].tensor().cloned()).collect();
        let Some(x) = constants else { return Ok(None) };
        let results = op.infer(&types)?;
        if results.iter().any(|t| t.static_elements().is_none_or(|n| n > FOLD_LIMIT)) {
            return Ok(None);
        }
        let y = op.eval(&x.iter().collect::<Vec<_>>(), &Default::default())?;
        let name = self.b.name.clone();
        Ok(Some(y.iter().map(|t| self.b.constant(&name, t)).collect()))
    }

    /// The value of a meaning; known integers become a constant or are put together from extents.
    fn value_of(&mut self, m: &Meaning) -> Result<ValueId> {
        match (m.value, &m.known) {
            (Some(v), _) => Ok(v),
            (None, Some(k)) => self.materialize(&k.clone()),
            (None, None) => Err(Diagnostic::error(node::UNDEFINED_OPERAND, "undefined operand")),
        }
    }

    fn materialize(&mut self, k: &Known) -> Result<ValueId> {
        use tersor_ir::ops::{Cast, Concat, Extent, Reshape};
        if let Some(t) = k.tensor() {
            let name = self.b.name.clone();
            return Ok(self.b.constant(&name, &t));
        }
        let mut parts = vec![];
        for d in &k.items {
            let part = match d.as_const() {
                Some(c) => {
                    let name = self.b.name.clone();
                    self.b.constant(&name, &Tensor::from_i64(tersor_ir::DType::I64, [1], &[c]))
                }
                None => {
                    let e = self.b.op(Extent { of: d.clone() }, &[])?;
                    self.b.op(Reshape { shape: vec![1.into()] }, &[e])?
                }
            };
            parts.push(part);
        }
        let all = if parts.len() == 1 { parts[0] } else { self.b.op(Concat { axis: 0 }, &parts)? };
        let shaped = self.b.op(Reshape { shape: k.shape.iter().map(|&n| n.into()).collect() }, &[all])?;
        if k.dtype == tersor_ir::DType::I64 { Ok(shaped) } else { self.b.op(Cast { to: k.dtype }, &[shaped]) }
    }
}

/// The nodes in an order in which operands come first (the file's own, if it is one). Cycles and undefined inputs are errors.
fn order<'g>(g: &'g GraphProto, scope: &HashMap<String, Meaning>) -> Result<Vec<&'g NodeProto>, Vec<Diagnostic>> {
    let mut maker: HashMap<&str, usize> = HashMap::new();
    for (i, n) in g.node.iter().enumerate() {
        n.output.iter().filter(|o| !o.is_empty()).for_each(|o| {
            maker.insert(o, i);
        });
    }
    let mut errors = vec![];
    let (mut missing, mut readers) = (vec![0usize; g.node.len()], vec![vec![]; g.node.len()]);
    for (i, n) in g.node.iter().enumerate() {
        for name in n.input.iter().filter(|n| !n.is_empty() && !scope.contains_key(*n)) {
            match maker.get(name.as_str()) {
                Some(&m) => {
                    missing[i] += 1;
                    readers[m].push(i);
                }
                None => {
                    let d = Diagnostic::error("O0021", format!("input \"{}\" is not defined", name.escape_debug()));
                    errors.push(d.at_loc(&loc_of(n)));
                }
            }
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    // Nodes that are ready are taken in the file's order.
    let mut ready: std::collections::BinaryHeap<std::cmp::Reverse<usize>> =
        (0..g.node.len()).filter(|&i| missing[i] == 0).map(std::cmp::Reverse).collect();
    let mut out = Vec::with_capacity(g.node.len());
    while let Some(std::cmp::Reverse(i)) = ready.pop() {
        out.push(&g.node[i]);
        for &r in &readers[i] {
            missing[r] -= 1;
            if missing[r] == 0 {
                ready.push(std::cmp::Reverse(r));
            }
        }
    }
    if out.len() < g.node.len() {
        return Err(vec![cycle(g, &maker, &missing)]);
    }
    Ok(out)
}

/// Walks from a node that never got ready to the operands that hold it up, until one comes twice.
fn cycle(g: &GraphProto, maker: &HashMap<&str, usize>, missing: &[usize]) -> Diagnostic {
    let mut at = missing.iter().position(|&m| m > 0).unwrap_or(0);
    let mut path: Vec<usize> = vec![];
    let mut seen = HashSet::new();
    while seen.insert(at) {
        path.push(at);
        let before = g.node[at].input.iter().filter_map(|n| maker.get(n.as_str())).find(|&&m| missing[m] > 0);
        at = before.copied().unwrap_or(at);
    }
    let start = path.iter().position(|&p| p == at).unwrap_or(0);
    let names: Vec<String> =
        path[start..].iter().rev().take(12).map(|&i| format!("\"{}\"", node_name(&g.node[i]).escape_debug())).collect();
    Diagnostic::error("O0026", format!("the graph has a cycle: {} -> {}", names.join(" -> "), names[0]))
        .at_loc(&loc_of(&g.node[at]))
}

/// A node's name, or that of its first output.
fn node_name(n: &NodeProto) -> &str {
    if n.name.is_empty() { n.output.iter().find(|o| !o.is_empty()).map_or("", |o| o) } else { &n.name }
}

fn loc_of(n: &NodeProto) -> Loc {
    Loc::Onnx { node: node_name(n).into(), op: n.op_type.as_str().into() }
}

/// A readable value name: no leading slash, and only characters that need no quotes.
fn clean(name: &str) -> String {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/');
    let short: String = name.trim_start_matches('/').chars().take(256).map(|c| if ok(c) { c } else { '_' }).collect();
    if short.is_empty() { "v".into() } else { short }
}

/// A symbol's name as text allows it.
fn symbol_name(param: &str) -> String {
    let mut s: String =
        param.chars().take(64).map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if s.is_empty() || s.starts_with(|c: char| c.is_ascii_digit()) {
        s.insert(0, 'd');
    }
    s
}
