//! Numerical comparison of what two programs give.

use super::{Result, runtime_error, to_runtime};
use tersor_ir::target::{Evaluate, Prepared};
use tersor_ir::{DType, Diagnostic, Module, Tensor, ValueId};
use tersor_passes::calibrate::with_taps;

/// How far outputs may be apart: `|a - b| <= atol + rtol * |b|` for every element, or limits on figures of whole outputs.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Relative tolerance.
    pub rtol: f64,
    /// Absolute tolerance.
    pub atol: f64,
    /// Largest allowed figures (`rel-l2`, `max-abs`, `top1`); these replace the tolerances.
    pub max: Vec<(String, f64)>,
}

/// The names of figures that have limits.
pub const FIGURES: [&str; 3] = ["rel-l2", "max-abs", "top1"];

/// Two tensors compared.
#[derive(Clone, PartialEq, Debug)]
pub struct Comparison {
    /// `|a - b| / |b|` in the Euclidean norm.
    pub rel_l2: f64,
    /// Largest difference.
    pub max_abs: f64,
    /// Cosine of the angle between them.
    pub cosine: f64,
    /// Share of rows (the last axis) whose largest element is elsewhere.
    pub top1: f64,
    /// The first element beyond the tolerances: its index, what was found and what was expected.
    pub first_bad: Option<(Vec<usize>, f64, f64)>,
    /// Elements beyond the tolerances.
    pub bad: usize,
    /// Elements.
    pub elements: usize,
}

impl Comparison {
    /// What is over its limit, in words.
    pub fn over(&self, limits: &Limits) -> Option<String> {
        if limits.max.is_empty() {
            let (at, found, expected) = self.first_bad.as_ref()?;
            return Some(format!(
                "element {at:?} is {found:.6e}, expected {expected:.6e} (rtol {:e}, atol {:e}); {} of {} elements differ",
                limits.rtol, limits.atol, self.bad, self.elements
            ));
        }
        limits.max.iter().find_map(|(name, limit)| {
            let figure = match name.as_str() {
                "rel-l2" => self.rel_l2,
                "max-abs" => self.max_abs,
                _ => self.top1,
            };
            (figure.is_nan() || figure > *limit).then(|| format!("{name} {figure:.4e} > {limit:e}"))
        })
    }
}

/// Compares what was found with what was expected, complex numbers by their parts. Shapes or element types that differ are an error.
pub fn compare(name: &str, found: &Tensor, expected: &Tensor, limits: &Limits) -> Result<Comparison> {
    if found.shape() != expected.shape() || found.dtype() != expected.dtype() {
        let message = format!("output {name} is {}, expected {}", found.ty(), expected.ty());
        return Err(vec![Diagnostic::error("B0203", message).failure(tersor_ir::Failure::Gate)]);
    }
    let (found, expected) = (&found.parts(), &expected.parts());
    let (mut difference, mut norm, mut other, mut dot, mut max_abs) = (0.0, 0.0, 0.0, 0.0, 0f64);
    let (mut bad, mut first) = (0, None);
    // Strings are equal, or differ by 1.
    let pair = |i: usize| match found.dtype() {
        DType::Str => (f64::from(u8::from(found.get_bits(i) != expected.get_bits(i))), 0.0),
        _ => (found.get_f64(i), expected.get_f64(i)),
    };
    for i in 0..found.len() {
        let (a, b) = pair(i);
        // Infinities and NaNs must be met exactly.
        let d = if a == b || (a.is_nan() && b.is_nan()) { 0.0 } else { (a - b).abs() };
        if d.is_nan() || d > limits.atol + limits.rtol * b.abs() || (d > 0.0 && !b.is_finite()) {
            bad += 1;
            first.get_or_insert(i);
        }
        max_abs = if d.is_nan() { f64::INFINITY } else { max_abs.max(d) };
        if a.is_finite() && b.is_finite() {
            difference += d * d;
            norm += b * b;
            other += a * a;
            dot += a * b;
        } else if d != 0.0 {
            difference = f64::INFINITY;
        }
    }
    let rel_l2 = if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() };
    let cosine = if norm == 0.0 && other == 0.0 { 1.0 } else { dot / (norm * other).sqrt() };
    let width = found.shape().last().copied().unwrap_or(1).max(1);
    let rows = found.len() / width;
    let moved = (0..rows).filter(|&r| largest(found, r, width) != largest(expected, r, width)).count();
    let index = |mut i: usize| {
        let mut at: Vec<usize> = found.shape().iter().rev().map(|&d| (i % d, i /= d).0).collect();
        at.reverse();
        at
    };
    Ok(Comparison {
        rel_l2,
        max_abs,
        cosine,
        top1: moved as f64 / rows.max(1) as f64,
        first_bad: first.map(|i| (index(i), pair(i).0, pair(i).1)),
        bad,
        elements: found.len(),
    })
}

fn largest(t: &Tensor, row: usize, width: usize) -> usize {
    let at = |i: &usize| t.get_f64(row * width + i);
    (0..width).max_by(|a, b| at(a).total_cmp(&at(b)).then(b.cmp(a))).unwrap_or_default()
}

/// Something that runs: an artifact, or a module through an evaluator.
pub enum Program {
    /// An artifact.
    Artifact(Box<tersor_runtime::Session>),
    /// A module, with the names of its inputs and outputs.
    Module(Box<dyn Prepared>, Vec<String>, Vec<String>),
}

impl Program {
    /// A module made ready.
    pub fn of_module(m: &Module, evaluate: &dyn Evaluate) -> Result<Program> {
        let f = &m.funcs[m.main().map_err(|d| vec![d])?];
        let names = |n: &[std::sync::Arc<str>]| n.iter().map(|n| n.to_string()).collect();
        let prepared = evaluate.prepare(m).map_err(|d| vec![d])?;
        Ok(Program::Module(prepared, names(&f.inputs), names(&f.outputs)))
    }
    /// Names of inputs and outputs.
    pub fn names(&self) -> (Vec<String>, Vec<String>) {
        match self {
            Program::Module(_, i, o) => (i.clone(), o.clone()),
            Program::Artifact(s) => {
                let names = |v: &[tersor_runtime::artifact::Value]| v.iter().map(|v| v.name.clone()).collect();
                (names(s.model().inputs()), names(s.model().outputs()))
            }
        }
    }
    /// Runs it.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        match self {
            Program::Module(p, ..) => p.run(inputs).map_err(|d| vec![d]),
            Program::Artifact(s) => {
                let mut run = || -> tersor_ir::Result<Vec<Tensor>> {
                    let inputs = inputs.iter().map(to_runtime).collect::<tersor_ir::Result<Vec<_>>>()?;
                    let views: Vec<_> = inputs.iter().map(|t| t.view()).collect();
                    let mut outputs = s.prepare(&views).map_err(runtime_error)?;
                    s.run_into(&views, &mut outputs).map_err(runtime_error)?;
                    outputs.into_iter().map(super::from_runtime).collect()
                };
                run().map_err(|d| vec![d])
            }
        }
    }
}

/// Values that both modules have under one name and type, compared on the same inputs, in the order of the first module.
pub fn layers(
    a: &Module,
    b: &Module,
    inputs: &[Tensor],
    limits: &Limits,
    evaluate: &dyn Evaluate,
) -> Result<Vec<(String, Comparison)>> {
    let one = |d: Diagnostic| vec![d];
    let (fa, fb) = (&a.funcs[a.main().map_err(one)?], &b.funcs[b.main().map_err(one)?]);
    let results = |f: &tersor_ir::Func| -> Vec<(ValueId, String)> {
        let values = f.body().nodes.iter().flat_map(|&n| f.nodes[n].results.iter().copied());
        values.map(|v| (v, f.values[v].name.to_string())).collect()
    };
    let of_b: std::collections::HashMap<String, ValueId> = results(fb).into_iter().map(|(v, n)| (n, v)).collect();
    let same = |v: ValueId, w: ValueId| fa.values[v].ty == fb.values[w].ty && fa.values[v].ty.dtype.is_float();
    let shared: Vec<(String, ValueId, ValueId)> = results(fa)
        .into_iter()
        .filter_map(|(v, n)| of_b.get(&n).filter(|&&w| same(v, w)).map(|&w| (n, v, w)))
        .collect();
    let run = |m: &Module, taps: Vec<ValueId>| {
        let tapped = with_taps(m, &taps).map_err(one)?;
        evaluate.prepare(&tapped).and_then(|mut p| p.run(inputs)).map_err(one)
    };
    let found = run(a, shared.iter().map(|s| s.1).collect())?;
    let expected = run(b, shared.iter().map(|s| s.2).collect())?;
    let pairs = shared.into_iter().zip(found.iter().zip(&expected));
    pairs.map(|((name, ..), (x, y))| Ok((name.clone(), compare(&name, x, y, limits)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_where_they_are() {
        let limits = Limits { rtol: 1e-3, atol: 1e-4, max: vec![] };
        let t = |v: &[f32]| Tensor::from_f32([2, 2], v);
        let same = compare("y", &t(&[1.0, 2.0, f32::NAN, 4.0]), &t(&[1.0, 2.0, f32::NAN, 4.0]), &limits).unwrap();
        assert_eq!((same.bad, same.rel_l2, same.over(&limits)), (0, 0.0, None));
        let c = compare("y", &t(&[1.0, 2.0, 3.5, 4.0]), &t(&[1.0, 2.0, 3.0, 4.0]), &limits).unwrap();
        assert_eq!((c.bad, c.first_bad.clone()), (1, Some((vec![1, 0], 3.5, 3.0))));
        assert!(c.over(&limits).unwrap().contains("element [1, 0] is 3.5"));
        let by_figure = Limits { max: vec![("rel-l2".into(), 0.5), ("top1".into(), 0.0)], ..limits.clone() };
        assert_eq!(c.over(&by_figure), None);
        let c = compare("y", &t(&[2.0, 1.0, f32::NAN, 4.0]), &t(&[1.0, 2.0, 3.0, 4.0]), &limits).unwrap();
        assert_eq!((c.bad, c.top1, c.max_abs), (3, 1.0, f64::INFINITY));
        assert!(compare("y", &Tensor::from_f32([4], &[0.0; 4]), &t(&[0.0; 4]), &limits).is_err());
    }
}
