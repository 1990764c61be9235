//! Pareto fronts.

use super::{Answer, Assignment, Costs, Cx, Dp, Ilp, Problem, Quantity, Strategy};
use serde::Serialize;
use tersor_ir::Result;

/// A plan with what it costs.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Point {
    /// The plan.
    #[serde(skip)]
    pub plan: Assignment,
    /// Its costs.
    #[serde(flatten)]
    pub costs: Costs,
}

/// The points that no other is at least as good as in all of the quantities, and better in one; by the first quantity. Of equal points one stays.
pub fn front(points: Vec<Point>, quantities: &[Quantity]) -> Vec<Point> {
    let values = |p: &Point| quantities.iter().map(|&q| p.costs.get(q)).collect::<Vec<_>>();
    let mut out: Vec<Point> = vec![];
    for p in points {
        let v = values(&p);
        let at_least = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(x, y)| x <= y);
        if out.iter().any(|o| at_least(&values(o), &v)) {
            continue;
        }
        out.retain(|o| !at_least(&v, &values(o)));
        out.push(p);
    }
    out.sort_by(|a, b| values(a).partial_cmp(&values(b)).unwrap_or(std::cmp::Ordering::Equal));
    out
}

/// Best plans for limits on `q` from the least that the table reaches to what the exact plan has; the problem's other limits are kept.
pub fn sweep(p: &Problem, q: Quantity, points: usize) -> Result<Vec<Assignment>> {
    let total = |a: &Assignment| p.table.totals(a).get(q);
    let (low, high) = (total(&p.table.least(q)), total(&p.table.exact()));
    let mut out: Vec<Assignment> = vec![];
    for i in 0..points {
        let share = i as f64 / (points.max(2) - 1) as f64;
        let mut limits: Vec<_> = p.limits.iter().copied().filter(|l| l.0 != q).collect();
        limits.push((q, low + (high - low).max(0.0) * share));
        let at = Problem { table: p.table, limits, minimise: p.minimise };
        let dp = Dp { buckets: 10_000 };
        let strategy: &dyn Strategy = if at.limits.len() == 1 { &dp } else { &Ilp };
        let mut cx = Cx { fitness: None, seed: 0, resume: None, progress: &mut |_| Ok(()) };
        if let Answer::Found(a) = strategy.solve(&at, &mut cx)?
            && !out.contains(&a)
        {
            out.push(a);
        }
    }
    Ok(out)
}
