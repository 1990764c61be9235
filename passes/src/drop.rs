//! `drop`: residual branches left out whole, `x` in place of `x + f(x)` (ShortGPT, Men et al., 2024).

use crate::manager::PassCx;
use crate::patches::Tap;
use crate::propose::{Alternative, Editor, Propose, Site};
use crate::selector::Selector;
use crate::statistics::Statistics;
use std::collections::HashSet;
use tersor_ir::diag::Failure;
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::{DType, Def, Diagnostic, Func, Module, NodeId, Op, Result, ValueId};

pass! {
    /// Leaves out the residual branches that turn their stream least: where `x + f(x)` is, `x` will do.
    ///
    /// A branch's influence is `1 - cos(x, x + f(x))` over all elements that calibration saw. The branches of one transformer block, attention and what follows it, are two.
    pub struct Drop = "drop": Propose {
        options {
            /// How many branches go, those of the least influence.
            count: u32 = 1,
            /// Which branches, by the sum at their end.
            select: Selector = Selector::all(),
            /// Which branches not.
            exclude: Selector = Selector::none(),
        }
        stats { "branches": "branches offered to be left out" }
    }
}

/// A sum at the end of a branch.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
struct Branch {
    sum: NodeId,
    /// What goes around the branch.
    stream: ValueId,
    /// What the branch adds to it.
    added: ValueId,
}

/// Branches of more nodes are not looked through.
const LONGEST: usize = 1024;

/// Whether a value is computed from another by some product or convolution.
fn branches_off(f: &Func, from: ValueId, to: ValueId) -> bool {
    let (mut seen, mut stack, mut met, mut heavy) = (HashSet::new(), vec![to], false, false);
    while let Some(v) = stack.pop() {
        met |= v == from;
        if let (true, Def::Node(n, _)) = (v != from, f.values[v].def)
            && seen.insert(n)
        {
            heavy |= matches!(f.nodes[n].op, Op::MatMul(_) | Op::Conv(_) | Op::Attention(_));
            stack.extend(&f.nodes[n].operands);
            if seen.len() > LONGEST {
                return false;
            }
        }
    }
    met && heavy
}

/// The branch that ends at a node, where one does.
fn branch(f: &Func, sum: NodeId) -> Option<Branch> {
    let node = &f.nodes[sum];
    if !matches!(&node.op, Op::Binary(b) if b.kind == BinaryKind::Add) {
        return None;
    }
    let ty = &f.values[node.results[0]].ty;
    let fits = |v: ValueId| f.values[v].ty == *ty && ty.dtype == DType::F32 && f.def_const(v).is_none();
    let (x, y) = (node.operands[0], node.operands[1]);
    if x == y || !fits(x) || !fits(y) {
        return None;
    }
    let (stream, added) = [(x, y), (y, x)].into_iter().find(|&(stream, added)| branches_off(f, stream, added))?;
    Some(Branch { sum, stream, added })
}

/// The residual branches of `@main`, in order.
fn branches(m: &Module) -> Vec<(Site, Branch)> {
    let Ok(main) = m.main() else { return vec![] };
    let f = &m.funcs[main];
    let found = f.body().nodes.iter().filter_map(|&n| branch(f, n));
    found.map(|b| (Site { weight: vec![], ..Site::at(m, main, b.sum, 0) }, b)).collect()
}

impl Branch {
    /// `1 - cos(x, y)` of the stream before and behind the branch, from `2 xᵀy = |x|² + |y|² - |y - x|²`; `None` where calibration saw too little.
    fn influence(&self, f: &Func, statistics: Option<&Statistics>) -> Option<f64> {
        let energy = |v: ValueId| Some(statistics?.get(&f.values[v].name)?.second_moment().iter().sum::<f64>());
        let (x, y, d) = (energy(self.stream)?, energy(f.nodes[self.sum].results[0])?, energy(self.added)?);
        let out = 1.0 - (x + y - d) / (2.0 * (x * y).sqrt());
        out.is_finite().then_some(out)
    }
}

impl Propose for Drop {
    fn taps(&self, m: &Module) -> Vec<Tap> {
        let chosen = branches(m).into_iter().filter(|(s, _)| self.select.matches(s) && !self.exclude.matches(s));
        let mut out: Vec<Tap> =
            chosen.flat_map(|(s, b)| [Tap::whole(b.stream), Tap::of(b.added), Tap::of(s.value)]).collect();
        out.sort_unstable();
        out.dedup();
        out
    }

    fn sites(&self, m: &Module, cx: &mut PassCx) -> Result<Vec<Site>> {
        if self.count == 0 {
            return Err(Diagnostic::error("S0116", "drop: `count` is at least 1").failure(Failure::Usage));
        }
        let all = branches(m);
        let selected = cx.select(all.iter().map(|a| a.0.clone()).collect(), &self.select, &self.exclude)?;
        let mut ranked = vec![];
        for (site, branch) in all.into_iter().filter(|(s, _)| selected.contains(s)) {
            match branch.influence(&m.funcs[site.func], cx.statistics) {
                Some(influence) => ranked.push((influence, site)),
                None => cx.decline(
                    &site,
                    "calibration gathered no finite statistics of the branch, its stream and their sum",
                ),
            }
        }
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut out, of) = (vec![], ranked.len());
        for (rank, (influence, site)) in ranked.into_iter().enumerate() {
            if rank < self.count as usize {
                cx.detail(format!("{}: influence {influence:.4}, rank {} of {of}", site.name, rank + 1));
                out.push(site);
            } else {
                let (rank, count) = (rank + 1, self.count);
                cx.decline(&site, format!("of influence {influence:.4}, rank {rank} of {of}: the first {count} go"));
            }
        }
        Ok(out)
    }

    fn propose(&self, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        let Def::Node(sum, _) = b.func.values[site.value].def else { return Ok(vec![]) };
        let Some(branch) = branch(b.func, sum) else { return Ok(vec![]) };
        cx.count("branches", 1);
        Ok(vec![Alternative { name: "drop".into(), value: branch.stream }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filetest::{difference, run_passes};
    use crate::statistics::ValueStatistics;
    use proptest::prelude::*;
    use tersor_ir::testing::Gen;
    use tersor_ir::{Tensor, Type};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn influence_is_that_of_the_plain_definition(seed in 1u64..1 << 40, rows in 1usize..9, channels in 1usize..9) {
            let m = tersor_ir::text::parse(
                "module @m { const @w : f32[1,1] = splat 1.0 func @main(%x: f32[4,1]) -> (%y: f32[4,1]) {
                 %f = matmul %x, @w : f32[4,1] %y = add %x, %f : f32[4,1] return %y } }",
                &Default::default(),
            ).unwrap();
            let (site, branch) = branches(&m).remove(0);
            let mut g = Gen::new(seed);
            let (x, f) = (g.tensor(&Type::new(DType::F32, [rows, channels])), g.tensor(&Type::new(DType::F32, [rows, channels])));
            let (a, d) = (x.to_f64(), f.to_f64());
            let sum: Vec<f64> = a.iter().zip(&d).map(|(a, d)| a + d).collect();
            let y = Tensor::from_f64(DType::F32, [rows, channels], &sum);
            let mut statistics = Statistics::default();
            for (name, t) in [("x", &x), ("f", &f), ("y", &y)] {
                let mut seen = ValueStatistics::new(1);
                seen.add(t);
                statistics.values.insert(name.into(), seen);
            }
            let dot = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(p, q)| p * q).sum::<f64>();
            let plain = 1.0 - dot(&a, &sum) / (dot(&a, &a) * dot(&sum, &sum)).sqrt();
            let found = branch.influence(&m.funcs[site.func], Some(&statistics)).unwrap();
            prop_assert!((found - plain).abs() < 1e-4, "{} {}", found, plain);
        }
        #[test]
        fn a_branch_that_adds_nothing_goes_first_and_leaves_no_trace(seed in 1u64..1000, dead in 0usize..3) {
            let scale = |i: usize| if i == dead { "splat 0.0".to_string() } else { format!("rng normal(0, 0.3) seed {}", seed + i as u64) };
            let text = format!(
                "module @m {{ symbol N 1..64 hint 4
                 const @a : f32[8,8] = {} const @b : f32[8,8] = {} const @c : f32[8,8] = {}
                 func @main(%x: f32[N,8]) -> (%y: f32[N,8]) {{
                 %f = matmul %x, @a : f32[N,8] %s = add %x, %f : f32[N,8] %g = matmul %s, @b : f32[N,8] %t = add %g, %s : f32[N,8]
                 %h = matmul %t, @c : f32[N,8] %u = add %t, %h : f32[N,8] %y = tanh %u : f32[N,8] return %y }} }}",
                scale(0), scale(1), scale(2)
            );
            let exact = tersor_ir::text::parse(&text, &Default::default()).unwrap();
            let mut m = exact.clone();
            let steps = run_passes("drop", &mut m).unwrap();
            let gone: Vec<&str> = steps[0].decisions.iter().filter(|d| d.picked.is_some()).map(|d| d.site.as_str()).collect();
            prop_assert_eq!(gone, vec![["s", "t", "u"][dead]]);
            prop_assert_eq!(difference(&exact, &m).unwrap(), 0.0);
            prop_assert_eq!(m.constant_bytes(), exact.constant_bytes() - 256);
        }
    }
}
