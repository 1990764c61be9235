//! Checks that a manifest does not contradict itself, so that what follows may index without checks.
//!
//! What depends on the bound symbols (sizes, offsets) is checked when they are bound.

use std::collections::HashSet;

use crate::artifact::{Header, Manifest, Value, Variant};
use crate::dtype::DType;
use crate::error::{Error, Kind, Result};
use crate::late::{extents as extents_of, late, ready};
use crate::program::{Action, Branch, Extent, ExtentId, ExtentOp, Host, Place, Program, multiple};

fn bad<T>(what: impl std::fmt::Display) -> Result<T> {
    Err(Error::new(Kind::Manifest, format!("the manifest is invalid: {what}")))
}

/// `Ok` when `what`, if it names something, does so in range.
fn need(holds: bool, what: impl Fn() -> String) -> Result<()> {
    if holds { Ok(()) } else { bad(what()) }
}

/// Checks everything; `end` is where constants and sections end.
pub fn manifest(m: &Manifest, end: u64) -> Result<()> {
    let mut names = HashSet::new();
    for s in &m.sections {
        need(names.insert(s.name.as_str()), || format!("two sections are called {}", s.name))?;
        place(&format!("section {}", s.name), s.offset, s.length, &s.hash, end)?;
    }
    for c in &m.constants {
        place(&format!("constant {}", c.name), c.offset, c.length, &c.hash, end)?;
    }
    strings(m)?;
    symbols(m)?;
    extents(m)?;
    caps(m)?;
    values(m)?;
    let mut names = HashSet::new();
    for v in &m.variants {
        need(names.insert(v.name.as_str()), || format!("two variants are called {}", v.name))?;
        variant(m, v).map_err(|e| e.context(format!("variant {}", v.name)))?;
    }
    Ok(())
}

fn place(what: &str, offset: u64, length: u64, hash: &[u8], end: u64) -> Result<()> {
    let inside = offset >= Header::SIZE as u64 && offset.checked_add(length).is_some_and(|e| e <= end);
    need(inside, || format!("{what} lies outside the file"))?;
    need(offset.is_multiple_of(64), || format!("{what} is not aligned"))?;
    need(hash.len() == 32, || format!("{what} has no hash"))
}

fn strings(m: &Manifest) -> Result<()> {
    let mut seen = HashSet::new();
    let once = m.strings.iter().all(|s| !s.is_empty() && seen.insert(s.as_str()));
    need(once, || "a string stands twice, or is empty".into())
}

fn symbols(m: &Manifest) -> Result<()> {
    let mut names = HashSet::new();
    for s in &m.symbols {
        need(names.insert(s.name.as_str()), || format!("two symbols are called {}", s.name))?;
        let ordered = s.min <= s.hint && s.hint <= s.max && s.max <= i64::MAX as u64;
        need(ordered, || format!("symbol {} has bounds {}..{} and hint {}", s.name, s.min, s.max, s.hint))?;
    }
    Ok(())
}

fn extents(m: &Manifest) -> Result<()> {
    let zero = m.extents.first().is_some_and(|e| e.op == ExtentOp::Constant as i32 && e.a == 0);
    need(zero, || "extent 0 is not the constant 0".into())?;
    for (i, e) in m.extents.iter().enumerate() {
        let below = |x: i64, n: usize| usize::try_from(x).is_ok_and(|x| x < n);
        let valid = match ExtentOp::try_from(e.op) {
            Err(_) => false,
            Ok(ExtentOp::Constant) => true,
            Ok(ExtentOp::Symbol) => below(e.a, m.symbols.len()),
            Ok(_) => below(e.a, i) && below(e.b, i),
        };
        need(valid, || format!("extent {i} is malformed"))?;
    }
    Ok(())
}

/// The cap of a symbol comes before what is over the symbol.
fn caps(m: &Manifest) -> Result<()> {
    m.symbols.iter().filter_map(|s| s.cap).try_for_each(|cap| extent(m, cap))?;
    for (i, e) in m.extents.iter().enumerate().filter(|(_, e)| e.op() == ExtentOp::Symbol) {
        let s = &m.symbols[e.a as usize];
        need(s.cap.is_none_or(|cap| (cap as usize) < i), || {
            format!("the cap of symbol {} is not known before it", s.name)
        })?;
    }
    Ok(())
}

fn extent(m: &Manifest, id: ExtentId) -> Result<()> {
    need((id as usize) < m.extents.len(), || format!("there is no extent {id}"))
}

fn values(m: &Manifest) -> Result<()> {
    let check = |what: &str, values: &[Value]| -> Result<()> {
        let mut names = HashSet::new();
        for v in values {
            need(names.insert(v.name.as_str()), || format!("two {what}s are called {}", v.name))?;
            let known = DType::try_from(v.dtype).is_ok_and(|d| d != DType::Undefined);
            need(known, || format!("{what} {} has the unknown type {}", v.name, v.dtype))?;
            v.dims.iter().try_for_each(|&d| extent(m, d))?;
        }
        Ok(())
    };
    check("input", &m.inputs)?;
    check("output", &m.outputs)?;
    let late = late(&m.extents, &m.symbols);
    let mut bound: Vec<bool> = m.symbols.iter().map(|s| s.cap.is_some()).collect();
    for (v, &d) in m.inputs.iter().flat_map(|v| v.dims.iter().map(move |d| (v, d))) {
        need(!late[d as usize], || format!("input {} has an extent that a run decides", v.name))?;
        if let Some((symbol, _)) = multiple(&m.extents, d) {
            bound[symbol] = true;
        }
    }
    match bound.iter().position(|b| !b) {
        Some(s) => bad(format!("no input binds symbol {}", m.symbols[s].name)),
        None => Ok(()),
    }
}

fn variant(m: &Manifest, v: &Variant) -> Result<()> {
    let Some(code) = m.sections.get(v.code as usize) else {
        return bad(format!("there is no section {}", v.code));
    };
    for k in &v.kernels {
        need(k.offset < code.length, || format!("kernel {} lies outside the code", k.name))?;
    }
    buffers(m, &v.program)?;
    steps(m, v)
}

fn buffers(m: &Manifest, p: &Program) -> Result<()> {
    let mut outputs = vec![0; m.outputs.len()];
    for (i, b) in p.buffers.iter().enumerate() {
        extent(m, b.size)?;
        let valid = match b.place {
            None => false,
            Some(Place::Input(k)) => (k as usize) < m.inputs.len(),
            Some(Place::Output(k)) => outputs.get_mut(k as usize).map(|n| *n += 1).is_some(),
            Some(Place::Constant(k)) => (k as usize) < m.constants.len(),
            Some(Place::Arena(())) => true,
            Some(Place::Alias(k)) => (k as usize) < i,
        };
        need(valid, || format!("buffer {i} is placed nowhere"))?;
    }
    match outputs.iter().position(|&n| n != 1) {
        Some(k) => bad(format!("output {} has {} buffers", m.outputs[k].name, outputs[k])),
        None => Ok(()),
    }
}

/// What the function is made of is checked when a variant is loaded.
fn host(m: &Manifest, h: &Host) -> Result<()> {
    let Some(f) = &h.function else { return bad("there is no such function") };
    let (takes, gives) = f.signature();
    let all = takes.len() + gives.len();
    let fits = h.args.len() == all && h.elements.len() == all;
    need(fits, || format!("{} operands of {}, expected {all}", h.args.len(), f.name()))?;
    let ways = h.args.iter().enumerate().all(|(i, a)| a.write == (i >= takes.len()));
    need(ways, || format!("{} writes what it reads", f.name()))?;
    h.elements.iter().try_for_each(|&n| extent(m, n))
}

/// Whether a buffer of that size has no bytes, so that nothing writes it.
fn empty(m: &Manifest, size: ExtentId) -> bool {
    m.extents.get(size as usize).is_some_and(|e| *e == Extent { op: ExtentOp::Constant as i32, a: 0, b: 0 })
}

/// Loops nest no deeper.
const NESTING: usize = 128;

fn steps(m: &Manifest, v: &Variant) -> Result<()> {
    let p = &v.program;
    let (mut written, mut loops) = (vec![false; p.buffers.len()], vec![]);
    let (ready, mut bound) = (ready(m, p), vec![false; m.symbols.len()]);
    for (i, step) in p.steps.iter().enumerate() {
        let named = |e: Error| e.context(format!("step {}", step.name));
        let known = |e: ExtentId| {
            let known = ready[e as usize].is_some_and(|after| after as usize <= i);
            need(known, || format!("extent {e} is used before it is bound"))
        };
        match &step.action {
            None => return bad(format!("step {} does nothing", step.name)),
            Some(Action::Call(c)) => {
                let known = (c.kernel as usize) < v.kernels.len();
                need(known, || format!("there is no kernel {}", c.kernel)).map_err(named)?;
                c.dims.iter().chain([&c.grid, &c.scratch, &c.grain]).try_for_each(|&d| extent(m, d)).map_err(named)?;
            }
            Some(Action::Host(h)) => host(m, h).map_err(named)?,
            Some(Action::Copy(c)) => {
                need(!c.from.write && c.to.write, || "it copies the wrong way".into()).map_err(named)?;
                extent(m, c.bytes).and_then(|()| extent(m, c.at)).map_err(named)?;
            }
            Some(Action::Branch(b)) => {
                let ways = b.index.write && !b.trip.write && !b.cond.write;
                need(ways, || "it writes what it reads".into()).map_err(named)?;
                let pairs = match b.to as usize > i {
                    true => {
                        loops.push((i, *b));
                        b.to as usize <= p.steps.len() && loops.len() <= NESTING
                    }
                    false => loops.pop().is_some_and(|(begin, first)| {
                        (first.to as usize, b.to as usize) == (i + 1, begin + 1)
                            && first == Branch { to: first.to, ..*b }
                    }),
                };
                need(pairs, || "no other branch belongs to it".into()).map_err(named)?;
            }
            Some(Action::Bind(b)) => {
                need(!b.count.write, || "it writes what it reads".into()).map_err(named)?;
                let Some(s) = m.symbols.get(b.symbol as usize) else {
                    return bad(format!("there is no symbol {}", b.symbol)).map_err(named);
                };
                let twice = std::mem::replace(&mut bound[b.symbol as usize], true);
                need(!twice, || format!("symbol {} is bound twice", s.name)).map_err(named)?;
                let Some(cap) = s.cap else {
                    return bad(format!("symbol {} has no cap", s.name)).map_err(named);
                };
                known(cap).map_err(named)?;
            }
        }
        extents_of(step).into_iter().try_for_each(known).map_err(named)?;
        for a in step.args() {
            need((a.buffer as usize) < p.buffers.len(), || format!("there is no buffer {}", a.buffer))
                .map_err(named)?;
            extent(m, a.offset).and_then(|()| known(p.buffers[a.buffer as usize].size)).map_err(named)?;
            need(ready[a.offset as usize] == Some(0), || "an operand's place is not known before the run".into())
                .map_err(named)?;
            let root = p.root(a.buffer) as usize;
            let place = &p.buffers[root].place;
            if a.write {
                let mine = matches!(place, Some(Place::Arena(()) | Place::Output(_)));
                need(mine, || format!("it writes buffer {}, an input or a constant", a.buffer)).map_err(named)?;
            } else {
                let filled = empty(m, p.buffers[root].size)
                    || written[root]
                    || matches!(place, Some(Place::Input(_) | Place::Constant(_)));
                need(filled, || format!("it reads buffer {} before anything is written there", a.buffer))
                    .map_err(named)?;
            }
        }
        for a in step.args().filter(|a| a.write) {
            written[p.root(a.buffer) as usize] = true;
        }
    }
    need(loops.is_empty(), || "a loop does not end".into())?;
    for (s, bound) in m.symbols.iter().zip(bound) {
        need(bound || s.cap.is_none(), || format!("no step binds symbol {}", s.name))?;
    }
    for n in &p.needs {
        extent(m, n.extent)?;
        need(ready[n.extent as usize].is_some(), || format!("what {} needs is never known", n.name))?;
    }
    for (b, buffer) in p.buffers.iter().enumerate() {
        if let Some(Place::Output(k)) = buffer.place {
            need(written[b], || format!("output {} is never written", m.outputs[k as usize].name))?;
        }
    }
    Ok(())
}
