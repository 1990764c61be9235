//! What extents can be before a run has counted anything.
//!
//! Inputs give most symbols their values; a symbol with a cap gets one while the model runs, from 0 to the cap (`program::Bind`). Memory is planned for the most that each
//! extent can be, by interval arithmetic over the extents table.

use crate::artifact::Symbol;
use crate::error::{Error, Kind, Result};
use crate::program::{Extent, ExtentOp, apply, no_value};

/// The least and the most that an extent can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub least: i64,
    pub most: i64,
}

impl Range {
    fn point(v: i64) -> Range {
        Range { least: v, most: v }
    }

    fn over(values: impl IntoIterator<Item = Option<i64>>) -> Option<Range> {
        let all = values.into_iter().collect::<Option<Vec<i64>>>()?;
        Some(Range { least: *all.iter().min()?, most: *all.iter().max()? })
    }

    /// The range of `op` over all pairs from two ranges; `None` where no pair has a value, or one overflows.
    fn apply(op: ExtentOp, a: Range, b: Range) -> Option<Range> {
        let of = |a, b| apply(op, a, b);
        let corners = |divisors: &[i64]| {
            Range::over([a.least, a.most].into_iter().flat_map(|a| divisors.iter().map(move |&b| of(a, b))))
        };
        match op {
            ExtentOp::Sub => Range::over([of(a.least, b.most), of(a.most, b.least)]),
            // A quotient is monotone in the divisor on each side of 0.
            ExtentOp::FloorDiv => {
                let inside = |d: &i64| *d != 0 && (b.least..=b.most).contains(d);
                corners(&[b.least, -1, 1, b.most].into_iter().filter(inside).collect::<Vec<_>>())
            }
            ExtentOp::Mul => corners(&[b.least, b.most]),
            _ => Range::over([of(a.least, b.least), of(a.most, b.most)]),
        }
    }
}

/// The range of every entry of a table. `given` has a value for each symbol; those of symbols with a cap are not looked at.
pub fn ranges(table: &[Extent], symbols: &[Symbol], given: &[i64]) -> Result<Vec<Range>> {
    let mut out: Vec<Range> = Vec::with_capacity(table.len());
    for (i, e) in table.iter().enumerate() {
        let entry = |x: i64| usize::try_from(x).ok().and_then(|x| out.get(x)).copied();
        let range = match e.op() {
            ExtentOp::Constant => Some(Range::point(e.a)),
            ExtentOp::Symbol => usize::try_from(e.a).ok().and_then(|s| match symbols.get(s)?.cap {
                Some(cap) => Some(Range { least: 0, most: entry(cap.into())?.most.max(0) }),
                None => given.get(s).copied().map(Range::point),
            }),
            op => entry(e.a).zip(entry(e.b)).and_then(|(a, b)| Range::apply(op, a, b)),
        };
        out.push(range.ok_or_else(|| no_value(i))?);
    }
    Ok(out)
}

/// The most that every entry can be when inputs have the extents that symbols hint at.
pub fn at_hints(table: &[Extent], symbols: &[Symbol]) -> Result<Vec<i64>> {
    let hints: Vec<i64> = symbols.iter().map(|s| i64::try_from(s.hint).unwrap_or(i64::MAX)).collect();
    Ok(ranges(table, symbols, &hints)?.into_iter().map(|r| r.most).collect())
}

/// Checks what a count gave a symbol.
pub fn check(name: &str, count: i64, cap: i64) -> Result<()> {
    if (0..=cap).contains(&count) {
        return Ok(());
    }
    let what = format!("{name}, which the data decide, is {count}; there is room for 0..={cap}");
    Err(Error::new(Kind::Count, what)
        .with_help("compile with a higher --limit computed_extent, where that is what bounds it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Extents, evaluate};
    use proptest::prelude::*;

    fn symbol(cap: Option<u32>) -> Symbol {
        Symbol { name: "n".into(), min: 0, max: Symbol::UNBOUNDED, hint: 4, cap }
    }

    proptest! {
        /// No value that an extent takes for some count lies outside of its range.
        #[test]
        fn ranges_hold_all_values(
            ops in prop::collection::vec((0usize..6, any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..12),
            given in 0i64..6,
            constant in -3i64..4,
        ) {
            use ExtentOp::{Add, FloorDiv, Max, Min, Mul, Sub};
            let mut x = Extents::new();
            x.constant(constant);
            let input = x.symbol(0);
            let first = x.symbol(1);
            let cap = x.add(input, first);
            x.symbol(2);
            for (op, a, b) in ops {
                let n = x.entries().len();
                x.apply([Add, Sub, Mul, FloorDiv, Max, Min][op], a.index(n) as u32, b.index(n) as u32);
            }
            let symbols = [symbol(None), symbol(Some(input)), symbol(Some(cap))];
            let Ok(ranges) = ranges(x.entries(), &symbols, &[given, 0, 0]) else { return Ok(()) };
            for n in 0..=given {
                for m in 0..=given + n {
                    let Ok(values) = evaluate(x.entries(), &[given, n, m]) else { continue };
                    for (v, r) in values.iter().zip(&ranges) {
                        prop_assert!((r.least..=r.most).contains(v), "{v} in {r:?}, n = {n}, m = {m}");
                    }
                }
            }
        }
    }
}
