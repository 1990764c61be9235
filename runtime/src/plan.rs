//! Places buffers with known lifetimes in one arena.
//!
//! Invariants: buffers that live at the same time never overlap; offsets are multiples of 64; the same input gives the same
//! placement. The compiler calls this to print the peak, the runtime when the bound symbols change.

use crate::artifact::{Manifest, Variant};
use crate::error::{Error, Kind, Result};
use crate::program::{Buffer, Place, Program};
use crate::range;
use std::collections::BTreeSet;

const ALIGN: u64 = 64;

/// A buffer to place: its bytes and the steps, both included, between which it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    pub size: u64,
    pub first: u32,
    pub last: u32,
}

/// Where buffers lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// One offset for each buffer asked for.
    pub offsets: Vec<u64>,
    /// Bytes of the arena.
    pub peak: u64,
    /// The most bytes alive at any one step: no placement needs less.
    pub lower_bound: u64,
}

/// Places the buffers; `None` when their sizes overflow.
pub fn place(lives: &[Live]) -> Option<Placement> {
    let mut sizes = Vec::with_capacity(lives.len());
    let mut total = 0u64;
    for l in lives {
        let size = l.size.checked_next_multiple_of(ALIGN)?;
        total = total.checked_add(size)?;
        sizes.push(size);
    }
    let lower_bound = lower_bound(lives, &sizes);
    let mut best: Option<Placement> = None;
    let by_size = |&i: &usize| (std::cmp::Reverse(sizes[i]), lives[i].first, i);
    let by_span = |&i: &usize| (std::cmp::Reverse(lives[i].last - lives[i].first), std::cmp::Reverse(sizes[i]), i);
    for order in 0..3 {
        let mut ids: Vec<usize> = (0..lives.len()).filter(|&i| sizes[i] > 0).collect();
        match order {
            0 => ids.sort_unstable_by_key(by_size),
            1 => ids.sort_unstable_by_key(|&i| (lives[i].first, std::cmp::Reverse(sizes[i]), i)),
            _ => ids.sort_unstable_by_key(by_span),
        }
        let (offsets, peak) = in_order(lives, &sizes, &ids);
        if best.as_ref().is_none_or(|b| peak < b.peak) {
            best = Some(Placement { offsets, peak, lower_bound });
        }
        if best.as_ref().is_some_and(|b| b.peak == lower_bound) {
            break;
        }
    }
    best
}

/// Places buffers one after the other, each in the tightest gap between those it lives with.
fn in_order(lives: &[Live], sizes: &[u64], ids: &[usize]) -> (Vec<u64>, u64) {
    let mut offsets = vec![0; lives.len()];
    let mut placed = Placed::new(lives);
    let (mut peak, mut beside) = (0, vec![]);
    for &i in ids {
        beside.clear();
        placed.beside(i, |j| beside.push((offsets[j], j)));
        beside.sort_unstable();
        let (mut free_from, mut best) = (0, None);
        for &(offset, j) in &beside {
            if offset > free_from {
                let gap = offset - free_from;
                if gap >= sizes[i] && best.is_none_or(|(g, _)| gap < g) {
                    best = Some((gap, free_from));
                }
            }
            free_from = free_from.max(offset + sizes[j]);
        }
        let offset = best.map_or(free_from, |(_, o)| o);
        offsets[i] = offset;
        peak = peak.max(offset + sizes[i]);
        placed.insert(i);
    }
    (offsets, peak)
}

/// Buffers that have a place, found by the steps at which they live.
struct Placed<'a> {
    lives: &'a [Live],
    /// First steps with their buffers.
    starts: BTreeSet<(u32, usize)>,
    /// A segment tree over steps, the root at 1: each life as the fewest nodes that make it up.
    tree: Vec<Vec<usize>>,
}

impl Placed<'_> {
    fn new(lives: &[Live]) -> Placed<'_> {
        let steps = lives.iter().map(|l| l.last as usize + 1).max().unwrap_or(0);
        Placed { lives, starts: BTreeSet::new(), tree: vec![vec![]; 2 * steps] }
    }

    fn insert(&mut self, i: usize) {
        let (life, steps) = (self.lives[i], self.tree.len() / 2);
        self.starts.insert((life.first, i));
        let (mut from, mut to) = (life.first as usize + steps, life.last as usize + steps + 1);
        while from < to {
            if from % 2 == 1 {
                self.tree[from].push(i);
                from += 1;
            }
            if to % 2 == 1 {
                to -= 1;
                self.tree[to].push(i);
            }
            (from, to) = (from / 2, to / 2);
        }
    }

    /// Calls `f` with all that live at some step with buffer `i`: at its first step, or from a later one on.
    fn beside(&self, i: usize, mut f: impl FnMut(usize)) {
        let Live { first, last, .. } = self.lives[i];
        let mut at = first as usize + self.tree.len() / 2;
        while at > 0 {
            self.tree[at].iter().for_each(|&j| f(j));
            at /= 2;
        }
        self.starts.range((first, usize::MAX)..=(last, usize::MAX)).for_each(|s| f(s.1));
    }
}

fn lower_bound(lives: &[Live], sizes: &[u64]) -> u64 {
    let mut events: Vec<(u32, bool, u64)> = Vec::with_capacity(lives.len() * 2);
    for (l, &size) in lives.iter().zip(sizes) {
        events.push((l.first, true, size));
        events.push((l.last, false, size));
    }
    // At one step, what starts is counted before what ends is dropped.
    events.sort_unstable_by_key(|&(step, start, _)| (step, !start));
    let (mut now, mut most) = (0, 0);
    for (_, start, size) in events {
        if start {
            now += size;
            most = most.max(now);
        } else {
            now -= size;
        }
    }
    most
}

/// First and last step between which each arena buffer lives: those that touch it, directly or through an alias, and all of a loop that it lives in and around. `None` for
/// all other buffers.
pub fn lifetimes(program: &Program) -> Vec<Option<(u32, u32)>> {
    let mut lives: Vec<Option<(u32, u32)>> = vec![None; program.buffers.len()];
    for (s, step) in program.steps.iter().enumerate() {
        for arg in step.args() {
            let root = program.root(arg.buffer) as usize;
            if let Some(Place::Arena(())) = program.buffers[root].place {
                let (first, _) = lives[root].unwrap_or((s as u32, 0));
                lives[root] = Some((first, s as u32));
            }
        }
    }
    let loops = program.loops();
    if loops.is_empty() {
        return lives;
    }
    let mut inside: Vec<Option<usize>> = vec![None; program.steps.len()];
    for (k, l) in loops.iter().enumerate() {
        inside[l.first as usize..=l.last as usize].iter_mut().filter(|i| i.is_none()).for_each(|i| *i = Some(k));
    }
    let around = |step: u32| std::iter::successors(inside[step as usize], |&k| loops[k].around).map(|k| loops[k]);
    for (first, last) in lives.iter_mut().flatten() {
        let end = around(*last).filter(|l| l.first > *first).last();
        let begin = around(*first).filter(|l| l.last < *last).last();
        *last = end.map_or(*last, |l| l.last);
        *first = begin.map_or(*first, |l| l.first);
    }
    lives
}

/// Places the arena buffers of a program, given every buffer's bytes; all other buffers get offset 0.
pub fn plan(program: &Program, sizes: &[u64]) -> Result<Placement> {
    plan_lives(&lifetimes(program), sizes)
}

/// Like [`plan`], with lifetimes computed before.
pub fn plan_lives(lifetimes: &[Option<(u32, u32)>], sizes: &[u64]) -> Result<Placement> {
    let lives: Vec<Live> = lifetimes
        .iter()
        .zip(sizes)
        .map(|(l, &size)| match *l {
            Some((first, last)) => Live { size, first, last },
            None => Live { size: 0, first: 0, last: 0 },
        })
        .collect();
    place(&lives)
        .ok_or_else(|| Error::new(Kind::Memory, "the buffers' sizes overflow").with_help("bind smaller extents"))
}

/// The placement of a variant's buffers when every symbol has its hint, or its cap.
pub fn at_hints(manifest: &Manifest, variant: &Variant) -> Result<Placement> {
    plan(&variant.program, &sizes(manifest, variant)?)
}

fn sizes(manifest: &Manifest, variant: &Variant) -> Result<Vec<u64>> {
    variant.program.sizes(&range::at_hints(&manifest.extents, &manifest.symbols)?)
}

/// Bytes that a run of a variant takes when every symbol has its hint, or its cap: its arena, inputs and outputs.
pub fn run_bytes(manifest: &Manifest, variant: &Variant) -> Result<u64> {
    let sizes = sizes(manifest, variant)?;
    let given = |(b, s): (&Buffer, &u64)| matches!(b.place, Some(Place::Input(_) | Place::Output(_))).then_some(*s);
    let outside = variant.program.buffers.iter().zip(&sizes).filter_map(given).fold(0, u64::saturating_add);
    Ok(plan(&variant.program, &sizes)?.peak.saturating_add(outside))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn buffers_alive_together_never_overlap(
            raw in prop::collection::vec((0u64..5000, 0u32..40, 0u32..12), 0..60)
        ) {
            let lives: Vec<Live> =
                raw.iter().map(|&(size, first, span)| Live { size, first, last: first + span }).collect();
            let p = place(&lives).unwrap();
            prop_assert_eq!(&p, &place(&lives).unwrap());
            prop_assert!(p.peak >= p.lower_bound);
            for (i, a) in lives.iter().enumerate() {
                prop_assert!(p.offsets[i].is_multiple_of(64) && (a.size == 0 || p.offsets[i] + a.size <= p.peak));
                for (j, b) in lives.iter().enumerate().skip(i + 1) {
                    let together = a.first <= b.last && b.first <= a.last;
                    let apart = p.offsets[i] + a.size <= p.offsets[j] || p.offsets[j] + b.size <= p.offsets[i];
                    prop_assert!(!together || apart || a.size == 0 || b.size == 0);
                }
            }
        }
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let lives: Vec<Live> = (0..10).map(|i| Live { size: 1000, first: i, last: i + 1 }).collect();
        let p = place(&lives).unwrap();
        assert_eq!((p.peak, p.lower_bound), (2048, 2048));
        assert!(place(&[Live { size: u64::MAX, first: 0, last: 0 }]).is_none());
    }
}
