//! Outputs that are drawn by chance: they cannot be equal to what somebody else drew, but must be of the same law.

use crate::driver::Result;
use tersor_ir::{Def, Diagnostic, Failure, Func, Op, Tensor, ValueId};

/// How unlikely it may be that two samples of one law are as unlike as they are.
const SIGNIFICANCE: f64 = 1e-6;

/// Whether a value depends on numbers that are drawn by chance.
pub fn is_drawn(f: &Func, v: ValueId) -> bool {
    let (mut open, mut seen) = (vec![v], std::collections::HashSet::new());
    while let Some(v) = open.pop() {
        let Def::Node(n, _) = f.values[v].def else { continue };
        if !seen.insert(n) {
            continue;
        }
        let node = &f.nodes[n];
        if matches!(node.op, Op::Random(_)) {
            return true;
        }
        open.extend(&node.operands);
        open.extend(node.regions.iter().flat_map(|&r| &f.regions[r].results));
    }
    false
}

/// The largest difference of the two empirical distribution functions (Smirnov, 1939).
fn distance(a: &mut [f64], b: &mut [f64]) -> f64 {
    a.sort_by(f64::total_cmp);
    b.sort_by(f64::total_cmp);
    let (mut i, mut j, mut most) = (0, 0, 0f64);
    while i < a.len() && j < b.len() {
        let at = if a[i].total_cmp(&b[j]).is_le() { a[i] } else { b[j] };
        i += a[i..].iter().take_while(|v| v.total_cmp(&at).is_le()).count();
        j += b[j..].iter().take_while(|v| v.total_cmp(&at).is_le()).count();
        most = most.max((i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs());
    }
    most
}

/// An error where an output has another type or other extents, or elements that can hardly be of the same law: by the two-sample test of Kolmogorov and Smirnov.
pub fn agree(name: &str, found: &Tensor, expected: &Tensor) -> Result<()> {
    let wrong = |what: String| Err(vec![Diagnostic::error("B0204", what).failure(Failure::Gate)]);
    if found.ty() != expected.ty() {
        return wrong(format!("output {name} is {}, expected {}", found.ty(), expected.ty()));
    }
    if found.is_empty() {
        return Ok(());
    }
    let n = found.len() as f64;
    let limit = (-(SIGNIFICANCE / 2.0).ln() / n).sqrt();
    let d = distance(&mut found.to_f64(), &mut expected.to_f64());
    if d > limit {
        return wrong(format!(
            "output {name} is of another law: distribution functions {d:.3} apart, at most {limit:.3}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tersor_ir::constant::SplitMix;

    #[test]
    fn laws_are_told_apart() {
        let draw = |seed: u64, shift: f64| {
            let mut g = SplitMix(seed);
            Tensor::from_f32([400], &(0..400).map(|_| (g.normal() + shift) as f32).collect::<Vec<_>>())
        };
        for seed in 0..50 {
            assert!(agree("y", &draw(seed, 0.0), &draw(seed + 1000, 0.0)).is_ok());
            assert!(agree("y", &draw(seed, 1.0), &draw(seed + 1000, 0.0)).is_err());
        }
        assert_eq!(distance(&mut [0.0, 0.0, 1.0], &mut [0.0, 1.0, 1.0]), 2.0 / 3.0 - 1.0 / 3.0);
        let e = agree("y", &draw(1, 0.0).reshaped(vec![20, 20]).unwrap(), &draw(1, 0.0)).unwrap_err();
        assert!(e[0].message.contains("f32[20,20], expected f32[400]"));
    }
}
