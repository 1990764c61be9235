//! `ilp`: an integer program, solved by branch and bound.

use super::{Answer, Cx, Problem, Quantity, Row, Strategy};
use microlp::{ComparisonOp, OptimizationDirection, Variable};
use tersor_ir::Result;

/// One truth value for each alternative, one alternative in each row, and the limits as linear constraints.
pub struct Ilp;

impl Strategy for Ilp {
    fn solve(&self, p: &Problem, cx: &mut Cx) -> Result<Answer> {
        // A relaxed solution's rounding may cross a limit by the solver's tolerance: then the limits are drawn in by as much.
        for margin in [0.0, 1e-9, 1e-6] {
            let found = program(p, margin).filter(|a| p.fits(&p.table.totals(a)));
            if let Some(a) = found.and_then(|a| super::greedy::climb(p, a)) {
                return Ok(Answer::Found(a));
            }
        }
        super::Greedy.solve(p, cx)
    }
}

fn program(p: &Problem, margin: f64) -> Option<Vec<usize>> {
    // Quantities are taken above each row's least and scaled, so that the solver's absolute tolerances mean the same for bytes and seconds.
    let base = |row: &Row, q: Quantity| row.alternatives.iter().map(|a| a.costs.get(q)).fold(f64::INFINITY, f64::min);
    let largest = |q: Quantity| {
        let above = p.table.rows.iter().flat_map(|r| r.alternatives.iter().map(move |a| a.costs.get(q) - base(r, q)));
        above.fold(0.0, f64::max)
    };
    let scale = largest(p.minimise).max(f64::MIN_POSITIVE);
    let mut lp = microlp::Problem::new(OptimizationDirection::Minimize);
    let mut variables: Vec<Vec<Variable>> = vec![];
    for row in &p.table.rows {
        let b = base(row, p.minimise);
        let one = |a: &super::Alternative| (a.costs.get(p.minimise) - b) / scale;
        let vars: Vec<Variable> = row.alternatives.iter().map(|a| lp.add_binary_var(one(a))).collect();
        lp.add_constraint(vars.iter().map(|&v| (v, 1.0)).collect::<Vec<_>>(), ComparisonOp::Eq, 1.0);
        variables.push(vars);
    }
    for &(q, most) in &p.limits {
        let scale = largest(q);
        let slack = most - p.table.totals(&p.table.least(q)).get(q);
        if scale <= 0.0 {
            if slack < 0.0 {
                return None;
            }
            continue;
        }
        let terms = p.table.rows.iter().zip(&variables).flat_map(|(row, vars)| {
            let b = base(row, q);
            row.alternatives.iter().zip(vars).map(move |(a, &v)| (v, (a.costs.get(q) - b) / scale))
        });
        let room = slack / scale - margin * (most.abs() / scale).max(1.0);
        lp.add_constraint(terms.filter(|t| t.1 > 0.0).collect::<Vec<_>>(), ComparisonOp::Le, room);
    }
    let solution = lp.solve().ok()?;
    let pick = |vars: &Vec<Variable>| {
        let value = |i: &usize| *solution.var_value(vars[*i]);
        (0..vars.len()).max_by(|a, b| value(a).total_cmp(&value(b))).unwrap_or_default()
    };
    Some(variables.iter().map(pick).collect())
}
