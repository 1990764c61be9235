//! The emulator: runs a kernel's instructions over a [`Call`]'s memory with the exact semantics of the machine, without LLVM.
//!
//! Kernels for machines that are not at hand are verified here. Each access is checked: outside a buffer, below its declared
//! alignment, or a write to a read-only operand ends the run with a [`Fault`] that names the instruction. Scratch and stack memory
//! start out as `0xFF` bytes (NaN), so that a kernel that reads what it has not written is likely to show it. GPU instructions are not run.

mod lanes;
mod machine;
mod memory;

pub use memory::{Buffer, Call, Element};

use super::op::{Block, Inst, Kernel, MemoryKind, Op};
use super::print;
use super::types::{Ty, Val};
use machine::{STACK, Space};
use thiserror::Error;

/// Why a run ended early.
#[derive(Clone, Debug, Error, PartialEq)]
#[error("kernel `{kernel}`: {what}, at `{at}`")]
pub struct Fault {
    pub kernel: String,
    pub what: String,
    /// The instruction as MLIR.
    pub at: String,
}

/// Runs `kernel` on `call`; buffers are changed in place.
pub fn run(kernel: &Kernel, call: &mut Call) -> Result<(), Fault> {
    let fault = |what: String| Fault { kernel: kernel.name.clone(), what, at: "call".into() };
    if call.args.len() != kernel.args.len() || call.dims.len() != kernel.dims.len() {
        return Err(fault(format!(
            "takes {} operands and {} extents, got {} and {}",
            kernel.args.len(),
            kernel.dims.len(),
            call.args.len(),
            call.dims.len()
        )));
    }
    let mut emulator = Emulator::new(kernel, call);
    let result = emulator.block(&kernel.body);
    let Space { buffers, .. } = emulator.space;
    call.buffers = buffers;
    result
}

struct Emulator<'k> {
    kernel: &'k Kernel,
    space: Space,
    /// One word per lane; tiles are packed.
    registers: Vec<u64>,
    /// Where each value starts in `registers`.
    offsets: Vec<u32>,
}

/// Words that a value takes.
fn words(ty: Ty) -> u32 {
    match ty {
        Ty::Tile => 128,
        _ => ty.lanes(),
    }
}

impl<'k> Emulator<'k> {
    fn new(kernel: &'k Kernel, call: &mut Call) -> Self {
        let mut space = Space::new(std::mem::take(&mut call.buffers));
        let mut this = Self { kernel, space: Space::default(), registers: Vec::new(), offsets: Vec::new() };
        let mut sizes = vec![1; kernel.values as usize];
        let mut define = |v: Val| sizes[v.id as usize] = words(v.ty);
        kernel.constants.iter().for_each(|c| define(c.val));
        kernel.visit(&mut |inst| {
            let params = inst.regions.iter().flat_map(|r| &r.params);
            inst.results.iter().chain(params).for_each(|&v| define(v));
        });
        let mut total = 0;
        for size in sizes {
            this.offsets.push(total);
            total += size;
        }
        this.registers = vec![0; total as usize];

        for (arg, &buffer) in kernel.args.iter().zip(&call.args) {
            let pointer = space.operand(&arg.name, buffer, arg.writable);
            this.set(arg.val, pointer);
        }
        for ((_, val), &extent) in kernel.dims.iter().zip(&call.dims) {
            this.set(*val, extent as u64);
        }
        let scratch = space.fresh("scratch", &vec![STACK; call.scratch], true);
        this.set(kernel.scratch, scratch);
        this.set(kernel.begin, call.range.0 as u64);
        this.set(kernel.end, call.range.1 as u64);
        for memory in &kernel.memory {
            let pointer = match &memory.kind {
                MemoryKind::Table(bytes) => space.fresh("table", bytes, false),
                MemoryKind::Stack(bytes) | MemoryKind::Shared(bytes) => {
                    space.fresh("stack", &vec![STACK; *bytes as usize], true)
                }
            };
            this.set(memory.val, pointer);
        }
        for constant in &kernel.constants {
            let lanes = constant.val.ty.lanes() as usize;
            let bits: Vec<u64> = constant.bits.iter().copied().cycle().take(lanes).collect();
            this.write(constant.val, &bits);
        }
        this.space = space;
        this
    }

    fn get(&self, val: Val) -> &[u64] {
        let at = self.offsets[val.id as usize] as usize;
        &self.registers[at..at + words(val.ty) as usize]
    }

    fn word(&self, val: Val) -> u64 {
        self.registers[self.offsets[val.id as usize] as usize]
    }

    fn set(&mut self, val: Val, word: u64) {
        self.registers[self.offsets[val.id as usize] as usize] = word;
    }

    fn write(&mut self, val: Val, value: &[u64]) {
        let at = self.offsets[val.id as usize] as usize;
        self.registers[at..at + value.len()].copy_from_slice(value);
    }

    fn copy(&mut self, from: Val, to: Val) {
        let (from, to) = (self.offsets[from.id as usize] as usize, self.offsets[to.id as usize] as usize);
        self.registers.copy_within(from..from + 1, to);
    }

    /// Copies whole values at once, so that a swap of carried values is one.
    fn assign(&mut self, from: &[Val], to: &[Val]) {
        if let ([from], [to]) = (from, to)
            && words(from.ty) == 1
        {
            return self.copy(*from, *to);
        }
        let all: Vec<u64> = from.iter().flat_map(|&v| self.get(v).iter().copied()).collect();
        let mut at = 0;
        for &val in to {
            let n = words(val.ty) as usize;
            self.write(val, &all[at..at + n]);
            at += n;
        }
    }

    fn block(&mut self, block: &'k Block) -> Result<(), Fault> {
        for inst in &block.insts {
            match inst.op {
                Op::For => self.for_(inst)?,
                Op::If => {
                    let region = &inst.regions[usize::from(self.word(inst.args[0]) == 0)];
                    self.block(region)?;
                    self.assign(&region.yields, &inst.results);
                }
                _ => self.inst(inst).map_err(|what| Fault {
                    kernel: self.kernel.name.clone(),
                    what,
                    at: print::instruction(self.kernel, inst),
                })?,
            }
        }
        Ok(())
    }

    fn for_(&mut self, inst: &'k Inst) -> Result<(), Fault> {
        let [lo, hi, step] = [0, 1, 2].map(|i| self.word(inst.args[i]) as i64);
        if step <= 0 {
            let at = print::instruction(self.kernel, inst);
            return Err(Fault { kernel: self.kernel.name.clone(), what: format!("step {step}"), at });
        }
        let body = &inst.regions[0];
        let (induction, carried) = (body.params[0], &body.params[1..]);
        self.assign(&inst.args[3..], carried);
        let mut i = lo;
        while i < hi {
            self.set(induction, i as u64);
            self.block(body)?;
            self.assign(&body.yields, carried);
            i += step;
        }
        self.assign(carried, &inst.results);
        Ok(())
    }

    /// Instructions without regions.
    fn inst(&mut self, inst: &Inst) -> Result<(), String> {
        let args = &inst.args;
        let result = inst.results.first().copied();
        let ty = result.map_or(Ty::I1, |v| v.ty);
        let value: Vec<u64> = match &inst.op {
            Op::Load { align, .. } => self.space.load(self.word(args[0]), ty, *align)?,
            Op::Store { align } => {
                let (pointer, ty) = (self.word(args[1]), args[0].ty);
                let value = self.get(args[0]).to_vec();
                return self.space.store(pointer, ty, &value, *align);
            }
            Op::MaskedLoad { align } => {
                let (pointer, elem) = (self.word(args[0]), Ty::Scalar(ty.elem()));
                let (mask, other) = (self.get(args[1]), self.get(args[2]));
                let mut value = other.to_vec();
                for lane in (0..value.len()).filter(|&lane| mask[lane] != 0) {
                    let at = pointer.wrapping_add((lane as u32 * elem.bytes()).into());
                    value[lane] = self.space.load(at, elem, *align)?[0];
                }
                value
            }
            Op::MaskedStore { align } => {
                let (pointer, elem) = (self.word(args[1]), Ty::Scalar(args[0].elem()));
                let (value, mask) = (self.get(args[0]).to_vec(), self.get(args[2]).to_vec());
                for lane in (0..value.len()).filter(|&lane| mask[lane] != 0) {
                    let at = pointer.wrapping_add((lane as u32 * elem.bytes()).into());
                    self.space.store(at, elem, &value[lane..=lane], *align)?;
                }
                return Ok(());
            }
            Op::Gather => {
                let (pointer, elem) = (self.word(args[0]), Ty::Scalar(ty.elem()));
                let (offsets, mask) = (self.get(args[1]), self.get(args[2]));
                let mut value = self.get(args[3]).to_vec();
                for lane in (0..value.len()).filter(|&lane| mask[lane] != 0) {
                    let offset = lanes::signed(offsets[lane], args[1].elem());
                    value[lane] = self.space.load(pointer.wrapping_add(offset as u64), elem, elem.bytes())?[0];
                }
                value
            }
            Op::Prefetch { .. } => return Ok(()),
            Op::Gep => vec![self.word(args[0]).wrapping_add(self.word(args[1]))],
            Op::Splat => vec![self.word(args[0]); ty.lanes() as usize],
            Op::Extract(lane) => vec![self.get(args[0])[*lane as usize]],
            Op::Insert(lane) => {
                let mut value = self.get(args[1]).to_vec();
                value[*lane as usize] = self.word(args[0]);
                value
            }
            Op::Shuffle(picks) => {
                let (a, b) = (self.get(args[0]), self.get(args[1]));
                picks.iter().map(|&p| *a.get(p as usize).unwrap_or_else(|| &b[p as usize - a.len()])).collect()
            }
            Op::Bitcast => lanes::bitcast(self.get(args[0]), args[0].ty, ty),
            Op::Bin(bin) => lanes::binary(*bin, ty.elem(), self.get(args[0]), self.get(args[1]))?,
            Op::Un(un) => lanes::unary(*un, ty.elem(), self.get(args[0])),
            Op::Fma => lanes::fma(ty.elem(), self.get(args[0]), self.get(args[1]), self.get(args[2])),
            Op::Cmp(cmp) => lanes::compare(*cmp, args[0].elem(), self.get(args[0]), self.get(args[1])),
            Op::Select => {
                let (cond, a, b) = (self.get(args[0]), self.get(args[1]), self.get(args[2]));
                if cond.len() == 1 {
                    (if cond[0] != 0 { a } else { b }).to_vec()
                } else {
                    (0..a.len()).map(|i| if cond[i] != 0 { a[i] } else { b[i] }).collect()
                }
            }
            Op::Convert(convert) => lanes::convert(*convert, args[0].elem(), ty.elem(), self.get(args[0])),
            Op::Intrinsic(intrinsic) => {
                let operands: Vec<&[u64]> = args.iter().map(|&v| self.get(v)).collect();
                match machine::intrinsic(*intrinsic, &operands, &self.space)? {
                    machine::Effect::Value(value) => value,
                    machine::Effect::Store(rows) => {
                        for (at, bytes) in rows {
                            self.space.store_bytes(at, &bytes)?;
                        }
                        return Ok(());
                    }
                }
            }
            Op::For | Op::If => unreachable!("handled by `block`"),
        };
        self.write(result.expect("a result"), &value);
        Ok(())
    }
}
