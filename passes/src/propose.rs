//! What compressing passes are made of: sites, alternatives, and the editor that builds them.

use crate::manager::PassCx;
use crate::patches::Tap;
use foldhash::HashSet;
use std::sync::Arc;
use tersor_ir::constant::Constant;
use tersor_ir::{ConstId, Consts, Func, FuncId, Loc, Module, NodeId, Op, RegionId, Result, Tensor, Type, ValueId};

/// A pass that offers alternatives. It never changes the model: the manager puts what it offers under `choice` ops, measures it, and picks.
pub trait Propose {
    /// Values of `@main` whose statistics it needs, and which of them with a Gram matrix; empty when it needs none.
    fn taps(&self, _: &Module) -> Vec<Tap> {
        vec![]
    }
    /// Whether what it offers are its own forms of alternatives that stand at a site already. Such a pass belongs right behind the one whose alternatives it amends, and is
    /// decided on together with it.
    fn amends(&self) -> bool {
        false
    }
    /// Where it applies. Selectors that match nothing are errors; sites that it declines are told to `cx`, with the reason.
    fn sites(&self, m: &Module, cx: &mut PassCx) -> Result<Vec<Site>>;
    /// The values whose statistics it needs for one site.
    fn reads(&self, m: &Module, site: &Site) -> Vec<ValueId> {
        m.funcs[site.func].def_node(site.value).map_or(vec![], |n| n.operands.to_vec())
    }
    /// Whether its sites overlap: each is decided before the next is offered, on what the module has become.
    fn in_turn(&self) -> bool {
        false
    }
    /// Builds alternatives for a site, from the operands of the op that makes it. `b` stands right after that op.
    fn propose(&self, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>>;
}

/// A value at which alternatives may stand.
#[derive(Clone, PartialEq, Debug)]
pub struct Site {
    /// The function.
    pub func: FuncId,
    /// The value.
    pub value: ValueId,
    /// Name: the value's, after the function's where that is not `main`.
    pub name: String,
    /// The ONNX node that it comes from.
    pub node: Option<String>,
    /// Names of the op that makes it: ours, and ONNX's.
    pub ops: Vec<String>,
    /// Extents of the weight; empty without one.
    pub weight: Vec<usize>,
}

/// One expression that will do at a site.
#[derive(Clone, PartialEq, Debug)]
pub struct Alternative {
    /// Name, unique at the site; the same for the same options of the same pass.
    pub name: String,
    /// Its value, of the site's type.
    pub value: ValueId,
}

impl Site {
    /// The site at the first result of a node; `weight` is the operand that is one.
    pub fn at(m: &Module, func: FuncId, node: NodeId, weight: usize) -> Site {
        let f = &m.funcs[func];
        let n = &f.nodes[node];
        let value = n.results[0];
        let name = &f.values[value].name;
        let mut ops = vec![n.op.mnemonic().to_string()];
        let mut loc = &n.loc;
        while let Loc::Made { from, .. } = loc {
            loc = from;
        }
        if let Loc::Onnx { op, .. } = loc {
            ops.push(op.to_string());
        }
        let weight = n.operands.get(weight).and_then(|&w| f.def_const(w)).map(|c| m.consts[c].shape());
        Site {
            func,
            value,
            name: if &*f.name == "main" { name.to_string() } else { format!("{}/{name}", f.name) },
            node: n.loc.onnx_node().map(str::to_string),
            ops,
            weight: weight.unwrap_or_default(),
        }
    }
}

/// A value that takes the place of one that lost positions.
#[derive(Clone, PartialEq, Debug)]
pub struct Narrowed {
    /// The value as it was.
    pub old: ValueId,
    /// What takes its place.
    pub new: ValueId,
    /// The positions that are left of each axis; `None` for all.
    pub kept: Vec<Option<Vec<usize>>>,
}

/// Names of constants taken in a module.
pub struct ConstNames(HashSet<Arc<str>>);

impl ConstNames {
    /// The names in use.
    pub fn of(m: &Module) -> ConstNames {
        ConstNames(m.consts.values().map(|c| c.name.clone()).collect())
    }
    /// `base`, or `base.2`, `base.3`, …; taken from now on.
    pub fn fresh(&mut self, base: &str) -> Arc<str> {
        let (mut name, mut n) = (Arc::<str>::from(base), 1);
        while !self.0.insert(name.clone()) {
            n += 1;
            name = format!("{base}.{n}").into();
        }
        name
    }
}

/// Appends ops to a region and constants to the module, under unique names.
pub struct Editor<'m> {
    /// The module's constants.
    pub consts: &'m mut Consts,
    /// The function.
    pub func: &'m mut Func,
    /// Where ops go, at the end.
    pub region: RegionId,
    /// Location of what comes.
    pub loc: Loc,
    /// Name of the values that come.
    pub name: String,
    /// The `choice` that stands at the site already.
    pub choice: Option<NodeId>,
    /// What takes the place of values that nothing else reads: it gets their names where it stands, the first of several for one value that value's.
    pub narrowed: Vec<Narrowed>,
    pub(crate) names: &'m mut ConstNames,
}

impl Editor<'_> {
    /// Appends an op with one result.
    pub fn op(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Result<ValueId> {
        let n = self.func.add_node(self.region, op.into(), operands, &self.name, self.loc.clone())?;
        Ok(self.func.nodes[n].results[0])
    }
    /// Appends an op and returns all its results.
    pub fn ops(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Result<Vec<ValueId>> {
        let n = self.func.add_node(self.region, op.into(), operands, &self.name, self.loc.clone())?;
        Ok(self.func.nodes[n].results.to_vec())
    }
    /// A constant with the tensor's elements. One of the same name, type and elements is used again.
    pub fn constant(&mut self, name: &str, t: &Tensor) -> ValueId {
        let same = |(_, c): &(ConstId, &Constant)| {
            &*c.name == name && c.ty.dtype == t.dtype() && c.tensor().is_some_and(|x| x == t)
        };
        let found = self.names.0.contains(name).then(|| self.consts.iter().find(same).map(|(id, _)| id)).flatten();
        let id = found
            .unwrap_or_else(|| self.consts.push(Constant::from_tensor(self.names.fresh(name), t, self.loc.clone())));
        self.const_value(id)
    }
    /// The value of a constant.
    pub fn const_value(&mut self, id: ConstId) -> ValueId {
        self.func.const_value(self.consts, id)
    }
    /// The constant that a value is, with its elements, where the store has them.
    pub fn tensor(&self, v: ValueId) -> Option<(&str, &Tensor)> {
        let c = &self.consts[self.func.def_const(v)?];
        Some((&c.name, c.tensor()?))
    }
    /// The type of a value.
    pub fn ty(&self, v: ValueId) -> &Type {
        &self.func.values[v].ty
    }
}
