//! Graphs inside of nodes, imported where the node stands.

use super::node::UNDEFINED_OPERAND;
use super::{Importer, Meaning, clean, order::order};
use crate::proto::{self, GraphProto};
use tersor_ir::Diagnostic;
use tersor_ir::diag::Result;

/// The names that a nested graph gives.
pub(super) fn own_names(g: &GraphProto) -> impl Iterator<Item = &str> {
    (g.input.iter().map(|i| i.name.as_str()))
        .chain(proto::initializers(g).map(|i| i.name()))
        .chain(g.node.iter().flat_map(|n| &n.output).map(String::as_str))
}

impl Importer<'_> {
    /// The results of a nested graph for these arguments. It sees the values around it; its own names go again.
    pub(super) fn inline(&mut self, g: &GraphProto, arguments: Vec<Meaning>) -> Result<Vec<Meaning>> {
        if g.input.len() != arguments.len() {
            let message = format!("a nested graph has {} inputs, expected {}", g.input.len(), arguments.len());
            return Err(Diagnostic::error("O0030", message));
        }
        self.inlined.nodes += g.node.len() + 1;
        let limits = &self.options.limits;
        if self.inlined.depth >= limits.graph_nesting {
            return Err(limits.exceeded("O0033", "graph_nesting", "graphs and calls are nested too deeply".into()));
        }
        if self.inlined.nodes > limits.expanded_nodes {
            return Err(limits.exceeded("O0033", "expanded_nodes", "nested graphs come to too many nodes".into()));
        }
        let own: Vec<&str> = own_names(g).collect();
        let hidden: Vec<_> = own.iter().map(|&name| (name.to_string(), self.scope.remove(name))).collect();
        let place = (self.b.loc.clone(), self.b.name.clone());
        self.inlined.depth += 1;
        let results = self.nested(g, arguments);
        self.inlined.depth -= 1;
        (self.b.loc, self.b.name) = place;
        own.iter().for_each(|&name| drop(self.scope.remove(name)));
        // The first removal of a name found what it meant outside.
        self.scope.extend(hidden.into_iter().filter_map(|(name, m)| Some((name, m?))));
        results
    }

    fn nested(&mut self, g: &GraphProto, arguments: Vec<Meaning>) -> Result<Vec<Meaning>> {
        for (i, m) in g.input.iter().zip(arguments) {
            self.scope.insert(i.name.clone(), m);
        }
        for i in proto::initializers(g) {
            let tensor = self.sources.initializer(i)?;
            let m = self.constant(&clean(i.name()), &tensor);
            self.scope.insert(i.name().into(), m);
        }
        let before = self.errors.len();
        let (nodes, errors) = order(g, |n| self.scope.contains_key(n) || self.broken.contains(n));
        self.errors.extend(errors);
        for node in nodes {
            self.node(node);
        }
        let known = |o: &proto::ValueInfoProto| match self.scope.get(&o.name) {
            Some(m) => Ok(m.clone()),
            // Where a node failed, that was said already.
            None if self.errors.len() > before || self.broken.contains(&o.name) || self.rounds.again => {
                Err(Diagnostic::error(UNDEFINED_OPERAND, "undefined result of a nested graph"))
            }
            None => {
                let message = format!("nothing makes the output \"{}\" of a nested graph", o.name.escape_debug());
                Err(Diagnostic::error("O0022", message))
            }
        };
        g.output.iter().map(known).collect()
    }
}
