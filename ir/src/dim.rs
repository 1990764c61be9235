//! Extents: integer polynomials over named symbols.
//!
//! A [`Dim`] is kept in one canonical form (terms sorted, like terms joined), so that structural equality is equality of the polynomials.
//! Floor division and maximum of non-constants are atoms of the polynomial, as symbols are.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul, Sub};
use std::sync::Arc;

/// What a polynomial is over.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Atom {
    /// A named input extent, such as `N` or `past`.
    Symbol(Arc<str>),
    /// `floor(a / b)`, `b` positive.
    FloorDiv(Dim, Dim),
    /// The larger of two.
    Max(Dim, Dim),
}

/// A product of atoms; empty for the constant term.
type Monomial = Vec<Atom>;

/// An extent or an integer computed from extents.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Dim {
    /// A known number.
    Const(i64),
    /// A polynomial that is not a constant: monomials, each with a coefficient other than 0, in order.
    Poly(Arc<Vec<(Monomial, i64)>>),
}

/// Values of symbols.
pub type Bindings = BTreeMap<Arc<str>, i64>;

/// Bounds of one symbol, and the value that cost estimates assume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SymbolInfo {
    /// Smallest value allowed.
    pub min: i64,
    /// Largest value allowed.
    pub max: i64,
    /// Value for cost estimates.
    pub hint: i64,
}

impl Default for SymbolInfo {
    fn default() -> Self {
        SymbolInfo { min: 0, max: i64::from(i32::MAX), hint: 1 }
    }
}

impl Dim {
    /// The symbol of that name.
    pub fn symbol(name: impl Into<Arc<str>>) -> Dim {
        Dim::Poly(Arc::new(vec![(vec![Atom::Symbol(name.into())], 1)]))
    }
    fn atom(atom: Atom) -> Dim {
        Dim::Poly(Arc::new(vec![(vec![atom], 1)]))
    }
    /// The number, if known.
    pub fn as_const(&self) -> Option<i64> {
        match self {
            Dim::Const(c) => Some(*c),
            Dim::Poly(_) => None,
        }
    }
    /// The symbol's name, if this is nothing but one symbol.
    pub fn as_symbol(&self) -> Option<&Arc<str>> {
        self.as_multiple().filter(|(_, factor)| *factor == 1).map(|(s, _)| s)
    }
    /// The symbol and the factor, if this is a positive multiple of one symbol: what an extent of an input binds.
    pub fn as_multiple(&self) -> Option<(&Arc<str>, i64)> {
        let Dim::Poly(terms) = self else { return None };
        let [(m, factor @ 1..)] = &terms[..] else { return None };
        match &m[..] {
            [Atom::Symbol(s)] => Some((s, *factor)),
            _ => None,
        }
    }
    /// Monomials with their coefficients, the constant among them.
    pub fn terms(&self) -> Vec<(Vec<Atom>, i64)> {
        match self {
            Dim::Const(0) => vec![],
            Dim::Const(c) => vec![(vec![], *c)],
            Dim::Poly(t) => t.to_vec(),
        }
    }
    fn from_terms(terms: impl IntoIterator<Item = (Monomial, i64)>) -> Dim {
        let mut map: BTreeMap<Monomial, i64> = BTreeMap::new();
        for (mut m, c) in terms {
            m.sort();
            let e = map.entry(m).or_insert(0);
            *e = e.saturating_add(c);
        }
        map.retain(|_, c| *c != 0);
        match map.len() {
            0 => Dim::Const(0),
            1 if map.contains_key(&vec![]) => Dim::Const(map[&vec![]]),
            _ => Dim::Poly(Arc::new(map.into_iter().collect())),
        }
    }
    /// `floor(self / by)`. Exact polynomial quotients are taken at once.
    pub fn floor_div(self, by: impl Into<Dim>) -> Dim {
        let by = by.into();
        if by == Dim::Const(1) {
            return self;
        }
        if let (Some(a), Some(b)) = (self.as_const(), by.as_const())
            && b > 0
        {
            return Dim::Const(a.div_euclid(b));
        }
        if let Some(q) = self.exact_div(&by) {
            return q;
        }
        // Multiples of the divisor leave the floor: (b*q + r) / b = q + r / b.
        if let Some(b) = by.as_const()
            && b > 0
        {
            let (mut whole, mut rest) = (vec![], vec![]);
            for (m, c) in self.terms() {
                let (q, r) = (c.div_euclid(b), c.rem_euclid(b));
                whole.push((m.clone(), q));
                rest.push((m, r));
            }
            let (whole, rest) = (Dim::from_terms(whole), Dim::from_terms(rest));
            if let Some(r) = rest.as_const() {
                return whole + Dim::Const(r.div_euclid(b));
            }
            return whole + Dim::atom(Atom::FloorDiv(rest, by));
        }
        Dim::atom(Atom::FloorDiv(self, by))
    }
    /// `ceil(self / by)`.
    pub fn ceil_div(self, by: i64) -> Dim {
        (self + Dim::Const(by - 1)).floor_div(by)
    }
    /// The polynomial `q` with `q * by == self`, if there is one with a single-term divisor or equal operands.
    pub fn exact_div(&self, by: &Dim) -> Option<Dim> {
        if self == by && *by != Dim::Const(0) {
            return Some(Dim::Const(1));
        }
        let divisor = by.terms();
        let [(dm, dc)] = &divisor[..] else { return None };
        let mut out = vec![];
        for (m, c) in self.terms() {
            if c % dc != 0 {
                return None;
            }
            let mut rest = m.clone();
            for a in dm {
                rest.remove(rest.iter().position(|x| x == a)?);
            }
            out.push((rest, c / dc));
        }
        Some(Dim::from_terms(out))
    }
    /// The larger of two.
    pub fn max(self, other: Dim) -> Dim {
        match (&self, &other) {
            (Dim::Const(a), Dim::Const(b)) => Dim::Const(*a.max(b)),
            _ if self == other => self,
            _ => {
                let (a, b) = if self < other { (self, other) } else { (other, self) };
                Dim::atom(Atom::Max(a, b))
            }
        }
    }
    /// The value under `bindings`; `None` when a symbol is unbound, on overflow and on division by zero.
    pub fn eval(&self, bindings: &Bindings) -> Option<i64> {
        self.terms().iter().try_fold(0i64, |sum, (m, c)| {
            let mut p = *c;
            for a in m {
                p = p.checked_mul(a.eval(bindings)?)?;
            }
            sum.checked_add(p)
        })
    }
    /// Replaces bound symbols by their values.
    pub fn substitute(&self, bindings: &Bindings) -> Dim {
        self.replace(&|s| bindings.get(s).map(|&v| Dim::Const(v)))
    }
    /// Replaces symbols for which `f` answers.
    pub fn replace(&self, f: &dyn Fn(&str) -> Option<Dim>) -> Dim {
        let Dim::Poly(terms) = self else { return self.clone() };
        terms.iter().fold(Dim::Const(0), |sum, (m, c)| {
            sum + m.iter().fold(Dim::Const(*c), |p, a| {
                p * match a {
                    Atom::Symbol(s) => f(s).unwrap_or_else(|| Dim::symbol(s.clone())),
                    Atom::FloorDiv(x, y) => x.replace(f).floor_div(y.replace(f)),
                    Atom::Max(x, y) => x.replace(f).max(y.replace(f)),
                }
            })
        })
    }
    /// Whether this is 0 or more whatever the symbols are, as far as signs tell.
    pub fn is_never_negative(&self) -> bool {
        let atom = |a: &Atom| match a {
            Atom::Symbol(_) => true,
            Atom::FloorDiv(x, _) => x.is_never_negative(),
            Atom::Max(x, y) => x.is_never_negative() || y.is_never_negative(),
        };
        match self {
            Dim::Const(c) => *c >= 0,
            Dim::Poly(terms) => terms.iter().all(|(m, c)| *c >= 0 && m.iter().all(atom)),
        }
    }
    /// Calls `f` with every symbol's name.
    pub fn symbols(&self, f: &mut dyn FnMut(&Arc<str>)) {
        let Dim::Poly(terms) = self else { return };
        for a in terms.iter().flat_map(|(m, _)| m) {
            match a {
                Atom::Symbol(s) => f(s),
                Atom::FloorDiv(x, y) | Atom::Max(x, y) => {
                    x.symbols(f);
                    y.symbols(f);
                }
            }
        }
    }
}

impl Dim {
    /// Whether a symbol is part of it.
    pub fn mentions(&self, symbol: &str) -> bool {
        let mut found = false;
        self.symbols(&mut |s| found |= **s == *symbol);
        found
    }
    /// The smaller of two.
    pub fn min(self, other: Dim) -> Dim {
        self.clone() + other.clone() - self.max(other)
    }
}

impl Atom {
    fn eval(&self, bindings: &Bindings) -> Option<i64> {
        match self {
            Atom::Symbol(s) => bindings.get(s).copied(),
            Atom::FloorDiv(a, b) => a.eval(bindings)?.checked_div_euclid(b.eval(bindings)?),
            Atom::Max(a, b) => Some(a.eval(bindings)?.max(b.eval(bindings)?)),
        }
    }
}

impl From<i64> for Dim {
    fn from(c: i64) -> Dim {
        Dim::Const(c)
    }
}
impl From<i32> for Dim {
    fn from(c: i32) -> Dim {
        Dim::Const(c.into())
    }
}
impl From<usize> for Dim {
    fn from(c: usize) -> Dim {
        Dim::Const(i64::try_from(c).expect("extent above 2^63"))
    }
}
impl From<&str> for Dim {
    fn from(name: &str) -> Dim {
        Dim::symbol(name)
    }
}
impl From<&Dim> for Dim {
    fn from(d: &Dim) -> Dim {
        d.clone()
    }
}
impl Add for Dim {
    type Output = Dim;
    fn add(self, other: Dim) -> Dim {
        match (&self, &other) {
            (Dim::Const(a), Dim::Const(b)) => Dim::Const(a.saturating_add(*b)),
            (_, Dim::Const(0)) => self,
            (Dim::Const(0), _) => other,
            _ => Dim::from_terms(self.terms().into_iter().chain(other.terms())),
        }
    }
}
impl Sub for Dim {
    type Output = Dim;
    fn sub(self, other: Dim) -> Dim {
        self + other * Dim::Const(-1)
    }
}
impl Mul for Dim {
    type Output = Dim;
    fn mul(self, other: Dim) -> Dim {
        match (&self, &other) {
            (Dim::Const(a), Dim::Const(b)) => Dim::Const(a.saturating_mul(*b)),
            (_, Dim::Const(1)) => self,
            (Dim::Const(1), _) => other,
            _ => Dim::from_terms(self.terms().iter().flat_map(|(m, c)| {
                let (m, c) = (m.clone(), *c);
                other.terms().into_iter().map(move |(n, d)| (m.iter().cloned().chain(n).collect(), c.saturating_mul(d)))
            })),
        }
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Atom::Symbol(s) => f.write_str(s),
            Atom::FloorDiv(a, b) => write!(f, "({a})/({b})"),
            Atom::Max(a, b) => write!(f, "max({a},{b})"),
        }
    }
}

impl fmt::Display for Dim {
    /// Positive terms with symbols first, then the constant: `past+seq`, `2*N-1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Dim::Poly(terms) = self else { return write!(f, "{}", self.as_const().unwrap_or(0)) };
        let mut ordered: Vec<_> = terms.iter().filter(|(m, _)| !m.is_empty()).collect();
        ordered.sort_by_key(|(_, c)| *c < 0);
        ordered.extend(terms.iter().filter(|(m, _)| m.is_empty()));
        for (i, (m, c)) in ordered.into_iter().enumerate() {
            let sign = if *c < 0 { "-" } else { "+" };
            if i > 0 || *c < 0 {
                f.write_str(sign)?;
            }
            let c = c.unsigned_abs();
            if m.is_empty() || c != 1 {
                write!(f, "{c}{}", if m.is_empty() { "" } else { "*" })?;
            }
            for (j, a) in m.iter().enumerate() {
                write!(f, "{}{a}", if j > 0 { "*" } else { "" })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms_meet() {
        let (n, t) = (Dim::from("N"), Dim::from("T"));
        assert_eq!(n.clone() + t.clone() - n.clone(), t);
        assert_eq!((n.clone() + t.clone()) * Dim::from(2), t.clone() * 2.into() + n.clone() * 2.into());
        assert_eq!((n.clone() * t.clone() * 4.into()).floor_div(t.clone() * 2.into()), n.clone() * 2.into());
        assert_eq!((n.clone() * 2.into() + 1.into()).floor_div(2), n.clone());
        assert_eq!((n.clone() - n.clone()), Dim::Const(0));
        assert_eq!((t.clone() + "past".into()).to_string(), "T+past");
        assert_eq!((n.clone() + 1.into()).floor_div(2).to_string(), "(N+1)/(2)");
    }

    #[test]
    fn signs_of_terms_tell_what_is_never_negative() {
        let n = || Dim::from("N");
        for d in [0.into(), n(), n() * n() + 3.into(), (n() + 1.into()).floor_div(2), (n() - 3.into()).max(0.into())] {
            assert!(d.is_never_negative(), "{d}");
        }
        for d in [Dim::from(-1), n() - 1.into(), (n() - 4.into()).floor_div(3), (n() - 1.into()) * n()] {
            assert!(!d.is_never_negative(), "{d}");
        }
    }

    #[test]
    fn eval_follows_floor() {
        let d = (Dim::from("H") - 3.into()).floor_div(2) + 1.into();
        for h in 3..20 {
            let b = Bindings::from([("H".into(), h)]);
            assert_eq!(d.eval(&b), Some((h - 3) / 2 + 1));
            assert_eq!(d.substitute(&b), Dim::Const((h - 3) / 2 + 1));
        }
        assert_eq!(d.eval(&Bindings::new()), None);
    }
}
