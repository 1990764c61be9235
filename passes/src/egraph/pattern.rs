//! Patterns: `(mul ?x (sigmoid ?x))`.
//!
//! `?x` stands for any class, the same one at each place; `?c:const` for one that depends on constants alone, `?c:splat` for one whose elements all have one known
//! value; `?x...`, last among operands, for all that are left; a number for a class of that value (to six digits). `(transpose:t ?x)` names the op, for the rule to look at its attributes. Operands of `add mul max min`
//! match in either order.

use super::node::{Graph, Node};
use egg::Id;
use tersor_ir::Op;

/// A pattern.
#[derive(Clone, PartialEq, Debug)]
pub enum Pattern {
    /// Any class, or one that fits.
    Var(String, Fit),
    /// All operands that are left.
    Rest(String),
    /// A class of that value.
    Number(f64),
    /// An op over patterns.
    Op {
        /// Mnemonic.
        mnemonic: String,
        /// Name of the op.
        name: Option<String>,
        /// Operands.
        children: Vec<Pattern>,
    },
}

/// What a variable stands for.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Fit {
    /// Any class.
    Any,
    /// Depends on constants alone.
    Const,
    /// All elements have one known value.
    Splat,
}

/// What a match found.
#[derive(Clone, Debug, Default)]
pub struct Bind {
    vars: Vec<(String, Id)>,
    lists: Vec<(String, Vec<Id>)>,
    ops: Vec<(String, Op)>,
}

impl Bind {
    /// The class of a variable. The rule's pattern has it.
    pub fn var(&self, name: &str) -> Id {
        self.vars.iter().find(|(n, _)| n == name).map(|v| v.1).unwrap_or_else(|| panic!("the pattern has no ?{name}"))
    }
    /// The classes of a variable that stands for the rest. The rule's pattern has it.
    pub fn list(&self, name: &str) -> &[Id] {
        self.lists.iter().find(|(n, _)| n == name).map(|v| &v.1[..]).unwrap_or_else(|| panic!("no ?{name}..."))
    }
    /// A named op. The rule's pattern has it.
    pub fn op(&self, name: &str) -> &Op {
        self.ops
            .iter()
            .find(|(n, _)| n == name)
            .map(|v| &v.1)
            .unwrap_or_else(|| panic!("the pattern names no op {name}"))
    }
}

impl Pattern {
    /// Reads a pattern; panics on a malformed one, which is a bug of the rule that a test of all rules finds.
    pub fn parse(text: &str) -> Pattern {
        let spaced = text.replace('(', " ( ").replace(')', " ) ");
        let tokens: Vec<&str> = spaced.split_whitespace().collect();
        let mut at = 0;
        let p = Self::read(&tokens, &mut at);
        assert_eq!(at, tokens.len(), "more than one pattern in {text}");
        p
    }
    fn read(tokens: &[&str], at: &mut usize) -> Pattern {
        let token = tokens[*at];
        *at += 1;
        if token == "(" {
            let (mnemonic, name) = match tokens[*at].split_once(':') {
                Some((m, n)) => (m.to_string(), Some(n.to_string())),
                None => (tokens[*at].to_string(), None),
            };
            *at += 1;
            let mut children = vec![];
            while tokens[*at] != ")" {
                children.push(Self::read(tokens, at));
            }
            *at += 1;
            return Pattern::Op { mnemonic, name, children };
        }
        let Some(var) = token.strip_prefix('?') else {
            return Pattern::Number(token.parse().unwrap_or_else(|_| panic!("a number, not {token}")));
        };
        if let Some(rest) = var.strip_suffix("...") {
            return Pattern::Rest(rest.into());
        }
        match var.split_once(':') {
            None => Pattern::Var(var.into(), Fit::Any),
            Some((n, "const")) => Pattern::Var(n.into(), Fit::Const),
            Some((n, "splat")) => Pattern::Var(n.into(), Fit::Splat),
            Some((_, other)) => panic!("`const` or `splat`, not {other}"),
        }
    }

    /// The mnemonic at the root.
    pub fn root(&self) -> &str {
        match self {
            Pattern::Op { mnemonic, .. } => mnemonic,
            _ => panic!("a rule's pattern is an op"),
        }
    }

    /// Every way to match a class.
    pub fn matches(&self, g: &Graph, class: Id) -> Vec<Bind> {
        self.extend(g, g.find(class), Bind::default())
    }

    fn extend(&self, g: &Graph, class: Id, bind: Bind) -> Vec<Bind> {
        let facts = &g[class].data;
        match self {
            Pattern::Var(name, fit) => {
                let fits = match fit {
                    Fit::Any => true,
                    Fit::Const => facts.weight,
                    Fit::Splat => facts.splat.is_some(),
                };
                match bind.vars.iter().find(|(n, _)| n == name) {
                    _ if !fits => vec![],
                    Some(&(_, id)) => {
                        if g.find(id) == class {
                            vec![bind]
                        } else {
                            vec![]
                        }
                    }
                    None => {
                        let mut bind = bind;
                        bind.vars.push((name.clone(), class));
                        vec![bind]
                    }
                }
            }
            Pattern::Rest(name) => panic!("?{name}... stands last among operands"),
            Pattern::Number(v) => {
                let near = facts.splat.is_some_and(|s| (s - v).abs() <= 1e-6 * v.abs());
                if near { vec![bind] } else { vec![] }
            }
            Pattern::Op { mnemonic, name, children } => {
                let mut out = vec![];
                for node in &g[class].nodes {
                    let Node::Op(op, operands) = node else { continue };
                    let (children, rest) = match children.split_last() {
                        Some((Pattern::Rest(name), first)) if operands.len() >= first.len() => (first, Some(name)),
                        _ => (&children[..], None),
                    };
                    if op.mnemonic() != mnemonic || rest.is_none() && operands.len() != children.len() {
                        continue;
                    }
                    let mut bind = bind.clone();
                    if let Some(name) = rest {
                        let left = operands[children.len()..].iter().map(|&o| g.find(o)).collect();
                        bind.lists.push((name.clone(), left));
                    }
                    if let Some(n) = name {
                        bind.ops.push((n.clone(), op.clone()));
                    }
                    let forward: Vec<(&Pattern, Id)> =
                        children.iter().zip(operands.iter().map(|&o| g.find(o))).collect();
                    out.extend(all(g, &forward, bind.clone()));
                    if matches!(mnemonic.as_str(), "add" | "mul" | "max" | "min")
                        && children[0] != children[1]
                        && operands[0] != operands[1]
                    {
                        let backward = [(&children[0], g.find(operands[1])), (&children[1], g.find(operands[0]))];
                        out.extend(all(g, &backward, bind));
                    }
                }
                out
            }
        }
    }
}

fn all(g: &Graph, pairs: &[(&Pattern, Id)], bind: Bind) -> Vec<Bind> {
    pairs.iter().fold(vec![bind], |binds, (p, id)| binds.into_iter().flat_map(|b| p.extend(g, *id, b)).collect())
}
