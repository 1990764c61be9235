//! An order of nodes in which operands come first.

use super::{loc_of, node_name};
use crate::proto::{GraphProto, NodeProto};
use foldhash::HashMap;
use tersor_ir::Diagnostic;

/// The nodes in an order in which operands come first (the file's own, if it is one), and what is wrong: undefined inputs, which are taken to be defined
/// elsewhere, and cycles, whose nodes and those behind them are left out.
pub(super) fn order(g: &GraphProto, defined: impl Fn(&str) -> bool) -> (Vec<&NodeProto>, Vec<Diagnostic>) {
    let mut maker: HashMap<&str, usize> = HashMap::default();
    for (i, n) in g.node.iter().enumerate() {
        n.output.iter().filter(|o| !o.is_empty()).for_each(|o| {
            maker.insert(o, i);
        });
    }
    let mut errors = vec![];
    let (mut missing, mut readers) = (vec![0usize; g.node.len()], vec![vec![]; g.node.len()]);
    for (i, n) in g.node.iter().enumerate() {
        for name in n.input.iter().filter(|n| !n.is_empty() && !defined(n)) {
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
        cycles(g, &maker, &missing, &mut errors);
    }
    (out, errors)
}

/// Walks from each node that never got ready to the operands that hold it up, until a node comes twice. No node is walked from twice.
fn cycles(g: &GraphProto, maker: &HashMap<&str, usize>, missing: &[usize], errors: &mut Vec<Diagnostic>) {
    let mut walked = vec![None; g.node.len()];
    for start in (0..g.node.len()).filter(|&i| missing[i] > 0) {
        let (mut path, mut at) = (vec![], start);
        while walked[at].is_none() {
            walked[at] = Some(start);
            path.push(at);
            let before = g.node[at].input.iter().filter_map(|n| maker.get(n.as_str())).find(|&&m| missing[m] > 0);
            at = before.copied().unwrap_or(at);
        }
        let Some(from) = path.iter().position(|&p| p == at) else { continue };
        let quoted = |&i: &usize| format!("\"{}\"", node_name(&g.node[i]).escape_debug());
        let names: Vec<String> = path[from..].iter().rev().take(12).map(quoted).collect();
        let message = format!("the graph has a cycle: {} -> {}", names.join(" -> "), names[0]);
        errors.push(Diagnostic::error("O0026", message).at_loc(&loc_of(&g.node[at])));
    }
}
