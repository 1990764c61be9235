//! What differs between two modules: what is computed alike is the same, of the rest what has one name; in terms of ops, operands and constants rather than lines.

use super::quote_name;
use crate::constant::ConstId;
use crate::dim::Bindings;
use crate::module::{Def, Func, Module, NodeId, RegionId, ValueId};
use crate::ops::binary::BinaryKind;
use crate::ops::shape::{broadcast_positions, broadcast_static};
use crate::ops::{MatMul, Op};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

/// Whether something went, came, or is another.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Only in the first.
    Removed,
    /// Only in the second.
    Added,
    /// In both, different.
    Changed,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Change::Removed => "-",
            Change::Added => "+",
            Change::Changed => "~",
        })
    }
}

/// One op, or a function's signature, that differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpChange {
    /// How.
    pub change: Change,
    /// The first result, with its `%`.
    pub name: String,
    /// The op; of the first module where it is in both.
    pub op: String,
    /// What differs, or operands and attributes.
    pub detail: String,
}

/// One function's differences.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FuncDiff {
    /// The function.
    pub name: String,
    /// Its ops that differ.
    pub ops: Vec<OpChange>,
}

/// One constant that is only in one of the modules, by content.
#[derive(Clone, PartialEq, Debug)]
pub struct ConstChange {
    /// Removed or added.
    pub change: Change,
    /// Name with its `@`.
    pub name: String,
    /// Type.
    pub ty: String,
    /// Bytes.
    pub bytes: usize,
    /// Signal to noise in dB, and the constant of the first module that it stands for.
    pub against: Option<(f64, String)>,
}

/// What differs between two modules.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Diff {
    /// Functions that differ.
    pub funcs: Vec<FuncDiff>,
    /// Constants that differ.
    pub constants: Vec<ConstChange>,
    /// Bytes of all constants in the first and the second.
    pub bytes: (usize, usize),
    /// Ops that are the same, under the same name.
    pub same: usize,
    /// Ops that are the same under another name.
    pub renamed: usize,
}

impl Diff {
    /// Whether nothing differs but names.
    pub fn is_empty(&self) -> bool {
        self.funcs.is_empty() && self.constants.is_empty()
    }
    /// How many ops changed in this way.
    pub fn count(&self, change: Change) -> usize {
        self.funcs.iter().flat_map(|f| &f.ops).filter(|o| o.change == change).count()
    }
}

/// Compares two modules.
pub fn diff(a: &Module, b: &Module) -> Diff {
    let mut out = Diff { bytes: (a.constant_bytes(), b.constant_bytes()), ..Diff::default() };
    for fb in b.funcs.values() {
        let ops = match a.func(&fb.name) {
            None => vec![whole(fb, Change::Added)],
            Some(fa) => Pair::new((a, &a.funcs[fa]), (b, fb)).compare(&mut out),
        };
        out.funcs.push(FuncDiff { name: fb.name.to_string(), ops });
    }
    for fa in a.funcs.values().filter(|f| b.func(&f.name).is_none()) {
        out.funcs.push(FuncDiff { name: fa.name.to_string(), ops: vec![whole(fa, Change::Removed)] });
    }
    out.funcs.retain(|f| !f.ops.is_empty());
    out.constants = constants(a, b);
    out
}

fn whole(f: &Func, change: Change) -> OpChange {
    OpChange {
        change,
        name: format!("@{}", f.name),
        op: "func".into(),
        detail: format!("of {} ops", f.live_nodes().len()),
    }
}

/// Two functions of one name.
struct Pair<'a> {
    a: (&'a Module, &'a Func),
    b: (&'a Module, &'a Func),
    /// Nodes of the second that have a partner in the first.
    partner: HashMap<NodeId, NodeId>,
}

impl<'a> Pair<'a> {
    fn new(a: (&'a Module, &'a Func), b: (&'a Module, &'a Func)) -> Self {
        Pair { a, b, partner: HashMap::new() }
    }

    fn compare(mut self, out: &mut Diff) -> Vec<OpChange> {
        let (fa, fb) = (self.a.1, self.b.1);
        let (nodes_a, nodes_b) = (fa.live_nodes(), fb.live_nodes());
        let mut taken = self.alike(&nodes_a, &nodes_b);
        let by_name: HashMap<_, _> =
            nodes_a.iter().filter(|n| !taken.contains(n)).map(|&n| (first_name(fa, n), n)).collect();
        for &n in &nodes_b {
            if let Some(&p) = by_name.get(&first_name(fb, n)).filter(|_| !self.partner.contains_key(&n)) {
                self.partner.insert(n, p);
                taken.insert(p);
            }
        }
        let mut by_shape: HashMap<(&Op, Vec<String>), Vec<NodeId>> = HashMap::new();
        for &n in nodes_a.iter().rev().filter(|n| !taken.contains(n)) {
            by_shape.entry((&fa.nodes[n].op, self.operands_a(n))).or_default().push(n);
        }
        let mut changes = signature(fa, fb);
        // Ops that were added for a changed one stand before it; they are shown after it.
        let mut added = vec![];
        for &n in &nodes_b {
            if !self.partner.contains_key(&n) {
                let twin = by_shape.get_mut(&(&fb.nodes[n].op, self.operands_b(n))).and_then(Vec::pop);
                match twin {
                    Some(p) => {
                        self.partner.insert(n, p);
                        taken.insert(p);
                        out.renamed += 1;
                    }
                    None => added.push(describe(fb, n, Change::Added)),
                }
                continue;
            }
            match self.change(n) {
                None if first_name(fa, self.partner[&n]) == first_name(fb, n) => out.same += 1,
                None => out.renamed += 1,
                Some(change) => {
                    changes.push(change);
                    changes.append(&mut added);
                }
            }
        }
        changes.append(&mut added);
        changes.extend(self.other_results(fa.body_id(), fb.body_id(), format!("@{}", fb.name)));
        for (n, p) in nodes_b.iter().filter_map(|n| Some((n, self.partner.get(n)?))) {
            let name = fb.nodes[*n].results.first().map_or_else(String::new, |&v| shown(fb, v));
            let regions = fa.nodes[*p].regions.iter().zip(&fb.nodes[*n].regions);
            changes.extend(regions.filter_map(|(&r, &s)| self.other_results(r, s, name.clone())));
        }
        changes.extend(nodes_a.iter().filter(|n| !taken.contains(n)).map(|&n| describe(fa, n, Change::Removed)));
        changes
    }

    /// Pairs ops that are computed alike all the way from inputs and constants, those with one name first. Returns the partners in the first function.
    fn alike(&mut self, nodes_a: &[NodeId], nodes_b: &[NodeId]) -> HashSet<NodeId> {
        let mut known = HashMap::new();
        let (ids_a, ids_b) = (computations(self.a, nodes_a, &mut known), computations(self.b, nodes_b, &mut known));
        let (fa, fb) = (self.a.1, self.b.1);
        let named: HashMap<_, _> = nodes_a.iter().map(|&n| ((ids_a[&n], first_name(fa, n)), n)).collect();
        for &n in nodes_b {
            self.partner.extend(named.get(&(ids_b[&n], first_name(fb, n))).map(|&p| (n, p)));
        }
        let mut taken: HashSet<NodeId> = self.partner.values().copied().collect();
        let mut free: HashMap<usize, Vec<NodeId>> = HashMap::new();
        for &n in nodes_a.iter().rev().filter(|n| !taken.contains(n)) {
            free.entry(ids_a[&n]).or_default().push(n);
        }
        for &n in nodes_b {
            let free = free.get_mut(&ids_b[&n]).filter(|_| !self.partner.contains_key(&n));
            if let Some(p) = free.and_then(Vec::pop) {
                self.partner.insert(n, p);
                taken.insert(p);
            }
        }
        taken
    }

    /// That two regions of what has a name give other values.
    fn other_results(&self, a: RegionId, b: RegionId, name: String) -> Option<OpChange> {
        let (fa, fb) = (self.a.1, self.b.1);
        let (x, y) = (&fa.regions[a].results, &fb.regions[b].results);
        let (before, after) = (self.values_a(x), self.values_b(y));
        let places = (0..before.len().min(after.len())).filter(|&i| before[i] != after[i]);
        let what: Vec<String> =
            places.map(|i| format!("result {i}: {} -> {}", shown(fa, x[i]), shown(fb, y[i]))).collect();
        let change = OpChange { change: Change::Changed, name, op: "return".into(), detail: what.join(", ") };
        (!what.is_empty()).then_some(change)
    }

    /// Operands by what identifies them in the first function.
    fn operands_a(&self, n: NodeId) -> Vec<String> {
        self.values_a(&self.a.1.nodes[n].operands)
    }
    fn operands_b(&self, n: NodeId) -> Vec<String> {
        self.values_b(&self.b.1.nodes[n].operands)
    }
    fn values_a(&self, values: &[ValueId]) -> Vec<String> {
        let (m, f) = self.a;
        values.iter().map(|&v| identity(m, f, v)).collect()
    }
    fn values_b(&self, values: &[ValueId]) -> Vec<String> {
        let (m, f) = self.b;
        let one = |&v: &ValueId| match f.values[v].def {
            Def::Node(n, i) => match self.partner.get(&n) {
                Some(p) => self.a.1.nodes[*p]
                    .results
                    .get(i as usize)
                    .map_or_else(|| identity(m, f, v), |&v| identity(self.a.0, self.a.1, v)),
                None => format!("+{}", f.values[v].name),
            },
            _ => identity(m, f, v),
        };
        values.iter().map(one).collect()
    }

    /// What differs between a node of the second and its partner.
    fn change(&self, n: NodeId) -> Option<OpChange> {
        let (fa, fb, p) = (self.a.1, self.b.1, self.partner[&n]);
        let (na, nb) = (&fa.nodes[p], &fb.nodes[n]);
        let (before, after) = (self.operands_a(p), self.operands_b(n));
        let mut what = vec![];
        if na.op.mnemonic() != nb.op.mnemonic() {
            what.push(format!("-> {}", text(fb, n)));
        } else {
            let value =
                |f: &Func, operands: &[ValueId], i: usize| operands.get(i).map_or("none".to_string(), |&v| shown(f, v));
            for i in (0..before.len().max(after.len())).filter(|&i| before.get(i) != after.get(i)) {
                what.push(format!("operand {i}: {} -> {}", value(fa, &na.operands, i), value(fb, &nb.operands, i)));
            }
            let (x, y): (BTreeMap<_, _>, BTreeMap<_, _>) =
                (na.op.print_attrs().into_iter().collect(), nb.op.print_attrs().into_iter().collect());
            let names: std::collections::BTreeSet<_> = x.keys().chain(y.keys()).collect();
            let default = "default".to_string();
            for k in names.into_iter().filter(|k| x.get(**k) != y.get(**k)) {
                what.push(format!("{k}: {} -> {}", x.get(k).unwrap_or(&default), y.get(k).unwrap_or(&default)));
            }
        }
        for (&v, &w) in na.results.iter().zip(&nb.results) {
            let (x, y) = (&fa.values[v].ty, &fb.values[w].ty);
            if x != y {
                what.push(format!("type: {x} -> {y}"));
            }
        }
        let name = nb.results.first().map_or_else(String::new, |&v| shown(fb, v));
        let op = na.op.mnemonic().to_string();
        (!what.is_empty()).then(|| OpChange { change: Change::Changed, name, op, detail: what.join(", ") })
    }
}

/// What an operand is: a result of a computation, or by [`identity`].
#[derive(PartialEq, Eq, Hash)]
enum Operand {
    Result(usize, u32),
    Other(String),
}

/// A number for each node: the same for those with one op over the same operands.
fn computations<'a>(
    (m, f): (&'a Module, &'a Func),
    nodes: &[NodeId],
    known: &mut HashMap<(&'a Op, Vec<Operand>), usize>,
) -> HashMap<NodeId, usize> {
    let mut ids: HashMap<NodeId, usize> = HashMap::new();
    for &n in nodes {
        let operand = |&v: &ValueId| match f.values[v].def {
            Def::Node(n, i) if ids.contains_key(&n) => Operand::Result(ids[&n], i),
            _ => Operand::Other(identity(m, f, v)),
        };
        let key = (&f.nodes[n].op, f.nodes[n].operands.iter().map(operand).collect());
        let next = known.len();
        ids.insert(n, *known.entry(key).or_insert(next));
    }
    ids
}

fn first_name(f: &Func, n: NodeId) -> Option<&str> {
    f.nodes[n].results.first().map(|&v| &*f.values[v].name)
}

/// Constants by content, parameters that only loops give by place, other values by name.
fn identity(m: &Module, f: &Func, v: ValueId) -> String {
    match f.values[v].def {
        Def::Const(c) => format!("{:?} {}", m.consts[c].hash(), m.consts[c].ty),
        Def::Param(_, i) if !is_main(f) => format!("%#{i}"),
        _ => shown(f, v),
    }
}

/// Whether names of parameters and results are those of a program.
fn is_main(f: &Func) -> bool {
    &*f.name == "main"
}

fn shown(f: &Func, v: ValueId) -> String {
    format!("{}{}", if f.def_const(v).is_some() { '@' } else { '%' }, quote_name(&f.values[v].name))
}

/// Mnemonic, operands and attributes.
fn text(f: &Func, n: NodeId) -> String {
    let line = super::print_node(f, n);
    line.split_once(" = ").map_or(line.clone(), |(_, r)| r.to_string())
}

fn describe(f: &Func, n: NodeId, change: Change) -> OpChange {
    let name = f.nodes[n].results.iter().map(|&v| shown(f, v)).collect::<Vec<_>>().join(", ");
    let op = f.nodes[n].op.mnemonic().to_string();
    let detail = text(f, n)[op.len()..].trim_start().to_string();
    OpChange { change, name, op, detail }
}

fn signature(a: &Func, b: &Func) -> Vec<OpChange> {
    let text = |f: &Func| {
        let list = |names: &[std::sync::Arc<str>], values: &[ValueId]| {
            let one = |(n, &v): (&std::sync::Arc<str>, &ValueId)| match is_main(f) {
                true => format!("{n}: {}", f.values[v].ty),
                false => f.values[v].ty.to_string(),
            };
            names.iter().zip(values).map(one).collect::<Vec<_>>().join(", ")
        };
        format!("({}) -> ({})", list(&f.inputs, &f.body().params), list(&f.outputs, &f.body().results))
    };
    let (x, y) = (text(a), text(b));
    let line = |change, detail| OpChange { change, name: format!("@{}", a.name), op: "signature".into(), detail };
    if x == y { vec![] } else { vec![line(Change::Removed, x), line(Change::Added, y)] }
}

fn constants(a: &Module, b: &Module) -> Vec<ConstChange> {
    // Of constants without elements no more is known than text shows.
    let content = |m: &Module, c: ConstId| m.consts[c].hash().short();
    let live = |m: &Module| -> Vec<ConstId> {
        let mut seen = HashSet::new();
        m.funcs.values().flat_map(Func::live_constants).filter(|&c| seen.insert(content(m, c))).collect()
    };
    let (ca, cb) = (live(a), live(b));
    let contents = |m: &Module, ids: &[ConstId]| ids.iter().map(|&c| content(m, c)).collect::<HashSet<String>>();
    let (ha, hb) = (contents(a, &ca), contents(b, &cb));
    let line = |m: &Module, c: ConstId, change| ConstChange {
        change,
        name: format!("@{}", quote_name(&m.consts[c].name)),
        ty: m.consts[c].ty.to_string(),
        bytes: m.consts[c].byte_len(),
        against: None,
    };
    let mut out: Vec<ConstChange> =
        (ca.iter().filter(|&&c| !hb.contains(&content(a, c)))).map(|&c| line(a, c, Change::Removed)).collect();
    for &c in cb.iter().filter(|&&c| !ha.contains(&content(b, c))) {
        let against = against(a, b, c);
        out.push(ConstChange { against, ..line(b, c, Change::Added) });
    }
    out
}

/// How near a new constant, decoded, comes to the one that its name derives from.
fn against(a: &Module, b: &Module, c: ConstId) -> Option<(f64, String)> {
    let new = &b.consts[c];
    let derives = |(_, old): &(ConstId, &crate::constant::Constant)| {
        let rest = new.name.strip_prefix(&*old.name);
        rest.is_some_and(|r| r.is_empty() || r.starts_with('.'))
            && old.ty.shape == new.ty.shape
            && old.ty.dtype.is_float()
    };
    let (_, old) = a.consts.iter().filter(derives).max_by_key(|(_, old)| old.name.len())?;
    let decoded = if new.ty.dtype.is_float() { new.tensor()?.clone() } else { decode(b, c)? };
    let (mut signal, mut noise) = (0.0, 0.0);
    for (x, y) in old.tensor()?.to_f64().into_iter().zip(decoded.to_f64()) {
        signal += x * x;
        noise += (x - y) * (x - y);
    }
    Some((10.0 * (signal / noise).log10(), format!("@{}", quote_name(&old.name))))
}

/// The floats that codes stand for: by the `decode.affine` that reads them, or by the scales of the integer product that does.
fn decode(m: &Module, codes: ConstId) -> Option<Tensor> {
    let of = |f: &Func, v: ValueId| f.def_const(v).and_then(|c| m.consts[c].tensor());
    for f in m.funcs.values() {
        let nodes = f.live_nodes();
        let reader = |v: ValueId| nodes.iter().map(|&n| &f.nodes[n]).find(|n| n.operands.contains(&v));
        for node in nodes.iter().map(|&n| &f.nodes[n]) {
            let at = node.operands.iter().position(|&v| f.def_const(v) == Some(codes));
            let channel_last = match (&node.op, at) {
                (op, Some(0)) if op.decodes() => {
                    let x: Option<Vec<&Tensor>> = node.operands.iter().map(|&v| of(f, v)).collect();
                    return Some(node.op.eval(&x?, &Bindings::new()).ok()?.remove(0));
                }
                (Op::MatMul(MatMul { trans_b, .. }), Some(1)) => !trans_b,
                (Op::Conv(_), Some(1)) => false,
                _ => continue,
            };
            let cast = reader(node.results[0]).filter(|n| matches!(n.op, Op::Cast(_)))?;
            let scaled =
                reader(cast.results[0]).filter(|n| matches!(&n.op, Op::Binary(b) if b.kind == BinaryKind::Mul))?;
            let scale = scaled.operands.iter().find_map(|&v| of(f, v))?;
            let mut source = f.def_node(node.operands[0])?;
            while let Op::Pad(_) = source.op {
                source = f.def_node(source.operands[0])?;
            }
            let by = if let Op::Quant(_) = source.op { of(f, source.operands[1])?.get_f64(0) } else { 1.0 };
            let q = m.consts[codes].tensor()?;
            let mut shape = vec![1; q.shape().len()];
            let axis = if channel_last { shape.len() - 1 } else { 0 };
            shape[axis] = q.shape()[axis];
            let scale = scale.reshaped(shape)?;
            let at = broadcast_positions(scale.shape(), &broadcast_static(&[q.shape(), scale.shape()]));
            let values: Vec<f64> = at.iter().enumerate().map(|(i, &s)| q.get_f64(i) * scale.get_f64(s) / by).collect();
            return Some(Tensor::from_f64(scale.dtype(), q.shape(), &values));
        }
    }
    None
}

/// `401,408`.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(d);
    }
    out
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |items: &mut dyn Iterator<Item = usize>| items.filter(|&n| n <= 40).max().unwrap_or(0);
        for func in &self.funcs {
            writeln!(f, "func @{}", quote_name(&func.name))?;
            let name = width(&mut func.ops.iter().map(|o| o.name.chars().count()));
            let op = width(&mut func.ops.iter().filter(|o| o.change == Change::Changed).map(|o| o.op.len()));
            for o in &func.ops {
                let op = if o.change == Change::Changed { op + 2 } else { 0 };
                writeln!(f, "{}", format!("  {} {:name$} {:op$} {}", o.change, o.name, o.op, o.detail).trim_end())?;
            }
        }
        if !self.constants.is_empty() {
            let (before, after) = self.bytes;
            let ratio = if after > 0 { format!(" ({:.1}x)", before as f64 / after as f64) } else { String::new() };
            writeln!(f, "constants   {} B -> {} B{ratio}", grouped(before), grouped(after))?;
            let name = width(&mut self.constants.iter().map(|c| c.name.chars().count()));
            let ty = width(&mut self.constants.iter().map(|c| c.ty.chars().count()));
            let bytes = width(&mut self.constants.iter().map(|c| grouped(c.bytes).len()));
            for c in &self.constants {
                write!(f, "  {} {:name$}  {:ty$}  {:>bytes$} B", c.change, c.name, c.ty, grouped(c.bytes))?;
                match &c.against {
                    Some((db, old)) if db.is_finite() => writeln!(f, "   {db:.1} dB against {old}")?,
                    Some((_, old)) => writeln!(f, "   equal to {old}")?,
                    None => writeln!(f)?,
                }
            }
        }
        let counts = [
            (self.same, "same"),
            (self.count(Change::Changed), "changed"),
            (self.count(Change::Removed), "removed"),
            (self.count(Change::Added), "added"),
            (self.renamed, "renamed"),
        ];
        let counts: Vec<String> = counts.iter().filter(|c| c.0 > 0).map(|(n, what)| format!("{n} {what}")).collect();
        writeln!(f, "ops   {}", if counts.is_empty() { "none".into() } else { counts.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    fn module(ops: &str) -> Module {
        let text = format!("module @m {{\n  func @main(%x: f32[N]) -> (%y: f32[N]) {{\n{ops}\n  }}\n}}");
        parse(&text, &Default::default()).unwrap_or_else(|e| panic!("{}", e[0]))
    }

    /// A name that another op has in the other module misleads nothing.
    #[test]
    fn names_are_looked_at_last() {
        let a =
            module("    %a = exp %x : f32[N]\n    %b = sin %a : f32[N]\n    %y = add %a, %b : f32[N]\n    return %y");
        let b =
            module("    %b = exp %x : f32[N]\n    %a = sin %b : f32[N]\n    %c = add %b, %a : f32[N]\n    return %c");
        let d = diff(&a, &b);
        assert!(d.is_empty(), "{d}");
        assert_eq!((d.same, d.renamed), (0, 3));
        let c =
            module("    %b = exp %x : f32[N]\n    %a = cos %b : f32[N]\n    %y = add %b, %a : f32[N]\n    return %y");
        let d = diff(&a, &c);
        assert_eq!(d.count(Change::Changed) + d.count(Change::Added), 2, "{d}");
    }
}
