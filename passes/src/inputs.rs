//! Exact changes of what enters products, undone in their weights: `x W = (x T) (T⁻¹ W)`.

use crate::layer::{Layer, SHORT, WEIGHT, candidates};
use crate::manager::PassCx;
use crate::propose::{ConstNames, Editor, Site};
use crate::selector::Selector;
use crate::solve::Mat;
use tersor_ir::{Def, Diagnostic, Func, Module, NodeId, Op, Result, ValueId};

/// A change of one value, and its inverse in the weights that read it.
pub trait Change {
    /// Appends the changed value.
    fn value(&self, layer: &Layer, b: &mut Editor) -> Result<ValueId>;
    /// The weight that goes with it.
    fn weight(&self, w: &Mat) -> Mat;
}

/// The products of `@main` by a constant matrix, by the value that they read, where a channel can be changed and they are not too small to gain from it.
pub fn products(m: &Module, select: &Selector, exclude: &Selector) -> Vec<(ValueId, Vec<Site>)> {
    let mut by_value: Vec<(ValueId, Vec<Site>)> = vec![];
    let Ok(main) = m.main() else { return by_value };
    let f = &m.funcs[main];
    let wanted = |(s, n): &(Site, NodeId)| {
        let product = matches!(&f.nodes[*n].op, Op::MatMul(op) if !op.trans_a);
        product
            && s.func == main
            && f.body().nodes.contains(n)
            && s.weight.iter().all(|&d| d >= SHORT)
            && select.matches(s)
            && !exclude.matches(s)
    };
    for (site, n) in candidates(m).into_iter().filter(wanted) {
        let x = f.nodes[n].operands[0];
        match by_value.iter_mut().find(|(v, _)| *v == x) {
            Some((_, all)) => all.push(site),
            None => by_value.push((x, vec![site])),
        }
    }
    by_value
}

/// Changes the values that products read, each as `find` says from the layers that read it. Gives how many values and layers were changed.
pub fn change<C: Change>(
    m: &mut Module,
    cx: &mut PassCx,
    (select, exclude): (&Selector, &Selector),
    mut find: impl FnMut(&[Layer]) -> Option<C>,
) -> Result<(u64, u64)> {
    let sites = candidates(m).into_iter().map(|c| c.0).collect();
    cx.select(sites, select, exclude)?;
    let (groups, main) = (products(m, select, exclude), m.main()?);
    let (mut names, mut changed) = (ConstNames::of(m), (0, 0));
    let Module { consts, funcs, .. } = m;
    let f = &mut funcs[main];
    let body = f.body_id();
    for (x, sites) in groups {
        cx.check_interrupt()?;
        let of = |f: &Func, site: &Site| match f.values[site.value].def {
            Def::Node(n, _) => Some(n),
            _ => None,
        };
        let readers: Vec<NodeId> = sites.iter().filter_map(|s| of(f, s)).collect();
        let Some(first) = f.regions[body].nodes.iter().position(|n| readers.contains(n)) else { continue };
        let rest = f.regions[body].nodes.split_off(first);
        let loc = f.nodes[rest[0]].loc.made_by(cx.pass());
        let name = f.values[x].name.to_string();
        let mut b = Editor {
            consts: &mut *consts,
            func: &mut *f,
            region: body,
            loc,
            name,
            choice: None,
            narrowed: vec![],
            names: &mut names,
        };
        let layers: Result<Vec<Layer>, String> = sites.iter().map(|s| Layer::of(&b, s, cx.statistics)).collect();
        // A layer that cannot be read keeps the value for all.
        if let Ok(layers) = layers
            && let Some(c) = find(&layers)
        {
            let value = c.value(&layers[0], &mut b)?;
            for (layer, &n) in layers.iter().zip(&readers) {
                let weight = layer.dense(&mut b, cx.pass(), &c.weight(&layer.w));
                b.func.nodes[n].operands[0] = value;
                b.func.nodes[n].operands[WEIGHT] = weight;
            }
            changed.0 += 1;
            changed.1 += layers.len() as u64;
        }
        f.regions[body].nodes.extend(rest);
    }
    if changed.0 == 0 {
        let message = format!("{} changed nothing", cx.pass());
        cx.remark(
            Diagnostic::warning("S0105", message)
                .with_note("no product that is selected reads a value that it can change"),
        );
    }
    Ok(changed)
}
