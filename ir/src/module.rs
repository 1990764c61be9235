//! Modules, functions, regions, nodes and values.
//!
//! Invariants: every value has one definition; a value's uses come after its definition in region order, or in a region nested in such a place; names of values
//! are unique in their function, names of constants and functions in the module; a function has one value for each constant that it uses. [`crate::verify`]
//! checks them.

use crate::constant::{ConstId, Constant};
use crate::diag::{Diagnostic, Result};
use crate::dim::{Dim, SymbolInfo};
use crate::entity::PrimaryMap;
use crate::entity_id;
use crate::loc::Loc;
use crate::ops::Op;
use crate::types::Type;
use foldhash::HashMap;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

entity_id!(
    /// A function of a module.
    FuncId,
    "func"
);
entity_id!(
    /// A value of a function.
    ValueId,
    "v"
);
entity_id!(
    /// An op's occurrence in a function.
    NodeId,
    "n"
);
entity_id!(
    /// A region of a function.
    RegionId,
    "r"
);

/// The constants of a module.
pub type Consts = PrimaryMap<ConstId, Constant>;

/// A program, or with `choice` ops a family of programs.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// Name, from the file.
    pub name: String,
    /// The passes that made it, in order, as pipeline text.
    pub pipeline: Vec<String>,
    /// Bounds and hints of the symbols in types.
    pub symbols: BTreeMap<Arc<str>, SymbolInfo>,
    /// Constants.
    pub consts: Consts,
    /// Functions; the one named `main` is the program.
    pub funcs: PrimaryMap<FuncId, Func>,
}

/// A function: a body region over its own values.
#[derive(Clone, Debug)]
pub struct Func {
    /// Unique name.
    pub name: Arc<str>,
    /// Values.
    pub values: PrimaryMap<ValueId, Value>,
    /// Nodes; those of removed ops are in no region.
    pub nodes: PrimaryMap<NodeId, Node>,
    /// Regions; the first is the body.
    pub regions: PrimaryMap<RegionId, Region>,
    /// The outside names of the parameters (an ONNX graph's inputs).
    pub inputs: Vec<Arc<str>>,
    /// The outside names of the results (an ONNX graph's outputs).
    pub outputs: Vec<Arc<str>>,
    names: HashMap<Arc<str>, u32>,
    /// The value of each constant that has one.
    constants: HashMap<ConstId, ValueId>,
}

/// What a value is the result of.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Def {
    /// Parameter of a region.
    Param(RegionId, u32),
    /// Result of a node.
    Node(NodeId, u32),
    /// A constant of the module.
    Const(ConstId),
}

/// A value: a name, a type, a definition.
#[derive(Clone, Debug)]
pub struct Value {
    /// Unique name in the function, without `%`. Constants carry the constant's name.
    pub name: Arc<str>,
    /// Type.
    pub ty: Type,
    /// Definition.
    pub def: Def,
}

/// One op with its operands and results.
#[derive(Clone, Debug)]
pub struct Node {
    /// The op and its attributes.
    pub op: Op,
    /// Operands; trailing optional ones may be left out.
    pub operands: SmallVec<[ValueId; 4]>,
    /// Results.
    pub results: SmallVec<[ValueId; 1]>,
    /// Regions, for control flow.
    pub regions: Vec<RegionId>,
    /// Origin.
    pub loc: Loc,
}

impl Node {
    /// Extents that must not be negative once symbols have values, and may be: what the op needs, where its results have elements.
    pub fn needs(&self, f: &Func) -> Vec<Dim> {
        let ins: SmallVec<[&Type; 4]> = self.operands.iter().map(|&v| &f.values[v].ty).collect();
        let mut needs = self.op.needs(&ins);
        needs.retain(|d| !d.is_never_negative());
        if !needs.is_empty() {
            let elements = self.results.iter().fold(Dim::from(0), |n, &r| n + f.values[r].ty.elements());
            needs.iter_mut().for_each(|d| *d = d.clone().max(Dim::from(0) - elements.clone()));
        }
        needs
    }
}

/// Straight-line code with parameters and results.
#[derive(Clone, Debug, Default)]
pub struct Region {
    /// Parameters.
    pub params: Vec<ValueId>,
    /// Nodes in execution order.
    pub nodes: Vec<NodeId>,
    /// Results.
    pub results: Vec<ValueId>,
}

impl Module {
    /// An empty module.
    pub fn new(name: impl Into<String>) -> Module {
        Module { name: name.into(), ..Module::default() }
    }
    /// The program's function.
    pub fn main(&self) -> Result<FuncId> {
        self.func("main").ok_or_else(|| Diagnostic::error("T0001", "the module has no function @main"))
    }
    /// The function of that name.
    pub fn func(&self, name: &str) -> Option<FuncId> {
        self.funcs.iter().find(|(_, f)| &*f.name == name).map(|(id, _)| id)
    }
    /// Bytes of all constants that some function uses, each content once.
    pub fn constant_bytes(&self) -> usize {
        let mut seen = foldhash::HashSet::default();
        let used = self.funcs.values().flat_map(|f| f.live_constants());
        used.filter(|&c| seen.insert(self.consts[c].hash())).map(|c| self.consts[c].byte_len()).sum()
    }
    /// Declares a symbol unless it is known.
    pub fn symbol(&mut self, name: &str, info: SymbolInfo) {
        self.symbols.entry(name.into()).or_insert(info);
    }
    /// The symbols that the data of a run decide, each with its cap.
    pub fn caps(&self) -> BTreeMap<Arc<str>, Dim> {
        let cap = |f: &Func, n: NodeId| match &f.nodes[n].op {
            Op::Prefix(p) => f.values[f.nodes[n].operands[0]].ty.shape.get(usize::from(p.axis)).cloned(),
            _ => None,
        };
        let over = |op: &Op| match op {
            Op::Loop(l) => Some((l.over.as_symbol()?.clone(), l.most.clone())),
            _ => None,
        };
        let loops = self.funcs.values().flat_map(|f| f.nodes.values().filter_map(|n| over(&n.op)));
        let of = |f| Func::binders(f).into_iter().filter_map(move |(s, n)| Some((s, cap(f, n)?)));
        self.funcs.values().flat_map(of).chain(loops).collect()
    }
    /// The hints of all symbols, as bindings for cost estimates.
    pub fn hints(&self) -> crate::dim::Bindings {
        self.symbols.iter().map(|(n, i)| (n.clone(), i.hint)).collect()
    }
    /// Adds a constant under `constant.name`, made unique by a suffix. Takes a look at each constant: who adds many keeps the names that are taken.
    pub fn add_const(&mut self, mut constant: Constant) -> ConstId {
        let taken: std::collections::HashSet<&str> = self.consts.values().map(|c| &*c.name).collect();
        let (base, mut n) = (constant.name.clone(), 1);
        while taken.contains(&*constant.name) {
            n += 1;
            constant.name = format!("{base}.{n}").into();
        }
        self.consts.push(constant)
    }
}

impl Func {
    /// The body region of every function.
    pub const BODY: usize = 0;

    /// A function without parameters, results or nodes.
    pub fn new(name: impl Into<Arc<str>>) -> Func {
        let mut regions = PrimaryMap::default();
        regions.push(Region::default());
        Func {
            name: name.into(),
            values: PrimaryMap::default(),
            nodes: PrimaryMap::default(),
            regions,
            inputs: vec![],
            outputs: vec![],
            names: HashMap::default(),
            constants: HashMap::default(),
        }
    }
    /// The body's id.
    pub fn body_id(&self) -> RegionId {
        crate::entity::EntityId::new(Self::BODY)
    }
    /// The body.
    pub fn body(&self) -> &Region {
        &self.regions[self.body_id()]
    }
    /// The body, mutable.
    pub fn body_mut(&mut self) -> &mut Region {
        let id = self.body_id();
        &mut self.regions[id]
    }
    /// A name not yet taken: `base`, or `base.2`, `base.3`, …
    pub fn fresh_name(&mut self, base: &str) -> Arc<str> {
        let base: Arc<str> = if base.is_empty() { "v".into() } else { base.into() };
        let mut name = base.clone();
        loop {
            if let Entry::Vacant(free) = self.names.entry(name) {
                let name = free.key().clone();
                free.insert(1);
                return name;
            }
            let n = self.names.get_mut(&base).expect("base was taken");
            *n += 1;
            name = format!("{base}.{n}").into();
        }
    }
    /// Gives a value another name, made unique if it is taken.
    pub fn rename(&mut self, v: ValueId, name: &str) {
        if &*self.values[v].name != name {
            self.values[v].name = self.fresh_name(name);
        }
    }
    /// Gives each of two values the name of the other.
    pub fn swap_names(&mut self, a: ValueId, b: ValueId) {
        let (of_a, of_b) = (self.values[a].name.clone(), self.values[b].name.clone());
        (self.values[a].name, self.values[b].name) = (of_b, of_a);
    }
    /// Adds a value; its name is made unique.
    pub fn add_value(&mut self, name: &str, ty: Type, def: Def) -> ValueId {
        let name = self.fresh_name(name);
        self.values.push(Value { name, ty, def })
    }
    /// Adds a parameter to a region.
    pub fn add_param(&mut self, region: RegionId, name: &str, ty: Type) -> ValueId {
        let index = self.regions[region].params.len() as u32;
        let v = self.add_value(name, ty, Def::Param(region, index));
        self.regions[region].params.push(v);
        v
    }
    /// The value that stands for a constant; one per function and constant.
    pub fn const_value(&mut self, module_consts: &Consts, id: ConstId) -> ValueId {
        let values = &mut self.values;
        *self.constants.entry(id).or_insert_with(|| {
            let c = &module_consts[id];
            values.push(Value { name: c.name.clone(), ty: c.ty.clone(), def: Def::Const(id) })
        })
    }
    /// Lets the value that stands for a constant stand for one that is new here.
    pub fn exchange_const(&mut self, value: ValueId, module_consts: &Consts, id: ConstId) {
        if let Def::Const(old) = self.values[value].def {
            self.constants.remove(&old);
        }
        self.constants.insert(id, value);
        let c = &module_consts[id];
        self.values[value] = Value { name: c.name.clone(), ty: c.ty.clone(), def: Def::Const(id) };
    }
    /// The constants that have a value here, with it, in order of the constants.
    pub fn constants(&self) -> Vec<(ConstId, ValueId)> {
        let mut all: Vec<_> = self.constants.iter().map(|(&c, &v)| (c, v)).collect();
        all.sort_unstable();
        all
    }
    /// Adds a node at the end of a region; infers its result types.
    pub fn add_node(&mut self, region: RegionId, op: Op, operands: &[ValueId], name: &str, loc: Loc) -> Result<NodeId> {
        let types = operands.iter().map(|&v| &self.values[v].ty).collect::<SmallVec<[&Type; 4]>>();
        let result_types = op.infer(&types).map_err(|d| {
            let names: Vec<_> = operands.iter().map(|&v| format!("%{}", self.values[v].name)).collect();
            d.at_loc(&loc).at_op(format!("%{name} = {} {}", op.mnemonic(), names.join(", ")))
        })?;
        drop(types);
        let id =
            self.nodes.push(Node { op, operands: operands.into(), results: SmallVec::new(), regions: vec![], loc });
        for (i, ty) in result_types.into_iter().enumerate() {
            let v = self.add_value(name, ty, Def::Node(id, i as u32));
            self.nodes[id].results.push(v);
        }
        self.regions[region].nodes.push(id);
        Ok(id)
    }
    /// The node that makes a value, if a node does.
    pub fn def_node(&self, v: ValueId) -> Option<&Node> {
        match self.values[v].def {
            Def::Node(n, _) => Some(&self.nodes[n]),
            _ => None,
        }
    }
    /// The constant that a value stands for.
    pub fn def_const(&self, v: ValueId) -> Option<ConstId> {
        match self.values[v].def {
            Def::Const(c) => Some(c),
            _ => None,
        }
    }
    /// Nodes of all regions in order, outer before inner.
    pub fn live_nodes(&self) -> Vec<NodeId> {
        let (mut out, mut stack) = (vec![], vec![self.body_id()]);
        while let Some(r) = stack.pop() {
            for &n in &self.regions[r].nodes {
                out.push(n);
                stack.extend(self.nodes[n].regions.iter().copied());
            }
        }
        out
    }
    /// Constants that nodes or results use, in order of first use.
    pub fn live_constants(&self) -> Vec<ConstId> {
        let mut seen = foldhash::HashSet::default();
        let operands = self.live_nodes().into_iter().flat_map(|n| self.nodes[n].operands.to_vec());
        let results = self.regions.values().flat_map(|r| r.results.clone());
        operands.chain(results).filter_map(|v| self.def_const(v)).filter(|c| seen.insert(*c)).collect()
    }
    /// How often each value is used, by nodes and as result.
    pub fn use_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.values.len()];
        for n in self.live_nodes() {
            self.nodes[n].operands.iter().for_each(|v| counts[crate::entity::EntityId::index(*v)] += 1);
        }
        for r in self.regions.values() {
            r.results.iter().for_each(|v| counts[crate::entity::EntityId::index(*v)] += 1);
        }
        counts
    }
    /// Replaces every use of `from` by `to`.
    pub fn replace_uses(&mut self, from: ValueId, to: ValueId) {
        self.replace_all(&HashMap::from_iter([(from, to)]));
    }
    /// Replaces every use of a key by its value; what values stand for is not looked up again.
    pub fn replace_all(&mut self, by: &HashMap<ValueId, ValueId>) {
        let swap = |v: &mut ValueId| *v = *by.get(v).unwrap_or(v);
        self.nodes.values_mut().flat_map(|n| n.operands.iter_mut()).for_each(swap);
        self.regions.values_mut().flat_map(|r| r.results.iter_mut()).for_each(swap);
    }
    /// The symbols that nodes of the body bind, each with its node.
    pub fn binders(&self) -> BTreeMap<Arc<str>, NodeId> {
        let binds = |&n: &NodeId| Some((self.nodes[n].op.binds()?.clone(), n));
        self.body().nodes.iter().filter_map(binds).collect()
    }
    /// Removes nodes whose results nobody uses. What binds a symbol is used by what has extents over it. Returns how many went.
    pub fn remove_dead(&mut self) -> usize {
        use crate::entity::EntityId;
        let binders = self.binders();
        let mut live = vec![false; self.values.len()];
        let mut stack: Vec<ValueId> = self.body().results.clone();
        while let Some(v) = stack.pop() {
            if std::mem::replace(&mut live[v.index()], true) {
                continue;
            }
            if let Def::Node(n, _) = self.values[v].def {
                let node = &self.nodes[n];
                stack.extend(node.operands.iter().copied());
                if !binders.is_empty() {
                    node.op.symbols(&mut |s| stack.extend(binders.get(s).map(|&n| self.nodes[n].results[0])));
                }
                for &r in &node.regions {
                    stack.extend(self.regions[r].results.iter().copied());
                }
            }
        }
        let mut removed = 0;
        let (nodes, regions) = (&self.nodes, &mut self.regions);
        for r in regions.values_mut() {
            r.nodes.retain(|&n| {
                let keep = nodes[n].results.iter().any(|v| live[v.index()]);
                removed += usize::from(!keep);
                keep
            });
        }
        removed
    }
}

/// Appends ops to one region of one function, with a current location.
pub struct Builder<'m> {
    /// Where constants go.
    pub consts: &'m mut Consts,
    /// The function.
    pub func: &'m mut Func,
    /// The region that grows.
    pub region: RegionId,
    /// Location of the ops to come.
    pub loc: Loc,
    /// Name of the values to come.
    pub name: String,
}

impl<'m> Builder<'m> {
    /// A builder at the end of a function's body.
    pub fn new(consts: &'m mut Consts, func: &'m mut Func) -> Builder<'m> {
        let region = func.body_id();
        Builder { consts, func, region, loc: Loc::Unknown, name: String::new() }
    }
    /// Appends an op with one result.
    pub fn op(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Result<ValueId> {
        Ok(self.ops(op, operands)?[0])
    }
    /// Appends an op and returns all its results.
    pub fn ops(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Result<SmallVec<[ValueId; 1]>> {
        let op = op.into();
        let name = if self.name.is_empty() { op.mnemonic() } else { &self.name };
        let n = self.func.add_node(self.region, op, operands, name, self.loc.clone())?;
        Ok(self.func.nodes[n].results.clone())
    }
    /// A new constant with the tensor's elements, as a value.
    pub fn constant(&mut self, name: &str, t: &crate::tensor::Tensor) -> ValueId {
        let id = self.consts.push(Constant::from_tensor(self.func.fresh_name(name), t, self.loc.clone()));
        self.const_value(id)
    }
    /// A scalar constant.
    pub fn scalar(&mut self, dtype: crate::types::DType, v: f64) -> ValueId {
        self.constant("c", &crate::tensor::Tensor::scalar(dtype, v))
    }
    /// The value of a constant of the module.
    pub fn const_value(&mut self, id: ConstId) -> ValueId {
        self.func.const_value(self.consts, id)
    }
    /// The type of a value.
    pub fn ty(&self, v: ValueId) -> &Type {
        &self.func.values[v].ty
    }
}
