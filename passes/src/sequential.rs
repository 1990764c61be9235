//! Proposals block by block: the alternatives of one block are proposed, decided and resolved before the next is looked at.
//!
//! In sequential calibration each site's inputs are those that the sites before it give once they are replaced. Sites that read the same value are one block: first query,
//! key and value, then the projection of attention, then gate and up, then down. A block's taps are gathered from the module as it stands.
//!
//! Sites that overlap are blocks of their own. Without sequential calibration their statistics are those of the exact model, of the positions that are left.

use crate::choose::{Decision, Held, run_proposal};
use crate::declare::Pass;
use crate::manager::{Context, PassCx};
use crate::patches::Tap;
use crate::propose::{Alternative, Editor, Propose, Site};
use crate::statistics::Statistics;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tersor_ir::{Diagnostic, Module, Result, ValueId};

/// What became of all blocks.
#[derive(Default)]
pub(crate) struct Outcome {
    pub decisions: Vec<Decision>,
    pub remarks: Vec<Diagnostic>,
    pub details: Vec<String>,
    pub counts: BTreeMap<&'static str, u64>,
    /// Time of calibration.
    pub calibration: Duration,
}

/// A pass at some of its sites.
struct Only<'a> {
    pass: &'a dyn Propose,
    sites: BTreeSet<String>,
}

impl Propose for Only<'_> {
    fn taps(&self, m: &Module) -> Vec<Tap> {
        self.pass.taps(m)
    }
    fn sites(&self, m: &Module, cx: &mut PassCx) -> Result<Vec<Site>> {
        Ok(self.pass.sites(m, cx)?.into_iter().filter(|s| self.sites.contains(&s.name)).collect())
    }
    fn propose(&self, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        self.pass.propose(site, b, cx)
    }
}

/// Where a block's statistics come from.
pub(crate) enum Source {
    /// Calibration on what the module has become.
    Anew,
    /// The exact model, where any are needed.
    Exact(Option<Statistics>),
}

/// Runs a proposal block by block.
pub(crate) fn run(pass: &Pass, p: &dyn Propose, m: &mut Module, cx: &Context, from: Source) -> Result<Outcome> {
    let mut out = Outcome::default();
    let (anew, mut given) = match from {
        Source::Anew => (true, None),
        Source::Exact(statistics) => (false, statistics),
    };
    let (mut done, mut all) = (BTreeSet::new(), None);
    loop {
        // Once sites are replaced, a selector may match none of those that are left.
        let allow_empty = cx.options.allow_empty_selector || all.is_some();
        let mut listing = PassCx::new(pass, cx, None, vec![]);
        listing.in_turn = true;
        listing.allow_empty_selector = allow_empty;
        let sites = p.sites(m, &mut listing)?;
        let first = all.is_none();
        let listed: &Vec<Site> = all.get_or_insert_with(|| sites.clone());
        let known: Vec<String> = listed.iter().map(|s| s.name.clone()).collect();
        let place = |s: &Site| known.iter().position(|k| *k == s.name);
        let mut left: Vec<&Site> = sites.iter().filter(|s| place(s).is_some() && !done.contains(&s.name)).collect();
        left.sort_by_key(|s| place(s));
        if left.is_empty() && !first {
            let lost = listed.iter().filter(|s| !done.contains(&s.name));
            let reason = "what became of earlier sites leaves none here";
            out.decisions.extend(lost.map(|s| Decision::refused(s, reason.into())));
            return Ok(out);
        }
        let input = |s: &Site| input(m, s);
        let mut block: Vec<&Site> =
            left.iter().filter(|s| input(s) == left.first().and_then(|f| input(f))).copied().collect();
        if p.in_turn() {
            block = left.into_iter().take(1).collect();
        }
        let only = Only { pass: p, sites: block.iter().map(|s| s.name.clone()).collect() };
        let mut statistics = None;
        if anew {
            let read: BTreeSet<ValueId> = block.iter().flat_map(|s| p.reads(m, s)).collect();
            let taps: Vec<Tap> = p.taps(m).into_iter().filter(|t| read.contains(&t.value)).collect();
            cx.tell(&format!("calibrate {}/{}", done.len() + only.sites.len(), known.len()));
            if !taps.is_empty() {
                let start = Instant::now();
                statistics = Some(cx.calibrate(pass, m, &taps)?);
                out.calibration += start.elapsed();
            }
        }
        let remarks = statistics.as_ref().map_or(vec![], |s| s.warnings());
        let mut block_cx = PassCx::new(pass, cx, statistics.as_ref().or(given.as_ref()), remarks);
        block_cx.in_turn = true;
        block_cx.allow_empty_selector = allow_empty;
        block_cx.check_interrupt()?;
        let decisions = run_proposal(&only, m, &mut block_cx, cx.options.measure, &mut Held::default(), false)?;
        // What is left alone is said once, by the first block.
        let new = |d: &Decision| only.sites.contains(&d.site) || first && !known.contains(&d.site);
        out.decisions.extend(decisions.into_iter().filter(new));
        for (name, n) in &block_cx.counts {
            let again = if first { 0 } else { listing.counts.get(name).copied().unwrap_or(0) };
            *out.counts.entry(name).or_default() += n - again;
        }
        let same = |a: &Diagnostic, b: &Diagnostic| (a.code, &a.message) == (b.code, &b.message);
        for d in std::mem::take(&mut block_cx.remarks) {
            if !out.remarks.iter().any(|r| same(r, &d)) {
                out.remarks.push(d);
            }
        }
        out.details.append(&mut block_cx.details);
        let narrowed = std::mem::take(&mut block_cx.narrowed);
        if let Some(statistics) = &mut given {
            for (was, name, kept) in &narrowed {
                match was == name {
                    true => statistics.narrow(name, kept),
                    false => statistics.alias(was, name),
                }
            }
        }
        done.extend(only.sites);
    }
}

/// The value whose readers are one block.
fn input(m: &Module, s: &Site) -> Option<(tersor_ir::FuncId, ValueId)> {
    Some((s.func, *m.funcs[s.func].def_node(s.value)?.operands.first()?))
}

#[cfg(test)]
mod tests {
    use crate::filetest::{difference, run_with};
    use crate::manager::RunOptions;

    const MODEL: &str = "module @m {
  symbol N 1..64 hint 16
  const @a : f32[32,32] = rng normal(0, 0.3) seed 1
  const @b : f32[32,32] = rng normal(0, 0.3) seed 2
  const @c : f32[32,32] = rng normal(0, 0.3) seed 3
  func @main(%x: f32[N,32]) -> (%y: f32[N,32]) {
    %q = matmul %x, @a : f32[N,32]
    %k = matmul %x, @b : f32[N,32]
    %s = add %q, %k : f32[N,32]
    %y = matmul %s, @c : f32[N,32]
    return %y
  }
}";

    #[test]
    fn later_sites_are_calibrated_on_what_earlier_ones_became() {
        let run = |sequential| {
            let mut m = tersor_ir::text::parse(MODEL, &Default::default()).unwrap();
            let before = m.clone();
            let options = RunOptions { sequential, ..RunOptions::default() };
            let steps = run_with("quantize{select=name:/q|k|y/}", &mut m, options).unwrap();
            let names: Vec<String> = steps[0].decisions.iter().map(|d| d.site.clone()).collect();
            assert_eq!(names, ["q", "k", "y"]);
            assert!(steps[0].decisions.iter().all(|d| d.picked.is_some()));
            assert_eq!(steps[0].counts[0], ("sites", 3));
            assert!(difference(&before, &m).unwrap() < 0.05);
            let scale = |name: &str| m.consts.values().find(|c| &*c.name == name).unwrap().tensor().unwrap().to_f32();
            (scale("x.s"), scale("s.s"))
        };
        let (together, in_turn) = (run(false), run(true));
        assert_eq!(together.0, in_turn.0);
        // The sum of two quantized products has another range than the sum of the exact ones.
        assert_ne!(together.1, in_turn.1);
        assert!((together.1[0] / in_turn.1[0] - 1.0).abs() < 0.02);
    }
}
