//! Graphs to functions.

mod check;
mod extents;
mod inputs;
mod known;
mod node;
mod ops;
mod order;

use crate::proto::{self, GraphProto, ModelProto, NodeProto};
use crate::tensor::{self, Sources};
use crate::wire;
use extents::Aliases;
pub use known::Known;
use node::NodeCx;
pub use ops::operators;
use order::order;
use std::collections::{BTreeMap, HashMap};
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
    let opset = check::header(&model)?;
    let (source_hash, file_bytes) = (blake3::hash(&file).to_hex().to_string(), file.len());
    let mut sources = Sources { file, raw: skeleton.raw, dir, mapped: HashMap::new() };
    let mut equal = Equal::default();
    // Every further round has one symbol less.
    loop {
        let (module, notes) = match Importer::read(&model, name, opset, options, &mut sources, &mut equal) {
            _ if std::mem::take(&mut equal.again) => continue,
            Ok(read) => read,
            Err(errors) => return Err(errors),
        };
        let producer = format!("{} {}", model.producer_name, model.producer_version).trim().to_string();
        let mut external: Vec<_> = sources.mapped.into_keys().collect();
        external.sort();
        return Ok(Imported {
            module,
            notes: equal.notes.into_iter().chain(notes).collect(),
            opset,
            ir_version: model.ir_version,
            producer,
            file_bytes,
            source_hash,
            nodes: model.graph.node.len(),
            external,
        });
    }
}

/// What a name stands for: a value, integers known at import, or both.
#[derive(Clone, Debug)]
struct Meaning {
    value: Option<ValueId>,
    known: Option<Known>,
}

/// Symbols that turned out to be equal to something, over all rounds.
#[derive(Default)]
struct Equal {
    aliases: Aliases,
    notes: Vec<Diagnostic>,
    /// Something was found in this round.
    again: bool,
}

struct Importer<'a> {
    b: Builder<'a>,
    symbols: &'a mut BTreeMap<Arc<str>, SymbolInfo>,
    /// Symbols in order of first use.
    order: Vec<Arc<str>>,
    /// The names in the file that symbols stand for.
    params: HashMap<Arc<str>, String>,
    opset: i64,
    sources: &'a mut Sources,
    options: &'a ImportOptions,
    equal: &'a mut Equal,
    scope: HashMap<String, Meaning>,
    /// Results that operators have in ONNX and not here, and the node that should make them.
    absent: HashMap<String, Loc>,
    errors: Vec<Diagnostic>,
    notes: Vec<Diagnostic>,
}

/// Constants of at most this many elements are looked into for shape arithmetic.
const KNOWN_LIMIT: usize = 1024;
/// Results of at most this many elements are computed at import when all operands are constants.
const FOLD_LIMIT: usize = 1 << 16;

impl Importer<'_> {
    fn read(
        model: &ModelProto,
        name: &str,
        opset: i64,
        options: &ImportOptions,
        sources: &mut Sources,
        equal: &mut Equal,
    ) -> Result<(Module, Vec<Diagnostic>), Vec<Diagnostic>> {
        let mut module = Module::new(name);
        let mut func = Func::new("main");
        let Module { consts, symbols, .. } = &mut module;
        let mut importer = Importer {
            b: Builder::new(consts, &mut func),
            symbols,
            order: vec![],
            params: HashMap::new(),
            opset,
            sources,
            options,
            equal,
            scope: HashMap::new(),
            absent: HashMap::new(),
            errors: vec![],
            notes: vec![],
        };
        importer.graph(&model.graph)?;
        let notes = importer.notes;
        func.remove_dead();
        module.funcs.push(func);
        Ok((module, notes))
    }

    fn graph(&mut self, g: &GraphProto) -> Result<(), Vec<Diagnostic>> {
        self.errors = check::names(g);
        self.bail()?;
        for t in &g.initializer {
            self.b.loc = Loc::Onnx { node: t.name.as_str().into(), op: "initializer".into() };
            match self.sources.tensor(t, &t.name) {
                Ok(tensor) => {
                    self.notes.extend(check::finite(&t.name, &tensor));
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
        for info in &g.value_info {
            if let Some(v) = self.scope.get(&info.name).and_then(|m| m.value) {
                self.declared(info, v, false);
            }
        }
        let mut results = vec![];
        for o in &g.output {
            match self.scope.get(&o.name).cloned() {
                Some(m) => {
                    self.b.loc = Loc::Onnx { node: o.name.as_str().into(), op: "output".into() };
                    self.b.name = clean(&o.name);
                    let v = self.value_of(&m).map_err(|d| vec![d])?;
                    self.declared(o, v, true);
                    results.push(v);
                    self.b.func.outputs.push(o.name.as_str().into());
                }
                None => self.errors.push(self.undefined_output(&o.name)),
            }
        }
        self.bail()?;
        self.b.func.body_mut().results = results;
        Ok(())
    }

    fn undefined_output(&self, name: &str) -> Diagnostic {
        match self.absent.get(name) {
            Some(loc) => absent(name, loc),
            None => Diagnostic::error("O0022", format!("nothing makes the output \"{}\"", name.escape_debug())),
        }
    }

    /// Takes two extents to be equal, if that only fixes a symbol; the graph is then read again. `false` when they cannot be equal.
    fn equate(&mut self, a: &Dim, b: &Dim) -> bool {
        let aliases = &mut self.equal.aliases;
        let (a, b) = (extents::resolve(a, aliases), extents::resolve(b, aliases));
        if a == b {
            // By what this round found. If it found nothing, reading again would change nothing.
            return self.equal.again;
        }
        let Some((symbol, dim)) = extents::solve(&a, &b, &self.order) else { return false };
        let one = Aliases::from([(symbol.clone(), dim.clone())]);
        aliases.values_mut().for_each(|d| *d = extents::resolve(d, &one));
        let message = format!("extent {symbol} is taken to be {dim}: nothing else fits this node");
        self.equal.notes.push(Diagnostic::note("O0040", message).at_loc(&self.b.loc));
        aliases.insert(symbol, dim);
        self.equal.again = true;
        true
    }

    fn bail(&mut self) -> Result<(), Vec<Diagnostic>> {
        if self.errors.is_empty() { Ok(()) } else { Err(std::mem::take(&mut self.errors)) }
    }

    fn node(&mut self, node: &NodeProto) {
        self.b.loc = loc_of(node);
        let first = node.output.iter().find(|n| !n.is_empty());
        self.b.name = clean(if node.name.is_empty() { first.map_or("", |n| n) } else { &node.name });
        match NodeCx::import(self, node) {
            Ok(results) => {
                for name in node.output.iter().skip(results.len()).filter(|n| !n.is_empty()) {
                    self.absent.insert(name.clone(), loc_of(node));
                }
                for (name, m) in node.output.iter().zip(results) {
                    let known = m.known.or_else(|| self.known_constant(m.value?));
                    self.scope.insert(name.clone(), Meaning { known, ..m });
                }
            }
            // Operands that failed before are not reported again.
            Err(found) => {
                let found = found.into_iter().filter(|d| d.code != node::UNDEFINED_OPERAND);
                self.errors.extend(found.map(|d| d.at_loc(&loc_of(node))));
            }
        }
    }

    /// A constant, looked into if it may take part in shape arithmetic.
    fn constant(&mut self, name: &str, t: &Tensor) -> Meaning {
        let v = self.b.constant(name, t);
        Meaning { value: Some(v), known: self.known_constant(v) }
    }

    /// The integers of a small constant.
    fn known_constant(&self, v: ValueId) -> Option<Known> {
        let ty = self.b.ty(v);
        if !ty.dtype.is_int() || ty.rank() > 1 || ty.static_elements().is_none_or(|n| n > KNOWN_LIMIT) {
            return None;
        }
        self.b.consts[self.b.func.def_const(v)?].tensor().map(Known::of)
    }

    /// Appends an op; computes it here when all operands are small constants.
    fn op(&mut self, op: Op, operands: &[ValueId]) -> Result<Vec<ValueId>> {
        if !operands.is_empty()
            && let Some(results) = self.fold(&op, operands)?
        {
            return Ok(results);
        }
        let results = match self.b.ops(op.clone(), operands) {
            Ok(results) => results,
            Err(d) => {
                let types: Vec<&Type> = operands.iter().map(|&v| self.b.ty(v)).collect();
                let pair = extents::mismatch(&op, &types);
                return Err(if pair.is_some_and(|(a, b)| self.equate(&a, &b)) { node::again() } else { d });
            }
        };
        results.iter().try_for_each(|&v| extents::check(&self.b.ty(v).shape))?;
        Ok(results.to_vec())
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

/// The error about a result that an operator does not give here.
fn absent(name: &str, loc: &Loc) -> Diagnostic {
    let message = format!("the output \"{}\" of this operator is not supported", name.escape_debug());
    Diagnostic::error("O0031", message).failure(Failure::Unsupported).at_loc(loc)
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
