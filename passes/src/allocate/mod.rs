//! From measured alternatives to a plan under a budget.
//!
//! A [`Table`] has a row for each decision and in it an alternative for each way to decide; every alternative has its [`Costs`]. A [`Problem`] adds limits and the
//! quantity to minimise. A [`Strategy`] answers with an [`Assignment`] that keeps every limit, or with the nearest one that it knows. What an assignment costs is
//! the sum of its alternatives' costs and the table's fixed part; only the evolutionary search asks for more, by [`Fitness`].

pub mod budget;
mod dp;
mod evolve;
mod front;
mod greedy;
mod ilp;
mod spec;
pub mod table;
#[cfg(test)]
mod tests;
mod uniform;

pub use budget::{Budget, Limit, Quantity};
pub use dp::Dp;
pub use evolve::{Evolve, State};
pub use front::{Point, front, sweep};
pub use greedy::Greedy;
pub use ilp::Ilp;
pub use spec::{STRATEGIES, parse};
pub use table::{Alternative, Assignment, Costs, Row, Table};
pub use uniform::Uniform;

use tersor_ir::{Diagnostic, Result, diag::Failure};

/// A table with what is wanted of an assignment.
#[derive(Clone, Debug)]
pub struct Problem<'a> {
    /// The alternatives.
    pub table: &'a Table,
    /// Most that each quantity may be, the fixed part included.
    pub limits: Vec<(Quantity, f64)>,
    /// What is to be as small as possible.
    pub minimise: Quantity,
}

/// Sums of many terms are compared with this relative slack.
const SLACK: f64 = 1e-12;

impl Problem<'_> {
    /// Whether a sum keeps a limit.
    fn keeps(total: f64, limit: f64) -> bool {
        total <= limit + limit.abs() * SLACK
    }
    /// Whether totals keep every limit.
    pub fn fits(&self, totals: &Costs) -> bool {
        self.limits.iter().all(|&(q, most)| Self::keeps(totals.get(q), most))
    }
    /// By how much totals are over the limits, each in units of its limit; 0 when they fit.
    pub fn excess(&self, totals: &Costs) -> f64 {
        let over = |&(q, most): &(Quantity, f64)| {
            let by = totals.get(q) - most;
            if Self::keeps(totals.get(q), most) { 0.0 } else { by / most.abs().max(f64::MIN_POSITIVE) }
        };
        self.limits.iter().map(over).sum()
    }
    /// What decides between assignments: the minimised quantity, then the others, latency first.
    fn rank(&self, totals: &Costs) -> [f64; 7] {
        use Quantity::{Encoded, Error, Latency, Memory, Size, Work};
        let [a, b, c, d, e, f] = [Latency, Error, Size, Encoded, Memory, Work].map(|q| totals.get(q));
        [totals.get(self.minimise), a, b, c, d, e, f]
    }
    /// Whether `a` is to be preferred to `b`; both fit.
    pub fn better(&self, a: &Costs, b: &Costs) -> bool {
        self.rank(a).partial_cmp(&self.rank(b)).is_some_and(|o| o.is_lt())
    }
    /// An assignment close to the limits that may keep them or not: from several starts, one row after the other takes what lowers the excess most.
    pub fn nearest(&self) -> Assignment {
        let t = self.table;
        let starts = std::iter::once(t.exact()).chain(self.limits.iter().map(|&(q, _)| t.least(q)));
        let settle = |mut a: Assignment| {
            let mut totals;
            loop {
                // Summed anew, and a pass must gain something: rounding alone could go on for ever.
                totals = t.totals(&a);
                let before = self.excess(&totals);
                for (r, row) in t.rows.iter().enumerate() {
                    for i in 0..row.alternatives.len() {
                        let moved = totals + row.alternatives[i].costs - row.alternatives[a[r]].costs;
                        let (e, f) = (self.excess(&moved), self.excess(&totals));
                        if e < f || (e == f && e == 0.0 && self.better(&moved, &totals)) {
                            (a[r], totals) = (i, moved);
                        }
                    }
                }
                if self.excess(&totals) >= before * (1.0 - 1e-9) {
                    totals = t.totals(&a);
                    return (self.excess(&totals), a);
                }
            }
        };
        let found = starts.map(settle).min_by(|x, y| x.0.total_cmp(&y.0));
        found.map_or_else(|| t.exact(), |(_, a)| a)
    }
    /// The answer that nothing was found, with the nearest assignment.
    fn nothing(&self) -> Answer {
        let a = self.nearest();
        if self.fits(&self.table.totals(&a)) { Answer::Found(a) } else { Answer::Nothing(a) }
    }
    /// An error when a limit cannot be met by any assignment whatever: the message says how far the least is.
    pub fn check(&self) -> Result<()> {
        for &(q, most) in &self.limits {
            let least = self.table.totals(&self.table.least(q)).get(q);
            if !Self::keeps(least, most) {
                let message = format!("no plan has {q} of at most {}", q.show(most));
                return Err(Diagnostic::error("S0421", message)
                    .failure(Failure::Budget)
                    .with_note(format!("the least that the alternatives reach is {}", q.show(least)))
                    .with_help("allow more, or offer more alternatives in the pipeline"));
            }
        }
        Ok(())
    }
}

/// What a strategy found.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// An assignment that keeps every limit.
    Found(Assignment),
    /// None that does; this one is nearest.
    Nothing(Assignment),
}

impl Answer {
    /// The assignment, whether it fits or not.
    pub fn assignment(&self) -> &Assignment {
        match self {
            Answer::Found(a) | Answer::Nothing(a) => a,
        }
    }
}

/// The error of whole plans, by running them.
pub trait Fitness {
    /// The error of an assignment on `samples` samples; `draw` says which. The same arguments give the same number.
    fn error(&mut self, plan: &Assignment, samples: usize, draw: u64) -> Result<f64>;
}

/// What a strategy may use beside the problem.
pub struct Cx<'a> {
    /// Runs plans; without it only strategies that work on the table can answer.
    pub fitness: Option<&'a mut dyn Fitness>,
    /// Seed of everything drawn at random.
    pub seed: u64,
    /// Where an interrupted search goes on.
    pub resume: Option<State>,
    /// Hears of each generation; an error ends the search.
    pub progress: &'a mut dyn FnMut(&State) -> Result<()>,
}

/// A way to choose.
pub trait Strategy {
    /// Chooses.
    fn solve(&self, p: &Problem, cx: &mut Cx) -> Result<Answer>;
    /// Whether it asks for the error of whole plans.
    fn runs_plans(&self) -> bool {
        false
    }
}
