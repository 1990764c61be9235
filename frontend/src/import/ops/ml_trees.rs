//! Ensembles of decision trees of `ai.onnx.ml`: all decisions of a row at once, then every tree from its root down, one level at a time.

use super::Topic;
use super::ml_linear::{best, classes, rows, transformed, two_classes};
use crate::import::Meaning;
use crate::import::build::done;
use crate::import::node::{NodeCx, value};
use std::collections::{HashMap, HashSet};
use tersor_ir::diag::Result;
use tersor_ir::ops::Gather;
use tersor_ir::ops::binary::BinaryKind::{Add, And, Mul, Or};
use tersor_ir::ops::compare::CompareKind::{self, Eq, Ge, Gt, Le, Lt, Ne};
use tersor_ir::ops::reduce::ReduceKind;
use tersor_ir::{DType, Tensor, ValueId};

/// Most numbers of a table.
const ENTRIES: usize = 1 << 24;
/// Most levels of a tree.
const LEVELS: usize = 256;

/// What a node compares its feature with.
#[derive(Clone, PartialEq)]
enum Test {
    Compare(CompareKind, f64),
    Member(Vec<f64>),
}

/// A node; a leaf leads to itself.
struct Branch {
    feature: usize,
    test: Test,
    missing: bool,
    yes: usize,
    no: usize,
}

struct Ensemble {
    nodes: Vec<Branch>,
    roots: Vec<usize>,
    /// What a node that is reached last adds to which target.
    weights: Vec<(usize, usize, f64)>,
}

fn leaf(at: usize) -> Branch {
    Branch { feature: 0, test: Test::Compare(Le, 0.0), missing: false, yes: at, no: at }
}

impl Ensemble {
    fn is_leaf(&self, n: usize) -> bool {
        self.nodes[n].yes == n && self.nodes[n].no == n
    }

    /// Refuses decisions that lead back to where they came from, be it where no root leads.
    fn acyclic(&self, cx: &NodeCx) -> Result<()> {
        let next = |n: usize| [self.nodes[n].yes, self.nodes[n].no].into_iter().filter(move |_| !self.is_leaf(n));
        let mut before = vec![0; self.nodes.len()];
        (0..self.nodes.len()).flat_map(next).for_each(|n| before[n] += 1);
        let mut ready: Vec<usize> = (0..before.len()).filter(|&n| before[n] == 0).collect();
        while let Some(n) = ready.pop() {
            for to in next(n) {
                before[to] -= 1;
                if before[to] == 0 {
                    ready.push(to);
                }
            }
        }
        match before.iter().position(|&b| b > 0) {
            Some(n) => Err(cx.invalid(format!("decisions lead back to node {n}"))),
            None => Ok(()),
        }
    }

    /// The most decisions from a root to a leaf.
    fn levels(&self, cx: &NodeCx) -> Result<usize> {
        let (mut at, mut depth) = (self.roots.clone(), 0);
        loop {
            at.retain(|&n| !self.is_leaf(n));
            if at.is_empty() {
                return Ok(depth);
            }
            if depth == LEVELS {
                return Err(cx.unsupported(format!("trees of more than {LEVELS} levels")));
            }
            at = at.iter().flat_map(|&n| [self.nodes[n].yes, self.nodes[n].no]).collect();
            at.sort_unstable();
            at.dedup();
            depth += 1;
        }
    }

    /// `[N, nodes]`: whether each node's test holds.
    fn decisions(&self, cx: &mut NodeCx, x: ValueId) -> Result<ValueId> {
        let (n, dtype) = (self.nodes.len(), cx.ty(x).dtype);
        let features = cx.fixed(&cx.ty(x).shape[1], "features")?;
        if let Some(f) = self.nodes.iter().map(|b| b.feature).find(|&f| f >= features) {
            return Err(cx.invalid(format!("feature {f} of {features}")));
        }
        let at: Vec<i64> = self.nodes.iter().map(|b| b.feature as i64).collect();
        let at = cx.emit_constant(&Tensor::from_i64(DType::I64, [n], &at));
        let x = cx.op(Gather { axis: 1 }, &[x, at])?;
        let mask = |cx: &mut NodeCx, f: &dyn Fn(&Branch) -> bool| {
            let bits: Vec<i64> = self.nodes.iter().map(|b| i64::from(f(b))).collect();
            cx.emit_constant(&Tensor::from_i64(DType::Bool, [n], &bits))
        };
        let mut holds: Option<ValueId> = None;
        for kind in [Le, Lt, Ge, Gt, Eq, Ne] {
            let with = |b: &Branch| matches!(b.test, Test::Compare(k, _) if k == kind);
            if !self.nodes.iter().any(with) {
                continue;
            }
            let split = |b: &Branch| if let Test::Compare(_, v) = b.test { v } else { 0.0 };
            let splits: Vec<f64> = self.nodes.iter().map(split).collect();
            let splits = cx.table(dtype, &[n], &splits);
            let test = cx.compare(kind, x, splits)?;
            holds = Some(match holds {
                None => test,
                Some(other) => {
                    let here = mask(cx, &with);
                    cx.select(here, test, other)?
                }
            });
        }
        let member = |b: &Branch| if let Test::Member(m) = &b.test { m.clone() } else { vec![] };
        let most = self.nodes.iter().map(|b| member(b).len()).max().unwrap_or(0);
        if most > 0 {
            if n * most > ENTRIES {
                return Err(cx.unsupported(format!("{n} nodes with sets of {most} members")));
            }
            // Places that a set leaves are equal to nothing.
            let sets = self.nodes.iter().flat_map(|b| {
                let m = member(b);
                let rest = most - m.len();
                m.into_iter().chain(std::iter::repeat_n(f64::NAN, rest))
            });
            let sets: Vec<f64> = sets.collect();
            let sets = cx.table(dtype, &[n, most], &sets);
            let each = cx.insert_axis(x, 2)?;
            let equal = cx.compare(Eq, each, sets)?;
            let equal = cx.cast(equal, DType::I32)?;
            let any = cx.reduce(ReduceKind::Max, equal, &[2], false)?;
            let any = cx.cast(any, DType::Bool)?;
            holds = Some(match holds {
                None => any,
                Some(other) => {
                    let here = mask(cx, &|b: &Branch| matches!(b.test, Test::Member(_)));
                    cx.select(here, any, other)?
                }
            });
        }
        let mut holds = holds.ok_or_else(|| cx.invalid("no nodes"))?;
        if self.nodes.iter().any(|b| b.missing) {
            let nan = cx.compare(Ne, x, x)?;
            let tracks = mask(cx, &|b: &Branch| b.missing);
            let missing = cx.binary(And, nan, tracks)?;
            holds = cx.binary(Or, holds, missing)?;
        }
        Ok(holds)
    }

    /// `[N, trees]`: the leaf that each row reaches in each tree.
    fn leaves(&self, cx: &mut NodeCx, x: ValueId) -> Result<ValueId> {
        let (n, rows) = (self.nodes.len(), cx.ty(x).shape[0].clone());
        let levels = self.levels(cx)?;
        let list =
            |v: Vec<usize>| Tensor::from_i64(DType::I64, [v.len()], &v.iter().map(|&i| i as i64).collect::<Vec<_>>());
        let roots = cx.emit_constant(&list(self.roots.clone()));
        let mut at = cx.broadcast(roots, vec![rows.clone(), self.roots.len().into()])?;
        if levels == 0 {
            return Ok(at);
        }
        let holds = self.decisions(cx, x)?;
        // Where the node leads goes before where it leads otherwise.
        let next = self.nodes.iter().flat_map(|b| [b.no, b.yes]).collect();
        let next = cx.emit_constant(&list(next));
        let row = cx.positions(&rows, 0, 2, DType::I64)?;
        let first = cx.with_scalar(Mul, row, n as f64)?;
        let holds = cx.cast(holds, DType::I64)?;
        for _ in 0..levels {
            let place = cx.binary(Add, first, at)?;
            let taken = cx.take(holds, place)?;
            let twice = cx.with_scalar(Mul, at, 2.0)?;
            let pair = cx.binary(Add, twice, taken)?;
            at = cx.op(Gather { axis: 0 }, &[next, pair])?;
        }
        Ok(at)
    }

    /// `[N, targets]`: what the leaves add, taken together over all trees.
    fn scores(&self, cx: &mut NodeCx, x: ValueId, targets: usize, dtype: DType, kind: ReduceKind) -> Result<ValueId> {
        self.acyclic(cx)?;
        let n = self.nodes.len();
        if n.checked_mul(targets).is_none_or(|e| e > ENTRIES) {
            return Err(cx.unsupported(format!("{n} nodes with weights of {targets} targets")));
        }
        if targets > 1 && matches!(kind, ReduceKind::Min | ReduceKind::Max) {
            return Err(cx.unsupported("the extreme of several targets"));
        }
        let mut weights = vec![0.0; n * targets];
        for &(node, target, w) in &self.weights {
            let place = weights.get_mut(node * targets + target).filter(|_| target < targets);
            *place.ok_or_else(|| cx.invalid(format!("a weight of target {target} of {targets}")))? += w;
        }
        let at = self.leaves(cx, x)?;
        let weights = cx.table(dtype, &[n, targets], &weights);
        let each = cx.op(Gather { axis: 0 }, &[weights, at])?;
        cx.reduce(kind, each, &[1], false)
    }
}

/// A node that decides leads to others.
fn apart(cx: &NodeCx, n: usize, yes: usize, no: usize) -> Result<()> {
    if yes == n || no == n { Err(cx.invalid(format!("node {n} leads to itself"))) } else { Ok(()) }
}

fn modes(cx: &NodeCx, name: &str) -> Result<Option<CompareKind>> {
    Ok(Some(match name {
        "BRANCH_LEQ" => Le,
        "BRANCH_LT" => Lt,
        "BRANCH_GTE" => Ge,
        "BRANCH_GT" => Gt,
        "BRANCH_EQ" => Eq,
        "BRANCH_NEQ" => Ne,
        "LEAF" => return Ok(None),
        other => return Err(cx.invalid(format!("the mode {}", other.escape_debug()))),
    }))
}

/// Numbers that are a list of floats or a tensor.
fn numbers(cx: &mut NodeCx, name: &str) -> Result<Vec<f64>> {
    if let Some(v) = cx.floats(name) {
        return Ok(v.into_iter().map(f64::from).collect());
    }
    Ok(cx.tensor(&format!("{name}_as_tensor"))?.map_or(vec![], |t| t.to_f64()))
}

/// The trees of `TreeEnsembleClassifier` and `TreeEnsembleRegressor`; the weights' attributes begin with `class` or `target`.
fn ensemble(cx: &mut NodeCx, of: &str) -> Result<Ensemble> {
    let list = |cx: &NodeCx, name: &str| cx.ints(name).ok_or_else(|| cx.invalid(format!("no {name}")));
    let (trees, ids) = (list(cx, "nodes_treeids")?, list(cx, "nodes_nodeids")?);
    let (features, yes, no) =
        (list(cx, "nodes_featureids")?, list(cx, "nodes_truenodeids")?, list(cx, "nodes_falsenodeids")?);
    let missing = cx.ints("nodes_missing_value_tracks_true").unwrap_or_default();
    let names = cx.strings("nodes_modes").unwrap_or_default();
    let splits = numbers(cx, "nodes_values")?;
    cx.has("nodes_hitrates");
    cx.has("nodes_hitrates_as_tensor");
    let n = ids.len();
    let lengths = [trees.len(), features.len(), yes.len(), no.len(), names.len(), splits.len()];
    if lengths.iter().any(|&l| l != n) || !(missing.is_empty() || missing.len() == n) || n == 0 {
        return Err(cx.invalid(format!("attributes of nodes have different lengths: {n}, {lengths:?}")));
    }
    let places: HashMap<(i64, i64), usize> = (0..n).map(|i| ((trees[i], ids[i]), i)).collect();
    if places.len() != n {
        return Err(cx.invalid("two nodes have one number"));
    }
    let find = |cx: &NodeCx, tree: i64, id: i64| {
        places.get(&(tree, id)).copied().ok_or_else(|| cx.invalid(format!("tree {tree} has no node {id}")))
    };
    let (mut nodes, mut inner) = (vec![], vec![false; n]);
    for i in 0..n {
        let Some(kind) = modes(cx, &names[i])? else {
            nodes.push(leaf(i));
            continue;
        };
        let feature = usize::try_from(features[i]).map_err(|_| cx.invalid("a negative feature"))?;
        let (yes, no) = (find(cx, trees[i], yes[i])?, find(cx, trees[i], no[i])?);
        apart(cx, i, yes, no)?;
        (inner[yes], inner[no]) = (true, true);
        let missing = missing.get(i) == Some(&1);
        nodes.push(Branch { feature, test: Test::Compare(kind, splits[i]), missing, yes, no });
    }
    let roots: Vec<usize> = (0..n).filter(|&i| !inner[i]).collect();
    if roots.is_empty() {
        return Err(cx.invalid("no node is the root of a tree"));
    }
    let (trees, ids) = (list(cx, &format!("{of}_treeids"))?, list(cx, &format!("{of}_nodeids"))?);
    let (targets, values) = (list(cx, &format!("{of}_ids"))?, numbers(cx, &format!("{of}_weights"))?);
    let m = ids.len();
    if [trees.len(), targets.len(), values.len()].iter().any(|&l| l != m) {
        return Err(cx.invalid(format!("attributes of weights have different lengths, {m} nodes")));
    }
    let mut weights = vec![];
    for i in 0..m {
        let target = usize::try_from(targets[i]).map_err(|_| cx.invalid("a negative target"))?;
        weights.push((find(cx, trees[i], ids[i])?, target, values[i]));
    }
    Ok(Ensemble { nodes, roots, weights })
}

fn aggregate(cx: &NodeCx, name: &str) -> Result<ReduceKind> {
    Ok(match name {
        "AVERAGE" => ReduceKind::Mean,
        "SUM" => ReduceKind::Sum,
        "MIN" => ReduceKind::Min,
        "MAX" => ReduceKind::Max,
        other => return Err(cx.invalid(format!("aggregate_function {}", other.escape_debug()))),
    })
}

/// The scores with `base_values` on top.
fn based(cx: &mut NodeCx, scores: ValueId, targets: usize) -> Result<ValueId> {
    let base = numbers(cx, "base_values")?;
    match base.len() {
        0 => Ok(scores),
        n if n == targets => {
            let base = cx.table(cx.ty(scores).dtype, &[n], &base);
            cx.binary(Add, scores, base)
        }
        n => Err(cx.unsupported(format!("{n} base_values for {targets} targets"))),
    }
}

fn regressor(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = rows(cx)?;
    let mut e = ensemble(cx, "target")?;
    let targets = usize::try_from(cx.int("n_targets", 1)).map_err(|_| cx.invalid("negative n_targets"))?;
    // As ONNX Runtime has it, where several weights of one target stand at a leaf.
    if targets == 1 {
        let mut seen = HashSet::new();
        e.weights.retain(|w| seen.insert(w.0));
    }
    let kind = aggregate(cx, &cx.string("aggregate_function", "SUM"))?;
    let dtype = cx.ty(x).dtype;
    let y = e.scores(cx, x, targets, dtype, kind)?;
    let y = based(cx, y, targets)?;
    let y = transformed(cx, y, &cx.string("post_transform", "NONE"))?;
    done(cx.cast(y, DType::F32)?)
}

fn classifier(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = rows(cx)?;
    let mut e = ensemble(cx, "class")?;
    let labels = classes(cx, "classlabels_int64s")?;
    let (dtype, transform) = (cx.ty(x).dtype, cx.string("post_transform", "NONE"));
    // Of two classes, the weights are those of one, written as the first.
    if labels.len() == 2 {
        if e.weights.iter().any(|w| w.1 != 0) {
            return Err(cx.unsupported("two classes with weights of both"));
        }
        let positive = e.weights.iter().all(|w| w.2 >= 0.0);
        if transform != "NONE" && (transform != "LOGISTIC" || positive) {
            return Err(cx.unsupported(format!("post_transform {transform} of one class's weights")));
        }
        let score = e.scores(cx, x, 1, dtype, ReduceKind::Sum)?;
        let score = based(cx, score, 1)?;
        let (label, both) = two_classes(cx, score, &labels, if positive { 0.5 } else { 0.0 })?;
        let both = transformed(cx, both, &transform)?;
        return Ok(vec![value(label), value(cx.cast(both, DType::F32)?)]);
    }
    let scores = e.scores(cx, x, labels.len(), dtype, ReduceKind::Sum)?;
    let scores = based(cx, scores, labels.len())?;
    let mut candidates = scores;
    if e.weights.iter().any(|w| w.2 < 0.0) {
        // A class that no leaf speaks of is no candidate.
        e.weights.iter_mut().for_each(|w| w.2 = 1.0);
        let named = e.scores(cx, x, labels.len(), dtype, ReduceKind::Sum)?;
        let named = cx.compare_scalar(Gt, named, 0.0)?;
        let never = cx.scalar_like(scores, f64::NEG_INFINITY);
        candidates = cx.select(named, scores, never)?;
    }
    let label = best(cx, candidates, &labels)?;
    let scores = transformed(cx, scores, &transform)?;
    Ok(vec![value(label), value(cx.cast(scores, DType::F32)?)])
}

/// The ensemble of version 5: leaves in a list of their own, tests that look a feature up in a set.
fn tree_ensemble(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let x = rows(cx)?;
    let list = |cx: &NodeCx, name: &str| -> Result<Vec<usize>> {
        let v = cx.ints(name).ok_or_else(|| cx.invalid(format!("no {name}")))?;
        v.into_iter().map(|i| usize::try_from(i).map_err(|_| cx.invalid(format!("{name} holds {i}")))).collect()
    };
    let tensor = |cx: &mut NodeCx, name: &str| {
        let t = cx.tensor(name)?;
        t.ok_or_else(|| cx.invalid(format!("no {name}")))
    };
    let (features, yes, no) =
        (list(cx, "nodes_featureids")?, list(cx, "nodes_truenodeids")?, list(cx, "nodes_falsenodeids")?);
    let (yes_leaf, no_leaf) = (list(cx, "nodes_trueleafs")?, list(cx, "nodes_falseleafs")?);
    let (roots, targets) = (list(cx, "tree_roots")?, list(cx, "leaf_targetids")?);
    let missing = cx.ints("nodes_missing_value_tracks_true").unwrap_or_default();
    let (modes, splits) = (tensor(cx, "nodes_modes")?.to_i64(), tensor(cx, "nodes_splits")?.to_f64());
    let weights = tensor(cx, "leaf_weights")?;
    let members = cx.tensor("membership_values")?.map_or(vec![], |t| t.to_f64());
    cx.has("nodes_hitrates");
    let (n, leaves) = (features.len(), targets.len());
    let lengths = [yes.len(), no.len(), yes_leaf.len(), no_leaf.len(), modes.len(), splits.len()];
    if lengths.iter().any(|&l| l != n) || !(missing.is_empty() || missing.len() == n) || weights.len() != leaves {
        return Err(cx.invalid(format!("attributes of nodes have different lengths: {n}, {lengths:?}")));
    }
    let mut sets = members.split(|v| v.is_nan());
    let mut nodes = vec![];
    for i in 0..n {
        let to = |cx: &NodeCx, at: usize, leaf: bool| match leaf {
            true if at < leaves => Ok(n + at),
            false if at < n => Ok(at),
            _ => Err(cx.invalid(format!("node {i} leads to {at}"))),
        };
        let test = match modes[i] {
            6 => Test::Member(sets.next().ok_or_else(|| cx.invalid("fewer sets than nodes that use one"))?.to_vec()),
            m => {
                let kind = usize::try_from(m).ok().and_then(|m| [Le, Lt, Ge, Gt, Eq, Ne].get(m).copied());
                Test::Compare(kind.ok_or_else(|| cx.invalid(format!("the mode {m}")))?, splits[i])
            }
        };
        let (yes, no) = (to(cx, yes[i], yes_leaf[i] != 0)?, to(cx, no[i], no_leaf[i] != 0)?);
        apart(cx, i, yes, no)?;
        nodes.push(Branch { feature: features[i], test, missing: missing.get(i) == Some(&1), yes, no });
    }
    nodes.extend((n..n + leaves).map(leaf));
    if roots.is_empty() || roots.iter().any(|&r| r >= n) {
        return Err(cx.invalid(format!("tree_roots {roots:?} of {n} nodes")));
    }
    let e = Ensemble {
        nodes,
        roots,
        weights: targets.into_iter().zip(weights.to_f64()).enumerate().map(|(i, (t, w))| (n + i, t, w)).collect(),
    };
    let count = usize::try_from(cx.int("n_targets", 1)).map_err(|_| cx.invalid("negative n_targets"))?;
    let names = ["AVERAGE", "SUM", "MIN", "MAX"];
    let name = usize::try_from(cx.int("aggregate_function", 1)).ok().and_then(|i| names.get(i));
    let kind = aggregate(cx, name.copied().unwrap_or_default())?;
    let y = e.scores(cx, x, count, weights.dtype(), kind)?;
    let transforms = ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"];
    let transform = usize::try_from(cx.int("post_transform", 0)).ok().and_then(|i| transforms.get(i));
    done(transformed(cx, y, transform.copied().unwrap_or_default())?)
}

pub(super) const OPS: Topic = &[
    ("ai.onnx.ml:TreeEnsemble", tree_ensemble),
    ("ai.onnx.ml:TreeEnsembleClassifier", classifier),
    ("ai.onnx.ml:TreeEnsembleRegressor", regressor),
];
