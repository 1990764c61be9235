//! An order of nodes in which operands come first.

use super::{Meaning, loc_of, node_name};
use crate::proto::{GraphProto, NodeProto};
use std::collections::{HashMap, HashSet};
use tersor_ir::Diagnostic;

/// The nodes in an order in which operands come first (the file's own, if it is one). Cycles and undefined inputs are errors.
pub(super) fn order<'g>(
    g: &'g GraphProto,
    scope: &HashMap<String, Meaning>,
) -> Result<Vec<&'g NodeProto>, Vec<Diagnostic>> {
    let mut maker: HashMap<&str, usize> = HashMap::new();
    for (i, n) in g.node.iter().enumerate() {
        n.output.iter().filter(|o| !o.is_empty()).for_each(|o| {
            maker.insert(o, i);
        });
    }
    let mut errors = vec![];
    let (mut missing, mut readers) = (vec![0usize; g.node.len()], vec![vec![]; g.node.len()]);
    for (i, n) in g.node.iter().enumerate() {
        for name in n.input.iter().filter(|n| !n.is_empty() && !scope.contains_key(*n)) {
            match maker.get(name.as_str()) {
                Some(&m) => {
                    missing[i] += 1;
                    readers[m].push(i);
                }
                None => {
                    let d = Diagnostic::error("O0021", format!("input \"{}\" is not defined", name.escape_debug()));
                    errors.push(d.at_loc(&loc_of(n)));
                }
            }
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    // Nodes that are ready are taken in the file's order.
    let mut ready: std::collections::BinaryHeap<std::cmp::Reverse<usize>> =
        (0..g.node.len()).filter(|&i| missing[i] == 0).map(std::cmp::Reverse).collect();
    let mut out = Vec::with_capacity(g.node.len());
    while let Some(std::cmp::Reverse(i)) = ready.pop() {
        out.push(&g.node[i]);
        for &r in &readers[i] {
            missing[r] -= 1;
            if missing[r] == 0 {
                ready.push(std::cmp::Reverse(r));
            }
        }
    }
    if out.len() < g.node.len() {
        return Err(vec![cycle(g, &maker, &missing)]);
    }
    Ok(out)
}

/// Walks from a node that never got ready to the operands that hold it up, until one comes twice.
fn cycle(g: &GraphProto, maker: &HashMap<&str, usize>, missing: &[usize]) -> Diagnostic {
    let mut at = missing.iter().position(|&m| m > 0).unwrap_or(0);
    let mut path: Vec<usize> = vec![];
    let mut seen = HashSet::new();
    while seen.insert(at) {
        path.push(at);
        let before = g.node[at].input.iter().filter_map(|n| maker.get(n.as_str())).find(|&&m| missing[m] > 0);
        at = before.copied().unwrap_or(at);
    }
    let start = path.iter().position(|&p| p == at).unwrap_or(0);
    let names: Vec<String> =
        path[start..].iter().rev().take(12).map(|&i| format!("\"{}\"", node_name(&g.node[i]).escape_debug())).collect();
    Diagnostic::error("O0026", format!("the graph has a cycle: {} -> {}", names.join(" -> "), names[0]))
        .at_loc(&loc_of(&g.node[at]))
}
