//! `uniform`: the same alternative everywhere.

use super::{Answer, Assignment, Cx, Problem, Strategy};
use std::collections::BTreeSet;
use tersor_ir::Result;

/// The alternative of one name at every row that has it, the exact one at the others: the best name that keeps the limits. It is what other strategies must beat.
pub struct Uniform;

/// Each name's assignment, in the order of names.
pub(super) fn assignments(p: &Problem) -> Vec<Assignment> {
    let rows = &p.table.rows;
    let names: BTreeSet<&str> = rows.iter().flat_map(|r| r.alternatives.iter().map(|a| a.name.as_str())).collect();
    std::iter::once(p.table.exact()).chain(names.into_iter().filter_map(|n| p.table.everywhere(n))).collect()
}

impl Strategy for Uniform {
    fn solve(&self, p: &Problem, _: &mut Cx) -> Result<Answer> {
        let all = assignments(p).into_iter().map(|a| (p.table.totals(&a), a));
        let best = all.filter(|(t, _)| p.fits(t)).reduce(|x, y| if p.better(&y.0, &x.0) { y } else { x });
        if let Some((_, a)) = best {
            return Ok(Answer::Found(a));
        }
        let excess = |a: &Assignment| p.excess(&p.table.totals(a));
        let nearest = assignments(p).into_iter().min_by(|x, y| excess(x).total_cmp(&excess(y)));
        Ok(Answer::Nothing(nearest.unwrap_or_else(|| p.table.exact())))
    }
}
