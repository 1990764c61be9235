//! A program with its symbols bound: every extent a number, every operand a place, nothing left to check per run.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::artifact::{Manifest, Symbol};
use crate::dtype::DType;
use crate::error::{Error, Kind, Result};
use crate::load::{KernelFn, Loaded, Model};
use crate::memory::Aligned;
use crate::plan::{Placement, plan_lives};
use crate::pool::MAX_GRID;
use crate::program::{Action, Arg, ExtentId, ExtentOp, Host, Need, Place, Program, multiple, value};
use crate::range::{self, ranges};
use crate::tensor::{TensorView, bytes_of, kind};
use tersor_host::Function;

/// What a bound step does.
pub(crate) enum Run {
    Call(KernelFn),
    /// So many bytes to that place of so many.
    Copy {
        bytes: usize,
        at: u64,
        room: u64,
    },
    /// The step that it leads to.
    Branch(usize),
    /// Gives a symbol the number that the operand is: that entry of [`Loaded::due`] is due.
    Bind(usize),
    /// Bytes of each operand.
    Host(Vec<usize>),
    /// An empty grid.
    Nothing,
}

pub(crate) struct BoundStep {
    pub run: Run,
    /// Where its operands begin in `Bound::pointers`.
    pub args: usize,
    /// Where its dims begin in `Bound::dims`.
    pub dims: usize,
    pub grid: i64,
    pub grain: i64,
}

/// An operand whose pointer depends on memory given at run time.
pub(crate) struct Patch {
    pub slot: usize,
    /// Index of the input, output or constant; unused for the arena.
    pub source: usize,
    pub offset: usize,
}

pub(crate) struct Bound {
    pub input_shapes: Vec<Vec<usize>>,
    /// The most that each extent can be.
    pub output_shapes: Vec<Vec<usize>>,
    /// What the symbols are, those with a cap since they were last bound.
    symbols: Vec<i64>,
    /// The value of every extent, or the most that it can be until the symbols in it are bound.
    values: Vec<i64>,
    /// The most bytes of every buffer, which it has room for.
    sizes: Vec<u64>,
    pub placement: Placement,
    /// Scratch bytes of a thread, a multiple of 64.
    pub scratch: usize,
    pub pointers: Vec<*mut u8>,
    pub dims: Vec<i64>,
    pub steps: Vec<BoundStep>,
    pub arena: Vec<Patch>,
    pub inputs: Vec<Patch>,
    pub outputs: Vec<Patch>,
    /// Operands that are constants.
    pub constants: Vec<Patch>,
    /// The arena that the pointers are made for.
    pub arena_base: *mut u8,
}

// SAFETY: the pointers lead into the model's mapping (read-only, shared), or are set anew before they are used.
unsafe impl Send for Bound {}

/// The values that the inputs' shapes give the symbols. Checks types, ranks and bounds; extents that are expressions are
/// checked by `Bound::new`.
pub(crate) fn symbols(model: &Model, inputs: &[TensorView]) -> Result<Vec<i64>> {
    let m = model.manifest();
    let mut bound: Vec<Option<(i64, usize)>> = vec![None; m.symbols.len()];
    for (i, (value, given)) in m.inputs.iter().zip(inputs).enumerate() {
        let expected = || model.describe(value);
        if given.dtype != value.dtype() {
            let what = format!("input {} has type {}, the model takes {}", value.name, given.dtype, expected());
            return Err(Error::new(Kind::InputType, what).with_help("convert the data; nothing is converted silently"));
        }
        if given.shape.len() != value.dims.len() {
            let what =
                format!("input {} is {given}, rank {}; the model takes {}", value.name, given.shape.len(), expected());
            return Err(Error::new(Kind::InputShape, what));
        }
        if bytes_of(given.dtype, given.shape) != Some(given.bytes.len()) {
            let what = format!("input {}: {given} does not have {} bytes", value.name, given.bytes.len());
            return Err(Error::new(Kind::Data, what));
        }
        for (axis, (&d, &found)) in value.dims.iter().zip(given.shape).enumerate() {
            let e = m.extents[d as usize];
            match e.op() {
                ExtentOp::Constant if e.a != found as i64 => return Err(wrong_extent(model, i, given, axis, e.a)),
                _ => {
                    let Some((symbol, factor)) = multiple(&m.extents, d) else { continue };
                    if found as i64 % factor != 0 {
                        return Err(wrong_multiple(model, i, given, axis, factor));
                    }
                    bind(m, &mut bound, symbol, found as i64 / factor, i)?;
                }
            }
        }
    }
    let value = |(b, s): (Option<(i64, usize)>, &Symbol)| match (b, s.cap) {
        (Some((v, _)), _) => Ok(v),
        (None, Some(_)) => Ok(0),
        (None, None) => Err(Error::new(Kind::Internal, "a symbol is unbound")),
    };
    bound.into_iter().zip(&m.symbols).map(value).collect()
}

fn bind(m: &Manifest, bound: &mut [Option<(i64, usize)>], s: usize, found: i64, input: usize) -> Result<()> {
    let (symbol, name) = (&m.symbols[s], &m.inputs[input].name);
    if let Some((other, from)) = bound[s] {
        if other == found {
            return Ok(());
        }
        let from = &m.inputs[from].name;
        let what = format!("input {name} says {} is {found}, input {from} says {other}", symbol.name);
        return Err(Error::new(Kind::SymbolConflict, what));
    }
    if (found as u64) < symbol.min || found as u64 > symbol.max {
        let bounds = match symbol.max {
            Symbol::UNBOUNDED => format!("at least {}", symbol.min),
            max => format!("{}..{max}", symbol.min),
        };
        let what = format!("input {name}: {} is {found}, the model was compiled for {bounds}", symbol.name);
        let help = format!("compile with --dim {}=MIN..MAX to change the bounds", symbol.name);
        return Err(Error::new(Kind::SymbolRange, what).with_help(help));
    }
    bound[s] = Some((found, input));
    Ok(())
}

fn wrong_multiple(model: &Model, input: usize, given: &TensorView, axis: usize, factor: i64) -> Error {
    let value = &model.inputs()[input];
    let takes = model.describe(value);
    let what = format!("input {} is {given}: extent {axis} must be a multiple of {factor}, as in {takes}", value.name);
    Error::new(Kind::InputShape, what)
}

fn wrong_extent(model: &Model, input: usize, given: &TensorView, axis: usize, expected: i64) -> Error {
    let value = &model.inputs()[input];
    let what =
        format!("input {} is {given}: extent {axis} must be {expected}, as in {}", value.name, model.describe(value));
    Error::new(Kind::InputShape, what)
}

/// The extents' values, read with the checks that each use needs.
struct Values<'a>(&'a [i64]);

impl Values<'_> {
    fn count(&self, id: ExtentId, what: &str) -> Result<u64> {
        let v = self.0[id as usize];
        u64::try_from(v).map_err(|_| Error::new(Kind::Extent, format!("{what} is {v} for these inputs")))
    }

    fn meet(&self, need: &Need) -> Result<()> {
        if self.0[need.extent as usize] >= 0 {
            return Ok(());
        }
        let what = format!("{} takes elements where its operand has none, for these inputs", need.name);
        Err(Error::new(Kind::Extent, what).with_help("an extent of an input is too small for this model"))
    }

    fn shape(&self, name: &str, dtype: DType, dims: &[ExtentId]) -> Result<(Vec<usize>, u64)> {
        let what = format!("an extent of {name}");
        let shape: Vec<usize> = dims.iter().map(|&d| Ok(self.count(d, &what)? as usize)).collect::<Result<_>>()?;
        let bytes = bytes_of(dtype, &shape)
            .ok_or_else(|| Error::new(Kind::Memory, format!("{name}: {} has too many bytes", kind(dtype, &shape))))?;
        Ok((shape, bytes as u64))
    }
}

impl Bound {
    /// Binds the program; `inputs` gave the symbols.
    pub fn new(model: &Model, symbols: Vec<i64>, inputs: &[TensorView]) -> Result<Bound> {
        let loaded = &*model.0;
        let m = model.manifest();
        let most: Vec<i64> = ranges(&m.extents, &m.symbols, &symbols)?.into_iter().map(|r| r.most).collect();
        let values = Values(&most);
        for (i, (value, given)) in m.inputs.iter().zip(inputs).enumerate() {
            for (axis, (&d, &found)) in value.dims.iter().zip(given.shape).enumerate() {
                if values.0[d as usize] != found as i64 {
                    return Err(wrong_extent(model, i, given, axis, values.0[d as usize]));
                }
            }
        }
        let shape = |v: &crate::artifact::Value| values.shape(&v.name, v.dtype(), &v.dims);
        let inputs = m.inputs.iter().map(shape).collect::<Result<Vec<_>>>()?;
        let outputs = m.outputs.iter().map(shape).collect::<Result<Vec<_>>>()?;
        let sizes = sizes(loaded, &values, &inputs, &outputs)?;
        let needs = &loaded.variant().program.needs;
        loaded.early_needs.iter().try_for_each(|&n| values.meet(&needs[n as usize]))?;
        let mut bound = Bound {
            input_shapes: inputs.into_iter().map(|(s, _)| s).collect(),
            output_shapes: outputs.into_iter().map(|(s, _)| s).collect(),
            symbols,
            values: vec![],
            placement: plan_lives(&loaded.lifetimes, &sizes)?,
            sizes: vec![],
            scratch: 0,
            pointers: Vec::new(),
            dims: Vec::new(),
            steps: Vec::new(),
            arena: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            constants: Vec::new(),
            arena_base: std::ptr::null_mut(),
        };
        for step in &loaded.variant().program.steps {
            bound
                .step(loaded, &values, &sizes, step.action.as_ref())
                .map_err(|e| e.context(format!("step {}", step.name)))?;
        }
        (bound.values, bound.sizes) = (most, sizes);
        Ok(bound)
    }

    /// Binds a symbol with a cap to a count, and completes what was waiting for it.
    pub fn late(&mut self, loaded: &Loaded, due: usize, count: i64) -> Result<()> {
        let (m, due) = (loaded.artifact.manifest(), &loaded.due[due]);
        let symbol = &m.symbols[due.symbol as usize];
        let cap = symbol.cap.map_or(0, |cap| self.values[cap as usize]);
        range::check(&symbol.name, count, cap)?;
        self.symbols[due.symbol as usize] = count;
        for &e in &due.extents {
            self.values[e as usize] = value(&m.extents, e as usize, &self.values, &self.symbols)?;
        }
        let values = Values(&self.values);
        let program = &loaded.variant().program;
        due.needs.iter().try_for_each(|&n| values.meet(&program.needs[n as usize]))?;
        for &b in &due.buffers {
            let size = values.count(program.buffers[b as usize].size, "a buffer's size")?;
            if size > self.sizes[b as usize] {
                return Err(Error::new(Kind::Internal, format!("buffer {b} has no room for {size} bytes")));
            }
        }
        for &s in &due.steps {
            let (step, bound) = (&program.steps[s as usize], &mut self.steps[s as usize]);
            let dims = &mut self.dims[bound.dims..];
            let completed = complete(bound, dims, loaded, &values, step.action.as_ref());
            completed.map_err(|e| e.context(format!("step {}", step.name)))?;
        }
        Ok(())
    }

    /// The extents of an output after a run.
    pub fn output_shape<'a>(&'a self, v: &'a crate::artifact::Value) -> impl Iterator<Item = usize> + 'a {
        v.dims.iter().map(|&d| self.values[d as usize].max(0) as usize)
    }

    /// Points the operands that are a constant, or all that are one, at the bytes that stand in for it or at the artifact's.
    pub fn point(&mut self, model: &Model, replaced: &BTreeMap<u32, Arc<Aligned>>, only: Option<u32>) {
        for p in self.constants.iter().filter(|p| only.is_none_or(|k| k as usize == p.source)) {
            let bytes: &[u8] = match replaced.get(&(p.source as u32)) {
                Some(bytes) => bytes,
                None => model.0.artifact.constant(p.source as u32),
            };
            self.pointers[p.slot] = bytes[p.offset..].as_ptr().cast_mut();
        }
    }

    fn step(&mut self, loaded: &Loaded, values: &Values, sizes: &[u64], action: Option<&Action>) -> Result<()> {
        let (args, dims) = (self.pointers.len(), self.dims.len());
        let step = match action {
            Some(Action::Call(c)) => {
                for a in &c.args {
                    self.operand(loaded, values, sizes, a, 0)?;
                }
                self.dims.extend(c.dims.iter().map(|&d| values.0[d as usize]));
                let scratch = values.count(c.scratch, "its scratch")?;
                let scratch = scratch.checked_next_multiple_of(64).and_then(|s| usize::try_from(s).ok());
                self.scratch =
                    self.scratch.max(scratch.ok_or_else(|| Error::new(Kind::Memory, "its scratch overflows"))?);
                BoundStep { run: Run::Nothing, args, dims, grid: 0, grain: 1 }
            }
            Some(Action::Host(h)) => {
                let lengths = lengths(h, values)?;
                for (a, &bytes) in h.args.iter().zip(&lengths) {
                    self.operand(loaded, values, sizes, a, bytes as u64)?;
                }
                BoundStep { run: Run::Host(lengths), args, dims, grid: 1, grain: 1 }
            }
            Some(Action::Copy(c)) => {
                let bytes = values.count(c.bytes, "its length")?;
                self.operand(loaded, values, sizes, &c.from, bytes)?;
                self.operand(loaded, values, sizes, &c.to, 0)?;
                let room = sizes[c.to.buffer as usize] - values.count(c.to.offset, "an operand's offset")?;
                let run = Run::Copy { bytes: bytes as usize, at: 0, room };
                BoundStep { run, args, dims, grid: 1, grain: 1 }
            }
            Some(Action::Branch(b)) => {
                self.operand(loaded, values, sizes, &b.index, size_of::<i64>() as u64)?;
                self.operand(loaded, values, sizes, &b.trip, size_of::<i64>() as u64)?;
                self.operand(loaded, values, sizes, &b.cond, 1)?;
                BoundStep { run: Run::Branch(b.to as usize), args, dims, grid: 1, grain: 1 }
            }
            Some(Action::Bind(b)) => {
                self.operand(loaded, values, sizes, &b.count, size_of::<i64>() as u64)?;
                let due = self.steps.iter().filter(|s| matches!(s.run, Run::Bind(_))).count();
                BoundStep { run: Run::Bind(due), args, dims, grid: 1, grain: 1 }
            }
            None => BoundStep { run: Run::Nothing, args, dims, grid: 0, grain: 1 },
        };
        self.steps.push(step);
        let (step, dims) = (self.steps.last_mut().expect("pushed"), &mut self.dims[dims..]);
        complete(step, dims, loaded, values, action)
    }

    /// Adds an operand of which at least `bytes` will be used.
    fn operand(&mut self, loaded: &Loaded, values: &Values, sizes: &[u64], arg: &Arg, bytes: u64) -> Result<()> {
        let program = &loaded.variant().program;
        let offset = values.count(arg.offset, "an operand's offset")?;
        let size = sizes[arg.buffer as usize];
        if offset.checked_add(bytes).is_none_or(|end| end > size) {
            let what = format!("buffer {} has {size} bytes, {bytes} at {offset} are out of range", arg.buffer);
            return Err(Error::new(Kind::Extent, what));
        }
        let (slot, root, offset) = (self.pointers.len(), program.root(arg.buffer) as usize, offset as usize);
        let mut pointer = std::ptr::null_mut();
        match program.buffers[root].place {
            Some(Place::Input(k)) => self.inputs.push(Patch { slot, source: k as usize, offset }),
            Some(Place::Output(k)) => self.outputs.push(Patch { slot, source: k as usize, offset }),
            Some(Place::Constant(k)) => {
                self.constants.push(Patch { slot, source: k as usize, offset });
                pointer = loaded.artifact.constant(k)[offset..].as_ptr().cast_mut();
            }
            Some(Place::Arena(())) => {
                let at = self.placement.offsets[root] as usize + offset;
                self.arena.push(Patch { slot, source: 0, offset: at });
            }
            Some(Place::Alias(_)) | None => return Err(Error::new(Kind::Internal, "a buffer has no place")),
        }
        self.pointers.push(pointer);
        Ok(())
    }
}

/// Takes over what extents say of a step.
fn complete(
    step: &mut BoundStep,
    dims: &mut [i64],
    loaded: &Loaded,
    values: &Values,
    action: Option<&Action>,
) -> Result<()> {
    match action {
        Some(Action::Call(c)) => {
            dims.iter_mut().zip(&c.dims).for_each(|(to, &d)| *to = values.0[d as usize]);
            step.grid = values.count(c.grid, "its grid")? as i64;
            if step.grid > MAX_GRID {
                return Err(Error::new(Kind::Extent, format!("its grid has {} points", step.grid)));
            }
            step.grain = (values.count(c.grain, "its grain")? as i64).max(1);
            step.run = if step.grid == 0 { Run::Nothing } else { Run::Call(loaded.kernel(c.kernel)) };
        }
        Some(Action::Copy(c)) => {
            if let Run::Copy { bytes, at, .. } = &mut step.run {
                *bytes = values.count(c.bytes, "its length")? as usize;
                *at = values.count(c.at, "its place")?;
            }
        }
        Some(Action::Host(h)) => step.run = Run::Host(lengths(h, values)?),
        Some(Action::Bind(_) | Action::Branch(_)) | None => {}
    }
    Ok(())
}

/// Bytes of each operand of a function of strings.
fn lengths(h: &Host, values: &Values) -> Result<Vec<usize>> {
    let (takes, gives) = h.function.as_ref().map(Function::signature).unwrap_or_default();
    let bytes = |(&n, e): (&ExtentId, &tersor_host::Element)| {
        let bytes = values.count(n, "its length")?.checked_mul(e.size() as u64).filter(|&b| b <= isize::MAX as u64);
        bytes.map(|b| b as usize).ok_or_else(|| Error::new(Kind::Memory, "its operands overflow"))
    };
    h.elements.iter().zip(takes.iter().chain(&gives)).map(bytes).collect()
}

/// The bytes of every buffer, checked against what it stands for.
fn sizes(
    loaded: &Loaded,
    values: &Values,
    inputs: &[(Vec<usize>, u64)],
    outputs: &[(Vec<usize>, u64)],
) -> Result<Vec<u64>> {
    let program: &Program = &loaded.variant().program;
    let mut sizes = Vec::with_capacity(program.buffers.len());
    for (i, b) in program.buffers.iter().enumerate() {
        let size = values.count(b.size, "a buffer's size")?;
        let room = match b.place {
            Some(Place::Input(k)) => inputs[k as usize].1,
            Some(Place::Output(k)) => outputs[k as usize].1,
            Some(Place::Constant(k)) => loaded.artifact.manifest().constants[k as usize].length,
            Some(Place::Alias(k)) => sizes[k as usize],
            Some(Place::Arena(())) | None => u64::MAX,
        };
        if size > room {
            let what = format!("buffer {i} needs {size} bytes where there are {room}");
            return Err(Error::new(Kind::Extent, what));
        }
        sizes.push(size);
    }
    Ok(sizes)
}
