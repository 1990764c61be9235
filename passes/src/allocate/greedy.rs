//! `greedy`: one change at a time, by what it costs for what it saves.

use super::{Answer, Assignment, Costs, Cx, Problem, Strategy};
use tersor_ir::Result;

/// From the exact plan, the change with the least growth of the minimised quantity for each unit of excess that it removes, until the limits are kept; then changes that
/// lower the minimised quantity and keep them, the most for the least of the limited quantities first.
pub struct Greedy;

impl Strategy for Greedy {
    fn solve(&self, p: &Problem, _: &mut Cx) -> Result<Answer> {
        Ok(
            match [p.table.exact(), p.nearest()]
                .into_iter()
                .filter_map(|start| climb(p, start))
                .reduce(|x, y| if p.better(&p.table.totals(&y), &p.table.totals(&x)) { y } else { x })
            {
                Some(a) => Answer::Found(a),
                None => p.nothing(),
            },
        )
    }
}

/// The move with the best (least) score among those that `score` accepts: row, alternative.
fn best_move(
    p: &Problem,
    a: &[usize],
    totals: &Costs,
    score: impl Fn(&Costs) -> Option<f64>,
) -> Option<(usize, usize)> {
    let moves = p.table.rows.iter().enumerate().flat_map(|(r, row)| {
        let now = row.alternatives[a[r]].costs;
        row.alternatives.iter().enumerate().map(move |(i, alt)| (r, i, alt.costs - now))
    });
    let scored = moves.filter(|&(r, i, _)| a[r] != i).filter_map(|(r, i, d)| Some((score(&(*totals + d))?, r, i)));
    scored.min_by(|x, y| x.0.total_cmp(&y.0)).map(|(_, r, i)| (r, i))
}

pub(super) fn climb(p: &Problem, mut a: Assignment) -> Option<Assignment> {
    let apply = |a: &mut Assignment, (r, i): (usize, usize)| {
        a[r] = i;
        p.table.totals(a)
    };
    let mut totals = p.table.totals(&a);
    // The number of changes is bounded against sums that rounding moves up and down.
    let most = p.table.rows.iter().map(|r| r.alternatives.len()).sum::<usize>() * 4;
    let mut changes = 0;
    while !p.fits(&totals) {
        changes += 1;
        if changes > most {
            return None;
        }
        let (before, objective) = (p.excess(&totals), totals.get(p.minimise));
        let found = best_move(p, &a, &totals, |t| {
            let saved = before - p.excess(t);
            (saved > 0.0).then(|| (t.get(p.minimise) - objective).max(0.0) / saved)
        })?;
        totals = apply(&mut a, found);
    }
    // Each change lowers the objective.
    for _ in 0..most {
        let objective = totals.get(p.minimise);
        let found = best_move(p, &a, &totals, |t| {
            let gained = objective - t.get(p.minimise);
            let spent = |&(q, most): &(super::Quantity, f64)| {
                (t.get(q) - totals.get(q)).max(0.0)
                    / (most - totals.get(q)).max(most.abs() * 1e-9).max(f64::MIN_POSITIVE)
            };
            (p.fits(t) && gained > objective.abs() * 1e-15).then(|| p.limits.iter().map(spent).sum::<f64>() / gained)
        });
        let Some(found) = found else { break };
        totals = apply(&mut a, found);
    }
    Some(a)
}
