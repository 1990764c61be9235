//! `merge`: products of one value by several constant weights become one product by the weights side by side, of which each reader takes its columns.

use crate::declare::Rewrite;
use crate::manager::PassCx;
use std::collections::{BTreeMap, HashMap, HashSet};
use tersor_ir::dim::Bindings;
use tersor_ir::ops::binary::{Binary, BinaryKind};
use tersor_ir::ops::{Concat, MatMul, Slice};
use tersor_ir::target::Target;
use tersor_ir::{Dim, EntityId, Func, Loc, Module, NodeId, Op, Result, Type, ValueId};

pass! {
    /// Joins products of one value by several constant weights (queries, keys and values; gate and up), with their biases, where the target's cost says that it pays.
    ///
    /// Their sites become one, so it stands after the passes that compress.
    pub struct Merge = "merge": Rewrite {
        options {}
        stats { "products": "products that became part of a larger one" }
    }
}

/// What elementwise work costs beyond its share in a kernel that it is part of.
const APART: f64 = 0.8;

impl Rewrite for Merge {
    fn run(&self, m: &mut Module, cx: &mut PassCx) -> Result<()> {
        let hints = m.hints();
        for f in m.funcs.values_mut() {
            let readers = readers(f);
            let returned: HashSet<ValueId> = f.regions.values().flat_map(|r| r.results.iter().copied()).collect();
            let scan = Scan { f, readers: &readers, returned: &returned, target: cx.target, hints: &hints };
            let groups: Vec<Vec<Member>> = scan.groups().into_iter().filter(|g| scan.pays(g)).collect();
            let mut before: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
            for group in groups {
                cx.count("products", group.len() as u64);
                before.insert(group[0].product, merge(f, &group)?);
            }
            let body = f.body_mut();
            for n in std::mem::take(&mut body.nodes) {
                body.nodes.extend(before.remove(&n).unwrap_or_default());
                body.nodes.push(n);
            }
            f.remove_dead();
        }
        Ok(())
    }
}

/// The nodes that read each value.
fn readers(f: &Func) -> Vec<Vec<NodeId>> {
    let mut out = vec![vec![]; f.values.len()];
    for n in f.live_nodes() {
        f.nodes[n].operands.iter().for_each(|v| out[v.index()].push(n));
    }
    out
}

/// A product by a constant, and the addition of a constant row to it if that is all that reads it.
struct Member {
    product: NodeId,
    bias: Option<(NodeId, ValueId)>,
}

impl Member {
    /// The node that makes what others read.
    fn last(&self) -> NodeId {
        self.bias.map_or(self.product, |b| b.0)
    }
    fn weight(&self, f: &Func) -> ValueId {
        f.nodes[self.product].operands[1]
    }
    fn result<'f>(&self, f: &'f Func) -> &'f Type {
        &f.values[f.nodes[self.last()].results[0]].ty
    }
}

/// What members of one group have in common: the left operand, the product's attributes, the weight's element type, the bias's rank.
type Key = (ValueId, MatMul, Type, Option<usize>);

struct Scan<'a> {
    f: &'a Func,
    readers: &'a [Vec<NodeId>],
    returned: &'a HashSet<ValueId>,
    target: &'a dyn Target,
    hints: &'a Bindings,
}

impl Scan<'_> {
    fn ty(&self, v: ValueId) -> &Type {
        &self.f.values[v].ty
    }

    /// Products that could be one, in program order.
    fn groups(&self) -> Vec<Vec<Member>> {
        let mut groups: BTreeMap<Key, Vec<Member>> = BTreeMap::new();
        for &n in &self.f.body().nodes {
            let Op::MatMul(op) = &self.f.nodes[n].op else { continue };
            let (x, w) = (self.f.nodes[n].operands[0], self.f.nodes[n].operands[1]);
            if op.trans_a || self.f.def_const(w).is_none() || self.f.def_const(x).is_some() || self.ty(w).rank() != 2 {
                continue;
            }
            let bias = self.bias(n);
            let mut like = self.ty(w).clone();
            like.shape.remove(columns(op));
            let rank = bias.map(|(_, b)| self.ty(b).rank());
            groups.entry((x, op.clone(), like, rank)).or_default().push(Member { product: n, bias });
        }
        groups.into_values().filter(|g| g.len() > 1).collect()
    }

    fn bias(&self, product: NodeId) -> Option<(NodeId, ValueId)> {
        let y = self.f.nodes[product].results[0];
        let [add] = self.readers[y.index()][..] else { return None };
        let node = &self.f.nodes[add];
        let other = *node.operands.iter().find(|&&v| v != y)?;
        let (t, out) = (self.ty(other), self.ty(y));
        let row = t.shape.last() == out.shape.last() && t.rank() <= out.rank() && Some(&t.elements()) == t.shape.last();
        let adds = matches!(node.op, Op::Binary(Binary { kind: BinaryKind::Add }));
        let fits = adds && row && t.dtype == out.dtype && self.f.def_const(other).is_some();
        (fits && !self.returned.contains(&y)).then_some((add, other))
    }

    fn seconds(&self, op: &Op, ins: &[&Type], outs: &[Type]) -> f64 {
        self.target.seconds(op, ins, outs, self.hints)
    }

    /// Whether one product costs less than several, with what it costs readers that no longer join a product's kernel.
    fn pays(&self, group: &[Member]) -> bool {
        let op = &self.f.nodes[group[0].product].op;
        let Op::MatMul(p) = op else { unreachable!("members are products") };
        let x = self.ty(self.f.nodes[group[0].product].operands[0]);
        let (mut w, mut y) = (self.ty(group[0].weight(self.f)).clone(), group[0].result(self.f).clone());
        let last = y.rank() - 1;
        let widths = group.iter().map(|m| m.result(self.f).shape[last].clone());
        y.shape[last] = widths.fold(Dim::from(0), |a, b| a + b);
        w.shape[columns(p)] = y.shape[last].clone();
        let each = |m: &Member| self.seconds(op, &[x, self.ty(m.weight(self.f))], &[m.result(self.f).clone()]);
        let apart: f64 = group.iter().map(|m| self.apart(m, &y)).sum();
        self.seconds(op, &[x, &w], &[y.clone()]) + apart < group.iter().map(each).sum::<f64>()
    }

    /// What the readers of a member cost more when it is columns of `whole`.
    fn apart(&self, m: &Member, whole: &Type) -> f64 {
        let v = self.f.nodes[m.last()].results[0];
        let slice = slice(self.f, m, 0.into());
        let copied = || self.seconds(&slice, &[whole], &[self.ty(v).clone()]);
        if !self.is_viewed(v) {
            return copied();
        }
        let elementwise =
            |op: &Op| matches!(op, Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select(_) | Op::Cast(_));
        let joins = self.readers[v.index()].iter().map(|&r| &self.f.nodes[r]).filter(|n| elementwise(&n.op));
        joins
            .map(|n| {
                let ins: Vec<&Type> = n.operands.iter().map(|&v| self.ty(v)).collect();
                let outs: Vec<Type> = n.results.iter().map(|&v| self.ty(v).clone()).collect();
                APART * self.seconds(&n.op, &ins, &outs)
            })
            .sum()
    }

    /// Whether all readers can take a value where it lies among others.
    fn is_viewed(&self, v: ValueId) -> bool {
        !self.returned.contains(&v)
            && self.readers[v.index()].iter().all(|&r| {
                let node = &self.f.nodes[r];
                match &node.op {
                    Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) => self.is_viewed(node.results[0]),
                    Op::MatMul(p) => !p.trans_a && node.operands[1] != v,
                    Op::Attention(_) | Op::Softmax(_) | Op::LayerNorm(_) | Op::RmsNorm(_) => true,
                    Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select(_) | Op::Cast(_) => true,
                    _ => false,
                }
            })
    }
}

/// The axis of a weight's columns.
fn columns(op: &MatMul) -> usize {
    usize::from(!op.trans_b)
}

fn slice(f: &Func, m: &Member, start: Dim) -> Op {
    let t = m.result(f);
    let axis = t.rank() - 1;
    Slice { axis: axis as u8, start, len: t.shape[axis].clone(), step: 1 }.into()
}

/// Makes the members slices of one product. Returns the new nodes, which belong before the first member.
fn merge(f: &mut Func, group: &[Member]) -> Result<Vec<NodeId>> {
    let first = &f.nodes[group[0].product];
    let (op, x, loc) = (first.op.clone(), first.operands[0], first.loc.made_by("merge"));
    let Op::MatMul(p) = &op else { unreachable!("members are products") };
    let name = format!("{}.merge", f.values[first.results[0]].name);
    let mut made = vec![];
    let mut add = |f: &mut Func, op: Op, operands: &[ValueId], loc: &Loc| -> Result<ValueId> {
        let body = f.body_id();
        let n = f.add_node(body, op, operands, &name, loc.clone())?;
        f.body_mut().nodes.pop();
        made.push(n);
        Ok(f.nodes[n].results[0])
    };
    let weights: Vec<ValueId> = group.iter().map(|m| m.weight(f)).collect();
    let w = add(f, Concat { axis: columns(p) as u8 }.into(), &weights, &loc)?;
    let mut y = add(f, op.clone(), &[x, w], &loc)?;
    let biases: Vec<ValueId> = group.iter().filter_map(|m| Some(m.bias?.1)).collect();
    if let Some(&b) = biases.first() {
        let axis = f.values[b].ty.rank() as u8 - 1;
        let b = add(f, Concat { axis }.into(), &biases, &loc)?;
        y = add(f, Binary { kind: BinaryKind::Add }.into(), &[y, b], &loc)?;
    }
    let mut start = Dim::from(0);
    for m in group {
        let op = slice(f, m, start.clone());
        start = start + m.result(f).shape.last().expect("products have two axes").clone();
        let node = &mut f.nodes[m.last()];
        (node.op, node.operands, node.loc) = (op, [y].into_iter().collect(), node.loc.made_by("merge"));
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use crate::filetest::run_passes;
    use proptest::prelude::*;
    use tersor_ir::testing::Gen;
    use tersor_ir::text::{parse, print};

    /// Products of `%x`, transposed or not, with and without biases, that sums read.
    fn module(seed: u64) -> String {
        let mut g = Gen::new(seed);
        let (mut consts, mut lines, mut last) = (String::new(), String::new(), "%r".to_string());
        for i in 0..g.int(2, 6) {
            let n = g.int(1, 5);
            let (shape, flag) = if g.flip() { (format!("[4,{n}]"), "") } else { (format!("[{n},4]"), " {trans_b}") };
            consts += &format!("  const @w{i} : f32{shape} = rng normal(0, 1) seed {}\n", g.int(1, 1 << 20));
            lines += &format!("    %p{i} = matmul %x, @w{i}{flag} : f32[N,3,{n}]\n");
            let mut y = format!("%p{i}");
            if g.flip() {
                let shape = g.one_of(&[format!("[{n}]"), format!("[1,{n}]")]);
                consts += &format!("  const @b{i} : f32{shape} = rng normal(0, 1) seed {}\n", g.int(1, 1 << 20));
                lines += &format!("    %a{i} = add {y}, @b{i} : f32[N,3,{n}]\n");
                y = format!("%a{i}");
            }
            lines += &format!("    %s{i} = reduce.sum {y} {{axes=[2], keep}} : f32[N,3,1]\n");
            lines += &format!("    %t{i} = add {last}, %s{i} : f32[N,3,1]\n");
            last = format!("%t{i}");
        }
        let inputs = "%x: f32[N,3,4], %r: f32[N,3,1]";
        format!(
            "module @m {{\n{consts}  func @main({inputs}) -> (%y: f32[N,3,1]) {{\n{lines}    return {last}\n  }}\n}}\n"
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn evaluation_is_kept(seed in any::<u64>()) {
            let random = crate::random::module(seed % (1 << 60), 30);
            let products = parse(&module(seed), &Default::default()).unwrap();
            for m in [random, products] {
                let mut after = m.clone();
                run_passes("merge", &mut after).unwrap();
                let error = crate::random::difference(&m, &after).unwrap();
                prop_assert!(error <= 1e-5, "{error}\n{}\n{}", print(&m), print(&after));
            }
        }
    }
}
