//! Graphs to functions.

mod body;
mod build;
mod check;
mod computed;
mod extents;
mod functions;
mod inputs;
mod known;
mod lint;
mod node;
mod ops;
mod order;
mod ranges;
mod region;
mod simplify;

use crate::limits::Limits;
use crate::proto::{self, FunctionProto, GraphProto, ModelProto, NodeProto};
use crate::tensor::{self, Sources};
use crate::wire;
use check::OPSETS;
use extents::Aliases;
use foldhash::{HashMap, HashSet};
use functions::Functions;
pub use known::Known;
use node::NodeCx;
pub use ops::operators;
use order::order;
use ranges::Range;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use tersor_ir::blob::Blob;
use tersor_ir::diag::Result;
use tersor_ir::dim::SymbolInfo;
use tersor_ir::module::{Builder, RegionId};
use tersor_ir::ops::Extent;
use tersor_ir::simplify::Simpler;
use tersor_ir::{Diagnostic, Dim, Failure, Func, Loc, Module, Op, Tensor, Type, ValueId};

/// What the tensors of a map are called, after its name and a dot.
pub const MAP: [&str; 2] = ["keys", "values"];

/// How the functions end that loops call, after the node's name.
pub(crate) const BODY_OF_NODE: &str = ".body";

/// How the symbols end that nodes bind.
pub(crate) const SYMBOL_OF_NODE: &str = ".n";

/// What a dynamic extent becomes.
#[derive(Clone, PartialEq, Debug)]
pub enum DimBinding {
    /// This number.
    Fixed(i64),
    /// A symbol with bounds, and the value that cost estimates assume.
    Range(SymbolInfo),
    /// A multiple of a symbol: that many times the one of that name.
    Multiple(i64, String),
}

/// Choices of an import.
#[derive(Clone, Default, Debug)]
pub struct ImportOptions {
    /// What named extents become; the others stay symbols without bounds.
    pub dims: BTreeMap<String, DimBinding>,
    /// Shapes of inputs that override the declared ones.
    pub shapes: BTreeMap<String, Vec<i64>>,
    /// Inputs that become constants: axes, extents and the like that a file leaves open and that decide shapes.
    pub values: BTreeMap<String, Given>,
    /// How many elements inputs have that are sequences, or 1 for an optional one; `None` for an optional one without any. An input `x` that is a sequence
    /// becomes inputs `x.0`, `x.1` and so on; one that is a map becomes `x.keys` and `x.values` by itself.
    pub lengths: BTreeMap<String, Option<usize>>,
    /// Limits.
    pub limits: Limits,
    /// Whether files of external data must be plain ones of one name: no links, hard or symbolic.
    pub strict_files: bool,
}

/// The value of an input that becomes a constant.
#[derive(Clone, Debug)]
pub enum Given {
    /// A tensor of the input's type.
    Tensor(Tensor),
    /// Elements, to be had in the input's type and shape: one number for a scalar, a list for an axis of any length.
    Numbers(Vec<f64>),
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
    pub external: Vec<PathBuf>,
}

/// What was found in a file.
#[derive(Debug)]
pub struct Checked {
    /// Errors of the import, then warnings and remarks of the import and about what it has no need to refuse.
    pub findings: Vec<Diagnostic>,
    /// What was imported, unless there were errors. Its notes are among the findings.
    pub imported: Option<Imported>,
}

/// Reads an ONNX file. All findings are returned together: errors, then the warnings and remarks.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Imported, Vec<Diagnostic>> {
    on_path(path, |file, dir, stem| File::open(file, dir, options)?.import(stem, options))
}

/// Reads an ONNX file and says everything that there is to say about it. A file that cannot be read is an error.
pub fn check(path: &Path, options: &ImportOptions) -> Result<Checked, Vec<Diagnostic>> {
    let name = path.display().to_string();
    on_path(path, |file, dir, stem| {
        let mut file = match File::open(file, dir, options) {
            Ok(file) => file,
            Err(findings) => return Ok(Checked { findings, imported: None }),
        };
        let lints = lint::lint(&file.model, &mut file.sources);
        let (mut findings, imported) = match file.import(stem, options) {
            Ok(mut imported) => (std::mem::take(&mut imported.notes), Some(imported)),
            Err(findings) => (findings, None),
        };
        findings.extend(lints);
        Ok(Checked { findings, imported })
    })
    .map(|c| Checked { findings: c.findings.into_iter().map(|d| d.in_file(&*name)).collect(), ..c })
}

/// Inputs of an ONNX file whose values the import must know and does not, as [`ImportOptions::values`] gives them. There may be more behind these.
pub fn undecided(path: &Path, options: &ImportOptions) -> Result<Vec<String>, Vec<Diagnostic>> {
    on_path(path, |file, dir, stem| {
        let mut file = File::open(file, dir, options)?;
        let mut rounds = Rounds::default();
        // What else is wrong is for the import to say.
        drop(file.read(stem, options, &mut rounds));
        Ok(rounds.undecided.into_iter().collect())
    })
}

/// Reads a model from memory; external data are refused.
pub fn import_bytes(bytes: Vec<u8>, name: &str, options: &ImportOptions) -> Result<Imported, Vec<Diagnostic>> {
    File::open(bytes.into(), None, options)?.import(name, options)
}

/// Maps a file and calls `f` with it, its folder and its stem.
fn on_path<T>(
    path: &Path,
    f: impl FnOnce(Blob, Option<PathBuf>, &str) -> Result<T, Vec<Diagnostic>>,
) -> Result<T, Vec<Diagnostic>> {
    let name = path.display().to_string();
    let file = tensor::map(path)
        .map_err(|e| vec![Diagnostic::error("O0003", format!("cannot read {name}: {e}")).failure(Failure::File)])?;
    let dir =
        path.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".").to_path_buf() } else { p.to_path_buf() });
    let stem = path.file_stem().map_or_else(|| "model".into(), |s| s.to_string_lossy().into_owned());
    f(file, dir, &stem).map_err(|errors| errors.into_iter().map(|d| d.in_file(&*name)).collect())
}

/// A decoded file.
struct File {
    model: ModelProto,
    opset: i64,
    sources: Sources,
    source_hash: String,
    file_bytes: usize,
}

impl File {
    fn open(file: Blob, dir: Option<PathBuf>, options: &ImportOptions) -> Result<File, Vec<Diagnostic>> {
        let limits = options.limits.clone();
        if file.len() > limits.file_bytes {
            return Err(vec![limits.exceeded("O0007", "file_bytes", format!("the file has {} bytes", file.len()))]);
        }
        let skeleton = wire::skeleton(&file, limits.message_nesting).map_err(|d| vec![d])?;
        let model = proto::decode(&skeleton.bytes).map_err(|d| vec![d])?;
        let opset = check::header(&model, &limits)?;
        let (source_hash, file_bytes) = (blake3::hash(&file).to_hex().to_string(), file.len());
        let (raw, strict) = (skeleton.raw, options.strict_files);
        let sources = Sources { file, raw, dir, mapped: Default::default(), strict, limits };
        Ok(File { model, opset, sources, source_hash, file_bytes })
    }

    fn read(
        &mut self,
        name: &str,
        options: &ImportOptions,
        rounds: &mut Rounds,
    ) -> (Result<Module, Vec<Diagnostic>>, Vec<Diagnostic>) {
        // Every further round has one symbol less.
        loop {
            let round = Importer::read(&self.model, name, self.opset, options, &mut self.sources, rounds);
            if !std::mem::take(&mut rounds.again) {
                return round;
            }
        }
    }

    fn import(mut self, name: &str, options: &ImportOptions) -> Result<Imported, Vec<Diagnostic>> {
        let mut rounds = Rounds::default();
        let (read, notes) = self.read(name, options, &mut rounds);
        let notes = rounds.notes.into_iter().chain(notes);
        let module = match read {
            Ok(module) => module,
            Err(errors) => return Err(errors.into_iter().chain(notes).collect()),
        };
        let mut external: Vec<_> = self.sources.mapped.into_keys().collect();
        external.sort();
        Ok(Imported {
            module,
            notes: notes.collect(),
            opset: self.opset,
            ir_version: self.model.ir_version,
            producer: format!("{} {}", self.model.producer_name, self.model.producer_version).trim().to_string(),
            file_bytes: self.file_bytes,
            source_hash: self.source_hash,
            nodes: self.model.graph.node.len(),
            external,
        })
    }
}

/// What a name stands for: a value, integers known at import, or both; or else what is there at import alone.
#[derive(Clone, Debug)]
struct Meaning {
    value: Option<ValueId>,
    known: Option<Known>,
    form: Form,
}

/// Whether something is a tensor. There are tensors alone in the IR: which there are of a sequence or an optional is decided at import.
#[derive(Clone, Debug)]
enum Form {
    Tensor,
    /// Tensors, shared with what else is called so.
    Sequence(Rc<Vec<Meaning>>),
    /// A map: its keys, and their values; or maps of the same keys, whose values have an axis before that of the keys.
    Map(Box<[Meaning; 2]>),
    /// An optional without an element; one with an element is the element.
    Nothing,
    /// Inside of a loop that runs: a sequence that it carries, by what a repetition has appended to it.
    Appended(Vec<Meaning>),
    /// Behind such a loop: the sequence, whose tensors are the slices of the value along its first axis; and what decides how many there are.
    Stacked(Vec<ValueId>),
}

impl Meaning {
    /// The tensors of what is called `name`, with names for each.
    fn tensors(self, name: &str) -> Vec<(String, Meaning)> {
        match self.form {
            Form::Tensor => vec![(name.into(), self)],
            Form::Sequence(all) => {
                let each = Rc::unwrap_or_clone(all).into_iter().enumerate();
                each.flat_map(|(i, m)| m.tensors(&format!("{name}.{i}"))).collect()
            }
            Form::Map(parts) => MAP.into_iter().zip(*parts).map(|(part, m)| (format!("{name}.{part}"), m)).collect(),
            Form::Nothing => vec![],
            // Of no known number of tensors: it has no value, and whoever asks for it is told so.
            Form::Appended(_) | Form::Stacked(_) => vec![(name.into(), self)],
        }
    }
}

/// What rounds of reading found.
#[derive(Default)]
struct Rounds {
    /// Symbols that turned out to be equal to something.
    aliases: Aliases,
    /// Inputs whose values must be known, and are not.
    undecided: BTreeSet<String>,
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
    rounds: &'a mut Rounds,
    scope: HashMap<String, Meaning>,
    /// Names of the tensors that inputs consist of.
    named: Vec<String>,
    /// Results that operators have in ONNX and not here, and the node that should make them.
    absent: HashMap<String, Loc>,
    /// Declared extents of what the graph makes, as far as they are numbers.
    declared: HashMap<String, Vec<Option<usize>>>,
    /// What is not to be had; why not is among the errors.
    broken: HashSet<String>,
    selected: Vec<ops::Selected>,
    inlined: Inlined,
    /// Nodes without a seed that draw numbers by chance, so far.
    draws: u64,
    /// Between which numbers values lie, as far as that was asked.
    ranges: HashMap<ValueId, Range>,
    /// Rows that were rounded to codes and decoded, by region, source and group.
    rounded: HashMap<(RegionId, ValueId, u32), ValueId>,
    /// Multiply-adds of what was computed here so far.
    folded: usize,
    /// Elements of all sequences so far.
    sequenced: usize,
    /// Extents as numbers, by region.
    numbers: HashMap<(RegionId, Dim), ValueId>,
    /// Scales of rows of codes, by region and the value that they stand for.
    scales: HashMap<(RegionId, ValueId), ValueId>,
    functions: Functions<'a>,
    /// The functions whose calls are being imported, from the outermost.
    calls: Vec<&'a FunctionProto>,
    /// The functions that loops call.
    bodies: Vec<Func>,
    /// Symbols that are numbers of repetitions.
    counters: Vec<Arc<str>>,
    /// Names of those that are being imported, from the outermost.
    entered: Vec<Arc<str>>,
    errors: Vec<Diagnostic>,
    notes: Vec<Diagnostic>,
}

/// What nested graphs come to.
#[derive(Default)]
struct Inlined {
    nodes: usize,
    depth: usize,
}

impl Importer<'_> {
    fn read(
        model: &ModelProto,
        name: &str,
        opset: i64,
        options: &ImportOptions,
        sources: &mut Sources,
        rounds: &mut Rounds,
    ) -> (Result<Module, Vec<Diagnostic>>, Vec<Diagnostic>) {
        let (functions, errors) = functions::functions(model);
        let mut module = Module::new(name);
        let mut func = Func::new("main");
        let Module { consts, symbols, .. } = &mut module;
        let mut importer = Importer {
            b: Builder::new(consts, &mut func),
            symbols,
            order: vec![],
            params: HashMap::default(),
            opset,
            sources,
            options,
            rounds,
            scope: HashMap::default(),
            named: vec![],
            absent: HashMap::default(),
            declared: HashMap::default(),
            broken: HashSet::default(),
            selected: vec![],
            inlined: Inlined::default(),
            draws: 0,
            ranges: HashMap::default(),
            folded: 0,
            sequenced: 0,
            rounded: HashMap::default(),
            numbers: HashMap::default(),
            scales: HashMap::default(),
            functions,
            calls: vec![],
            bodies: vec![],
            entered: vec![],
            counters: vec![],
            errors: vec![],
            notes: vec![],
        };
        importer.graph(&model.graph, errors);
        let Importer { errors, notes, bodies, .. } = importer;
        if !errors.is_empty() {
            return (Err(errors), notes);
        }
        func.remove_dead();
        extents::raise_hints(&func, &mut module.symbols, |s| !options.dims.contains_key(s));
        let called = body::called(&func, bodies);
        for f in std::iter::once(func).chain(called) {
            module.funcs.push(f);
        }
        (Ok(module), notes)
    }

    /// Reads everything that can be read, whatever else is wrong.
    fn graph(&mut self, g: &GraphProto, mut found: Vec<Diagnostic>) {
        found.extend(check::names(g, &self.options.limits));
        self.errors = found;
        self.declared = g.value_info.iter().chain(&g.output).filter_map(check::declared_extents).collect();
        for i in proto::initializers(g) {
            let name = i.name();
            self.b.loc = Loc::Onnx { node: name.into(), op: "initializer".into() };
            match self.sources.initializer(i) {
                Ok(tensor) => {
                    self.notes.extend(check::finite(name, &tensor));
                    let m = self.constant(&clean(name), &tensor);
                    self.scope.insert(name.into(), m);
                }
                Err(d) => {
                    self.errors.push(d);
                    self.broken.insert(name.into());
                }
            }
        }
        self.inputs(g);
        let (nodes, errors) = order(g, |n| self.scope.contains_key(n) || self.broken.contains(n));
        self.errors.extend(errors);
        for node in nodes {
            self.node(node);
        }
        // An input that is a constant too has a type of its own.
        for info in g.value_info.iter().chain(&g.input) {
            if let Some(v) = self.scope.get(&info.name).and_then(|m| m.value) {
                self.declared(info, v, false);
            }
        }
        let here = |o: &str| self.scope.contains_key(o);
        let made: HashSet<&str> = match g.output.iter().all(|o| here(&o.name)) {
            true => HashSet::default(),
            false => g.node.iter().flat_map(|n| &n.output).map(String::as_str).collect(),
        };
        let mut results = vec![];
        for o in &g.output {
            self.b.loc = Loc::Onnx { node: o.name.as_str().into(), op: "output".into() };
            self.b.name = clean(&o.name);
            match self.scope.get(&o.name).cloned() {
                Some(m) => {
                    let tensor = matches!(m.form, Form::Tensor);
                    for (name, m) in m.tensors(&o.name) {
                        match self.value_of(&m) {
                            Ok(v) => {
                                if tensor {
                                    self.declared(o, v, true);
                                }
                                results.push(v);
                                self.b.func.outputs.push(name.into());
                            }
                            Err(d) => self.errors.push(d),
                        }
                    }
                }
                None => {
                    let made = made.contains(o.name.as_str()) || self.broken.contains(&o.name);
                    self.undefined_output(&o.name, made);
                }
            }
        }
        self.b.func.body_mut().results = results;
    }

    /// Says why there is no such output, unless the error that kept it from being `made` does.
    fn undefined_output(&mut self, name: &str, made: bool) {
        let d = match self.absent.get(name) {
            Some(loc) => absent(name, loc),
            None if made && !self.errors.is_empty() => return,
            None => Diagnostic::error("O0022", format!("nothing makes the output \"{}\"", name.escape_debug())),
        };
        self.errors.push(d);
    }

    /// Takes two extents to be equal, if that only fixes a symbol; the graph is then read again. `false` when they cannot be equal.
    fn equate(&mut self, a: &Dim, b: &Dim) -> bool {
        let aliases = &mut self.rounds.aliases;
        let (a, b) = (extents::resolve(a, aliases), extents::resolve(b, aliases));
        if a == b {
            // By what this round found. If it found nothing, reading again would change nothing.
            return self.rounds.again;
        }
        let Some((symbol, dim)) = extents::solve(&a, &b, &self.order) else { return false };
        let one = Aliases::from([(symbol.clone(), dim.clone())]);
        aliases.values_mut().for_each(|d| *d = extents::resolve(d, &one));
        let message = format!("extent {symbol} is taken to be {dim}: nothing else fits this node");
        self.rounds.notes.push(Diagnostic::note("O0040", message).at_loc(&self.b.loc));
        aliases.insert(symbol, dim);
        self.rounds.again = true;
        true
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
                for (name, m) in node.output.iter().zip(results).filter(|(name, _)| !name.is_empty()) {
                    let known = m.known.or_else(|| self.known_constant(m.value?));
                    self.scope.insert(name.clone(), Meaning { known, ..m });
                }
            }
            // Operands that failed before are not reported again.
            Err(found) => {
                self.broken.extend(node.output.iter().cloned());
                let found = found.into_iter().filter(|d| d.code != node::UNDEFINED_OPERAND);
                self.errors.extend(found.map(|d| d.at_loc(&loc_of(node))));
            }
        }
    }

    /// A constant, looked into if it may take part in shape arithmetic.
    fn constant(&mut self, name: &str, t: &Tensor) -> Meaning {
        let v = self.b.constant(name, t);
        Meaning { known: self.known_constant(v), ..node::value(v) }
    }

    /// The integers of a small constant.
    fn known_constant(&self, v: ValueId) -> Option<Known> {
        let ty = self.b.ty(v);
        if !ty.dtype.is_int()
            || ty.rank() > 1
            || ty.static_elements().is_none_or(|n| n > self.options.limits.shape_elements)
        {
            return None;
        }
        self.b.consts[self.b.func.def_const(v)?].tensor().map(Known::of)
    }

    /// Appends an op, or what is simpler; computes it here when constants decide it.
    fn op(&mut self, op: Op, operands: &[ValueId]) -> Result<Vec<ValueId>> {
        let operands = &operands.iter().map(|&v| self.stands_for(v)).collect::<Vec<_>>()[..];
        if let Some(results) = self.fold(&op, operands)? {
            return Ok(results);
        }
        match self.simpler(&op, operands) {
            None => match op {
                Op::Extent(e) => self.number(e.of).map(|v| vec![v]),
                op => self.append(op, operands),
            },
            Some(Simpler::Value(v)) => Ok(vec![v]),
            Some(Simpler::Op(op, operands)) => self.op(op, &operands),
        }
    }

    fn append(&mut self, op: Op, operands: &[ValueId]) -> Result<Vec<ValueId>> {
        let results = match self.b.ops(op.clone(), operands) {
            Ok(results) => results,
            Err(d) => {
                let types: Vec<&Type> = operands.iter().map(|&v| self.b.ty(v)).collect();
                let Some((a, b)) = extents::mismatch(&op, &types) else { return Err(d) };
                if self.equate(&a, &b) {
                    return Err(node::again());
                }
                if self.is_bound(&a) || self.is_bound(&b) {
                    return Err(extents::undecidable(&a, &b));
                }
                return Err(if (a - b).as_const().is_some() { d } else { extents::left_open(d) });
            }
        };
        results.iter().try_for_each(|&v| extents::check_result(&self.b.ty(v).shape))?;
        Ok(results.to_vec())
    }

    /// The value of a meaning; known integers become a constant or are put together from extents.
    fn value_of(&mut self, m: &Meaning) -> Result<ValueId> {
        match (m.value, &m.known) {
            _ if matches!(m.form, Form::Appended(_) | Form::Stacked(_)) => Err(self.open_sequence(m)),
            _ if !matches!(m.form, Form::Tensor) => {
                let what = match m.form {
                    Form::Nothing => "an optional without an element",
                    Form::Map(_) => "a map",
                    _ => "a sequence",
                };
                Err(Diagnostic::error("O0030", format!("an operand is {what}, expected a tensor")))
            }
            (Some(v), _) => Ok(v),
            (None, Some(k)) => self.materialize(&k.clone()),
            (None, None) => Err(Diagnostic::error(node::UNDEFINED_OPERAND, "undefined operand")),
        }
    }

    /// The error about a sequence of which something else is asked than a loop or its tensors together can give.
    fn open_sequence(&mut self, m: &Meaning) -> Diagnostic {
        let d = Diagnostic::error("O0031", "a sequence of a length that the run decides").failure(Failure::Unsupported);
        let decides = if let Form::Stacked(decides) = &m.form { &decides[..] } else { &[] };
        let names: BTreeSet<String> = decides.iter().flat_map(|&v| self.inputs_behind(v)).collect();
        if names.is_empty() { d } else { d.with_help(self.asks_for(names)) }
    }

    /// Help that names inputs whose values decide something; they are noted.
    fn asks_for(&mut self, names: BTreeSet<String>) -> String {
        let flags: Vec<String> = names.iter().map(|n| format!("--value {n}=…")).collect();
        self.rounds.undecided.extend(names);
        format!("it follows from inputs of the model, which become constants by {}", flags.join(" "))
    }

    fn materialize(&mut self, k: &Known) -> Result<ValueId> {
        use tersor_ir::ops::{Cast, Concat, Reshape};
        if let Some(t) = k.tensor() {
            let name = self.b.name.clone();
            return Ok(self.b.constant(&name, &t));
        }
        let mut parts = vec![];
        for d in &k.items {
            parts.push(match d.as_const() {
                Some(c) => {
                    let name = self.b.name.clone();
                    self.b.constant(&name, &Tensor::from_i64(tersor_ir::DType::I64, [1], &[c]))
                }
                None => {
                    let e = self.one(Extent { of: d.clone() }, &[])?;
                    self.one(Reshape { shape: vec![1.into()] }, &[e])?
                }
            });
        }
        let all = if let [one] = parts[..] { one } else { self.one(Concat { axis: 0 }, &parts)? };
        let shape: Vec<Dim> = k.shape.iter().map(|&n| n.into()).collect();
        let shaped = if self.b.ty(all).shape[..] == shape { all } else { self.one(Reshape { shape }, &[all])? };
        if k.dtype == tersor_ir::DType::I64 { Ok(shaped) } else { self.one(Cast::to(k.dtype), &[shaped]) }
    }

    /// [`op`](Self::op) with one result.
    fn one(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Result<ValueId> {
        Ok(self.op(op.into(), operands)?[0])
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
