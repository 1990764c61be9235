//! Taking channels out: what becomes of constants, of attributes, of a whole module.

use super::Group;
use super::relations::Slot;
use crate::sample;
use std::collections::BTreeSet;
use std::sync::Arc;
use tersor_ir::diag::Failure;
use tersor_ir::ops::{Conv, Real};
use tersor_ir::{Constant, Def, Diagnostic, Dim, Func, Module, NodeId, Op, Result, Tensor, ValueId};

/// Channels of a group that go.
#[derive(Copy, Clone)]
pub struct Removal<'a> {
    /// The group.
    pub group: &'a Group,
    /// Numbers of the channels.
    pub gone: &'a BTreeSet<usize>,
}

impl Removal<'_> {
    /// An error where a channel is barred, or where an axis would be left without positions.
    pub fn check(&self, f: &Func) -> Result<()> {
        let wrong = |message: String| Err(Diagnostic::error("S0130", message).failure(Failure::Internal));
        for &c in self.gone {
            match self.group.channels.get(c) {
                None => return wrong(format!("group {} has no channel {c}", self.group.name)),
                Some(channel) => {
                    if let Some(reason) = &channel.barred {
                        return wrong(format!("channel {c} of group {} cannot go: {reason}", self.group.name));
                    }
                }
            }
        }
        match self.group.slots.keys().find(|&&s| self.kept(s).is_some_and(|k| k.is_empty())) {
            None => Ok(()),
            Some(s) => wrong(format!("no position of axis {} of %{} would be left", s.axis, f.values[s.value].name)),
        }
    }

    /// Positions of an axis that stay; `None` for an axis that is not the group's.
    pub fn kept(&self, slot: Slot) -> Option<Vec<usize>> {
        self.group.kept(slot, self.gone)
    }

    /// Whether some axis of the value gets shorter.
    pub fn touches(&self, f: &Func, value: ValueId) -> bool {
        (0..f.values[value].ty.rank()).any(|axis| {
            self.group.slots.get(&Slot { value, axis }).is_some_and(|of| of.iter().any(|c| self.gone.contains(c)))
        })
    }

    /// What stays of a constant.
    pub fn sliced(&self, value: ValueId, t: &Tensor) -> Tensor {
        sample::part(t, &self.positions(value, t.shape().len())).expect("the positions are the constant's")
    }

    /// What stays of each axis of a value; `None` for one that is not the group's.
    pub fn positions(&self, value: ValueId, rank: usize) -> Vec<Option<Vec<usize>>> {
        (0..rank).map(|axis| self.kept(Slot { value, axis })).collect()
    }

    /// The node's op over what stays, with the factor by which the scale of a norm makes up for channels that went.
    pub fn op(&self, f: &Func, n: NodeId) -> (Op, Option<f64>) {
        let node = &f.nodes[n];
        let (mut op, mut gain) = (node.op.clone(), None);
        let count = |value, axis| self.kept(Slot { value, axis }).map(|k| k.len());
        let shorten = |shape: &mut [Dim]| {
            for (axis, d) in shape.iter_mut().enumerate() {
                if let Some(n) = count(node.results[0], axis) {
                    *d = n.into();
                }
            }
        };
        match &mut op {
            Op::Reshape(r) => shorten(&mut r.shape),
            Op::Broadcast(b) => shorten(&mut b.shape),
            Op::Slice(s) => {
                let axis = s.axis as usize;
                let kept = self.kept(Slot { value: node.operands[0], axis });
                if let (Some(kept), Some(start)) = (kept, s.start.as_const()) {
                    s.start = kept.iter().filter(|&&i| (i as i64) < start).count().into();
                    s.len = count(node.results[0], axis).map_or(s.len.clone(), Dim::from);
                }
            }
            Op::Conv(c) if c.groups > 1 => {
                let (x, w) = (node.operands[0], node.operands[1]);
                let channel = Conv::axes(c.channels_last, f.values[x].ty.rank()).1;
                if f.values[w].ty.shape[1] == Dim::from(1) {
                    c.groups = count(x, channel).map_or(c.groups, |n| n as i64);
                }
            }
            Op::RmsNorm(norm) => {
                let axis = f.values[node.results[0]].ty.rank() - 1;
                let (slot, all) =
                    (Slot { value: node.results[0], axis }, f.values[node.results[0]].ty.shape[axis].as_const());
                if let (true, Some(kept), Some(all)) = (norm.axis as usize <= axis, self.kept(slot), all)
                    && (kept.len() as i64) < all
                {
                    // x / sqrt(S/n + e) = x / sqrt(S/m + e n/m) * sqrt(n/m), for a sum S over m of n elements.
                    let (n, m) = (all as f64, kept.len() as f64);
                    norm.eps = Real(norm.eps.0 * n / m);
                    gain = Some((m / n).sqrt().recip());
                }
            }
            _ => {}
        }
        (op, gain)
    }
}

/// Takes the channels out of the whole function: constants are replaced by parts of them, attributes and types follow.
///
/// Exact where the removed channels contribute nothing. With no channel gone the module stays as it is.
pub fn remove(m: &mut Module, r: Removal) -> Result<()> {
    let f = &m.funcs[r.group.func];
    r.check(f)?;
    if f.live_nodes().iter().any(|&n| matches!(f.nodes[n].op, Op::Choice(_))) {
        let message = format!("channels of group {} cannot go while @{} has choices", r.group.name, f.name);
        return Err(Diagnostic::error("S0132", message).failure(Failure::Internal));
    }
    if r.gone.is_empty() {
        return Ok(());
    }
    for n in m.funcs[r.group.func].live_nodes() {
        let f = &m.funcs[r.group.func];
        let (op, gain) = r.op(f, n);
        let node = &f.nodes[n];
        let operands: Vec<(usize, ValueId, f64)> = node
            .operands
            .iter()
            .enumerate()
            .filter_map(|(i, &v)| {
                let factor = gain.filter(|_| i == 1).unwrap_or(1.0);
                (f.def_const(v).is_some() && (r.touches(f, v) || factor != 1.0)).then_some((i, v, factor))
            })
            .collect();
        m.funcs[r.group.func].nodes[n].op = op;
        for (i, v, factor) in operands {
            let value = replacement(m, r, v, factor)?;
            m.funcs[r.group.func].nodes[n].operands[i] = value;
        }
    }
    retype(&mut m.funcs[r.group.func])
}

/// The value of a constant of which channels are gone; one for each constant and factor.
fn replacement(m: &mut Module, r: Removal, v: ValueId, factor: f64) -> Result<ValueId> {
    let Def::Const(c) = m.funcs[r.group.func].values[v].def else { return Ok(v) };
    let old = &m.consts[c];
    let Some(t) = old.tensor() else {
        let message = format!("the elements of @{} are not in the store", old.name);
        return Err(Diagnostic::error("S0131", message).failure(Failure::Model));
    };
    let t = scaled(&r.sliced(v, t), factor);
    let name: Arc<str> = format!("{}.kept", old.name.trim_end_matches(".kept")).into();
    let loc = old.loc.clone();
    let same = |(_, c): &(tersor_ir::ConstId, &Constant)| c.name.starts_with(&*name) && c.tensor() == Some(&t);
    let found = m.consts.iter().find(same).map(|(id, _)| id);
    let id = found.unwrap_or_else(|| m.add_const(Constant::from_tensor(name.clone(), &t, loc)));
    let (consts, funcs) = (&m.consts, &mut m.funcs);
    Ok(funcs[r.group.func].const_value(consts, id))
}

/// The elements times a number; the tensor itself when that is 1.
pub fn scaled(t: &Tensor, factor: f64) -> Tensor {
    match factor {
        1.0 => t.clone(),
        _ => Tensor::from_f64(t.dtype(), t.shape(), &t.to_f64().iter().map(|v| v * factor).collect::<Vec<_>>()),
    }
}

/// Infers the types of all results anew, in order.
fn retype(f: &mut Func) -> Result<()> {
    for n in f.live_nodes() {
        let node = &f.nodes[n];
        let types: Vec<_> = node.operands.iter().map(|&v| &f.values[v].ty).collect();
        let inferred = node.op.infer(&types).map_err(|d| d.at_loc(&node.loc).failure(Failure::Internal))?;
        for (v, ty) in node.results.clone().into_iter().zip(inferred) {
            f.values[v].ty = ty;
        }
    }
    Ok(())
}
