//! The e-graph's language: ops over classes, with constants and values from outside as leaves. Types are the analysis.

use super::causal;
use egg::{Analysis, DidMerge, EGraph, Id, Language};
use tersor_ir::constant::Constant;
use tersor_ir::ops::Choice;
use tersor_ir::ops::binary::{Binary, BinaryKind};
use tersor_ir::{ConstId, Consts, DType, Dim, Loc, Op, Tensor, Type, ValueId};

/// A node: an op with its attributes, a result of an op that has several, or a leaf.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Node {
    /// A constant of the module.
    Const(ConstId),
    /// A value from outside the region.
    Value(ValueId),
    /// An op. One with several results stands for all of them.
    Op(Op, Vec<Id>),
    /// Result `.0` of an op that has several.
    Result(u32, [Id; 1]),
}

impl Language for Node {
    type Discriminant = std::mem::Discriminant<Node>;
    fn discriminant(&self) -> Self::Discriminant {
        std::mem::discriminant(self)
    }
    fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (Node::Op(a, x), Node::Op(b, y)) => a == b && x.len() == y.len(),
            (Node::Result(a, _), Node::Result(b, _)) => a == b,
            _ => self == other,
        }
    }
    fn children(&self) -> &[Id] {
        match self {
            Node::Op(_, c) => c,
            Node::Result(_, c) => c,
            _ => &[],
        }
    }
    fn children_mut(&mut self) -> &mut [Id] {
        match self {
            Node::Op(_, c) => c,
            Node::Result(_, c) => c,
            _ => &mut [],
        }
    }
}

/// What is known of a class.
#[derive(Clone, PartialEq, Debug)]
pub struct Facts {
    /// Result types; one but for ops with several results.
    pub types: Vec<Type>,
    /// The one value of all elements, if it is known.
    pub splat: Option<f64>,
    /// Depends on constants alone: costs nothing at run time.
    pub weight: bool,
    /// Holds integer codes that would be lost if it were computed.
    pub encoded: bool,
    /// The offset, if it is a causal mask.
    pub causal: Option<Dim>,
}

/// The analysis, and the constants that leaves name.
#[derive(Default)]
pub struct Types {
    /// Constants of the module; rules add to them.
    pub consts: Consts,
    /// Types of values from outside, by leaf, and the offsets of causal masks.
    pub values: std::collections::HashMap<ValueId, (Type, Option<Dim>)>,
}

impl Analysis<Node> for Types {
    type Data = Facts;
    fn make(g: &mut EGraph<Node, Self>, node: &Node, _: Id) -> Facts {
        match node {
            Node::Const(c) => {
                let c = &g.analysis.consts[*c];
                let causal = causal::of_constant(c);
                Facts { types: vec![c.ty.clone()], splat: c.splat(), weight: true, encoded: false, causal }
            }
            Node::Value(v) => {
                let (ty, causal) = g.analysis.values[v].clone();
                Facts { types: vec![ty], splat: None, weight: false, encoded: false, causal }
            }
            Node::Op(op, children) => {
                let types: Vec<&Type> = children.iter().map(|&c| &g[c].data.types[0]).collect();
                let weight = !children.is_empty() && children.iter().all(|&c| g[c].data.weight);
                let encoded = weight && (op.decodes() || children.iter().any(|&c| g[c].data.encoded));
                let out = op.infer(&types).expect("nodes are checked before they are added");
                let offset = children.first().and_then(|&c| g[c].data.causal.as_ref());
                let splats = || children[1..].iter().map(|&c| g[c].data.splat).collect::<Vec<_>>();
                let causal = offset.and_then(|o| causal::of_op(op, types[0], o, &splats(), &out[0]));
                Facts { types: out, splat: None, weight, encoded, causal }
            }
            Node::Result(i, [of]) => {
                let of = &g[*of].data;
                let types = vec![of.types[*i as usize].clone()];
                Facts { types, splat: None, weight: of.weight, encoded: of.encoded, causal: None }
            }
        }
    }
    fn merge(&mut self, a: &mut Facts, b: Facts) -> DidMerge {
        debug_assert_eq!(a.types, b.types, "only values of one type are equal");
        let (before, other) = (a.clone(), b.clone());
        a.splat = a.splat.or(b.splat);
        a.weight |= b.weight;
        a.encoded |= b.encoded;
        a.causal = a.causal.take().or(b.causal);
        DidMerge(before != *a, other != *a)
    }
}

/// The e-graph.
pub type Graph = EGraph<Node, Types>;

/// What a rule sees: the graph, to look at classes and to add to it.
pub struct Build<'a> {
    pub(super) g: &'a mut Graph,
}

impl Build<'_> {
    /// The type of a class.
    pub fn ty(&self, id: Id) -> &Type {
        &self.g[id].data.types[0]
    }
    /// The one value of all elements of a class.
    pub fn splat(&self, id: Id) -> Option<f64> {
        self.g[id].data.splat
    }
    /// Whether a class depends on constants alone.
    pub fn is_weight(&self, id: Id) -> bool {
        self.g[id].data.weight
    }
    /// The offset of a class that is a causal mask.
    pub fn causal(&self, id: Id) -> Option<&Dim> {
        self.g[id].data.causal.as_ref()
    }
    /// The ops of a class, with their operands.
    pub fn ops(&self, id: Id) -> Vec<(Op, Vec<Id>)> {
        let op = |n: &Node| if let Node::Op(op, x) = n { Some((op.clone(), x.clone())) } else { None };
        self.g[id].nodes.iter().filter_map(op).collect()
    }
    /// The class that stands for equal ones.
    pub fn find(&self, id: Id) -> Id {
        self.g.find(id)
    }
    /// Weights `w` times constant factors `s`; those of codes go to their scales, those of a choice with codes to each alternative. `None` where codes would have to
    /// be decoded.
    pub fn scaled(&mut self, w: Id, s: Id) -> Option<Id> {
        self.scaled_alone(w, s).or_else(|| {
            let choice = |(op, x)| if let Op::Choice(c) = op { Some((c, x)) } else { None };
            let (c, alternatives) = self.ops(w).into_iter().find_map(choice)?;
            // An alternative may be this very class: it is looked at no more deeply.
            self.choice(&c, &alternatives, |b, x| b.scaled_alone(x, s))
        })
    }
    fn scaled_alone(&mut self, w: Id, s: Id) -> Option<Id> {
        if !self.g[w].data.encoded {
            return self.op(Binary { kind: BinaryKind::Mul }, &[w, s]);
        }
        let decode = |(op, x)| if let Op::DecodeAffine(d) = op { Some((d, x)) } else { None };
        let (decode, mut children) = self.ops(w).into_iter().find_map(decode)?;
        children[1] = self.op(Binary { kind: BinaryKind::Mul }, &[children[1], s])?;
        self.op(decode, &children)
    }
    /// A choice between what `f` makes of each alternative.
    pub fn choice(
        &mut self,
        c: &Choice,
        alternatives: &[Id],
        mut f: impl FnMut(&mut Self, Id) -> Option<Id>,
    ) -> Option<Id> {
        let each: Option<Vec<Id>> = alternatives.iter().map(|&x| f(self, x)).collect();
        self.op(c.clone(), &each?)
    }
    /// Adds an op with one result; `None` when its operands do not fit.
    pub fn op(&mut self, op: impl Into<Op>, children: &[Id]) -> Option<Id> {
        let op = op.into();
        let types: Vec<&Type> = children.iter().map(|&c| &self.g[c].data.types[0]).collect();
        (op.infer(&types).ok()?.len() == 1).then(|| self.g.add(Node::Op(op, children.to_vec())))
    }
    /// Adds a scalar constant.
    pub fn scalar(&mut self, dtype: DType, v: f64) -> Id {
        let t = Tensor::scalar(dtype, v);
        let found =
            self.g.analysis.consts.iter().find(|(_, c)| c.ty.rank() == 0 && c.tensor() == Some(&t)).map(|(id, _)| id);
        let id = found.unwrap_or_else(|| {
            let name = format!("saturate.c{}", self.g.analysis.consts.len());
            self.g.analysis.consts.push(Constant::from_tensor(
                name,
                &t,
                Loc::Made { by: "saturate".into(), from: Default::default() },
            ))
        });
        self.g.add(Node::Const(id))
    }
}
