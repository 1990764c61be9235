//! Groups nodes into steps.
//!
//! Three kinds of nodes: *anchors* (contractions, windows, reductions, rows: one kernel family each) start a group; *elementwise* nodes join the group that makes
//! their latest operand, or start a loop group; *views* (reshape, transpose, slice) move no data where all their readers can follow strides, and are loop groups
//! elsewhere. A loop group that makes a row kernel's operand becomes its prologue. What depends on constants alone belongs to no step: kernels take it
//! through [`crate::kernel::GroupCx::constant`], decoded or in the form that they decode themselves.
//!
//! Invariant: groups are in an order in which every group reads only what earlier ones write.

use crate::kernel::{Group, View};
use crate::strings;
use foldhash::{HashMap, HashSet};
use smallvec::SmallVec;
use tersor_ir::interp::{Sources, folds};
use tersor_ir::module::Def;
use tersor_ir::{DType, Dim, EntityId, Func, NodeId, Op, ValueId};

/// What a function becomes: steps, and values that are only looked at differently.
#[derive(Clone, Debug, Default)]
pub struct Fusion {
    /// Steps in execution order.
    pub groups: Vec<Group>,
    /// Values that are views of others' buffers.
    pub views: HashMap<ValueId, View>,
    /// Nodes that bind a symbol, in order, each with the number of groups that run before.
    pub binds: Vec<(usize, NodeId)>,
}

/// How an op takes part in fusion.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Role {
    /// Starts a group; elementwise readers of its result may join.
    Anchor,
    /// An anchor whose first operand may be computed on the way by elementwise nodes.
    Row,
    /// A function of operands at the same index.
    Elementwise,
    /// Reads elsewhere than where it writes: starts a loop group that elementwise readers may join.
    Move,
}

/// Nodes of one kernel: what emits them goes from a node to its operands by calls.
const MAX_NODES: usize = 64;
/// Views in a row that a reader looks through.
const MAX_VIEWS: usize = 16;

/// The role of an op. Ops that are views play it where they cannot be views.
pub fn role(op: &Op) -> Role {
    match op {
        Op::MatMul(_) | Op::Conv(_) | Op::Attention(_) | Op::Pool(_) | Op::Recurrence(_) => Role::Anchor,
        Op::ArgReduce(_) | Op::CumSum(_) | Op::Scatter(_) | Op::ArgSort(_) | Op::Nms(_) => Role::Anchor,
        Op::Reduce(_) | Op::Softmax(_) | Op::LayerNorm(_) | Op::RmsNorm(_) | Op::QuantDynamic(_) => Role::Row,
        Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select(_) => Role::Elementwise,
        Op::Cast(_) | Op::BitCast(_) | Op::Quant(_) | Op::Random(_) => Role::Elementwise,
        Op::DecodeAffine(d) if d.group == 0 => Role::Elementwise,
        Op::Loop(_) => Role::Anchor,
        op if strings::calls(op) => Role::Anchor,
        _ => Role::Move,
    }
}

/// Fuses a function's body. Nothing is fused into regions: a function with control flow is refused before.
pub fn fuse(f: &Func) -> Fusion {
    let constants = f.values.iter().filter(|(_, v)| matches!(v.def, Def::Const(_)));
    let weights: HashMap<_, _> = constants.map(|(v, x)| (v, Sources::of(&x.ty))).collect();
    let computed = weights.values().copied().fold(Sources::default(), Sources::and);
    let (groups, group_of, views, viewed, taken, coded, binds) = Default::default();
    let (uses, returned) = (readers(f), f.body().results.iter().copied().collect());
    let mut fusion =
        Fuser { f, uses, returned, groups, group_of, views, viewed, taken, coded, weights, computed, binds };
    f.body().nodes.iter().for_each(|&n| fusion.weigh(n));
    f.body().nodes.iter().for_each(|&n| fusion.node(n));
    fusion.finish()
}

/// The nodes that read each value.
fn readers(f: &Func) -> Vec<SmallVec<[NodeId; 2]>> {
    let mut r = vec![SmallVec::new(); f.values.len()];
    for n in f.live_nodes() {
        for v in &f.nodes[n].operands {
            r[v.index()].push(n);
        }
    }
    r
}

/// The strides of a reshaped view: every new axis must lie within a run of old axes that are dense to each other.
pub fn reshape_view(view: &View, from: &[Dim], to: &[Dim]) -> Option<View> {
    // Old axes, innermost first, joined while neighbours are dense to each other: (extent, stride).
    let mut runs: Vec<(Dim, Dim)> = vec![];
    for (d, s) in from.iter().zip(&view.strides).rev().filter(|(d, _)| **d != Dim::Const(1)) {
        match runs.last_mut() {
            Some((extent, stride)) if *s == extent.clone() * stride.clone() => *extent = extent.clone() * d.clone(),
            _ => runs.push((d.clone(), s.clone())),
        }
    }
    let mut strides = vec![Dim::from(0); to.len()];
    let (mut run, mut used) = (0, Dim::from(1));
    for i in (0..to.len()).rev() {
        if to[i] == Dim::Const(1) {
            continue;
        }
        let (extent, stride) = runs.get(run)?;
        strides[i] = stride.clone() * used.clone();
        used = used * to[i].clone();
        if used == *extent {
            (run, used) = (run + 1, Dim::from(1));
        } else {
            extent.exact_div(&used)?;
        }
    }
    (run == runs.len()).then(|| View { strides, ..view.clone() })
}

/// Whether all axes but the last are one run of rows, and the last is dense: what a product takes as its left operand.
pub fn is_rows(view: &View, shape: &[Dim]) -> bool {
    let n = shape.len();
    if n == 0 || (view.strides[n - 1] != Dim::Const(1) && shape[n - 1] != Dim::Const(1)) {
        return false;
    }
    let real: Vec<usize> = (0..n - 1).filter(|&i| shape[i] != Dim::Const(1)).collect();
    real.windows(2).all(|w| view.strides[w[0]] == view.strides[w[1]].clone() * shape[w[1]].clone())
}

struct Fuser<'a> {
    f: &'a Func,
    uses: Vec<SmallVec<[NodeId; 2]>>,
    returned: HashSet<ValueId>,
    groups: Vec<Option<Group>>,
    group_of: HashMap<NodeId, usize>,
    views: HashMap<ValueId, View>,
    /// Values that views look at.
    viewed: HashSet<ValueId>,
    /// Views that an attention group writes itself.
    taken: HashSet<NodeId>,
    /// Decodings of rows that products make themselves, each of them again.
    coded: HashSet<NodeId>,
    /// Values that are computed before a run, from constants alone, and the largest of these.
    weights: HashMap<ValueId, Sources>,
    /// All constants, and the work of computing these values.
    computed: Sources,
    /// Nodes that bind a symbol, with the number of groups before, those that were taken into others among them.
    binds: Vec<(usize, NodeId)>,
}

impl Fuser<'_> {
    fn op(&self, n: NodeId) -> &Op {
        &self.f.nodes[n].op
    }
    fn shape(&self, v: ValueId) -> &[Dim] {
        &self.f.values[v].ty.shape
    }
    fn view(&self, v: ValueId) -> View {
        self.views.get(&v).cloned().unwrap_or_else(|| View::dense(v, &self.f.values[v].ty))
    }
    fn returned(&self, v: ValueId) -> bool {
        self.returned.contains(&v)
    }
    /// The group that makes a value's buffer.
    fn maker(&self, v: ValueId) -> Option<usize> {
        let root = self.views.get(&v).map_or(v, |w| w.root);
        match self.f.values[root].def {
            Def::Node(n, _) => self.group_of.get(&n).copied(),
            _ => None,
        }
    }

    /// Notes the results of a node that works on constants alone.
    fn weigh(&mut self, n: NodeId) {
        if !folds(&self.f.nodes[n]) {
            return;
        }
        let operands = &self.f.nodes[n].operands;
        let results = self.f.nodes[n].results.clone();
        let largest = operands.iter().map(|v| self.weights.get(v).copied()).reduce(|a, b| Some(a?.max(b?))).flatten();
        if let Some(largest) = largest.map(|s| s.through(self.f, n))
            && results.iter().all(|&v| largest.compute(&self.f.values[v].ty))
            && self.computed.after(largest).affordable()
        {
            self.computed = self.computed.after(largest);
            self.weights.extend(results.into_iter().map(|v| (v, largest)));
        }
    }

    fn node(&mut self, n: NodeId) {
        let computed = self.f.nodes[n].results.first().is_some_and(|v| self.weights.contains_key(v));
        if computed {
            return;
        }
        if self.op(n).binds().is_some() {
            self.binds.push((self.groups.len(), n));
        }
        if self.taken.contains(&n) || self.as_view(n) {
            return;
        }
        if self.only_multiplied(n) {
            self.coded.insert(n);
            return;
        }
        match role(self.op(n)) {
            Role::Elementwise => self.join(n),
            Role::Row => self.row(n),
            Role::Anchor => {
                let left = self.f.nodes[n].operands.first().map(|&v| &self.f.values[v].def);
                let decode = left.and_then(|d| if let Def::Node(d, _) = d { Some(*d) } else { None });
                let nodes = decode.filter(|d| self.coded.contains(d)).into_iter().chain([n]).collect();
                let g = self.start(Some(n), nodes);
                self.attention_output(n, g);
            }
            Role::Move => {
                self.start(None, vec![n]);
            }
        }
    }

    /// Whether a node decodes rows of codes, a scale for each group of neighbours, that only products by constant matrices read: they all take the codes.
    fn only_multiplied(&self, n: NodeId) -> bool {
        let node = &self.f.nodes[n];
        let (Op::DecodeAffine(d), [codes, scale]) = (&node.op, &node.operands[..]) else { return false };
        let y = node.results[0];
        let ty = |v: ValueId| &self.f.values[v].ty;
        let rows = d.group > 0 && usize::from(d.axis) + 1 == ty(y).rank() && ty(y).rank() > 1;
        let types = ty(*codes).dtype == DType::I8 && ty(*scale).dtype == DType::F32;
        let whole = rows && ty(y).shape.last().and_then(Dim::as_const).is_some_and(|k| k % i64::from(d.group) == 0);
        let product = |r: &NodeId| {
            let (op, operands) = (&self.f.nodes[*r].op, &self.f.nodes[*r].operands);
            let Op::MatMul(op) = op else { return false };
            let matrix = |w: ValueId| {
                let shape = &ty(w).shape;
                self.weights.contains_key(&w) && shape[..shape.len() - 2].iter().all(|d| *d == Dim::Const(1))
            };
            operands[0] == y && operands[1] != y && !op.trans_a && matrix(operands[1])
        };
        let readers = &self.uses[y.index()];
        rows && types && whole && !readers.is_empty() && !self.returned(y) && readers.iter().all(product)
    }

    fn start(&mut self, anchor: Option<NodeId>, nodes: Vec<NodeId>) -> usize {
        let g = self.groups.len();
        nodes.iter().for_each(|&n| {
            self.group_of.insert(n, g);
        });
        self.groups.push(Some(Group { anchor, nodes, inputs: vec![], outputs: vec![] }));
        g
    }

    /// Takes a node as a view of its operand's buffer, if its readers can follow.
    fn as_view(&mut self, n: NodeId) -> bool {
        let node = &self.f.nodes[n];
        let (Some(&x), y) = (node.operands.first(), node.results[0]) else { return false };
        let base = self.view(x);
        let view = match &node.op {
            Op::Reshape(r) => reshape_view(&base, self.shape(x), &r.shape),
            Op::Transpose(t) => Some(View {
                strides: t.perm.iter().map(|&p| base.strides[p as usize].clone()).collect(),
                ..base.clone()
            }),
            // Truth values are 0 and 1, bytes are anything.
            Op::BitCast(c) if c.to != DType::Bool => Some(base.clone()),
            Op::Prefix(_) => Some(base.clone()),
            Op::Slice(s) if s.step > 0 => {
                let (mut v, a) = (base.clone(), s.axis as usize);
                v.offset = v.offset + s.start.clone() * v.strides[a].clone();
                v.strides[a] = v.strides[a].clone() * s.step.into();
                Some(v)
            }
            _ => None,
        };
        let Some(view) = view else { return false };
        let dense = view.offset == Dim::Const(0) && self.is_dense(&view, y);
        let whole = self.f.values[view.root].ty.elements() == self.f.values[y].ty.elements();
        if self.returned(y) && !(dense && whole && self.maker(x).is_some()) {
            return false;
        }
        if !dense && !self.uses[y.index()].iter().all(|&r| self.follows(r, y, &view, MAX_VIEWS)) {
            return false;
        }
        self.viewed.insert(view.root);
        self.views.insert(y, view);
        true
    }

    fn is_dense(&self, view: &View, y: ValueId) -> bool {
        let dense = View::dense(y, &self.f.values[y].ty);
        let shape = self.shape(y);
        (0..shape.len()).all(|i| shape[i] == Dim::Const(1) || view.strides[i] == dense.strides[i])
    }

    /// Whether a reader takes `y` through this view, by way of no more than `steps` further views.
    fn follows(&self, reader: NodeId, y: ValueId, view: &View, steps: usize) -> bool {
        let Some(steps) = steps.checked_sub(1) else { return false };
        let node = &self.f.nodes[reader];
        let unit = view.strides.last().is_none_or(|s| *s == Dim::Const(1) || *s == Dim::Const(0));
        match &node.op {
            Op::Attention(_) => true,
            Op::Transpose(_) | Op::Slice(_) => {
                let inner = match &node.op {
                    Op::Transpose(t) => View {
                        strides: t.perm.iter().map(|&p| view.strides[p as usize].clone()).collect(),
                        ..view.clone()
                    },
                    _ => view.clone(),
                };
                let z = node.results[0];
                !self.returned(z) && self.uses[z.index()].iter().all(|&r| self.follows(r, z, &inner, steps))
            }
            Op::Reshape(r) => {
                let Some(inner) = reshape_view(view, self.shape(y), &r.shape) else { return false };
                let z = node.results[0];
                !self.returned(z) && self.uses[z.index()].iter().all(|&r| self.follows(r, z, &inner, steps))
            }
            Op::MatMul(m) => {
                let left = node.operands[0] == y && node.operands[1] != y;
                left && !m.trans_a && is_rows(view, self.shape(y))
            }
            op => unit && matches!(role(op), Role::Elementwise | Role::Row),
        }
    }

    /// An elementwise node joins the group of its latest operand, if that is computed over the same index space.
    fn join(&mut self, n: NodeId) {
        let node = &self.f.nodes[n];
        let y = node.results[0];
        let latest = node.operands.iter().filter_map(|&v| Some((self.maker(v)?, v))).max_by_key(|p| p.0);
        if let Some((g, v)) = latest
            && !self.views.contains_key(&v)
            && self.domain(g) == Some(self.shape(y))
            && self.operands_fit(n, g)
            && self.groups[g]
                .as_ref()
                .is_some_and(|g| g.nodes.len() < MAX_NODES && (g.anchor.is_none() || !self.packs(n)))
        {
            self.groups[g].as_mut().expect("alive").nodes.push(n);
            self.group_of.insert(n, g);
            return;
        }
        self.start(None, vec![n]);
    }

    /// Whether several elements of a node's result share a byte: only loops write these.
    fn packs(&self, n: NodeId) -> bool {
        self.f.values[self.f.nodes[n].results[0]].ty.dtype.is_packed()
    }

    /// Operands from the group itself must be of its index space, or constant along it; those through views must be from elsewhere.
    fn operands_fit(&self, n: NodeId, g: usize) -> bool {
        let domain = self.domain(g);
        self.f.nodes[n]
            .operands
            .iter()
            .all(|&v| self.maker(v) != Some(g) || (!self.views.contains_key(&v) && Some(self.shape(v)) == domain))
    }

    /// The index space of a group's results; `None` where nothing may join.
    fn domain(&self, g: usize) -> Option<&[Dim]> {
        let group = self.groups[g].as_ref()?;
        let first = group.anchor.unwrap_or(group.nodes[0]);
        match self.op(first) {
            Op::QuantDynamic(_) | Op::Scatter(_) | Op::Recurrence(_) | Op::ArgSort(_) => None,
            Op::Nms(_) | Op::Loop(_) => None,
            op if strings::calls(op) => None,
            // After the moves that the kernel makes itself.
            Op::Attention(_) => group.nodes.last().map(|&n| self.shape(self.f.nodes[n].results[0])),
            _ => Some(self.shape(self.f.nodes[first].results[0])),
        }
    }

    /// A row kernel takes the loop group that makes its operand as prologue.
    fn row(&mut self, n: NodeId) {
        let x = self.f.nodes[n].operands[0];
        let prologue = self.maker(x).filter(|&g| {
            let group = self.groups[g].as_ref().expect("alive");
            let elementwise = group.nodes.iter().all(|&p| role(self.op(p)) == Role::Elementwise);
            let same = group.nodes.iter().all(|&p| self.shape(self.f.nodes[p].results[0]) == self.shape(x));
            // Nobody between reads what the group makes: it moves down to here.
            let free = group.nodes.iter().flat_map(|&p| &self.uses[self.f.nodes[p].results[0].index()]);
            let open = |r: &NodeId| !self.group_of.contains_key(r) && self.op(*r).binds().is_none();
            let unread = free.filter(|r| self.group_of.get(r) != Some(&g)).all(open);
            let unviewed = group.nodes.iter().all(|&p| !self.viewed.contains(&self.f.nodes[p].results[0]));
            let whole = !group.nodes.iter().any(|&p| self.packs(p));
            group.anchor.is_none() && elementwise && same && unread && unviewed && whole && !self.views.contains_key(&x)
        });
        let mut nodes = match prologue {
            Some(g) => self.groups[g].take().expect("alive").nodes,
            None => vec![],
        };
        nodes.push(n);
        self.start(Some(n), nodes);
    }

    /// An attention's result is written with heads side by side where that is all that is read: `transpose{perm=[0,2,1,3]}` and the `reshape` after it.
    fn attention_output(&mut self, n: NodeId, g: usize) {
        let Op::Attention(_) = self.op(n) else { return };
        let only = |s: &Self, v: ValueId| match s.uses[v.index()][..] {
            [r] if !s.returned(v) => Some(r),
            _ => None,
        };
        let Some(t) = only(self, self.f.nodes[n].results[0]) else { return };
        if !matches!(self.op(t), Op::Transpose(p) if p.perm == [0, 2, 1, 3]) {
            return;
        }
        let mut nodes = vec![t];
        let y = self.f.nodes[t].results[0];
        if let Some(r) = only(self, y)
            && let Op::Reshape(to) = self.op(r)
            && to.shape.len() == 3
            && to.shape[..2] == self.shape(y)[..2]
        {
            nodes.push(r);
        }
        for n in nodes {
            self.taken.insert(n);
            self.group_of.insert(n, g);
            self.groups[g].as_mut().expect("alive").nodes.push(n);
        }
    }

    fn finish(mut self) -> Fusion {
        let (mut out, mut binds, groups) = (vec![], vec![], std::mem::take(&mut self.groups));
        let Fuser { f, uses, .. } = &self;
        let mut next = self.binds.iter().peekable();
        // The last group that each node was found in: a node may be in several.
        let mut inside = vec![usize::MAX; f.nodes.len()];
        for (at, group) in groups.into_iter().enumerate() {
            binds.extend(std::iter::from_fn(|| next.next_if(|b| b.0 <= at)).map(|b| (out.len(), b.1)));
            let Some(mut g) = group else { continue };
            g.nodes.iter().for_each(|n| inside[n.index()] = at);
            for &n in &g.nodes {
                for &v in &f.nodes[n].operands {
                    let made_here = matches!(f.values[v].def, Def::Node(d, _) if inside[d.index()] == at);
                    if !made_here && !g.inputs.contains(&v) {
                        g.inputs.push(v);
                    }
                }
                for &v in f.nodes[n].results.iter().filter(|_| !self.coded.contains(&n)) {
                    // A reader that is a view, or in another group, needs the value in memory.
                    let read = uses[v.index()].iter().any(|r| inside[r.index()] != at);
                    if read || self.returned(v) {
                        g.outputs.push(v);
                    }
                }
            }
            if !g.outputs.is_empty() {
                out.push(g);
            }
        }
        binds.extend(next.map(|b| (out.len(), b.1)));
        Fusion { groups: out, binds, views: self.views }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(text: &str) -> String {
        let m = tersor_ir::text::parse(text, &Default::default()).unwrap_or_else(|e| panic!("{}", e[0]));
        let f = &m.funcs[m.main().unwrap()];
        let fusion = fuse(f);
        let name = |v: &ValueId| f.values[*v].name.to_string();
        let line = |g: &Group| {
            let nodes: Vec<_> = g.nodes.iter().map(|&n| name(&f.nodes[n].results[0])).collect();
            format!("{} -> {}\n", nodes.join(" "), g.outputs.iter().map(name).collect::<Vec<_>>().join(" "))
        };
        fusion.groups.iter().map(line).collect()
    }

    #[test]
    fn epilogues_prologues_and_views() {
        let text = "module @m {
  const @w : f32[8,8] = rng normal(0, 1) seed 1
  const @b : f32[8] = rng normal(0, 1) seed 2
  func @main(%x: f32[B,T,8]) -> (%y: f32[B,T,8]) {
    %q0 = matmul %x, @w : f32[B,T,8]
    %q1 = add %q0, @b : f32[B,T,8]
    %q2 = reshape %q1 {shape=[B,T,2,4]} : f32[B,T,2,4]
    %q = transpose %q2 {perm=[0,2,1,3]} : f32[B,2,T,4]
    %a = attention %q, %q, %q {scale=0.5} : f32[B,2,T,4]
    %at = transpose %a {perm=[0,2,1,3]} : f32[B,T,2,4]
    %ar = reshape %at {shape=[B,T,8]} : f32[B,T,8]
    %o = matmul %ar, @w : f32[B,T,8]
    %r = add %o, %x : f32[B,T,8]
    %n = layer_norm %r, @b, @b {axis=2} : f32[B,T,8]
    %e = exp %x : f32[B,T,8]
    %s = softmax %e {axis=2} : f32[B,T,8]
    %y = mul %n, %s : f32[B,T,8]
    return %y
  }
}";
        assert_eq!(groups(text), "q0 q1 -> q1\na at ar -> ar\no r -> r\nn -> n\ne s y -> y\n");
    }

    /// What is returned has a buffer of its own size.
    #[test]
    fn a_returned_part_is_no_view() {
        let text = |len: usize| {
            format!(
                "module @m {{
  func @main(%x: f32[4,8]) -> (%y: f32[{len},8]) {{
    %s = softmax %x {{axis=1}} : f32[4,8]
    %y = slice %s {{axis=0, len={len}}} : f32[{len},8]
    return %y
  }}
}}"
            )
        };
        assert_eq!(groups(&text(2)), "s -> s\ny -> y\n");
        assert_eq!(groups(&text(4)), "s -> s\n");
    }

    #[test]
    fn views_follow_strides() {
        let ty = tersor_ir::Type::new(DType::F32, [Dim::from("B"), "T".into(), 8.into()]);
        let v = View::dense(ValueId::new(0), &ty);
        let split = reshape_view(&v, &ty.shape, &["B".into(), "T".into(), 2.into(), 4.into()]).unwrap();
        assert_eq!(split.strides[2..], [Dim::from(4), 1.into()]);
        let flat = reshape_view(&v, &ty.shape, &[Dim::from("B") * "T".into(), 8.into()]).unwrap();
        assert_eq!(flat.strides, [Dim::from(8), 1.into()]);
        let turned = View { strides: vec![8.into(), Dim::from("T") * 8.into(), 1.into()], ..v };
        let shape = ["T".into(), "B".into(), 8.into()];
        assert!(reshape_view(&turned, &shape, &[Dim::from("B") * "T".into(), 8.into()]).is_none());
        assert!(!is_rows(&turned, &shape));
    }
}
