//! Extents that differ and must be equal, and extents that grow too large to handle.
//!
//! Files give one extent several names (`batch` here, `N` there, `total` for `past+seq`). Where an operator can only mean something if two of them are equal, one is
//! replaced by the other and the graph is read again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use tersor_ir::dim::{Atom, Bindings, SymbolInfo};
use tersor_ir::ops::{Op, conv};
use tersor_ir::{Diagnostic, Dim, Failure, Func, Type};

/// What replaces symbols.
pub(super) type Aliases = BTreeMap<Arc<str>, Dim>;

/// Terms and factors of one extent, with those inside of quotients.
const MAX_SIZE: usize = 256;
/// Terms of the product of a tensor's extents.
const MAX_TERMS: usize = 4096;

/// Replaces symbols by what they are equal to.
pub(super) fn resolve(d: &Dim, aliases: &Aliases) -> Dim {
    if aliases.is_empty() { d.clone() } else { d.replace(&|s| aliases.get(s).cloned()) }
}

/// A pair of extents that an operator needs to be equal.
pub(super) fn mismatch(op: &Op, t: &[&Type]) -> Option<(Dim, Dim)> {
    let differ = |a: &Dim, b: &Dim| (a != b).then(|| (a.clone(), b.clone()));
    match op {
        Op::MatMul(m) => {
            let ([.., ar, ac], [.., br, bc]) = (&t[0].shape[..], &t[1].shape[..]) else { return None };
            let inner = (if m.trans_a { ar } else { ac }, if m.trans_b { bc } else { br });
            differ(inner.0, inner.1).or_else(|| {
                let lead = |t: &Type| t.shape[..t.rank() - 2].to_vec();
                broadcast(&[&lead(t[0]), &lead(t[1])])
            })
        }
        Op::Concat(c) => {
            let others = t.iter().skip(1).filter(|x| x.rank() == t[0].rank());
            others
                .flat_map(|x| (0..x.rank()).map(move |a| (a, x)))
                .find_map(|(a, x)| if a == c.axis as usize { None } else { differ(&t[0].shape[a], &x.shape[a]) })
        }
        Op::Conv(c) => {
            let channels = t[0].shape.get(conv::Conv::axes(c.channels_last, t[0].rank()).1)?;
            differ(channels, &(t[1].shape.get(1)?.clone() * c.groups.into()))
        }
        Op::Reshape(r) => {
            let (a, b) = (t[0].elements(), r.shape.iter().fold(Dim::from(1), |a, d| a * d.clone()));
            differ(&a, &b)
        }
        Op::Attention(_) => {
            let (q, k, v) = (&t[0].shape, &t[1].shape, &t[2].shape);
            if [q, k, v].iter().any(|s| s.len() != 4) {
                return None;
            }
            let pairs = [(&q[0], &k[0]), (&q[3], &k[3]), (&k[0], &v[0]), (&k[1], &v[1]), (&k[2], &v[2])];
            pairs.into_iter().find_map(|(a, b)| differ(a, b)).or_else(|| {
                let scores = [q[0].clone(), q[1].clone(), q[2].clone(), k[2].clone()];
                broadcast(&[&t.get(3)?.shape, &scores])
            })
        }
        Op::Broadcast(b) => broadcast(&[&t[0].shape, &b.shape]),
        Op::Binary(_)
        | Op::Compare(_)
        | Op::Select(_)
        | Op::LayerNorm(_)
        | Op::RmsNorm(_)
        | Op::Rope(_)
        | Op::Quant(_) => {
            let shapes: Vec<&[Dim]> = t.iter().map(|t| &t.shape[..]).collect();
            broadcast(&shapes)
        }
        _ => None,
    }
}

/// An error about extents that must be equal, and that the data decide.
pub(super) fn undecidable(a: &Dim, b: &Dim) -> Diagnostic {
    let message = format!("extents {a} and {b} must be equal, and the data decide whether they are");
    let d = Diagnostic::error("O0035", message).failure(Failure::Unsupported);
    d.with_help("select by one condition where both are to be of one length")
}

/// An error about extents that differ, and that some inputs may still make equal.
pub(super) fn left_open(d: Diagnostic) -> Diagnostic {
    let help = "say what the extents are with --dim: NAME=NUMBER, or that they are multiples, NAME=32*OTHER";
    d.failure(Failure::Unsupported).with_help(help)
}

/// The first pair of extents that do not broadcast.
pub(super) fn broadcast(shapes: &[&[Dim]]) -> Option<(Dim, Dim)> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let one = Dim::from(1);
    (0..rank).find_map(|back| {
        let mut at = shapes.iter().filter_map(|s| s.len().checked_sub(back + 1).map(|i| &s[i])).filter(|d| **d != one);
        let first = at.next()?;
        at.find(|d| *d != first).map(|d| (first.clone(), d.clone()))
    })
}

/// A symbol and what it must be for the two extents to be equal. Only the given `symbols` are of inputs, and can be anything; others are what the data decide.
pub(super) fn solve(a: &Dim, b: &Dim, symbols: &[Arc<str>]) -> Option<(Arc<str>, Dim)> {
    let mut open = true;
    [a, b].iter().for_each(|d| d.symbols(&mut |s| open &= symbols.contains(s)));
    if !open {
        return None;
    }
    let lone = |s: &Dim, by: &Dim| s.as_symbol().filter(|s| !by.mentions(s)).map(|s| (s.clone(), by.clone()));
    // Of two symbols the one that came later goes.
    let later = |s: &Dim| s.as_symbol().and_then(|s| symbols.iter().position(|x| x == s));
    let (a, b) = if later(b) > later(a) { (b, a) } else { (a, b) };
    if let Some(found) = lone(a, b).or_else(|| lone(b, a)).filter(|(_, d)| d.as_const().is_none_or(|d| d > 0)) {
        return Some(found);
    }
    // One symbol and numbers: c * s + r = 0.
    let difference = a.clone() - b.clone();
    let mut terms = difference.terms();
    let r: i64 = terms.iter().find(|(m, _)| m.is_empty()).map_or(0, |t| t.1);
    terms.retain(|(m, _)| !m.is_empty());
    match &terms[..] {
        [(m, c)] => match &m[..] {
            [Atom::Symbol(s)] if r % c == 0 && -r / c > 0 => Some((s.clone(), (-r / c).into())),
            _ => None,
        },
        _ => None,
    }
}

/// Whether an extent is small enough to compute with.
pub(super) fn handy(d: &Dim) -> bool {
    fn size(d: &Dim, budget: &mut usize) {
        for (m, _) in d.terms() {
            *budget = budget.saturating_sub(1 + m.len());
            for a in m {
                if let (Atom::FloorDiv(x, y) | Atom::Max(x, y), true) = (&a, *budget > 0) {
                    size(x, budget);
                    size(y, budget);
                }
            }
            if *budget == 0 {
                return;
            }
        }
    }
    let mut budget = MAX_SIZE;
    d.as_const().is_some() || {
        size(d, &mut budget);
        budget > 0
    }
}

/// Raises the hints of `open` symbols until no value of `f` has a negative extent at them and no op lacks elements: what is compiled is planned there. Those that
/// no doubling helps stay.
pub(super) fn raise_hints(f: &Func, symbols: &mut BTreeMap<Arc<str>, SymbolInfo>, open: impl Fn(&str) -> bool) {
    let extents = f.values.values().flat_map(|v| v.ty.shape.iter()).filter(|d| !d.is_never_negative()).cloned();
    let involved: HashSet<Dim> = extents.chain(f.nodes.values().flat_map(|n| n.needs(f))).collect();
    let mut hints: Bindings = symbols.iter().map(|(s, i)| (s.clone(), i.hint)).collect();
    for _ in 0..20 {
        let mut low = BTreeSet::new();
        for d in involved.iter().filter(|d| d.eval(&hints).is_some_and(|n| n < 0)) {
            d.symbols(&mut |s| low.extend([s.clone()]));
        }
        if low.is_empty() {
            symbols.iter_mut().for_each(|(s, i)| i.hint = hints[s]);
            return;
        }
        for s in low.iter().filter(|s| open(s)) {
            let most = symbols[s].max;
            hints.entry(s.clone()).and_modify(|h| *h = h.saturating_mul(2).clamp(1, most.max(1)));
        }
    }
}

/// [`check`] of a result, which has no negative extents.
pub(super) fn check_result(shape: &[Dim]) -> Result<(), Diagnostic> {
    match shape.iter().filter_map(Dim::as_const).find(|&n| n < 0) {
        Some(n) => Err(Diagnostic::error("O0009", format!("a result has a negative extent, {n}"))),
        None => check(shape),
    }
}

/// An error when a shape has too many axes, more elements than can be counted, or extents too involved to compute with.
pub(super) fn check(shape: &[Dim]) -> Result<(), Diagnostic> {
    if shape.len() > 32 {
        return Err(Diagnostic::error("O0009", format!("rank {} is above 32", shape.len())));
    }
    let known = shape.iter().filter_map(Dim::as_const);
    if known.filter(|&n| n > 0).try_fold(1i64, i64::checked_mul).is_none() {
        let all: Vec<String> = shape.iter().map(Dim::to_string).collect();
        let message = format!("a tensor of extents [{}] has more elements than can be addressed", all.join(","));
        return Err(Diagnostic::error("O0009", message));
    }
    let terms = |d: &Dim| if d.as_const().is_some() { 1 } else { d.terms().len() };
    let product = shape.iter().try_fold(1usize, |a, d| a.checked_mul(terms(d)));
    if shape.iter().all(handy) && product.is_some_and(|p| p <= MAX_TERMS) {
        return Ok(());
    }
    Err(Diagnostic::error("O0009", "an extent is too involved: fix dynamic extents with --dim").failure(Failure::Limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_solved_for() {
        let order: Vec<Arc<str>> = ["N", "T", "past", "total"].map(Arc::from).into();
        let solved = |a: Dim, b: Dim| solve(&a, &b, &order).map(|(s, d)| format!("{s} = {d}"));
        let d = Dim::from;
        assert_eq!(solved("N".into(), "T".into()).unwrap(), "T = N");
        assert_eq!(solved("T".into(), "N".into()).unwrap(), "T = N");
        assert_eq!(solved(d(4), "N".into()).unwrap(), "N = 4");
        assert_eq!(solved("total".into(), Dim::from("past") + "T".into()).unwrap(), "total = T+past");
        assert_eq!(solved(Dim::from("N") * d(6), d(12)).unwrap(), "N = 2");
        assert_eq!(solved(Dim::from("N") * d(6), d(13)), None);
        assert_eq!(solved(Dim::from("N") + d(1), "N".into()), None);
        assert_eq!(solved("N".into(), d(-3)), None);
    }

    #[test]
    fn hints_leave_no_extent_negative() {
        let mut f = Func::new("f");
        let windows = (Dim::from("N") + 64.into()).floor_div(128) - 1.into();
        let body = f.body_id();
        f.add_param(body, "x", Type::new(tersor_ir::DType::F32, [windows.clone(), "M".into()]));
        let after = |open: bool| {
            let mut symbols = BTreeMap::from(["M", "N"].map(|s| (s.into(), SymbolInfo::default())));
            raise_hints(&f, &mut symbols, |_| open);
            symbols.into_values().map(|i| i.hint).collect::<Vec<_>>()
        };
        assert_eq!(after(true), [1, 64]);
        assert_eq!(after(false), [1, 1]);
    }

    #[test]
    fn involved_extents_are_refused() {
        let mut d = Dim::from("N") + "M".into();
        for _ in 0..3 {
            assert!(handy(&d) && check(&[d.clone(), 4.into()]).is_ok());
            d = d.clone() * d;
        }
        d = d.clone() * d;
        assert!(!handy(&d) && check(&[d.clone()]).is_err());
        let long = Dim::from(1i64 << 40);
        assert!(check(&[long.clone(), "N".into()]).is_ok() && check(&[long.clone(), "N".into(), long]).is_err());
    }
}
