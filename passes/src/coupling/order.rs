//! Channels in another order: what becomes of constants. Nothing else changes, since ops do to each channel what they do to any other.

use super::Group;
use super::relations::Slot;
use crate::sample;
use std::collections::{BTreeSet, HashMap};
use tersor_ir::diag::Failure;
use tersor_ir::{Constant, Def, Diagnostic, Module, Result, ValueId};

/// An order of a group's channels.
#[derive(Clone, PartialEq, Debug)]
pub struct Order<'a> {
    group: &'a Group,
    /// Which channel comes to the place of each.
    source: Vec<usize>,
}

impl<'a> Order<'a> {
    /// Every channel at its own place.
    pub fn natural(group: &'a Group) -> Order<'a> {
        Order { group, source: (0..group.channels.len()).collect() }
    }
    /// The channel that comes to the place of `channel`.
    pub fn at(&self, channel: usize) -> usize {
        self.source[channel]
    }
    /// Lets two places change what comes to them; they are of one of [`alike`].
    pub fn swap(&mut self, a: usize, b: usize) {
        self.source.swap(a, b);
    }
    /// How many channels come to another place.
    pub fn moved(&self) -> usize {
        self.source.iter().enumerate().filter(|(c, s)| c != *s).count()
    }
    /// The position that comes to each of an axis; `None` for an axis that is not the group's.
    pub fn positions(&self, slot: Slot) -> Option<Vec<usize>> {
        let of = self.group.slots.get(&slot)?;
        let places = places(self.group, of);
        let mut seen = vec![0; places.len()];
        let come = |&c: &usize| {
            seen[c] += 1;
            places[self.source[c]][seen[c] - 1]
        };
        Some(of.iter().map(come).collect())
    }
    /// Reorders the constants of the group's function. It fails where elements of one are not at hand, and then nothing has changed.
    pub fn apply(&self, m: &mut Module) -> Result<()> {
        let f = &m.funcs[self.group.func];
        let mut changed: Vec<(ValueId, Constant)> = vec![];
        let touched: BTreeSet<ValueId> = self.group.slots.keys().map(|s| s.value).collect();
        for value in touched {
            let Def::Const(c) = f.values[value].def else { continue };
            let old = &m.consts[c];
            let Some(t) = old.tensor() else {
                let message = format!("the elements of @{} are not in the store", old.name);
                return Err(Diagnostic::error("S0131", message).failure(Failure::Model));
            };
            let positions: Vec<_> = (0..t.shape().len()).map(|axis| self.positions(Slot { value, axis })).collect();
            let t = sample::part(t, &positions).expect("the positions are the constant's");
            let name = format!("{}.ordered", old.name.trim_end_matches(".ordered"));
            changed.push((value, Constant::from_tensor(name, &t, old.loc.clone())));
        }
        for (value, constant) in changed {
            let id = m.add_const(constant);
            m.funcs[self.group.func].exchange_const(value, &m.consts, id);
        }
        Ok(())
    }
}

/// The positions of each channel of a group along an axis.
fn places(group: &Group, of: &[usize]) -> Vec<Vec<usize>> {
    let mut out = vec![vec![]; group.channels.len()];
    of.iter().enumerate().for_each(|(at, &c)| out[c].push(at));
    out
}

/// Channels of a group that may change places, in order: those that may go and have as many positions as each other along every axis, two of a kind at least.
pub fn alike(group: &Group) -> Vec<Vec<usize>> {
    let mut counts: HashMap<usize, Vec<usize>> = group.free().into_iter().map(|c| (c, vec![])).collect();
    for of in group.slots.values() {
        let places = places(group, of);
        counts.iter_mut().for_each(|(c, n)| n.push(places[*c].len()));
    }
    let mut kinds: HashMap<Vec<usize>, Vec<usize>> = HashMap::new();
    counts.into_iter().for_each(|(c, n)| kinds.entry(n).or_default().push(c));
    let mut out: Vec<Vec<usize>> = kinds.into_values().filter(|k| k.len() > 1).collect();
    out.iter_mut().for_each(|k| k.sort_unstable());
    out.sort_unstable();
    out
}
