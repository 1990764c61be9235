//! Runs a model: binds what inputs bring, then one step after the other.
//!
//! In the steady state (same shapes as the run before) a run allocates nothing and checks nothing but the shapes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tersor_host::{Function, Strings};

use crate::artifact::Value;
use crate::bind::{Bound, Run, symbols};
use crate::dtype::DType;
use crate::error::{Error, Kind, Result};
use crate::limits::interrupted;
use crate::load::Model;
use crate::memory::{ALIGN, Aligned};
use crate::pool::{Job, MAX_THREADS, Pool};
use crate::program::Action;
use crate::tensor::{Tensor, TensorView, bytes_of};

/// Bound programs that a session keeps for shapes seen before.
const KEPT: usize = 8;

/// Called after each step with its index and duration.
pub type Observer<'a> = &'a mut dyn FnMut(usize, Duration);

/// What a step is, for profiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepInfo<'a> {
    pub name: &'a str,
    /// The kernel's name, that of a function of strings, `copy`, `bind` or `loop`.
    pub kernel: &'a str,
}

/// The memory that runs with certain shapes need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of the arena.
    pub arena: u64,
    /// The least that any placement would need.
    pub lower_bound: u64,
    /// Bytes of scratch, all threads together.
    pub scratch: u64,
}

/// One stream of runs: an arena, scratch and threads.
pub struct Session {
    model: Model,
    pool: Option<Pool>,
    /// The most recently used first.
    bounds: Vec<Bound>,
    arena: Aligned,
    scratch: Aligned,
    staging: Vec<Aligned>,
    stop: Arc<AtomicBool>,
    /// What stands in for constants.
    replaced: BTreeMap<u32, Arc<Aligned>>,
    /// The strings of constants, then those of the current run.
    strings: Strings,
}

impl Session {
    pub(crate) fn new(model: Model, threads: usize) -> Session {
        let threads = if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads };
        let pool = (threads > 1).then(|| Pool::new(threads.min(MAX_THREADS)));
        let empty = || Aligned::zeroed(0).expect("nothing to allocate");
        let staging = model.inputs().iter().map(|_| empty()).collect();
        let strings = model.0.strings.clone();
        Session {
            model,
            pool,
            bounds: Vec::new(),
            arena: empty(),
            scratch: empty(),
            staging,
            stop: Arc::default(),
            replaced: BTreeMap::new(),
            strings,
        }
    }

    /// Lets runs end with [`Kind::Interrupted`] between two steps once the flag is raised.
    pub fn stop_on(mut self, stop: &Arc<AtomicBool>) -> Session {
        self.stop = Arc::clone(stop);
        self
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Threads that take part in a run.
    pub fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, Pool::threads)
    }

    /// Lets the runs of this session read `bytes` in place of a constant, by its index in the manifest; `None` gives the artifact's back. They are as long as
    /// the constant and packed alike.
    pub fn replace(&mut self, constant: u32, bytes: Option<Arc<Aligned>>) -> Result<()> {
        let constants = &self.model.manifest().constants;
        let known = constants.get(constant as usize).map(|c| c.length);
        let Some(length) = known else {
            let what = format!("there is no constant {constant}, only {}", constants.len());
            return Err(Error::new(Kind::Usage, what));
        };
        if let Some(b) = bytes.as_ref().filter(|b| b.len() as u64 != length) {
            let what = format!("constant {constant} has {length} bytes, {} were given in its place", b.len());
            return Err(Error::new(Kind::Usage, what));
        }
        match bytes {
            Some(bytes) => self.replaced.insert(constant, bytes),
            None => self.replaced.remove(&constant),
        };
        let (model, replaced) = (&self.model, &self.replaced);
        self.bounds.iter_mut().for_each(|b| b.point(model, replaced, Some(constant)));
        Ok(())
    }

    /// The steps, in order.
    pub fn steps(&self) -> impl Iterator<Item = StepInfo<'_>> {
        let v = self.model.variant();
        v.program.steps.iter().map(|s| {
            let kernel = match &s.action {
                Some(Action::Call(c)) => v.kernels[c.kernel as usize].name.as_str(),
                Some(Action::Bind(_)) => "bind",
                Some(Action::Branch(_)) => "loop",
                Some(Action::Host(h)) => h.function.as_ref().map_or("", Function::name),
                Some(Action::Copy(_)) | None => "copy",
            };
            StepInfo { name: &s.name, kernel }
        })
    }

    /// Runs with inputs by name, in any order; returns the outputs in the model's order.
    pub fn run(&mut self, inputs: &[(&str, TensorView)]) -> Result<Vec<Tensor>> {
        let inputs = arrange(&self.model, inputs)?;
        let mut outputs = self.prepare(&inputs)?;
        self.run_into(&inputs, &mut outputs)?;
        Ok(outputs)
    }

    /// Checks the inputs, given in the model's order, binds their extents, and returns outputs of the right shapes. Extents that the data decide have the most that
    /// they can be, until a run has decided them.
    pub fn prepare(&mut self, inputs: &[TensorView]) -> Result<Vec<Tensor>> {
        self.bind(inputs)?;
        let shapes = &self.bounds[0].output_shapes;
        self.model.outputs().iter().zip(shapes).map(|(v, s)| Tensor::zeros(v.dtype(), s)).collect()
    }

    /// The memory that the last run or `prepare` needed.
    pub fn memory(&self) -> Memory {
        let (arena, lower_bound, scratch) = match self.bounds.first() {
            Some(b) => (b.placement.peak, b.placement.lower_bound, b.scratch as u64 * self.threads() as u64),
            None => (0, 0, 0),
        };
        Memory { arena, lower_bound, scratch }
    }

    /// Runs with inputs and outputs in the model's order; `outputs` as `prepare` makes them.
    pub fn run_into(&mut self, inputs: &[TensorView], outputs: &mut [Tensor]) -> Result<()> {
        self.start(inputs, outputs)?;
        self.execute(None)?;
        self.end(outputs)
    }

    /// Like `run_into`, telling how long each step took.
    pub fn run_observed(&mut self, inputs: &[TensorView], outputs: &mut [Tensor], observer: Observer) -> Result<()> {
        self.start(inputs, outputs)?;
        self.execute(Some(observer))?;
        self.end(outputs)
    }

    /// Outputs take the shapes that the run decided, and the strings that their handles stand for.
    fn end(&mut self, outputs: &mut [Tensor]) -> Result<()> {
        if !self.model.0.due.is_empty() {
            let bound = &self.bounds[0];
            outputs.iter_mut().zip(self.model.outputs()).try_for_each(|(o, v)| o.reshape(bound.output_shape(v)))?;
        }
        for (output, value) in outputs.iter_mut().zip(self.model.outputs()).filter(|(o, _)| o.dtype() == DType::Str) {
            output.adopt(&self.strings).map_err(|e| e.context(format!("output {}", value.name)))?;
        }
        Ok(())
    }

    /// Makes the bound program for these inputs the first of `bounds`, with enough memory for it.
    fn bind(&mut self, inputs: &[TensorView]) -> Result<()> {
        let values = self.model.inputs();
        if inputs.len() != values.len() {
            let what = format!("the model has {} inputs, {} were given", values.len(), inputs.len());
            return Err(Error::new(Kind::MissingInput, what));
        }
        let same = |b: &Bound| {
            let pairs = b.input_shapes.iter().zip(inputs).zip(values);
            pairs.into_iter().all(|((s, i), v)| s == i.shape && v.dtype() == i.dtype)
        };
        let complete = |b: &Bound| same(b) && inputs.iter().all(|i| bytes_of(i.dtype, i.shape) == Some(i.bytes.len()));
        match self.bounds.iter().position(complete) {
            Some(0) => return Ok(()),
            Some(at) => self.bounds[..=at].rotate_right(1),
            None => {
                let symbols = symbols(&self.model, inputs)?;
                let mut bound = Bound::new(&self.model, symbols, inputs)?;
                bound.point(&self.model, &self.replaced, None);
                self.bounds.truncate(KEPT - 1);
                self.bounds.insert(0, bound);
            }
        }
        let reserved = self.reserve();
        if reserved.is_err() {
            // The arena may be gone, and all bound programs point into it.
            self.bounds.clear();
        }
        reserved
    }

    /// Gives the first bound program its memory.
    fn reserve(&mut self) -> Result<()> {
        let threads = self.threads();
        let bound = &self.bounds[0];
        let too_large = || Error::new(Kind::Memory, "these inputs need more memory than there can be");
        let arena = usize::try_from(bound.placement.peak).map_err(|_| too_large())?;
        let scratch = bound.scratch.checked_mul(threads).ok_or_else(too_large)?;
        if arena > self.arena.len() {
            self.arena = Aligned::zeroed(0)?;
            self.arena = Aligned::zeroed(arena)?;
        }
        if scratch > self.scratch.len() {
            self.scratch = Aligned::zeroed(0)?;
            self.scratch = Aligned::zeroed(scratch)?;
        }
        let bound = &mut self.bounds[0];
        let base = self.arena.as_mut_pointer();
        if bound.arena_base != base {
            for p in &bound.arena {
                bound.pointers[p.slot] = base.wrapping_add(p.offset);
            }
            bound.arena_base = base;
        }
        Ok(())
    }

    /// Binds, and points the operands at the caller's memory.
    fn start(&mut self, inputs: &[TensorView], outputs: &mut [Tensor]) -> Result<()> {
        self.bind(inputs)?;
        let bound = &mut self.bounds[0];
        // What an earlier run has decided may be less than there is room for.
        let late = !self.model.0.due.is_empty();
        let room = |o: &Tensor, s: &[usize]| {
            o.shape().len() == s.len() && bytes_of(o.dtype(), s).is_some_and(|n| n <= o.capacity())
        };
        let fits = outputs.len() == bound.output_shapes.len()
            && outputs.iter().zip(self.model.outputs()).all(|(o, v)| o.dtype() == v.dtype())
            && outputs.iter().zip(&bound.output_shapes).all(|(o, s)| o.shape() == s.as_slice() || late && room(o, s));
        if !fits {
            return Err(Error::new(Kind::Usage, "outputs do not have the shapes that these inputs give"));
        }
        self.strings.truncate(self.model.0.strings.len());
        let in_place = |i: &TensorView| i.dtype != DType::Str && i.bytes.as_ptr().addr().is_multiple_of(ALIGN);
        for ((staging, input), value) in self.staging.iter_mut().zip(inputs).zip(self.model.inputs()) {
            if !in_place(input) {
                if staging.len() != input.bytes.len() {
                    *staging = Aligned::zeroed(input.bytes.len())?;
                }
                match input.dtype {
                    DType::Str => {
                        let handles = input.translated(&mut self.strings);
                        staging.copy_from_slice(&handles.map_err(|e| e.context(format!("input {}", value.name)))?);
                    }
                    _ => staging.copy_from_slice(input.bytes),
                }
            }
        }
        for p in &bound.inputs {
            let given = inputs[p.source].bytes;
            let base = if in_place(&inputs[p.source]) { given.as_ptr() } else { self.staging[p.source].as_ptr() };
            bound.pointers[p.slot] = base.cast_mut().wrapping_add(p.offset);
        }
        for p in &bound.outputs {
            bound.pointers[p.slot] = outputs[p.source].data_pointer().wrapping_add(p.offset);
        }
        Ok(())
    }

    /// Runs the steps of the first bound program. Only after `start`.
    fn execute(&mut self, mut observer: Option<Observer>) -> Result<()> {
        let bound = &mut self.bounds[0];
        let scratch = self.scratch.as_mut_pointer();
        let threads = self.pool.as_ref().map_or(1, Pool::threads) as i64;
        let mut before = observer.is_some().then(Instant::now);
        let mut next = 0;
        while next < bound.steps.len() {
            let index = next;
            next += 1;
            let step = &bound.steps[index];
            if self.stop.load(Ordering::Relaxed) {
                return Err(interrupted());
            }
            let args = bound.pointers[step.args..].as_ptr();
            let dims = bound.dims[step.dims..].as_ptr();
            match &step.run {
                Run::Nothing => {}
                &Run::Bind(due) => {
                    // SAFETY: the operand has the bytes of an `i64` (`Bound::operand`).
                    let count = unsafe { args.read().cast::<i64>().read_unaligned() };
                    let name = &self.model.variant().program.steps[index].name;
                    bound.late(&self.model.0, due, count).map_err(|e| e.context(format!("step {name}")))?;
                }
                &Run::Copy { bytes, at, room } => {
                    if at.checked_add(bytes as u64).is_none_or(|end| end > room) {
                        let name = &self.model.variant().program.steps[index].name;
                        let what = format!("step {name}: {bytes} bytes at {at} are out of range of {room}");
                        return Err(Error::new(Kind::Extent, what));
                    }
                    // SAFETY: both operands have that many bytes (`Bound::operand`, and above); a program's copies do not
                    // overlap, and if a damaged one's did, `copy` would still be defined.
                    unsafe { args.read().copy_to(args.add(1).read().add(at as usize), bytes) }
                }
                &Run::Branch(to) => {
                    let back = to <= index;
                    // SAFETY: the operands have the bytes of two `i64` and of a byte (`Bound::operand`).
                    let goes_on = unsafe {
                        let (count, trip) = (args.read().cast::<i64>(), args.add(1).read().cast::<i64>());
                        let number = if back { count.read_unaligned().wrapping_add(1) } else { 0 };
                        count.write_unaligned(number);
                        number < trip.read_unaligned() && args.add(2).read().read() != 0
                    };
                    next = if goes_on == back { to } else { next };
                }
                Run::Host(lengths) => {
                    let operands = &bound.pointers[step.args..][..lengths.len()];
                    // SAFETY: every operand has that many bytes (`Bound::operand`), and memory of the arena is zero at first.
                    unsafe { host(&self.model, index, operands, lengths, &mut self.strings) }?;
                }
                Run::Call(kernel) => match &mut self.pool {
                    Some(pool) if step.grid > step.grain => {
                        let part = step.grain.max((step.grid - 1) / (threads * 4) + 1);
                        let (stride, grid) = (bound.scratch, step.grid);
                        let job = Job { kernel: *kernel, args, dims, scratch, scratch_stride: stride, grid, part };
                        // SAFETY: the operands point at buffers of the sizes that the program declares, and scratch
                        // has `stride` bytes for every thread (`reserve`).
                        unsafe { pool.run(job) }
                    }
                    // SAFETY: as above, with one thread.
                    _ => unsafe { kernel(args, dims, scratch, 0, step.grid) },
                },
            }
            if let (Some(observer), Some(before)) = (&mut observer, &mut before) {
                let now = Instant::now();
                observer(index, now - *before);
                *before = Instant::now();
            }
        }
        Ok(())
    }
}

/// Calls the function of a step.
///
/// # Safety
/// The operands point at as many readable bytes as `lengths` says, those of results at as many writable ones.
unsafe fn host(
    model: &Model,
    step: usize,
    operands: &[*mut u8],
    lengths: &[usize],
    strings: &mut Strings,
) -> Result<()> {
    let named = |e: Error| e.context(format!("step {}", model.variant().program.steps[step].name));
    let Some(prepared) = &model.0.functions[step] else { return Ok(()) };
    let takes = prepared.function().signature().0.len();
    let reads = operands.iter().zip(lengths).take(takes);
    // SAFETY: as the caller promises; nothing is written before these are read for the last time.
    let reads: Vec<&[u8]> = reads.map(|(&p, &n)| unsafe { std::slice::from_raw_parts(p.cast_const(), n) }).collect();
    let results = prepared.call(&reads, strings).map_err(|e| named(e.into()))?;
    for (result, (&p, &n)) in results.iter().zip(operands.iter().zip(lengths).skip(takes)) {
        if result.len() != n {
            let what = format!("{} gives {} bytes where there are {n}", prepared.function().name(), result.len());
            return Err(named(Error::new(Kind::Extent, what)));
        }
        // SAFETY: as the caller promises.
        unsafe { p.copy_from_nonoverlapping(result.as_ptr(), n) };
    }
    Ok(())
}

/// Puts named inputs into the model's order; all are needed, none may be unknown or given twice.
pub fn arrange<'a>(model: &Model, inputs: &[(&str, TensorView<'a>)]) -> Result<Vec<TensorView<'a>>> {
    let values: &[Value] = model.inputs();
    let known = || values.iter().map(|v| model.describe(v)).collect::<Vec<_>>().join(", ");
    for (i, (name, _)) in inputs.iter().enumerate() {
        if values.iter().all(|v| v.name != *name) {
            let what = format!("the model has no input {name}");
            return Err(Error::new(Kind::UnknownInput, what).with_help(format!("its inputs are {}", known())));
        }
        if inputs[..i].iter().any(|(other, _)| other == name) {
            return Err(Error::new(Kind::Usage, format!("input {name} is given twice")));
        }
    }
    let find = |v: &Value| {
        inputs.iter().find(|(name, _)| *name == v.name).map(|&(_, t)| t).ok_or_else(|| {
            let what = format!("input {} is missing", v.name);
            Error::new(Kind::MissingInput, what).with_help(format!("give {}", model.describe(v)))
        })
    };
    values.iter().map(find).collect()
}
