//! What passes may ask of a target: costs, without knowing any backend.

use crate::dim::Bindings;
use crate::entity::EntityId;
use crate::interp;
use crate::module::{Consts, Def, Func, NodeId, ValueId};
use crate::ops::{Op, Work};
use crate::types::{DType, Type};
use std::collections::BTreeSet;

/// A machine, as far as choosing between exact forms needs it.
pub trait Target {
    /// Name, such as `x86-64-v3`.
    fn name(&self) -> &str;
    /// Expected seconds of one execution of an op that stands alone, extents bound to their hints.
    fn seconds(&self, op: &Op, ins: &[&Type], outs: &[Type], hints: &Bindings) -> f64;
    /// The same of a product of which the right operand, and perhaps the left one too, is encoded.
    fn encoded(
        &self,
        op: &Op,
        ins: &[&Type],
        outs: &[Type],
        encodings: (Option<Encoding>, Encoding),
        hints: &Bindings,
    ) -> f64;
    /// Expected seconds of a node. What depends on constants alone costs nothing, nor do encodings that the products after them take as they are.
    fn node(&self, consts: &Consts, f: &Func, n: NodeId, hints: &Bindings) -> f64 {
        let node = &f.nodes[n];
        let ins: Vec<&Type> = node.operands.iter().map(|&v| &f.values[v].ty).collect();
        let outs: Vec<Type> = node.results.iter().map(|&v| f.values[v].ty.clone()).collect();
        if node.results.first().is_some_and(|&v| interp::is_constant(consts, f, v)) {
            return 0.0;
        }
        if let (Op::MatMul(_) | Op::Conv(_), [x, w, ..]) = (&node.op, &node.operands[..])
            && let Some(weight) = Encoding::of(consts, f, *w)
        {
            return self.encoded(&node.op, &ins, &outs, (Encoding::of(consts, f, *x), weight), hints);
        }
        self.seconds(&node.op, &ins, &outs, hints)
    }
}

/// How an operand of a product is stored, which its kernel decodes or multiplies as it is.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Encoding {
    /// Bytes of constants.
    pub bytes: f64,
    /// Bits of a code, or of an element that is stored as it is.
    pub bits: u32,
    /// Whether codes are integers whose distance is a scale.
    pub uniform: bool,
    /// Neighbours along the sum that share a scale; 0 for all.
    pub group: u32,
    /// The share of elements that is stored.
    pub stored: f64,
}

impl Encoding {
    /// The encoding that some `decode` behind a value, however turned or cut, stands for.
    pub fn of(consts: &Consts, f: &Func, v: ValueId) -> Option<Encoding> {
        let Def::Node(n, _) = f.values[v].def else { return None };
        let node = &f.nodes[n];
        let first = *node.operands.first()?;
        let dtype = f.values[first].ty.dtype;
        let plain = Encoding { bytes: 0.0, bits: dtype.bits(), uniform: false, group: 0, stored: 1.0 };
        let whole = match &node.op {
            Op::Transpose(_) | Op::Reshape(_) | Op::Slice(_) => return Encoding::of(consts, f, first),
            Op::DecodeAffine(d) => {
                let inner = Encoding::of(consts, f, first).unwrap_or(plain);
                Encoding { uniform: dtype.is_int(), group: d.group, ..inner }
            }
            Op::DecodeCodebook(d) => Encoding { group: d.group, ..plain },
            Op::DecodeSparse(_) => {
                let count = |v: ValueId| f.values[v].ty.static_elements().unwrap_or(0) as f64;
                Encoding { stored: count(first) / count(v).max(1.0), ..plain }
            }
            _ => return None,
        };
        Some(Encoding { bytes: constants(consts, f, v), ..whole })
    }
}

/// Bytes of the constants behind a value.
fn constants(consts: &Consts, f: &Func, v: ValueId) -> f64 {
    let (mut seen, mut stack, mut bytes) = (BTreeSet::from([v.index()]), vec![v], 0);
    while let Some(v) = stack.pop() {
        match f.values[v].def {
            Def::Const(c) => bytes += consts[c].byte_len(),
            Def::Node(n, _) => stack.extend(f.nodes[n].operands.iter().filter(|o| seen.insert(o.index()))),
            Def::Param(..) => {}
        }
    }
    bytes as f64
}

/// Runs modules on behalf of passes: compiled code where there is a backend, the interpreter elsewhere.
pub trait Evaluate {
    /// Prepares a module for many runs.
    fn prepare(&self, m: &crate::module::Module) -> crate::diag::Result<Box<dyn Prepared>>;
}

/// A module ready to run.
pub trait Prepared {
    /// Outputs for one set of inputs, in the order of `@main`'s parameters and results.
    fn run(&mut self, inputs: &[crate::tensor::Tensor]) -> crate::diag::Result<Vec<crate::tensor::Tensor>>;
}

/// A description by peak rates, for targets whose kernels were not measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Roofline {
    /// Name.
    pub name: String,
    /// Multiply-adds a second, by operand bits: 32, 16, 8.
    pub madds: [f64; 3],
    /// Elementwise steps a second.
    pub elementwise: f64,
    /// Codes that are decoded a second, on the way to a product.
    pub decodes: f64,
    /// Sums of products of codes that are scaled a second; 0 where codes do not meet codes.
    pub sums: f64,
    /// Bytes a second.
    pub bandwidth: f64,
    /// Seconds to start a kernel.
    pub launch: f64,
}

/// Rows for which a weight is decoded once.
const DECODED_ROWS: f64 = 24.0;

impl Roofline {
    fn rate(&self, dtype: DType) -> f64 {
        match dtype.bits() {
            0..=8 => self.madds[2],
            9..=16 => self.madds[1],
            _ => self.madds[0],
        }
    }
}

impl Target for Roofline {
    fn name(&self) -> &str {
        &self.name
    }
    fn seconds(&self, op: &Op, ins: &[&Type], outs: &[Type], hints: &Bindings) -> f64 {
        let Work { madds, bytes } = op.work(ins, outs);
        let value = |d: crate::dim::Dim| d.eval(hints).unwrap_or(0) as f64;
        let rate = match op {
            Op::MatMul(_) | Op::Conv(_) | Op::Attention(_) => self.rate(ins[0].dtype),
            _ => self.elementwise,
        };
        let bytes = value(bytes);
        if matches!(op, Op::Reshape(_) | Op::Choice(_)) {
            0.0
        } else {
            self.launch + (value(madds) / rate).max(bytes / self.bandwidth)
        }
    }
    fn encoded(
        &self,
        op: &Op,
        ins: &[&Type],
        outs: &[Type],
        (left, weight): (Option<Encoding>, Encoding),
        hints: &Bindings,
    ) -> f64 {
        let value = |d: crate::dim::Dim| d.eval(hints).unwrap_or(0) as f64;
        let madds = value(op.work(ins, outs).madds);
        let elements = value(ins[1].elements());
        let rows = if elements > 0.0 { madds / elements } else { 0.0 };
        let codes =
            left.filter(|x| x.uniform && x.group > 0 && weight.uniform && weight.stored == 1.0 && self.sums > 0.0);
        // A code, and its part of a scale of four bytes.
        let taken = codes.map_or(value(Work::traffic(&ins[..1], &[])), |x| {
            value(ins[0].elements()) * (f64::from(x.bits) / 8.0 + 4.0 / f64::from(x.group))
        });
        let moved = (taken + value(Work::traffic(&[], outs)) + weight.bytes) / self.bandwidth;
        let busy = if let Some(x) = codes {
            let group = f64::from(if weight.group == 0 { x.group } else { weight.group.min(x.group) });
            madds / self.madds[2] + madds / group / self.sums
        } else {
            // Codes of other widths lie in two parts; places of stored elements are found one after the other.
            let parts = if weight.bits.is_power_of_two() { 1.0 } else { 2.0 };
            let parts = if weight.stored < 1.0 { parts + 1.0 + 10.0 * weight.stored.powi(2) } else { parts };
            let times = (rows / DECODED_ROWS).ceil().max(1.0);
            times * elements * parts / self.decodes + madds / self.rate(ins[0].dtype)
        };
        self.launch + busy.max(moved)
    }
}
