//! `compensate`: beside a compressed weight, two thin matrices that give back most of what it lost, `x Wᵀ ≈ x W'ᵀ + (x Aᵀ) Bᵀ` (EoRA, Liu et al., 2024).

use crate::family::weight_of;
use crate::layer::{Layer, standing};
use crate::lowrank::apply;
use crate::manager::PassCx;
use crate::propose::{Alternative, Editor, Site};
use crate::selector::Selector;
use crate::solve::lowrank::{Truncation, break_even};
use crate::weights::{Needs, Several, WeightMethod, gram_of};
use tersor_ir::diag::Failure;
use tersor_ir::ops::binary::{Binary, BinaryKind};
use tersor_ir::{Def, Diagnostic, Module, NodeId, Op, Result};

pass! {
    /// Adds to alternatives that differ from a layer in its weight a product of two thin matrices: the best of its rank for what the alternative's weight has lost.
    ///
    /// Stands right behind the pass that it amends, as in `gptq{bits=3}, compensate{rank=32}`, and is decided on together with it.
    pub struct Compensate = "compensate": Propose {
        options {
            /// Rank of the factors; several as 16|32, an alternative each.
            rank: Several<u32> = Several(vec![32]),
            /// Give back the strongest directions of the outputs over calibration data; without it, those of the weights' difference itself.
            whiten: bool = true,
            /// Which sites.
            select: Selector = Selector::all(),
            /// Which sites not.
            exclude: Selector = Selector::none(),
        }
        stats { "alternatives": "alternatives offered with factors" }
    }
}

impl WeightMethod for Compensate {
    fn selectors(&self) -> (&Selector, &Selector) {
        (&self.select, &self.exclude)
    }
    fn amends(&self) -> bool {
        true
    }
    fn candidates(&self, m: &Module) -> Vec<(Site, NodeId)> {
        standing(m)
    }
    fn needs(&self) -> Needs {
        if self.whiten { Needs::Gram } else { Needs::Nothing }
    }
    fn check(&self) -> Result<()> {
        if self.rank.0.iter().all(|&r| r > 0) {
            return Ok(());
        }
        Err(Diagnostic::error("S0116", "compensate: `rank` is at least 1").failure(Failure::Usage))
    }
    fn offer(&self, layer: &Layer, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        let (Def::Node(exact, _), Some(choice)) = (b.func.values[site.value].def, b.choice) else {
            return Ok(vec![]);
        };
        let (outs, ins) = (layer.w.rows, layer.w.cols);
        let least = break_even(outs, ins);
        let mut ranks: Vec<usize> = self.rank.0.iter().map(|&r| r as usize).collect();
        ranks.sort_unstable();
        ranks.dedup();
        if ranks[0] >= least {
            let (rank, thin, whole) = (ranks[0], ranks[0] * (outs + ins), outs * ins);
            cx.decline(site, format!("rank {rank} has {thin} parameters, the weight {whole}: ranks below {least} pay"));
            return Ok(vec![]);
        }
        let gram = if self.whiten { gram_of(layer, site, cx) } else { None };
        if self.whiten && gram.is_none() {
            return Ok(vec![]);
        }
        let Op::Choice(standing) = b.func.nodes[choice].op.clone() else { return Ok(vec![]) };
        let values = b.func.nodes[choice].operands.to_vec();
        let method = if self.whiten { "eora" } else { "svd" };
        let mut out = vec![];
        for (name, value) in standing.names.into_iter().zip(values).skip(1) {
            let Some(w) = weight_of(b.consts, b.func, exact, value) else {
                cx.detail(format!("{}: {name} is more than another weight", site.name));
                continue;
            };
            let Some(t) = Truncation::of(&layer.w.minus(&layer.matrix(&w)), gram) else {
                cx.detail(format!("{}: what {name} lost is NaN or infinite", site.name));
                continue;
            };
            let curve = t.curve();
            for &r in ranks.iter().filter(|&&r| r < least) {
                let lost = 100.0 * curve[r.min(t.full())];
                cx.detail(format!("{}: {name} with rank {r} keeps {lost:.1} % of its squared error", site.name));
                let branch = apply(b, layer, site, &t.factors(r), &format!("{name}.r{r}"))?;
                let value = b.op(Binary { kind: BinaryKind::Add }, &[value, branch])?;
                out.push(Alternative { name: format!("{name}-{method}-r{r}"), value });
                cx.count("alternatives", 1);
            }
        }
        if out.is_empty() {
            cx.decline(site, "no alternative differs in its weight alone");
        }
        Ok(out)
    }
}
