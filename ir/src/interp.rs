//! The reference interpreter: runs a function node by node with each op's `eval`.

use crate::constant::ConstId;
use crate::diag::{Diagnostic, Result};
use crate::dim::{Bindings, Dim};
use crate::entity::EntityId;
use crate::module::{Consts, Def, Func, Module, Node, NodeId, RegionId, ValueId};
use crate::ops::{Loop, Op};
use crate::tensor::Tensor;
use crate::types::{DType, Type};
use std::collections::{HashMap, HashSet};

/// Runs `@main` on one tensor for each parameter.
pub fn run(m: &Module, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let f = &m.funcs[m.main()?];
    let env = bind(m, f, inputs)?;
    let mut run = Run { m, f, env, values: vec![None; f.values.len()] };
    for (&p, t) in f.body().params.iter().zip(inputs) {
        run.values[p.index()] = Some(t.clone());
    }
    run.region(f.body_id())
}

/// The values of symbols that the inputs' shapes imply; checks dtypes, ranks, extents and bounds.
pub fn bind(m: &Module, f: &Func, inputs: &[Tensor]) -> Result<Bindings> {
    let params = &f.body().params;
    if params.len() != inputs.len() {
        return Err(Diagnostic::error("T0401", format!("{} inputs, expected {}", inputs.len(), params.len())));
    }
    let mut env = Bindings::new();
    let types = || params.iter().map(|&p| &f.values[p]).zip(inputs);
    for (p, t) in types() {
        if t.dtype() != p.ty.dtype || t.shape().len() != p.ty.rank() {
            return Err(Diagnostic::error("T0402", format!("input {} is {}, expected {}", p.name, t.ty(), p.ty)));
        }
        for (d, &n) in p.ty.shape.iter().zip(t.shape()) {
            if let Some((s, factor)) = d.as_multiple() {
                env.entry(s.clone()).or_insert(n as i64 / factor);
            }
        }
    }
    for (p, t) in types() {
        if p.ty.shape.iter().zip(t.shape()).any(|(d, &n)| d.eval(&env) != Some(n as i64)) {
            return Err(Diagnostic::error("T0403", format!("input {} is {}, expected {}", p.name, t.ty(), p.ty))
                .with_note(show(&env)));
        }
    }
    for (s, info) in &m.symbols {
        if let Some(&v) = env.get(s)
            && !(info.min..=info.max).contains(&v)
        {
            return Err(Diagnostic::error(
                "T0404",
                format!("extent {s} is {v}, allowed is {}..={}", info.min, info.max),
            ));
        }
    }
    Ok(env)
}

/// Bytes that a value of constants alone may take to be computed before a run, whatever it is made of.
const COMPUTED_BYTES: usize = 16 << 20;
/// Floats that a byte of codes may become beyond that: with a mask, codes of two bits stand for more than four.
const DECODED: usize = 16;

/// Multiply-adds that may make a value of constants alone before a run, whatever it is made of, and for each element that it is made of.
const COMPUTED_WORK: (i64, i64) = (1 << 28, 64);

/// The constants that a value is made of, and what it takes to make it.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Sources {
    elements: usize,
    /// Bytes of elements of a byte or less.
    codes: usize,
    /// Multiply-adds.
    work: i64,
}

impl Sources {
    /// One constant.
    pub fn of(ty: &Type) -> Sources {
        let elements = ty.static_elements().unwrap_or(0);
        let codes = if ty.dtype.bits() <= 8 { ty.dtype.bytes(elements).unwrap_or(0) } else { 0 };
        Sources { elements, codes, work: 0 }
    }
    /// The larger of both, and the work of both.
    pub fn max(self, other: Sources) -> Sources {
        let (elements, codes) = (self.elements.max(other.elements), self.codes.max(other.codes));
        Sources { elements, codes, ..self.after(other) }
    }
    /// Both.
    pub fn and(self, other: Sources) -> Sources {
        let add = usize::saturating_add;
        let (elements, codes) = (add(self.elements, other.elements), add(self.codes, other.codes));
        Sources { elements, codes, ..self.after(other) }
    }
    /// These, with the work of others done before.
    pub fn after(self, other: Sources) -> Sources {
        Sources { work: self.work.saturating_add(other.work), ..self }
    }
    /// With the work of a node more.
    pub fn through(self, f: &Func, n: NodeId) -> Sources {
        self.after(Sources { work: work(f, n), ..Sources::default() })
    }
    /// Whether it is not too much work for what it is made of.
    pub fn affordable(self) -> bool {
        self.work <= COMPUTED_WORK.0.saturating_add(COMPUTED_WORK.1.saturating_mul(self.elements as i64))
    }
    /// Whether a value that is made of these alone is computed before a run: where that is not too much work, and it is small, has no more elements than
    /// they have, or decodes them.
    pub fn compute(self, ty: &Type) -> bool {
        let decoded = if ty.dtype.is_float() { self.codes.saturating_mul(DECODED) } else { 0 };
        self.affordable()
            && ty.static_elements().is_some_and(|n| {
                n <= self.elements.max(decoded) || ty.dtype.bytes(n).is_some_and(|bytes| bytes <= COMPUTED_BYTES)
            })
    }
}

/// The elements of a value that depends on constants alone. `None` for other values, behind a `choice`, where the store lacks elements, and where
/// a value on the way is too large, see [`Sources::compute`].
pub fn constant(consts: &Consts, f: &Func, v: ValueId) -> Option<Tensor> {
    let mut known = HashMap::new();
    for n in expression(consts, f, v)? {
        let node = &f.nodes[n];
        let x: Option<Vec<&Tensor>> = node.operands.iter().map(|&v| element(consts, f, v, &known)).collect();
        let y = node.op.eval(&x?, &Bindings::new()).ok()?;
        known.extend(node.results.iter().copied().zip(y));
    }
    element(consts, f, v, &known).cloned()
}

/// Whether [`constant`] would go down to elements that are there, without computing anything.
pub fn is_constant(consts: &Consts, f: &Func, v: ValueId) -> bool {
    expression(consts, f, v).is_some()
}

/// Multiply-adds of a node, where they are known.
fn work(f: &Func, n: NodeId) -> i64 {
    let node = &f.nodes[n];
    let ins: Vec<&Type> = node.operands.iter().map(|&v| &f.values[v].ty).collect();
    let outs: Vec<Type> = node.results.iter().map(|&v| f.values[v].ty.clone()).collect();
    node.op.work(&ins, &outs).madds.as_const().unwrap_or(i64::MAX)
}

fn element<'a>(consts: &'a Consts, f: &Func, v: ValueId, known: &'a HashMap<ValueId, Tensor>) -> Option<&'a Tensor> {
    match f.values[v].def {
        Def::Const(c) => consts[c].tensor(),
        _ => known.get(&v),
    }
}

/// The nodes that make a value of constants alone, each once and after those that it reads.
fn expression(consts: &Consts, f: &Func, v: ValueId) -> Option<Vec<NodeId>> {
    enum Visit {
        Value(ValueId),
        Done(NodeId),
    }
    let (mut seen, mut order, mut stack) = (HashSet::new(), vec![], vec![Visit::Value(v)]);
    let mut sources: HashMap<ConstId, Sources> = HashMap::new();
    while let Some(visit) = stack.pop() {
        match visit {
            Visit::Done(n) => order.push(n),
            Visit::Value(v) => match f.values[v].def {
                Def::Const(c) => {
                    consts[c].tensor()?;
                    sources.insert(c, Sources::of(&consts[c].ty));
                }
                Def::Param(..) => return None,
                Def::Node(n, _) if !folds(&f.nodes[n]) => return None,
                Def::Node(n, _) if seen.insert(n) => {
                    stack.push(Visit::Done(n));
                    stack.extend(f.nodes[n].operands.iter().map(|&v| Visit::Value(v)));
                }
                Def::Node(..) => {}
            },
        }
    }
    let sources = sources.into_values().fold(Sources::default(), Sources::and);
    let sources = order.iter().fold(sources, |s, &n| s.through(f, n));
    let results = |&n: &NodeId| f.nodes[n].results.iter().all(|&v| sources.compute(&f.values[v].ty));
    order.iter().all(results).then_some(order)
}

/// Whether a node is a function of its operands alone, not of extents either, and has some.
pub fn folds(node: &Node) -> bool {
    let mut fixed = true;
    node.op.symbols(&mut |_| fixed = false);
    fixed && !node.operands.is_empty() && !node.op.is_control() && !matches!(node.op, Op::Choice(_) | Op::Prefix(_))
}

fn show(env: &Bindings) -> String {
    env.iter().map(|(k, v)| format!("{k} = {v}")).collect::<Vec<_>>().join(", ")
}

struct Run<'m> {
    m: &'m Module,
    f: &'m Func,
    env: Bindings,
    values: Vec<Option<Tensor>>,
}

impl Run<'_> {
    fn get(&self, v: ValueId) -> Result<Tensor> {
        if let Some(c) = self.f.def_const(v) {
            let c = &self.m.consts[c];
            return c.tensor().cloned().ok_or_else(|| {
                Diagnostic::error("T0405", format!("the elements of @{} are not in the store", c.name)).at_loc(&c.loc)
            });
        }
        self.values[v.index()]
            .clone()
            .ok_or_else(|| Diagnostic::error("T0406", format!("%{} is used before it is made", self.f.values[v].name)))
    }

    fn region(&mut self, r: RegionId) -> Result<Vec<Tensor>> {
        let region = &self.f.regions[r];
        // The last use of a value inside this region frees it.
        let mut uses = HashMap::<ValueId, usize>::new();
        for &n in &region.nodes {
            self.f.nodes[n].operands.iter().for_each(|v| *uses.entry(*v).or_default() += 1);
        }
        let outer = r != self.f.body_id() || self.f.nodes.values().any(|n| !n.regions.is_empty());
        for &n in &region.nodes {
            let node = &self.f.nodes[n];
            let results = if let Op::If(_) = node.op {
                let taken = usize::from(self.get(node.operands[0])?.get_i64(0) == 0);
                let inner = node.regions.get(taken).copied();
                self.region(
                    inner.ok_or_else(|| Diagnostic::error("T0407", "`if` without two regions").at_loc(&node.loc))?,
                )?
            } else if let Op::Loop(l) = &node.op {
                let x = node.operands.iter().map(|&v| self.get(v)).collect::<Result<Vec<_>>>()?;
                self.repeat(l, &x).map_err(|d| d.at_loc(&node.loc))?
            } else {
                let x = node.operands.iter().map(|&v| self.get(v)).collect::<Result<Vec<_>>>()?;
                let x: Vec<&Tensor> = x.iter().collect();
                let results = node.op.eval(&x, &self.env).map_err(|d| d.at_loc(&node.loc))?;
                if let Some(symbol) = node.op.binds() {
                    self.env.insert(symbol.clone(), x[1].get_i64(0));
                }
                results
            };
            for (&v, t) in node.results.iter().zip(results) {
                self.check(v, &t).map_err(|d| d.at_loc(&node.loc))?;
                self.values[v.index()] = Some(t);
            }
            for v in &node.operands {
                let left = uses.get_mut(v).expect("counted");
                *left -= 1;
                if *left == 0 && !outer && !region.results.contains(v) {
                    self.values[v.index()] = None;
                }
            }
        }
        region.results.iter().map(|&v| self.get(v)).collect()
    }

    /// Calls the body of a loop.
    fn repeat(&self, l: &Loop, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let missing = || Diagnostic::error("T0409", format!("there is no function @{}", l.body));
        let f = &self.m.funcs[self.m.func(&l.body).ok_or_else(missing)?];
        let (trip, mut goes_on, carried) = (x[0].get_i64(0), x[1].get_i64(0) != 0, l.carried as usize);
        let most = l.most.eval(&self.env).unwrap_or(i64::MAX);
        let mut arguments = x[2..].to_vec();
        let (mut rows, mut count) = (vec![vec![]; l.results.len() - carried], 0);
        while count < trip && goes_on {
            if count >= most {
                return Err(Diagnostic::error("T0404", format!("more than {most} calls of @{}", l.body)));
            }
            let mut run = Run { m: self.m, f, env: self.env.clone(), values: vec![None; f.values.len()] };
            run.env.extend(l.over.as_symbol().map(|s| (s.clone(), count)));
            for (&p, t) in f.body().params.iter().zip(&arguments) {
                run.values[p.index()] = Some(t.clone());
            }
            let mut results = run.region(f.body_id())?.into_iter();
            goes_on = results.next().is_some_and(|c| c.get_i64(0) != 0);
            arguments.iter_mut().zip(results.by_ref().take(carried)).for_each(|(a, r)| *a = r);
            rows.iter_mut().zip(results).for_each(|(rows, r)| rows.push(r));
            count += 1;
        }
        arguments.truncate(carried);
        let mut out = vec![Tensor::from_i64(DType::I64, [], &[count])];
        out.append(&mut arguments);
        for (rows, ty) in rows.into_iter().zip(&l.results[carried..]) {
            let shape = ty.shape.iter().map(|d| d.eval(&self.env).and_then(|n| usize::try_from(n).ok()));
            let shape: Vec<usize> = shape.collect::<Option<_>>().unwrap_or_default();
            let bytes: Vec<u8> = rows.iter().flat_map(|t| t.bytes().iter().copied()).collect();
            let whole = ty.dtype.bytes(shape.iter().product()).filter(|&n| n >= bytes.len());
            let unknown = || Diagnostic::error("T0408", format!("the calls of @{} give other than {ty}", l.body));
            let mut bytes = bytes;
            bytes.resize(whole.ok_or_else(unknown)?, 0);
            out.push(Tensor::from_blob(ty.dtype, shape, bytes.into()).ok_or_else(unknown)?);
        }
        Ok(out)
    }

    /// What was computed has the inferred type.
    fn check(&self, v: ValueId, t: &Tensor) -> Result<()> {
        let ty: &Type = &self.f.values[v].ty;
        let fits = |(d, &n): (&Dim, &usize)| d.eval(&self.env).is_none_or(|e| e == n as i64);
        if t.dtype() == ty.dtype && t.shape().len() == ty.rank() && ty.shape.iter().zip(t.shape()).all(fits) {
            return Ok(());
        }
        Err(Diagnostic::error("T0408", format!("%{} is {}, inferred was {ty}", self.f.values[v].name, t.ty()))
            .failure(crate::diag::Failure::Internal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ConstStore;

    #[test]
    fn shared_constants_are_computed_once() {
        let sums = (0..60).map(|i| format!("    %s{} = add %s{i}, %s{i} : f32[2]\n", i + 1)).collect::<String>();
        let text = format!(
            "module @doubled {{\n  const @c : f32[2] = [1.0, -3.0]\n  func @main(%x: f32[2]) -> (%y: f32[2]) {{\n    \
             %s0 = neg @c : f32[2]\n{sums}    %y = add %x, %s60 : f32[2]\n    return %y\n  }}\n}}\n"
        );
        let m = crate::text::parse(&text, &ConstStore::default()).unwrap();
        let f = &m.funcs[m.main().unwrap()];
        let Def::Node(sum, _) = f.values[f.body().results[0]].def else { panic!("a sum") };
        let doubled = f.nodes[sum].operands[1];
        assert!(is_constant(&m.consts, f, doubled) && !is_constant(&m.consts, f, f.body().results[0]));
        let t = constant(&m.consts, f, doubled).unwrap();
        assert_eq!((t.get_f64(0), t.get_f64(1)), (-(60f64.exp2()), 3.0 * 60f64.exp2()));
        assert!(constant(&m.consts, f, f.body().results[0]).is_none());
    }

    #[test]
    fn parts_at_a_place_of_an_extent_are_no_constants() {
        let text = "module @part {\n  symbol n 0..7 hint 1\n  const @c : f32[8] = splat 1.0\n  func @main(%x: f32[n]) -> (%y: f32[1]) {\n    \
                    %y = slice @c {axis=0, start=n, len=1} : f32[1]\n    return %y\n  }\n}\n";
        let m = crate::text::parse(text, &ConstStore::default()).unwrap();
        let f = &m.funcs[m.main().unwrap()];
        assert!(!is_constant(&m.consts, f, f.body().results[0]));
    }
}
