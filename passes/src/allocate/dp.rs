//! `dp`: dynamic programming over one limit (L-GreCo, Alimohammadi, Markov et al., 2022; digest 36).
//!
//! What an alternative has above the row's least is rounded up to buckets of the slack that the limit leaves. Rounding up means that the limit is kept; the plan is best
//! up to the rounding, and exactly best where all amounts are multiples of one that fits the number of buckets.

use super::{Answer, Cx, Problem, Row, Strategy};
use tersor_ir::{Diagnostic, Result, diag::Failure};

/// Dynamic programming.
pub struct Dp {
    /// Buckets that the slack is divided into.
    pub buckets: usize,
}

/// The unit of a bucket: the amounts' greatest common divisor where they are integers and it is large enough, so that nothing is rounded.
fn unit(slack: f64, amounts: impl Iterator<Item = f64>, buckets: usize) -> f64 {
    let whole = |v: f64| (v.fract() == 0.0 && v.abs() < 9e15).then_some(v as u64);
    let gcd = amounts.map(whole).try_fold(0u64, |a, b| {
        let (mut a, mut b) = (a, b?);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        Some(a)
    });
    match gcd {
        Some(g) if g > 0 && slack / g as f64 <= buckets as f64 => g as f64,
        _ => slack / buckets as f64,
    }
}

impl Strategy for Dp {
    fn solve(&self, p: &Problem, _: &mut Cx) -> Result<Answer> {
        let (q, most) = match p.limits[..] {
            [] => return Ok(Answer::Found(p.table.least(p.minimise))),
            [one] => one,
            _ => {
                let names: Vec<&str> = p.limits.iter().map(|l| l.0.name()).collect();
                let message = format!("dp keeps one limit; there are {}: {}", names.len(), names.join(", "));
                return Err(Diagnostic::error("S0424", message)
                    .failure(Failure::Usage)
                    .with_help("use ilp, greedy or evo"));
            }
        };
        let least = p.table.least(q);
        let slack = most - p.table.totals(&least).get(q);
        if !Problem::keeps(-slack, 0.0) && !p.fits(&p.table.totals(&least)) {
            return Ok(Answer::Nothing(least));
        }
        let slack = slack.max(0.0);
        let above = |(row, &l): (&Row, &usize)| -> Vec<f64> {
            let base = row.alternatives[l].costs.get(q);
            row.alternatives.iter().map(|a| (a.costs.get(q) - base).max(0.0)).collect()
        };
        let amounts: Vec<Vec<f64>> = p.table.rows.iter().zip(&least).map(above).collect();
        let unit = unit(slack, amounts.iter().flatten().copied(), self.buckets.max(1));
        let room = if unit > 0.0 { (slack / unit) as usize } else { 0 };
        let taken = |amount: f64| {
            if amount <= 0.0 {
                0.0
            } else if unit > 0.0 {
                (amount / unit).ceil()
            } else {
                f64::INFINITY
            }
        };
        // best[b]: least objective of the rows so far with at most b buckets; from[r][b]: the alternative that row r has in it.
        let mut best = vec![0.0; room + 1];
        let mut from: Vec<Vec<u32>> = vec![];
        for (row, amounts) in p.table.rows.iter().zip(&amounts) {
            let mut next = vec![f64::INFINITY; room + 1];
            let mut pick = vec![0u32; room + 1];
            for (i, (alt, &amount)) in row.alternatives.iter().zip(amounts).enumerate() {
                let buckets = taken(amount);
                if buckets > room as f64 {
                    continue;
                }
                let (buckets, cost) = (buckets as usize, alt.costs.get(p.minimise));
                for b in buckets..=room {
                    let total = best[b - buckets] + cost;
                    let tie = total == next[b] && alt.costs.latency < row.alternatives[pick[b] as usize].costs.latency;
                    if total < next[b] || tie {
                        (next[b], pick[b]) = (total, i as u32);
                    }
                }
            }
            best = next;
            from.push(pick);
        }
        let (mut at, mut a) = (room, vec![0; from.len()]);
        for (r, pick) in from.iter().enumerate().rev() {
            a[r] = pick[at] as usize;
            at -= taken(amounts[r][a[r]]) as usize;
        }
        Ok(if p.fits(&p.table.totals(&a)) { Answer::Found(a) } else { p.nothing() })
    }
}
