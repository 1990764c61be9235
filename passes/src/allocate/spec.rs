//! Strategies by name: `dp`, `evo{generations=50, offspring=16}`.

use super::{Dp, Evolve, Greedy, Ilp, Strategy, Uniform};
use crate::suggest::did_you_mean;
use tersor_ir::ops::Attr;
use tersor_ir::ops::attr::split_top;
use tersor_ir::{Diagnostic, Result, diag::Failure};

/// Names of strategies and what each does.
pub const STRATEGIES: &[(&str, &str)] = &[
    ("uniform", "the same alternative everywhere: what the others must beat"),
    ("greedy", "one change at a time, by measured error for saved cost"),
    ("dp", "dynamic programming over one limit {buckets=10000}"),
    ("ilp", "integer program, any limits"),
    (
        "evo",
        "evolution on the error of whole plans {generations=100, offspring=32, survivors=[8,2,1], samples=[4,16,64]}",
    ),
];

struct Options<'a> {
    strategy: &'a str,
    left: Vec<(&'a str, &'a str)>,
    known: Vec<&'static str>,
}

impl Options<'_> {
    fn take<T: Attr>(&mut self, name: &'static str, default: T) -> Result<T> {
        self.known.push(name);
        let Some(at) = self.left.iter().position(|o| o.0 == name) else { return Ok(default) };
        let (_, value) = self.left.remove(at);
        T::parse(value).map_err(|e| usage(format!("strategy {}: `{name}` must be {e}", self.strategy)))
    }
    fn count(&mut self, name: &'static str, default: u32) -> Result<usize> {
        let n = self.take(name, default)?;
        if n == 0 {
            Err(usage(format!("strategy {}: `{name}` must be positive", self.strategy)))
        } else {
            Ok(n as usize)
        }
    }
    fn counts(&mut self, name: &'static str, default: &[u32]) -> Result<Vec<usize>> {
        let all = self.take(name, default.to_vec())?;
        let positive = !all.is_empty() && all.iter().all(|&n| n > 0);
        let wrong = || usage(format!("strategy {}: `{name}` must be positive numbers", self.strategy));
        positive.then(|| all.into_iter().map(|n| n as usize).collect()).ok_or_else(wrong)
    }
}

fn usage(message: String) -> Diagnostic {
    Diagnostic::error("S0426", message).failure(Failure::Usage)
}

/// The strategy that a text names.
pub fn parse(text: &str) -> Result<Box<dyn Strategy>> {
    let text = text.trim();
    let (name, inner) = match text.split_once('{') {
        None => (text, ""),
        Some((name, rest)) => {
            let inner = rest.strip_suffix('}');
            (name.trim_end(), inner.ok_or_else(|| usage(format!("`{text}`: expected `}}` at the end of the options")))?)
        }
    };
    let pair = |o| str::split_once(o, '=').map(|(n, v)| (n.trim(), v.trim()));
    let left: Option<Vec<_>> = split_top(inner).into_iter().map(pair).collect();
    let left = left.ok_or_else(|| usage(format!("`{text}`: options are name=value")))?;
    let mut o = Options { strategy: name, left, known: vec![] };
    let out: Box<dyn Strategy> = match name {
        "uniform" => Box::new(Uniform),
        "greedy" => Box::new(Greedy),
        "dp" => Box::new(Dp { buckets: o.count("buckets", 10_000)?.min(1_000_000) }),
        "ilp" => Box::new(Ilp),
        "evo" => Box::new(Evolve {
            generations: o.count("generations", 100)?,
            offspring: o.count("offspring", 32)?,
            survivors: o.counts("survivors", &[8, 2, 1])?,
            samples: o.counts("samples", &[4, 16, 64])?,
        }),
        _ => {
            let names: Vec<&str> = STRATEGIES.iter().map(|s| s.0).collect();
            return Err(usage(format!("there is no strategy `{name}`")).with_help(did_you_mean(name, &names)));
        }
    };
    match o.left.first() {
        None => Ok(out),
        Some((option, _)) => {
            let d = usage(format!("strategy {name} has no option `{option}`"));
            Err(if o.known.is_empty() { d } else { d.with_help(did_you_mean(option, &o.known)) })
        }
    }
}
