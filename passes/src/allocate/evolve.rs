//! `evo`: evolutionary search on the error of whole plans (EvoPress, Sieberling, Kuznedelev et al., 2024; digest 35).
//!
//! One parent; offspring differ from it by few level switches that keep every limit; stages with more and more samples choose among them, and the parent joins the last
//! stage. A search is a function of its seed: the [`State`] after a generation is all that the next one needs.

use super::{Answer, Assignment, Costs, Cx, Fitness, Problem, Quantity, Strategy, uniform};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use tersor_ir::constant::SplitMix;
use tersor_ir::{Diagnostic, Result, diag::Failure};

/// A level switch that needs more changes than this to come back under the limits is given up.
const CHANGES: usize = 10;
/// So is one that uses less than this share of what it freed.
const USED: f64 = 0.8;
/// Tries for each offspring before a generation does with fewer.
const TRIES: usize = 200;

/// Evolutionary search.
#[derive(Clone, PartialEq, Debug)]
pub struct Evolve {
    /// Generations.
    pub generations: usize,
    /// Offspring of a generation.
    pub offspring: usize,
    /// How many stay after each stage; the last is 1.
    pub survivors: Vec<usize>,
    /// Samples of each stage.
    pub samples: Vec<usize>,
}

/// Where a search stands.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct State {
    /// Generations done.
    pub generation: usize,
    /// Generations in all.
    pub generations: usize,
    /// The random generator.
    pub random: u64,
    /// The best plan so far.
    pub parent: Assignment,
    /// Its error on the samples of the last stage that it was in.
    pub error: f64,
    /// The error after each generation.
    pub history: Vec<f64>,
    /// Runs of plans, counted in samples.
    pub samples: u64,
}

impl Strategy for Evolve {
    fn runs_plans(&self) -> bool {
        true
    }

    fn solve(&self, p: &Problem, cx: &mut Cx) -> Result<Answer> {
        let usage = |m: String| Diagnostic::error("S0425", m).failure(Failure::Usage);
        if p.minimise != Quantity::Error || p.limits.iter().any(|l| l.0 == Quantity::Error) {
            let d = usage("evo minimises error under limits of other quantities".into());
            return Err(d.with_help("leave the limit on error out, or use ilp or dp"));
        }
        if self.survivors.len() != self.samples.len() || self.survivors.last() != Some(&1) {
            return Err(usage(
                "evo: `survivors` and `samples` have one number for each stage, and one plan survives the last".into(),
            ));
        }
        let Some(fitness) = cx.fitness.as_deref_mut() else {
            return Err(usage("evo needs data to run plans on".into()));
        };
        let mut state = match cx.resume.take() {
            Some(s) => s,
            None => match start(p) {
                Some(parent) => State {
                    generation: 0,
                    generations: self.generations,
                    random: cx.seed,
                    parent,
                    error: f64::INFINITY,
                    history: vec![],
                    samples: 0,
                },
                None => return Ok(p.nothing()),
            },
        };
        let fits = state.parent.len() == p.table.rows.len()
            && state.parent.iter().zip(&p.table.rows).all(|(&i, r)| i < r.alternatives.len())
            && p.fits(&p.table.totals(&state.parent));
        if !fits {
            let d = usage("the saved search is for another table or other limits".into());
            return Err(d.with_help("start again without --resume"));
        }
        state.generations = self.generations;
        while state.generation < self.generations {
            self.generation(p, fitness, &mut state)?;
            (cx.progress)(&state)?;
        }
        Ok(Answer::Found(state.parent))
    }
}

/// The best of what strategies on the table find: additive errors are a good start and a bad end.
fn start(p: &Problem) -> Option<Assignment> {
    let greedy = [p.table.exact(), p.nearest()].into_iter().filter_map(|a| super::greedy::climb(p, a));
    let all = greedy.chain(uniform::assignments(p)).chain([p.nearest()]).filter(|a| p.fits(&p.table.totals(a)));
    all.reduce(|x, y| if p.better(&p.table.totals(&y), &p.table.totals(&x)) { y } else { x })
}

impl Evolve {
    fn generation(&self, p: &Problem, fitness: &mut dyn Fitness, state: &mut State) -> Result<()> {
        let mut random = SplitMix(state.random);
        let (mut seen, mut children) = (HashSet::from([state.parent.clone()]), vec![]);
        for _ in 0..self.offspring * TRIES {
            if children.len() == self.offspring {
                break;
            }
            let child = mutate(p, &state.parent, &mut random);
            children.extend(child.filter(|c| seen.insert(c.clone())));
        }
        let last = self.samples.len() - 1;
        for (stage, (&survivors, &samples)) in self.survivors.iter().zip(&self.samples).enumerate() {
            if stage == last {
                children.push(state.parent.clone());
            }
            let draw = random.bits();
            let mut scored = vec![];
            for child in children {
                state.samples += samples as u64;
                let error = fitness.error(&child, samples, draw)?;
                scored.push((if error.is_nan() { f64::INFINITY } else { error }, child));
            }
            // Sorting is stable, and the parent comes last: what equals it replaces it, so that the search moves on plateaus.
            scored.sort_by(|a, b| a.0.total_cmp(&b.0));
            scored.truncate(survivors);
            if stage == last
                && let Some((error, best)) = scored.pop()
            {
                (state.error, state.parent) = (error, best);
                break;
            }
            children = scored.into_iter().map(|s| s.1).collect();
        }
        state.random = random.bits();
        state.generation += 1;
        state.history.push(state.error);
        Ok(())
    }
}

/// A plan with `min(rand{1..3}, rand{1..3})` level switches, within the limits; `None` when the draw leads nowhere.
fn mutate(p: &Problem, parent: &[usize], random: &mut SplitMix) -> Option<Assignment> {
    let switches = (1 + random.below(3)).min(1 + random.below(3));
    let mut plan = parent.to_vec();
    for _ in 0..switches {
        switch(p, &mut plan, random)?;
    }
    (plan != parent).then_some(plan)
}

/// Raises a row by a level and lowers another one by as much, where there is such; else lowers rows until the limits are kept again.
fn switch(p: &Problem, plan: &mut [usize], random: &mut SplitMix) -> Option<()> {
    let rows = &p.table.rows;
    let costs = |r: usize, i: usize| rows[r].alternatives[i].costs;
    let limited = p.limits.first().map_or(Quantity::Size, |l| l.0);
    let r = random.below(rows.len());
    let up = neighbour(p, r, plan[r], limited, true, random)?;
    let raised = costs(r, up) - costs(r, plan[r]);
    plan[r] = up;
    let same = |a: f64, b: f64| (a - b).abs() <= a.abs().max(b.abs()) * 1e-9;
    let cancels = |d: &Costs| p.limits.iter().all(|&(q, _)| same(-d.get(q), raised.get(q)));
    let others: Vec<(usize, usize)> = (0..rows.len())
        .filter(|&j| j != r)
        .flat_map(|j| (0..rows[j].alternatives.len()).map(move |i| (j, i)))
        .filter(|&(j, i)| i != plan[j] && cancels(&(costs(j, i) - costs(j, plan[j]))))
        .collect();
    if !others.is_empty() && p.limits.iter().any(|&(q, _)| raised.get(q) != 0.0) {
        let (j, i) = others[random.below(others.len())];
        plan[j] = i;
        return Some(());
    }
    let mut freed = 0.0;
    for _ in 0..=CHANGES {
        let totals = p.table.totals(plan);
        let over = p.limits.iter().filter(|&&(q, most)| !Problem::keeps(totals.get(q), most));
        let Some(&(q, most)) = over.max_by(|a, b| (totals.get(a.0) / a.1).total_cmp(&(totals.get(b.0) / b.1))) else {
            let slack = p.limits.iter().find(|l| l.0 == limited).map_or(0.0, |l| l.1 - totals.get(limited));
            let wasted = freed > 0.0 && raised.get(limited) < USED * freed && slack > (1.0 - USED) * freed;
            return (!wasted).then_some(());
        };
        let lowerable: Vec<usize> = (0..rows.len())
            .filter(|&j| j != r && rows[j].alternatives.iter().any(|a| a.costs.get(q) < costs(j, plan[j]).get(q)))
            .collect();
        if lowerable.is_empty() {
            return None;
        }
        let j = lowerable[random.below(lowerable.len())];
        let down = neighbour(p, j, plan[j], q, false, random)?;
        freed += (costs(j, plan[j]) - costs(j, down)).get(limited);
        plan[j] = down;
        let _ = most;
    }
    None
}

/// An alternative of the next level up or down in a quantity, any one of those that are equal there. Upwards, others of the same level count too: a switch of method.
fn neighbour(p: &Problem, r: usize, now: usize, q: Quantity, up: bool, random: &mut SplitMix) -> Option<usize> {
    let alternatives = &p.table.rows[r].alternatives;
    let cost = |i: usize| alternatives[i].costs.get(q);
    let beyond = |i: &usize| *i != now && if up { cost(*i) > cost(now) } else { cost(*i) < cost(now) };
    let steps = (0..alternatives.len()).filter(beyond).map(cost);
    let next = if up { steps.fold(f64::INFINITY, f64::min) } else { steps.fold(f64::NEG_INFINITY, f64::max) };
    let level = |i: &usize| cost(*i) == next || (up && *i != now && cost(*i) == cost(now));
    let found: Vec<usize> = (0..alternatives.len()).filter(level).collect();
    (!found.is_empty()).then(|| found[random.below(found.len())])
}
