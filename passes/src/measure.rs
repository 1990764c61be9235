//! How far an alternative is off: it and what it takes the place of, evaluated on samples.

use crate::coupling::reads;
use crate::propose::Site;
use crate::sample;
use crate::statistics::Statistics;
use std::collections::{BTreeMap, HashMap, HashSet};
use tersor_ir::dim::Bindings;
use tersor_ir::ops::{Meaning, Reshape};
use tersor_ir::testing::rel_l2;
use tersor_ir::{Def, Func, Module, NodeId, Op, Result, Tensor, Type, ValueId};

/// Multiply-adds of one sample beyond which a region is not evaluated.
const MOST_WORK: i64 = 1 << 31;

/// The relative error of an alternative that these nodes compute, against the exact ones that they take the place of, all in order. `None` when a constant's elements are
/// missing, when calibration has no sample of what a region reads, or when the region is too large to evaluate.
pub(crate) fn error(
    m: &Module,
    site: &Site,
    exact: &[NodeId],
    nodes: &[NodeId],
    value: ValueId,
    statistics: Option<&Statistics>,
) -> Result<Option<f64>> {
    let f = &m.funcs[site.func];
    let Def::Node(op, _) = f.values[site.value].def else { return Ok(None) };
    let made: HashSet<ValueId> = nodes.iter().flat_map(|&n| f.nodes[n].results.iter().copied()).collect();
    let beside = |v: &ValueId| {
        !made.contains(v) && f.def_const(*v).is_none() && !f.nodes[op].operands.contains(v) && *v != site.value
    };
    let region = nodes.is_empty() || nodes.iter().any(|&n| f.nodes[n].operands.iter().any(beside));
    let order: Vec<NodeId> = if region { exact.iter().chain(nodes).copied().collect() } else { vec![op] };
    let given = if region { whole(m, f, &order, statistics) } else { Some(local(m, f, op, statistics)) };
    let Some((mut known, env)) = given else { return Ok(None) };
    for &n in order.iter().chain(nodes) {
        let node = &f.nodes[n];
        if node.results.iter().all(|v| known.contains_key(v)) {
            continue;
        }
        let mut x = vec![];
        for &v in reads(f, n) {
            match f.def_const(v).map_or_else(|| known.get(&v), |c| m.consts[c].tensor()) {
                Some(t) => x.push(t),
                None => return Ok(None),
            }
        }
        let y = match &node.op {
            Op::Choice(_) => Ok(vec![x[0].clone()]),
            Op::Reshape(r) => reshaped(r, &f.values[node.operands[0]].ty, x[0]).eval(&x, &env),
            op => op.eval(&x, &env),
        };
        let y = y.map_err(|d| d.at_loc(&node.loc))?;
        known.extend(node.results.iter().copied().zip(y));
    }
    Ok(Some(rel_l2(&known[&value], &known[&site.value])))
}

/// A reshape as it is of a sample: the leading axes that it leaves as they are have the sample's extents, which may be cut short.
fn reshaped(op: &Reshape, ty: &Type, x: &Tensor) -> Reshape {
    let mut shape = op.shape.clone();
    let leading = shape.iter_mut().zip(&ty.shape).take_while(|(new, old)| *new == *old);
    leading.zip(x.shape()).for_each(|((new, _), &n)| *new = n.into());
    Reshape { shape }
}

type Given = (HashMap<ValueId, Tensor>, Bindings);

/// Small samples of one op's operands, and the extents that they have.
fn local(m: &Module, f: &Func, op: NodeId, statistics: Option<&Statistics>) -> Given {
    let mut known: HashMap<ValueId, Tensor> = HashMap::new();
    for (&v, shape) in f.nodes[op].operands.iter().zip(sample::shapes(m, f, op)) {
        if f.def_const(v).is_none() {
            known.insert(v, sample::tensor(f, v, &shape, statistics));
        }
    }
    let mut env = m.hints();
    for (&v, t) in &known {
        for (d, &n) in f.values[v].ty.shape.iter().zip(t.shape()) {
            if let Some((symbol, factor)) = d.as_multiple() {
                env.insert(symbol.clone(), n as i64 / factor);
            }
        }
    }
    (known, env)
}

/// Samples of one whole input of all that these nodes read and do not make.
fn whole(m: &Module, f: &Func, nodes: &[NodeId], statistics: Option<&Statistics>) -> Option<Given> {
    let env = sample::whole_extents(m, f);
    let work = |&n: &NodeId| {
        let node = &f.nodes[n];
        let ins: Vec<&Type> = node.operands.iter().map(|&v| &f.values[v].ty).collect();
        let outs: Vec<Type> = node.results.iter().map(|&v| f.values[v].ty.clone()).collect();
        node.op.work(&ins, &outs).madds.eval(&env)
    };
    let all = nodes.iter().map(work).try_fold(0i64, |sum, w| Some(sum.saturating_add(w?)))?;
    let made: HashSet<ValueId> = nodes.iter().flat_map(|&n| f.nodes[n].results.iter().copied()).collect();
    let read = nodes.iter().flat_map(|&n| reads(f, n).iter().copied());
    let mut known = BTreeMap::new();
    for v in read.filter(|v| !made.contains(v) && f.def_const(*v).is_none()) {
        let shape = sample::whole(m, f, v)?;
        let t = sample::tensor(f, v, &shape, statistics);
        // Without calibration numbers are drawn; with it, what was not seen is not made up.
        let seen = || statistics.is_none_or(|s| s.get(&f.values[v].name).is_some_and(|s| s.sample.is_some()));
        if t.shape() != shape || !seen() {
            return None;
        }
        known.insert(v, t);
    }
    (all <= MOST_WORK).then(|| (known.into_iter().collect(), env))
}
