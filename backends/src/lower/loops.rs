//! Loops: the steps of a function between two branches.

use super::table::Table;
use super::{Lowering, function_body, internal, known, name_of};
use crate::fuse::fuse;
use std::io::{Seek, Write};
use tersor_ir::diag::Result;
use tersor_ir::ops::Loop;
use tersor_ir::{Func, NodeId};
use tersor_runtime::ArtifactWriter;
use tersor_runtime::program::{Arg, Branch, Place, Step};

/// A loop whose body is not done.
struct Frame {
    name: String,
    /// The step of its first branch.
    begin: usize,
    branch: Branch,
    /// Buffers of what the body takes.
    operands: Vec<u32>,
    /// Buffers of what is collected.
    collected: Vec<u32>,
}

/// Appends the steps of a loop, those of its body between two branches.
pub(super) fn repeat<W: Write + Seek>(
    programs: &mut [Lowering],
    n: NodeId,
    l: &Loop,
    table: &mut Table,
    writer: &mut ArtifactWriter<W>,
    step: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let Some(m) = programs.first().map(|p| p.m) else { return Ok(()) };
    let body = &m.funcs[m.func(&l.body).ok_or_else(|| internal(format!("there is no function @{}", l.body)))?];
    let fusion = fuse(body);
    let known = known(body, &fusion);
    let mut frames = vec![];
    let mut inner = vec![];
    for p in programs.iter_mut() {
        frames.push(p.begin_loop(n, l, table, writer)?);
        let frame = &frames[frames.len() - 1];
        let mut q = Lowering::new(p.isa, m, body, &fusion, &known);
        // Only those of `@main` are the caller's.
        q.results.clear();
        q.buffers.extend(body.body().params.iter().copied().zip(frame.operands.iter().copied()));
        p.exchange(&mut q);
        inner.push(q);
    }
    // Of constants the table knows those of one function.
    let outer = std::mem::take(&mut table.constants);
    function_body(&mut inner, table, writer, step)?;
    for ((p, frame), mut q) in programs.iter_mut().zip(frames).zip(inner) {
        let results = body.body().results.iter().map(|&r| q.buffer(r, table, writer)).collect::<Result<Vec<_>>>()?;
        p.exchange(&mut q);
        p.end_loop(l, body, frame, &results, table)?;
    }
    table.constants = outer;
    Ok(())
}

impl Lowering<'_> {
    /// Exchanges what all functions of a program share.
    fn exchange(&mut self, other: &mut Lowering) {
        use std::mem::swap;
        swap(&mut self.program, &mut other.program);
        swap(&mut self.kernels, &mut other.kernels);
        swap(&mut self.by_text, &mut other.by_text);
        swap(&mut self.packed, &mut other.packed);
        swap(&mut self.decoded, &mut other.decoded);
    }

    /// The steps before a loop: what it carries goes to buffers of its own, those of the results.
    fn begin_loop<W: Write + Seek>(
        &mut self,
        n: NodeId,
        l: &Loop,
        table: &mut Table,
        writer: &mut ArtifactWriter<W>,
    ) -> Result<Frame> {
        let (node, carried) = (&self.f.nodes[n], l.carried as usize);
        let name = name_of(&node.loc, &node.op);
        let mut given = vec![];
        for &v in &node.operands {
            given.push(self.buffer(v, table, writer)?);
        }
        let mut results = vec![];
        for &v in &node.results {
            results.push(self.buffer(v, table, writer)?);
        }
        let byte = table.extent(&1.into())?;
        let cond = self.program.buffer(Place::Arena(()), byte);
        self.program.steps.push(Step::copy(&name, given[1], cond, byte));
        let mut operands = given.split_off(2);
        for (i, operand) in operands[..carried].iter_mut().enumerate() {
            let bytes = table.bytes(&l.results[i])?;
            self.program.steps.push(Step::copy(&name, *operand, results[1 + i], bytes));
            *operand = results[1 + i];
        }
        let (index, trip) = (Arg::write(results[0]), Arg::read(given[0]));
        let branch = Branch { to: 0, index, trip, cond: Arg::read(cond) };
        let begin = self.program.steps.len();
        self.program.steps.push(Step::branch(&name, branch));
        let unknown = || internal(format!("extent {} is not known", l.over));
        let over = l.over.as_symbol().and_then(|s| table.symbols.get(s).copied()).ok_or_else(unknown)?;
        self.program.steps.push(Step::bind(&name, over, results[0]));
        Ok(Frame { name, begin, branch, operands, collected: results.split_off(1 + carried) })
    }

    /// The steps after the body of a loop, which left `results`.
    fn end_loop(&mut self, l: &Loop, body: &Func, frame: Frame, results: &[u32], table: &mut Table) -> Result<()> {
        let Frame { name, begin, mut branch, operands, collected } = frame;
        let (carried, ty) = (l.carried as usize, |i: usize| &body.values[body.body().results[i]].ty);
        for (i, &to) in (1 + carried..).zip(&collected) {
            let row = ty(i).elements() * (i64::from(ty(i).dtype.bits()) / 8).into();
            let (bytes, at) = (table.extent(&row)?, table.extent(&(l.over.clone() * row))?);
            self.program.steps.push(Step::copy_to(&name, results[i], to, bytes, at));
        }
        let byte = table.extent(&1.into())?;
        self.program.steps.push(Step::copy(&name, results[0], branch.cond.buffer, byte));
        // What is carried to another place is taken out of the way first.
        let mut moves = vec![];
        for (i, &to) in operands[..carried].iter().enumerate() {
            let (mut from, bytes) = (results[1 + i], table.bytes(ty(1 + i))?);
            if from == to {
                continue;
            }
            if operands[..carried].contains(&from) {
                let aside = self.program.buffer(Place::Arena(()), bytes);
                self.program.steps.push(Step::copy(&name, from, aside, bytes));
                from = aside;
            }
            moves.push(Step::copy(&name, from, to, bytes));
        }
        self.program.steps.append(&mut moves);
        branch.to = begin as u32 + 1;
        self.program.steps.push(Step::branch(&name, branch));
        branch.to = self.program.steps.len() as u32;
        self.program.steps[begin] = Step::branch(&name, branch);
        Ok(())
    }
}
