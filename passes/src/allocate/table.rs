//! Sites and alternatives with their costs.

use super::Quantity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::{Add, Sub};
use tersor_ir::plan::Plan;

/// What something costs. All are sums over the parts of a model.
#[derive(Copy, Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Costs {
    /// Measured error, in the metric of the search.
    pub error: f64,
    /// Seconds of one run at typical extents.
    pub latency: f64,
    /// Bytes of constants as they are packed.
    pub size: f64,
    /// Bytes of constants as they are encoded, whatever kernels make of them.
    #[serde(default)]
    pub encoded: f64,
    /// Bytes that a run needs: constants and working memory.
    pub memory: f64,
    /// Multiply-adds of one run.
    pub work: f64,
}

impl Costs {
    /// One of them.
    pub fn get(&self, q: Quantity) -> f64 {
        match q {
            Quantity::Error => self.error,
            Quantity::Latency => self.latency,
            Quantity::Size => self.size,
            Quantity::Encoded => self.encoded,
            Quantity::Memory => self.memory,
            Quantity::Work => self.work,
        }
    }
    fn zip(self, o: Costs, f: impl Fn(f64, f64) -> f64) -> Costs {
        Costs {
            error: f(self.error, o.error),
            latency: f(self.latency, o.latency),
            size: f(self.size, o.size),
            encoded: f(self.encoded, o.encoded),
            memory: f(self.memory, o.memory),
            work: f(self.work, o.work),
        }
    }
}

impl Add for Costs {
    type Output = Costs;
    fn add(self, o: Costs) -> Costs {
        self.zip(o, |a, b| a + b)
    }
}
impl Sub for Costs {
    type Output = Costs;
    fn sub(self, o: Costs) -> Costs {
        self.zip(o, |a, b| a - b)
    }
}
impl std::iter::Sum for Costs {
    fn sum<I: Iterator<Item = Costs>>(all: I) -> Costs {
        all.fold(Costs::default(), Add::add)
    }
}

/// One way to decide a row.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Alternative {
    /// The alternative's name at the row's sites.
    pub name: String,
    /// What it costs there, all sites together.
    pub costs: Costs,
}

/// One decision: a site, or sites that take the alternative of one name together.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Names of the sites.
    pub sites: Vec<String>,
    /// The alternatives, the exact one first.
    pub alternatives: Vec<Alternative>,
}

/// The chosen alternative of each row.
pub type Assignment = Vec<usize>;

/// All decisions, and what everything else costs.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Table {
    /// The decisions. None is without alternatives.
    pub rows: Vec<Row>,
    /// What no decision changes.
    pub fixed: Costs,
}

impl Table {
    /// Costs of an assignment.
    pub fn totals(&self, a: &[usize]) -> Costs {
        self.fixed + self.rows.iter().zip(a).map(|(r, &i)| r.alternatives[i].costs).sum()
    }
    /// The exact alternative everywhere.
    pub fn exact(&self) -> Assignment {
        vec![0; self.rows.len()]
    }
    /// The alternative of a name in each row that has it, the exact one in the others; `None` where no row has it.
    pub fn everywhere(&self, name: &str) -> Option<Assignment> {
        let at: Vec<_> = self.rows.iter().map(|r| r.alternatives.iter().position(|a| a.name == name)).collect();
        let some = at.iter().any(Option::is_some);
        some.then(|| at.into_iter().map(Option::unwrap_or_default).collect())
    }
    /// The alternative that has least of a quantity, row by row; the first of equal ones.
    pub fn least(&self, q: Quantity) -> Assignment {
        let one = |r: &Row| {
            let cost = |i: &usize| r.alternatives[*i].costs.get(q);
            (0..r.alternatives.len()).min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or_default()
        };
        self.rows.iter().map(one).collect()
    }
    /// Joins rows whose sites are in one of the groups, each a list of site names: they will have those alternatives that all have, by name, with summed costs.
    pub fn join(&mut self, groups: &[Vec<String>]) {
        for group in groups {
            let (mine, rest): (Vec<Row>, Vec<Row>) =
                std::mem::take(&mut self.rows).into_iter().partition(|r| r.sites.iter().any(|s| group.contains(s)));
            self.rows = rest;
            let Some((first, others)) = mine.split_first() else { continue };
            let mut joined = first.clone();
            for other in others {
                joined.sites.extend(other.sites.iter().cloned());
                joined.alternatives.retain_mut(|a| {
                    let same = other.alternatives.iter().find(|b| b.name == a.name);
                    a.costs = same.map_or(a.costs, |b| a.costs + b.costs);
                    same.is_some()
                });
            }
            self.rows.push(joined);
        }
    }
    /// The plan that an assignment is.
    pub fn plan(&self, a: &[usize]) -> Plan {
        let pairs = self.rows.iter().zip(a).flat_map(|(r, &i)| r.sites.iter().map(move |s| (s, &r.alternatives[i])));
        Plan { picks: pairs.map(|(s, a)| (s.clone(), a.name.clone())).collect() }
    }
    /// The assignment that a plan is; rows that it does not name stay exact. `None` when it names an alternative that a row lacks, or different ones in one row.
    pub fn assignment(&self, plan: &Plan) -> Option<Assignment> {
        let one = |r: &Row| {
            let picks: Vec<&String> = r.sites.iter().filter_map(|s| plan.picks.get(s)).collect();
            let Some(first) = picks.first() else { return Some(0) };
            if picks.len() != r.sites.len() || picks.iter().any(|p| p != first) {
                return None;
            }
            r.alternatives.iter().position(|a| a.name == **first)
        };
        self.rows.iter().map(one).collect()
    }
    /// How many rows take each alternative, by name.
    pub fn counts<'a>(&'a self, a: &[usize]) -> BTreeMap<&'a str, usize> {
        let mut out = BTreeMap::new();
        for (r, &i) in self.rows.iter().zip(a) {
            *out.entry(r.alternatives[i].name.as_str()).or_default() += 1;
        }
        out
    }
}
