//! Budgets: how much of each quantity a plan may have, in absolute numbers or against the exact model.

use super::{Costs, Problem, Table};
use crate::suggest::did_you_mean;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use tersor_ir::{Diagnostic, Result, diag::Failure};

/// What a plan has, and a budget limits.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantity {
    /// Measured error, in the metric of the search.
    Error,
    /// Seconds.
    Latency,
    /// Bytes of constants as kernels read them.
    Size,
    /// Bytes of constants as they are encoded.
    Encoded,
    /// Bytes of constants and working memory.
    Memory,
    /// Multiply-adds by weights that are stored.
    Work,
}

impl Quantity {
    /// All of them.
    pub const ALL: [Quantity; 6] =
        [Quantity::Error, Quantity::Latency, Quantity::Size, Quantity::Encoded, Quantity::Memory, Quantity::Work];
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Quantity::Error => "error",
            Quantity::Latency => "latency",
            Quantity::Size => "size",
            Quantity::Encoded => "encoded",
            Quantity::Memory => "memory",
            Quantity::Work => "work",
        }
    }
    /// A number of it with its unit.
    pub fn show(self, v: f64) -> String {
        let scaled = |units: &[&str], step: f64| {
            let (mut v, mut i) = (v, 0);
            while v.abs() >= step && i + 1 < units.len() {
                v /= step;
                i += 1;
            }
            format!("{} {}", three(v), units[i])
        };
        match self {
            Quantity::Error => format!("{v:.4e}"),
            Quantity::Latency => match v {
                v if v < 1e-3 => format!("{} us", three(v * 1e6)),
                v if v < 1.0 => format!("{} ms", three(v * 1e3)),
                v => format!("{} s", three(v)),
            },
            Quantity::Size | Quantity::Encoded | Quantity::Memory => scaled(&["B", "KB", "MB", "GB"], 1024.0),
            Quantity::Work => scaled(&["MAC", "kMAC", "MMAC", "GMAC", "TMAC"], 1000.0),
        }
    }
    fn units(self) -> &'static [(&'static str, f64)] {
        const KB: f64 = 1024.0;
        match self {
            Quantity::Error => &[("", 1.0)],
            Quantity::Latency => &[("us", 1e-6), ("ms", 1e-3), ("s", 1.0)],
            Quantity::Size | Quantity::Encoded | Quantity::Memory => &[
                ("", 1.0),
                ("B", 1.0),
                ("K", KB),
                ("KB", KB),
                ("M", KB * KB),
                ("MB", KB * KB),
                ("G", KB * KB * KB),
                ("GB", KB * KB * KB),
            ],
            Quantity::Work => &[("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)],
        }
    }
}

fn three(v: f64) -> String {
    let digits = (2 - v.abs().max(1.0).log10().floor() as i32).max(0) as usize;
    format!("{v:.digits$}")
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Quantity {
    type Err = Diagnostic;
    fn from_str(text: &str) -> Result<Quantity> {
        Quantity::ALL.into_iter().find(|q| q.name() == text).ok_or_else(|| {
            let names = Quantity::ALL.map(Quantity::name);
            let d = Diagnostic::error("S0422", format!("`{text}` is nothing that a budget can limit"));
            d.failure(Failure::Usage).with_help(format!("quantities are {}", names.join(", ")))
        })
    }
}

/// How much of a quantity there may be.
#[derive(Clone, PartialEq, Debug)]
pub enum Limit {
    /// In the quantity's unit.
    Absolute(f64),
    /// A factor of what the exact model has.
    Factor(f64),
    /// As much as with the alternative of this name wherever there is one.
    Like(String),
}

/// Limits, each on one quantity.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Budget {
    /// The limits, with their text.
    pub limits: Vec<(Quantity, Limit, String)>,
}

impl Budget {
    /// Adds `quantity=limit` or `quantity<=limit`: `4MB`, `3ms`, `0.01`; against the exact model `0.5x`, `30%`, `-20%`; `@w4`, as much as with that
    /// alternative everywhere.
    pub fn add(&mut self, text: &str) -> Result<()> {
        let wrong = |what: &str| {
            let d = Diagnostic::error("S0422", format!("budget `{text}`: {what}")).failure(Failure::Usage);
            d.with_help("write size=0.3x, size=4MB, latency=-20%, latency=3ms, memory=512MB, error=0.01")
        };
        let (name, value) =
            text.split_once("<=").or_else(|| text.split_once('=')).ok_or_else(|| wrong("no `=` in it"))?;
        let (name, value) = (name.trim(), value.trim());
        let q: Quantity = name.parse()?;
        if self.limits.iter().any(|l| l.0 == q) {
            return Err(wrong("this quantity has a limit already"));
        }
        let number = |t: &str| t.trim().parse::<f64>().ok().filter(|v| v.is_finite());
        if let Some(alternative) = value.strip_prefix('@') {
            self.limits.push((q, Limit::Like(alternative.into()), format!("{name}={value}")));
            return Ok(());
        }
        let limit = if let Some(n) = value.strip_suffix(['x', 'X']) {
            number(n).map(|v| (v, true))
        } else if let Some(n) = value.strip_suffix('%') {
            number(n).map(|v| (if n.trim_start().starts_with('-') { 1.0 + v / 100.0 } else { v / 100.0 }, true))
        } else {
            let at = value.find(|c: char| c.is_alphabetic() && !matches!(c, 'e' | 'E')).unwrap_or(value.len());
            let (n, unit) = value.split_at(at);
            let scale = q.units().iter().find(|u| u.0 == unit.trim()).map(|u| u.1);
            number(n).zip(scale).map(|(n, s)| (n * s, false))
        };
        let (v, factor) = limit.ok_or_else(|| wrong("the limit is not understood"))?;
        if v < 0.0 || (v == 0.0 && q != Quantity::Error) {
            return Err(wrong("there is nothing below that"));
        }
        let limit = if factor { Limit::Factor(v) } else { Limit::Absolute(v) };
        self.limits.push((q, limit, format!("{name}={value}")));
        Ok(())
    }
    /// Reads a list of limits.
    pub fn parse<'a>(items: impl IntoIterator<Item = &'a str>) -> Result<Budget> {
        let mut out = Budget::default();
        items.into_iter().flat_map(|i| i.split(',')).filter(|i| !i.trim().is_empty()).try_for_each(|i| out.add(i))?;
        Ok(out)
    }
    /// Whether this quantity has a limit.
    pub fn limits(&self, q: Quantity) -> bool {
        self.limits.iter().any(|l| l.0 == q)
    }
    /// What is minimised where nothing is said: error, or size where error has a limit.
    pub fn default_objective(&self) -> Quantity {
        if self.limits(Quantity::Error) { Quantity::Size } else { Quantity::Error }
    }
    /// An error where a limit names an alternative that is not among those of the sites.
    pub fn known<'n>(&self, names: impl Iterator<Item = &'n str> + Clone) -> Result<()> {
        let named = |(_, limit, text): &'_ (Quantity, Limit, String)| match limit {
            Limit::Like(name) if names.clone().all(|n| n != *name) => Err(unknown(text, name, names.clone())),
            _ => Ok(()),
        };
        self.limits.iter().try_for_each(named)
    }
    /// The limits in absolute numbers.
    pub fn absolute(&self, table: &Table) -> Result<Vec<(Quantity, f64)>> {
        let exact: Costs = table.totals(&table.exact());
        let one = |(q, limit, text): &(Quantity, Limit, String)| match limit {
            Limit::Absolute(v) => Ok((*q, *v)),
            Limit::Factor(_) if exact.get(*q) <= 0.0 => {
                let d =
                    Diagnostic::error("S0423", format!("budget `{text}`: the exact model has no {q} to compare with"));
                Err(d.failure(Failure::Usage).with_help("give an absolute limit"))
            }
            Limit::Factor(f) => Ok((*q, f * exact.get(*q))),
            Limit::Like(name) => match table.everywhere(name) {
                Some(a) => Ok((*q, table.totals(&a).get(*q))),
                None => {
                    Err(unknown(text, name, table.rows.iter().flat_map(|r| r.alternatives.iter().map(|a| &*a.name))))
                }
            },
        };
        self.limits.iter().map(one).collect()
    }
    /// The problem on a table.
    pub fn problem<'a>(&self, table: &'a Table, minimise: Quantity) -> Result<Problem<'a>> {
        Ok(Problem { table, limits: self.absolute(table)?, minimise })
    }
}

fn unknown<'n>(text: &str, name: &str, names: impl Iterator<Item = &'n str>) -> Diagnostic {
    let names: Vec<&str> = names.collect::<BTreeSet<_>>().into_iter().collect();
    let d = Diagnostic::error("S0423", format!("budget `{text}`: no site has that alternative"));
    d.failure(Failure::Usage).with_help(did_you_mean(name, &names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let one = |t: &str| Budget::parse([t]).map(|b| b.limits[0].1.clone());
        assert_eq!(one("size=4MB").unwrap(), Limit::Absolute(4.0 * 1048576.0));
        assert_eq!(one("size<=0.5x").unwrap(), Limit::Factor(0.5));
        assert_eq!(one("latency=-20%").unwrap(), Limit::Factor(0.8));
        assert_eq!(one("size=30%").unwrap(), Limit::Factor(0.3));
        assert_eq!(one("latency=3ms").unwrap(), Limit::Absolute(0.003));
        assert_eq!(one("size=@w4-gptq").unwrap(), Limit::Like("w4-gptq".into()));
        assert_eq!(one("error=1e-2").unwrap(), Limit::Absolute(0.01));
        for bad in
            ["size", "size=", "size=4s", "latency=3", "size=-4MB", "size=nanx", "speed=1", "size=0x", "latency=-120%"]
        {
            assert_eq!(one(bad).unwrap_err().failure, Failure::Usage, "{bad}");
        }
        assert_eq!(Budget::parse(["size=0.3x,latency=2ms", "error=0.1"]).unwrap().limits.len(), 3);
        assert!(Budget::parse(["size=1MB", "size=2MB"]).is_err());
    }

    #[test]
    fn numbers_have_units() {
        let shown = [Quantity::Size.show(1536.0), Quantity::Latency.show(0.00214), Quantity::Work.show(4.1e9)];
        assert_eq!(shown, ["1.50 KB", "2.14 ms", "4.10 GMAC"]);
    }
}
