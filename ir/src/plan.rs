//! Plans: which alternative stands at each site.

use crate::diag::{Diagnostic, Failure};
use crate::module::Module;
use crate::ops::Op;
use std::collections::BTreeMap;

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

/// Puts each site's picked alternative in place of its choice, and removes what then is dead.
///
/// Fails when the plan names a site or an alternative that the module does not have; all such are reported.
pub fn resolve(m: &mut Module, plan: &Plan) -> Result<(), Vec<Diagnostic>> {
    let sites: BTreeMap<_, _> = sites(m).into_iter().collect();
    let bad = |message: String| Diagnostic::error("S0301", message).failure(Failure::Usage);
    let errors: Vec<_> = plan
        .picks
        .iter()
        .filter_map(|(site, pick)| match sites.get(site) {
            None => Some(bad(format!("the plan names site @{site}, which the module does not have"))),
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
        for n in f.live_nodes() {
            let Op::Choice(c) = &f.nodes[n].op else { continue };
            let pick = plan.picks.get(&c.site).and_then(|p| c.names.iter().position(|n| n == p)).unwrap_or(0);
            let (from, to) = (f.nodes[n].results[0], f.nodes[n].operands[pick]);
            f.replace_uses(from, to);
        }
        f.remove_dead();
    }
    Ok(())
}
