//! Plans: which alternative stands at each site.

use crate::diag::{Diagnostic, Failure};
use crate::module::{Module, ValueId};
use crate::ops::Op;
use std::collections::{BTreeMap, HashMap};

/// Alternative by site. Sites that are not named keep their first, exact alternative.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// Site to alternative.
    pub picks: BTreeMap<String, String>,
}

/// The sites of a module and the names of their alternatives, in program order.
pub fn sites(m: &Module) -> Vec<(String, Vec<String>)> {
    let choices = m.funcs.values().flat_map(|f| f.live_nodes().into_iter().map(|n| &f.nodes[n].op));
    choices
        .filter_map(|op| if let Op::Choice(c) = op { Some((c.site.clone(), c.names.clone())) } else { None })
        .collect()
}

/// Every plan of a module that has few sites: each says a word about each of them.
pub fn all(m: &Module) -> Vec<Plan> {
    let sites: BTreeMap<_, _> = sites(m).into_iter().collect();
    sites.into_iter().fold(vec![Plan::default()], |plans, (site, names)| {
        let with = |plan: &Plan, name: &String| {
            let mut picks = plan.picks.clone();
            picks.insert(site.clone(), name.clone());
            Plan { picks }
        };
        plans.iter().flat_map(|p| names.iter().map(|n| with(p, n)).collect::<Vec<_>>()).collect()
    })
}

/// Puts each site's picked alternative in place of its choice, and removes what then is dead.
///
/// Fails when the plan names a site or an alternative that the module does not have; all such are reported.
pub fn resolve(m: &mut Module, plan: &Plan) -> Result<(), Vec<Diagnostic>> {
    resolve_where(m, plan, |_| true)
}

/// As [`resolve`], but leaves the choices of sites that the plan does not name.
pub fn resolve_only(m: &mut Module, plan: &Plan) -> Result<(), Vec<Diagnostic>> {
    resolve_where(m, plan, |site| plan.picks.contains_key(site))
}

fn resolve_where(m: &mut Module, plan: &Plan, which: impl Fn(&str) -> bool) -> Result<(), Vec<Diagnostic>> {
    let sites: BTreeMap<_, _> = sites(m).into_iter().collect();
    let bad = |message: String| Diagnostic::error("S0301", message).failure(Failure::Usage);
    let errors: Vec<_> = plan
        .picks
        .iter()
        .filter_map(|(site, pick)| match sites.get(site) {
            None => {
                let known: Vec<&str> = sites.keys().take(8).map(|s| &**s).collect();
                let more = if sites.len() > known.len() { ", …" } else { "" };
                let d = bad(format!("the plan names site @{site}, which the module does not have"));
                Some(d.with_help(format!("sites are {}{more}", known.join(", "))))
            }
            Some(names) if !names.contains(pick) => Some(
                bad(format!("site @{site} has no alternative `{pick}`"))
                    .with_note(format!("it has {}", names.join(", "))),
            ),
            _ => None,
        })
        .collect();
    if !errors.is_empty() {
        return Err(errors);
    }
    for f in m.funcs.values_mut() {
        // Choices come in order, so an operand that is itself a choice's result is known by then.
        let mut stands_for: HashMap<ValueId, ValueId> = HashMap::new();
        let through = |map: &HashMap<ValueId, ValueId>, v: ValueId| map.get(&v).copied().unwrap_or(v);
        for n in f.live_nodes() {
            let node = &mut f.nodes[n];
            node.operands.iter_mut().for_each(|v| *v = through(&stands_for, *v));
            let Op::Choice(c) = &node.op else { continue };
            if which(&c.site) {
                let pick = plan.picks.get(&c.site).and_then(|p| c.names.iter().position(|n| n == p)).unwrap_or(0);
                stands_for.insert(node.results[0], node.operands[pick]);
            }
        }
        for v in f.nodes.values_mut().flat_map(|n| &mut n.operands) {
            *v = through(&stands_for, *v);
        }
        for v in f.regions.values_mut().flat_map(|r| &mut r.results) {
            *v = through(&stands_for, *v);
        }
        f.remove_dead();
    }
    Ok(())
}
