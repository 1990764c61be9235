//! When extents have their values: before a run, or after the step that binds the last of the symbols in them.

use crate::artifact::{Manifest, Symbol};
use crate::program::{Action, Extent, ExtentId, ExtentOp, Program, Step};

/// After how many steps each entry of the extents table has its value; `None` for those that no step completes.
pub fn ready(m: &Manifest, p: &Program) -> Vec<Option<u32>> {
    let mut bound: Vec<Option<u32>> = m.symbols.iter().map(|s| s.cap.is_none().then_some(0)).collect();
    for (i, step) in p.steps.iter().enumerate() {
        if let Some(Action::Bind(b)) = &step.action
            && let Some(at) = bound.get_mut(b.symbol as usize)
        {
            *at = at.or(Some(i as u32 + 1));
        }
    }
    let mut out: Vec<Option<u32>> = Vec::with_capacity(m.extents.len());
    for e in &m.extents {
        let entry = |x: i64| usize::try_from(x).ok().and_then(|x| out.get(x).copied()).flatten();
        out.push(match e.op() {
            ExtentOp::Constant => Some(0),
            ExtentOp::Symbol => usize::try_from(e.a).ok().and_then(|s| bound.get(s).copied()).flatten(),
            _ => entry(e.a).zip(entry(e.b)).map(|(a, b)| a.max(b)),
        });
    }
    out
}

/// Whether each entry of a table is over a symbol with a cap.
pub fn late(table: &[Extent], symbols: &[Symbol]) -> Vec<bool> {
    let mut out: Vec<bool> = Vec::with_capacity(table.len());
    for e in table {
        let entry = |x: i64| usize::try_from(x).ok().and_then(|x| out.get(x)).copied().unwrap_or(false);
        out.push(match e.op() {
            ExtentOp::Constant => false,
            ExtentOp::Symbol => symbols.get(e.a as usize).is_some_and(|s| s.cap.is_some()),
            _ => entry(e.a) || entry(e.b),
        });
    }
    out
}

/// The extents that a step itself names.
pub fn extents(step: &Step) -> Vec<ExtentId> {
    match &step.action {
        Some(Action::Call(c)) => c.dims.iter().copied().chain([c.grid, c.scratch, c.grain]).collect(),
        Some(Action::Copy(c)) => vec![c.bytes, c.at],
        Some(Action::Host(h)) => h.elements.clone(),
        Some(Action::Bind(_) | Action::Branch(_)) | None => vec![],
    }
}

/// What the binding of one symbol decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    pub symbol: u32,
    /// Entries of the extents table, in order.
    pub extents: Vec<ExtentId>,
    /// Buffers whose bytes are then known.
    pub buffers: Vec<u32>,
    /// Steps that are then complete.
    pub steps: Vec<u32>,
    /// Needs that are then decided.
    pub needs: Vec<u32>,
}

/// The needs that inputs decide.
pub fn early_needs(m: &Manifest, p: &Program) -> Vec<u32> {
    let late = late(&m.extents, &m.symbols);
    p.needs.iter().zip(0..).filter(|(n, _)| !late[n.extent as usize]).map(|(_, i)| i).collect()
}

/// What each binding step decides, in the order of these steps.
pub fn due(m: &Manifest, p: &Program) -> Vec<Due> {
    let ready = ready(m, p);
    let mut after: Vec<Option<usize>> = vec![None; p.steps.len() + 1];
    let mut out: Vec<Due> = Vec::new();
    for (i, step) in p.steps.iter().enumerate() {
        if let Some(Action::Bind(b)) = &step.action {
            after[i + 1] = Some(out.len());
            out.push(Due { symbol: b.symbol, ..Due::default() });
        }
    }
    let place = |e: ExtentId| ready[e as usize].and_then(|at| after[at as usize]);
    for e in 0..m.extents.len() as ExtentId {
        if let Some(k) = place(e) {
            out[k].extents.push(e);
        }
    }
    for (i, b) in p.buffers.iter().enumerate() {
        if let Some(k) = place(b.size) {
            out[k].buffers.push(i as u32);
        }
    }
    for (i, need) in p.needs.iter().enumerate() {
        if let Some(k) = place(need.extent) {
            out[k].needs.push(i as u32);
        }
    }
    for (i, step) in p.steps.iter().enumerate() {
        if let Some(k) = extents(step).into_iter().filter_map(place).max() {
            out[k].steps.push(i as u32);
        }
    }
    out
}
