//! A resolved module becomes a program for each instruction set: buffers, steps and the kernels that they call.
//!
//! Constants go to the artifact as they are packed and are dropped at once, so that no more than one step's weights are in memory. Equal kernels are kept once.

mod loops;
mod table;

use crate::fuse::{Fusion, fuse};
use crate::kernel::{Group, GroupCx, Isa, Launch, Operand, encoded_bytes};
use crate::signature::Signature;
use crate::{complex, cpu, emit, expand, layout, strings};
use foldhash::{HashMap, HashSet};
use loops::repeat;
use std::collections::BTreeMap;
use std::io::{Seek, Write};
use table::Table;
use tersor_host::Function;
use tersor_ir::diag::Result;
use tersor_ir::{DType, Def, Diagnostic, EntityId, Failure, Func, Loc, Module, NodeId, Op, ValueId};
use tersor_runtime::ArtifactWriter;
use tersor_runtime::artifact::{Constant, Manifest, Symbol, Value, Variant};
use tersor_runtime::program::{Arg, Call, Extents, Host, Place, Program, Step};

/// A program and its kernels for one instruction set.
#[derive(Debug)]
pub struct Lowered {
    /// The instruction set.
    pub isa: Isa,
    /// The kernels, each once, under unique names; steps call them by position.
    pub kernels: Vec<emit::Kernel>,
    /// Buffers and steps.
    pub program: Program,
    /// Encoded weights that its kernels take decoded.
    pub decoded: Vec<Decoded>,
}

/// An encoded weight whose encoding saves nothing in the artifact.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// The value that reads it, by name.
    pub site: String,
    /// The weight, by name.
    pub weight: String,
    /// Bytes of its codes and parameters.
    pub encoded: u64,
    /// Bytes of its elements, which are stored.
    pub stored: u64,
}

/// What all instruction sets share.
#[derive(Debug, Default)]
pub struct Interface {
    /// Inputs in order.
    pub inputs: Vec<Value>,
    /// Outputs in order.
    pub outputs: Vec<Value>,
    /// Symbols.
    pub symbols: Vec<Symbol>,
    /// The extents table.
    pub extents: Extents,
    /// Strings that constants are made of.
    pub strings: Vec<String>,
}

/// Lowers `@main` for each of `isas`; constants go to `writer`. `step` is called after each group, and may end the work.
pub fn lower<W: Write + Seek>(
    m: Module,
    isas: &[Isa],
    writer: &mut ArtifactWriter<W>,
    step: &mut dyn FnMut() -> Result<()>,
) -> Result<(Interface, Vec<Lowered>)> {
    let (m, mut table) = prepare(m)?;
    if let Some(d) = control(&m).into_iter().next() {
        return Err(d);
    }
    let f = &m.funcs[m.main()?];
    let fusion = fuse(f);
    let known = known(f, &fusion);
    let mut programs: Vec<Lowering> = isas.iter().map(|&isa| Lowering::new(isa, &m, f, &fusion, &known)).collect();
    function_body(&mut programs, &mut table, writer, step)?;
    let needs = table.needs(&m)?;
    programs.iter_mut().for_each(|p| p.program.needs.clone_from(&needs));
    let lowered = programs.into_iter().map(|p| p.finish(&mut table, writer)).collect::<Result<_>>()?;
    Ok((table.interface, lowered))
}

/// Appends the steps of a function, which `programs` are in, for all instruction sets.
fn function_body<W: Write + Seek>(
    programs: &mut [Lowering],
    table: &mut Table,
    writer: &mut ArtifactWriter<W>,
    step: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let Some(&Lowering { m, f, fusion, known, .. }) = programs.first() else { return Ok(()) };
    let mut seen = HashMap::default();
    for (i, group) in fusion.groups.iter().enumerate() {
        programs.iter_mut().try_for_each(|p| p.binds(i, table, writer))?;
        if let Some(n) = group.anchor
            && let Op::Loop(l) = &f.nodes[n].op
        {
            repeat(programs, n, l, table, writer, step)?;
        } else if let Some((n, function)) = function(f, group)? {
            programs.iter_mut().try_for_each(|p| p.host(n, &function, table, writer))?;
        } else {
            let (signature, values) = Signature::of(m, f, group, fusion, known);
            let next = seen.len();
            let like = *seen.entry(signature).or_insert(next);
            programs.iter_mut().try_for_each(|p| p.group(group, like, &values, table, writer))?;
        }
        step()?;
    }
    programs.iter_mut().try_for_each(|p| p.binds(fusion.groups.len(), table, writer))
}

/// A module in the form that groups are made of, and the table with what its signature names.
fn prepare(mut m: Module) -> Result<(Module, Table)> {
    for id in m.funcs.keys().collect::<Vec<_>>() {
        expand::expand(&mut m, id)?;
        layout::channels_last(&mut m, id)?;
    }
    let mut table =
        Table { interface: Interface::default(), symbols: HashMap::default(), constants: HashMap::default() };
    table.symbols(&m)?;
    table.signature(&m.funcs[m.main()?])?;
    table.interface.strings = strings::handles(&mut m)?;
    complex::parts(&mut m)?;
    Ok((m, table))
}

/// Everything of `@main` that has no code on some instruction set, one after the other.
pub fn refused(m: Module, isas: &[Isa]) -> Vec<Diagnostic> {
    let (m, mut table) = match prepare(m) {
        Ok(prepared) => prepared,
        Err(d) => return vec![d],
    };
    let control = control(&m);
    if !control.is_empty() {
        return control;
    }
    let mut out = vec![vec![]; isas.len()];
    for f in m.funcs.values() {
        let fusion = fuse(f);
        let (known, mut built) = (known(f, &fusion), HashSet::default());
        let kernel =
            |g: &&Group| !matches!(function(f, g), Ok(Some(_))) && g.anchor.is_none_or(|n| !f.nodes[n].op.is_control());
        for group in fusion.groups.iter().filter(kernel) {
            let (signature, _) = Signature::of(&m, f, group, &fusion, &known);
            if built.contains(&signature) {
                continue;
            }
            let node = &f.nodes[group.anchor.unwrap_or(group.nodes[0])];
            let mut all = true;
            for (&isa, out) in isas.iter().zip(&mut out) {
                let launch = cpu::build(&GroupCx::new(&m, f, group, isa, &fusion.views));
                let extents = |l: Launch| l.dims.iter().chain([&l.grid]).try_for_each(|d| table.extent(d).map(drop));
                if let Err(d) = launch.and_then(extents) {
                    out.push(d.at_loc(&node.loc));
                    all = false;
                }
            }
            built.extend(all.then_some(signature));
        }
    }
    out.concat()
}

/// Which values are known before a run: constants, and what no kernel makes and is no view.
fn known(f: &Func, fusion: &Fusion) -> Vec<bool> {
    let mut known: Vec<bool> = f.values.values().map(|v| !matches!(v.def, Def::Param(..))).collect();
    let made = fusion.groups.iter().flat_map(|g| &g.nodes).flat_map(|&n| &f.nodes[n].results);
    made.chain(fusion.views.keys()).for_each(|v| known[v.index()] = false);
    known
}

/// The constants that `@main` reads on an instruction set, as they are packed for its kernels.
pub fn packed(m: &Module, isa: Isa) -> Result<Vec<(Constant, Vec<u8>)>> {
    let mut writer = ArtifactWriter::in_memory();
    lower(m.clone(), &[isa], &mut writer, &mut || Ok(()))?;
    Ok(writer.into_constants())
}

/// Bytes of working memory that a run of `@main` needs at typical extents.
pub fn arena(m: &Module, isa: Isa) -> Result<u64> {
    let mut writer = ArtifactWriter::in_memory();
    let (Interface { inputs, outputs, symbols, extents, .. }, lowered) =
        lower(m.clone(), &[isa], &mut writer, &mut || Ok(()))?;
    let manifest = Manifest { inputs, outputs, symbols, extents: extents.into_entries(), ..Manifest::default() };
    let program = lowered.into_iter().next().map(|l| l.program).unwrap_or_default();
    let at = tersor_runtime::plan::at_hints(&manifest, &Variant { program, ..Variant::default() });
    Ok(at.map_err(runtime_error)?.peak)
}

/// Errors about branches and open choices, which have no kernels, and about what loops do not have.
fn control(m: &Module) -> Vec<Diagnostic> {
    let why = |op: &Op| match op {
        Op::If(_) => {
            let d = Diagnostic::error("B0102", "control flow does not compile to a program");
            Some(d.failure(Failure::Unsupported))
        }
        Op::Choice(c) => {
            let d = Diagnostic::error("B0101", format!("site @{} is still open", c.site));
            Some(d.failure(Failure::Internal))
        }
        _ => None,
    };
    let mut out = vec![];
    for f in m.funcs.values() {
        let main = &*f.name == "main";
        for node in f.live_nodes().into_iter().map(|n| &f.nodes[n]) {
            let special = |v: &ValueId| f.values[*v].ty.dtype == DType::Str || f.values[*v].ty.dtype.part().is_some();
            let inside = || {
                let what = "strings and complex numbers do not compile inside of a loop";
                let found = !main && node.operands.iter().chain(&node.results).any(special);
                found.then(|| Diagnostic::error("B0108", what).failure(Failure::Unsupported))
            };
            out.extend(why(&node.op).or_else(inside).map(|d| d.at_loc(&node.loc)));
        }
    }
    out
}

/// The node and the function of strings that a group calls, if it does.
fn function(f: &Func, group: &Group) -> Result<Option<(NodeId, Function)>> {
    let Some(n) = group.anchor else { return Ok(None) };
    let dtypes: Vec<DType> = f.nodes[n].operands.iter().map(|&v| f.values[v].ty.dtype).collect();
    Ok(f.nodes[n].op.function(&dtypes)?.map(|function| (n, function)))
}

fn name_of(loc: &Loc, op: &Op) -> String {
    loc.onnx_node().map_or_else(|| op.mnemonic().to_string(), str::to_string)
}

fn internal(message: impl Into<String>) -> Diagnostic {
    Diagnostic::error("B0103", message).failure(Failure::Internal)
}

/// The runtime's error as a diagnostic.
pub fn runtime_error(e: tersor_runtime::Error) -> Diagnostic {
    let d = Diagnostic::error(e.code(), e.message.clone()).failure(Failure::of_exit_code(e.exit()));
    match e.help {
        Some(help) => d.with_help(help),
        None => d,
    }
}

/// The runtime's name of an element type.
pub fn runtime_dtype(d: DType) -> Result<tersor_runtime::DType> {
    tersor_runtime::DType::from_name(d.name()).ok_or_else(|| internal(format!("the runtime has no element type {d}")))
}

/// A function on the way to a program.
struct Lowering<'a> {
    isa: Isa,
    m: &'a Module,
    f: &'a Func,
    fusion: &'a Fusion,
    /// By value, whether it is known before a run.
    known: &'a [bool],
    program: Program,
    kernels: Vec<emit::Kernel>,
    /// Kernels by their text under a common name.
    by_text: HashMap<String, u32>,
    /// Calls of groups so far, by the number of their signature, with the position among a group's values of each operand that is one.
    seen: HashMap<usize, (Call, Vec<Option<usize>>)>,
    buffers: HashMap<ValueId, u32>,
    packed: HashMap<u32, u32>,
    /// The first result of the function that each buffer is.
    results: HashMap<ValueId, usize>,
    /// For each result of the function: whether a step writes it in place.
    in_place: Vec<bool>,
    decoded: BTreeMap<ValueId, Decoded>,
}

impl<'a> Lowering<'a> {
    fn new(isa: Isa, m: &'a Module, f: &'a Func, fusion: &'a Fusion, known: &'a [bool]) -> Self {
        let in_place = vec![false; f.body().results.len()];
        let (program, kernels, by_text) = (Program::default(), vec![], HashMap::default());
        let mut lowering = Lowering {
            isa,
            m,
            f,
            fusion,
            known,
            program,
            kernels,
            by_text,
            seen: HashMap::default(),
            buffers: HashMap::default(),
            packed: HashMap::default(),
            results: HashMap::default(),
            in_place,
            decoded: BTreeMap::new(),
        };
        for (i, &r) in f.body().results.iter().enumerate() {
            lowering.results.entry(lowering.root(r)).or_insert(i);
        }
        lowering
    }

    /// Notes that an encoded weight is stored decoded.
    fn decodes(&mut self, v: ValueId, site: &str) {
        let (weight, elements) = (&self.f.values[v], self.f.values[v].ty.static_elements());
        let stored = elements.and_then(|n| weight.ty.dtype.bytes(n)).unwrap_or_default() as u64;
        if let Some(encoded) = encoded_bytes(self.m, self.f, v).filter(|&e| e < stored) {
            let decoded = Decoded { site: site.into(), weight: weight.name.to_string(), encoded, stored };
            self.decoded.entry(v).or_insert(decoded);
        }
    }

    fn root(&self, v: ValueId) -> ValueId {
        self.fusion.views.get(&v).map_or(v, |w| w.root)
    }

    /// The buffer of a value: an input, a constant, an output or arena memory.
    fn buffer<W: Write + Seek>(
        &mut self,
        v: ValueId,
        table: &mut Table,
        writer: &mut ArtifactWriter<W>,
    ) -> Result<u32> {
        let v = self.root(v);
        if let Some(&b) = self.buffers.get(&v) {
            return Ok(b);
        }
        let value = &self.f.values[v];
        let size = table.bytes(&value.ty)?;
        let place = match value.def {
            Def::Param(_, i) => Place::Input(i),
            _ if self.known[v.index()] => Place::Constant(table.constant(self.m, self.f, v, writer)?),
            _ => match self.results.get(&v) {
                Some(&i) => {
                    self.in_place[i] = true;
                    Place::Output(i as u32)
                }
                None => Place::Arena(()),
            },
        };
        let b = self.program.buffer(place, size);
        self.buffers.insert(v, b);
        Ok(b)
    }

    /// Appends the step of a group, which is as others of its number are, over `values`.
    fn group<W: Write + Seek>(
        &mut self,
        group: &Group,
        like: usize,
        values: &[ValueId],
        table: &mut Table,
        writer: &mut ArtifactWriter<W>,
    ) -> Result<()> {
        let node = &self.f.nodes[group.anchor.unwrap_or(group.nodes[0])];
        let name = name_of(&node.loc, &node.op);
        if let Some((call, places)) = self.seen.get(&like) {
            let (mut call, places) = (call.clone(), places.clone());
            for (arg, at) in call.args.iter_mut().zip(places) {
                if let Some(i) = at {
                    arg.buffer = self.buffer(values[i], table, writer)?;
                }
            }
            self.program.steps.push(Step::call(name, call));
            return Ok(());
        }
        let cx = GroupCx::new(self.m, self.f, group, self.isa, &self.fusion.views);
        let launch = cpu::build(&cx).map_err(|d| d.at_loc(&node.loc))?;
        let site = self.f.values[node.results[0]].name.to_string();
        cx.decoded.take().into_iter().for_each(|v| self.decodes(v, &site));
        let place = |o: &Operand| match o {
            Operand::Read(v) | Operand::Write(v) => values.iter().position(|x| x == v),
            Operand::Packed { .. } => None,
        };
        let places = launch.args.iter().map(place).collect();
        let call = self.call(launch, &name, &site, table, writer)?;
        self.seen.insert(like, (call.clone(), places));
        self.program.steps.push(Step::call(name, call));
        Ok(())
    }

    /// A launch with its operands in buffers.
    fn call<W: Write + Seek>(
        &mut self,
        launch: Launch,
        name: &str,
        site: &str,
        table: &mut Table,
        writer: &mut ArtifactWriter<W>,
    ) -> Result<Call> {
        let Launch { kernel, args, dims, grid, scratch, grain } = launch;
        let mut list = vec![];
        for a in args {
            list.push(match a {
                Operand::Read(v) => {
                    let v = self.root(v);
                    if matches!(self.f.values[v].def, Def::Node(..)) && self.known[v.index()] {
                        self.decodes(v, site);
                    }
                    Arg::read(self.buffer(v, table, writer)?)
                }
                Operand::Write(v) => Arg::write(self.buffer(v, table, writer)?),
                Operand::Packed { layout, data } => {
                    let c = writer.constant(name, &layout, data.bytes()).map_err(runtime_error)?;
                    let size = table.extent(&data.bytes().len().into())?;
                    let program = &mut self.program;
                    Arg::read(*self.packed.entry(c).or_insert_with(|| program.buffer(Place::Constant(c), size)))
                }
            });
        }
        let dims = dims.iter().map(|d| table.extent(d)).collect::<Result<_>>()?;
        let kernel = self.kernel(kernel);
        let (grid, scratch, grain) = (table.extent(&grid)?, table.extent(&scratch)?, table.extent(&grain)?);
        Ok(Call { kernel, args: list, dims, grid, scratch, grain })
    }

    /// The steps that bind symbols when `groups` are done.
    fn binds<W: Write + Seek>(
        &mut self,
        groups: usize,
        table: &mut Table,
        writer: &mut ArtifactWriter<W>,
    ) -> Result<()> {
        for &(_, n) in self.fusion.binds.iter().filter(|b| b.0 == groups) {
            let node = &self.f.nodes[n];
            let Some(&symbol) = node.op.binds().and_then(|s| table.symbols.get(s)) else { continue };
            let count = self.buffer(node.operands[1], table, writer)?;
            self.program.steps.push(Step::bind(name_of(&node.loc, &node.op), symbol, count));
        }
        Ok(())
    }

    /// A call of a function of strings.
    fn host<W: Write + Seek>(
        &mut self,
        n: NodeId,
        function: &Function,
        table: &mut Table,
        writer: &mut ArtifactWriter<W>,
    ) -> Result<()> {
        let node = &self.f.nodes[n];
        let (mut args, mut elements) = (vec![], vec![]);
        for (i, &v) in node.operands.iter().chain(&node.results).enumerate() {
            let b = self.buffer(v, table, writer)?;
            args.push(if i < node.operands.len() { Arg::read(b) } else { Arg::write(b) });
            elements.push(table.extent(&self.f.values[v].ty.elements())?);
        }
        let host = Host { function: Some(function.clone()), args, elements };
        self.program.steps.push(Step::host(name_of(&node.loc, &node.op), host));
        Ok(())
    }

    /// The position of a kernel; equal ones are kept once.
    fn kernel(&mut self, mut kernel: emit::Kernel) -> u32 {
        let text = emit::print::named(std::slice::from_ref(&kernel), |_| "kernel".into());
        let next = self.kernels.len() as u32;
        let position = *self.by_text.entry(text).or_insert(next);
        if position == next {
            kernel.name = format!("{}_{next}", kernel.name);
            self.kernels.push(kernel);
        }
        position
    }

    /// Results that no step wrote in place are copied: inputs, constants, and values that are returned twice.
    fn finish<W: Write + Seek>(mut self, table: &mut Table, writer: &mut ArtifactWriter<W>) -> Result<Lowered> {
        for (i, &r) in self.f.body().results.iter().enumerate() {
            let from = self.buffer(r, table, writer)?;
            if self.in_place[i] {
                continue;
            }
            let size = table.bytes(&self.f.values[r].ty)?;
            let to = self.program.buffer(Place::Output(i as u32), size);
            self.program.steps.push(Step::copy(self.f.outputs[i].to_string(), from, to, size));
        }
        let decoded = self.decoded.into_values().collect();
        Ok(Lowered { isa: self.isa, kernels: self.kernels, program: self.program, decoded })
    }
}
