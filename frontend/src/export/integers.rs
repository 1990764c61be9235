//! Products of integer codes, in the two forms that other runtimes know: floats between `DequantizeLinear` and `QuantizeLinear`, and operators on codes.
//!
//! A module computes such a product as `cast(product(q, w)) * s`, where `s` is the product of both scales, and a zero point of `q` is a constant that is added later.

use super::Exporter;
use foldhash::HashMap;
use tersor_ir::diag::Result;
use tersor_ir::module::Builder;
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::ops::unary::UnaryKind;
use tersor_ir::ops::{Binary, Conv, DecodeAffine};
use tersor_ir::{Consts, DType, Def, EntityId, Func, Module, Node, NodeId, Op, Tensor, ValueId};

/// Constants that differ by less than this part of the larger one are equal but for rounding.
const ROUNDING: f64 = 1e-6;

/// A product of codes, with what makes floats of it.
struct Scaled {
    /// The product, the cast, and the product with the scale.
    nodes: [NodeId; 3],
    /// Codes, rounded from floats by one scale.
    x: ValueId,
    /// The scale of `x`.
    x_scale: ValueId,
    /// The zero point of `x`, unless it is 0.
    x_zero: Option<ValueId>,
    /// Codes that are constant.
    w: ValueId,
    /// The scale of `w`, for all or for each channel of the result.
    w_scale: Vec<f64>,
    /// The axis of channels in the result.
    axis: usize,
    /// What `x_zero` adds to each channel: scale times zero point times sum of codes.
    shift: Vec<f64>,
}

/// Where a function's values are read.
struct Uses<'m> {
    f: &'m Func,
    consts: &'m Consts,
    counts: Vec<u32>,
    readers: HashMap<ValueId, NodeId>,
}

impl<'m> Uses<'m> {
    fn new(f: &'m Func, consts: &'m Consts) -> Uses<'m> {
        let mut readers = HashMap::default();
        for n in f.live_nodes() {
            readers.extend(f.nodes[n].operands.iter().map(|&v| (v, n)));
        }
        Uses { f, consts, counts: f.use_counts(), readers }
    }

    fn tensor(&self, v: ValueId) -> Option<Tensor> {
        self.f.def_const(v).and_then(|c| self.consts[c].tensor()).cloned()
    }

    /// The node that makes a value which nothing else reads.
    fn only(&self, v: ValueId) -> Option<(NodeId, &'m Node)> {
        let Def::Node(n, _) = self.f.values[v].def else { return None };
        (self.counts[v.index()] == 1).then(|| (n, &self.f.nodes[n]))
    }

    /// Scale and zero point of codes that were rounded by one number, and moved since.
    fn rounded(&self, mut q: ValueId) -> Option<(ValueId, Option<ValueId>)> {
        loop {
            let node = self.f.def_node(q)?;
            match &node.op {
                Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Broadcast(_) | Op::Pad(_) => {
                    q = node.operands[0]
                }
                Op::Quant(quant) if !quant.narrow && quant.to.bits() == 8 => {
                    let (scale, zero) = (node.operands[1], node.operands.get(2).copied());
                    let one = |v: ValueId| self.tensor(v).is_some_and(|t| t.len() == 1);
                    return (one(scale) && zero.is_none_or(one)).then_some((scale, zero));
                }
                _ => return None,
            }
        }
    }

    /// The product whose scaled floats node `n` makes.
    fn scaled(&self, n: NodeId) -> Option<Scaled> {
        let node = &self.f.nodes[n];
        let Op::Binary(Binary { kind: BinaryKind::Mul }) = node.op else { return None };
        let (floats, s) = match node.operands[..] {
            [a, b] if self.tensor(b).is_some() => (a, self.tensor(b)?),
            [a, b] => (b, self.tensor(a)?),
            _ => return None,
        };
        let (cast, made) = self.only(floats)?;
        let Op::Cast(c) = &made.op else { return None };
        let (product, made) = self.only(made.operands[0])?;
        let (&[x, w], out) = (&made.operands[..], self.f.values[*made.results.first()?].ty.clone()) else {
            return None;
        };
        if c.to != DType::F32 || s.dtype() != DType::F32 || out.dtype != DType::I32 {
            return None;
        }
        let (x_scale, x_zero) = self.rounded(x)?;
        let zero = x_zero.map_or(0.0, |z| self.tensor(z).map_or(0.0, |t| t.get_f64(0)));
        let codes = self.tensor(w)?;
        // Sums of the codes of each channel, and the channel's axis in the result.
        let (axis, sums) = match &made.op {
            Op::MatMul(m) if !m.trans_a && codes.shape().len() == 2 => {
                (out.rank() - 1, sums(&codes, usize::from(!m.trans_b)))
            }
            // Beyond the border are codes 0, which only without a zero point stand for 0.
            Op::Conv(c) if zero == 0.0 || c.pads.iter().all(|&p| p == 0) => {
                (Conv::axes(c.channels_last, out.rank()).1, sums(&codes, 0))
            }
            _ => return None,
        };
        let scales = s.channels(axis, out.rank(), sums.len())?;
        let x_factor = self.tensor(x_scale)?.get_f64(0);
        let shift = scales.iter().zip(&sums).map(|(s, n)| s * zero * n).collect();
        let w_scale = scales[..s.len()].iter().map(|&s| factor(s, x_factor)).collect();
        Some(Scaled { nodes: [product, cast, n], x, x_scale, x_zero, w, w_scale, axis, shift })
    }

    /// A constant that node `n` adds to the channels of a product, and the value that it is added to.
    fn added(&self, n: NodeId, axis: usize, count: usize) -> Option<(ValueId, Vec<f64>)> {
        let node = &self.f.nodes[n];
        let Op::Binary(Binary { kind: BinaryKind::Add }) = node.op else { return None };
        let &[a, b] = &node.operands[..] else { return None };
        let (x, t) = match (self.tensor(a), self.tensor(b)) {
            (None, Some(t)) => (a, t),
            (Some(t), None) => (b, t),
            _ => return None,
        };
        let rank = self.f.values[node.results[0]].ty.rank();
        let same = self.f.values[x].ty == self.f.values[node.results[0]].ty;
        Some((x, t.channels(axis, rank, count)?)).filter(|_| same && t.dtype() == DType::F32)
    }

    /// The rounding of a product's channels to codes that `QLinearConv` or `QLinearMatMul` computes as a whole.
    fn linear(&self, n: NodeId) -> Option<Linear> {
        let node = &self.f.nodes[n];
        let Op::Quant(quant) = &node.op else { return None };
        let one = |v: ValueId| self.tensor(v).filter(|t| t.len() == 1).map(|t| t.get_f64(0));
        one(node.operands[1])?;
        let zero = node.operands.get(2).map_or(Some(0.0), |&z| one(z))?;
        let lowest = quant.to.int_range()?.0 as f64;
        if quant.narrow || quant.to.bits() != 8 {
            return None;
        }
        let (mut at, mut nodes) = (self.only(node.operands[0])?, vec![]);
        // What is below 0 is below the codes.
        if let (Op::Unary(f), true) = (&at.1.op, zero == lowest)
            && f.kind == UnaryKind::Relu
        {
            nodes.push(at.0);
            at = self.only(at.1.operands[0])?;
        }
        let (scaled, mut bias) = match self.scaled(at.0) {
            Some(s) => {
                let shift = s.shift.clone();
                (s, shift)
            }
            None => {
                nodes.push(at.0);
                let of = at.1.operands.iter().find_map(|&v| self.only(v).and_then(|(n, _)| self.scaled(n)))?;
                let (_, c) = self.added(at.0, of.axis, of.shift.len())?;
                let bias = of.shift.iter().zip(c).map(|(a, b)| a + b).collect();
                (of, bias)
            }
        };
        nodes.extend(scaled.nodes);
        if is_rounding(&bias, &scaled.shift) {
            bias.clear();
        }
        let fits = match &self.f.nodes[scaled.nodes[0]].op {
            Op::Conv(c) => !c.channels_last,
            Op::MatMul(m) => !m.trans_b && bias.is_empty(),
            _ => false,
        };
        fits.then_some(Linear { scaled, bias, nodes })
    }
}

/// A product of codes, the constant that is added to its channels, and the rounding of the sum to codes.
pub(super) struct Linear {
    scaled: Scaled,
    /// For each channel; empty for nothing.
    bias: Vec<f64>,
    /// All ops but the rounding.
    pub(super) nodes: Vec<NodeId>,
}

/// All such products, by the op that rounds.
pub(super) fn linears(m: &Module, f: &Func) -> HashMap<NodeId, Linear> {
    let uses = Uses::new(f, &m.consts);
    f.live_nodes().into_iter().filter_map(|n| Some((n, uses.linear(n)?))).collect()
}

/// The float whose product with `x` is rounded to `product`; where there is none, the nearest.
fn factor(product: f64, x: f64) -> f64 {
    let near = (product / x) as f32;
    let fits = |w: &f32| (f64::from(*w) * x) as f32 == product as f32;
    [near, near.next_up(), near.next_down()].into_iter().find(fits).unwrap_or(near).into()
}

/// Whether a sum with the first term is 0 but for rounding.
fn is_rounding(sum: &[f64], term: &[f64]) -> bool {
    let most = |v: &[f64]| v.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    most(sum) <= ROUNDING * most(term)
}

/// Sums over all axes but one.
fn sums(codes: &Tensor, axis: usize) -> Vec<f64> {
    let (n, inner) = (codes.shape()[axis], codes.shape()[axis + 1..].iter().product::<usize>().max(1));
    let mut out = vec![0.0; n];
    (0..codes.len()).for_each(|i| out[i / inner % n] += codes.get_f64(i));
    out
}

/// A list along an axis of `rank`, or one number.
fn along(list: &[f64], axis: usize, rank: usize) -> Tensor {
    let mut shape = vec![1; if list.len() == 1 { 0 } else { rank }];
    if list.len() > 1 {
        shape[axis] = list.len();
    }
    Tensor::from_f64(DType::F32, shape, list)
}

/// The module with products of floats in place of those of codes, whose codes are decoded before: what `DequantizeLinear` says.
pub(super) fn dequantized(m: &Module) -> Result<Module> {
    let (mut out, main) = (m.clone(), m.main()?);
    let uses = Uses::new(&m.funcs[main], &m.consts);
    let Module { consts, funcs, .. } = &mut out;
    let f = &mut funcs[main];
    let mut stands_for = HashMap::default();
    for region in f.regions.iter().map(|(r, _)| r).collect::<Vec<_>>() {
        let mut order = vec![];
        for n in std::mem::take(&mut f.regions[region].nodes) {
            order.push(n);
            let Some(scaled) = uses.scaled(n) else { continue };
            let result = uses.f.nodes[n].results[0];
            // The constant that takes the zero point back may be a bias too.
            let alone = scaled.x_zero.is_some() && uses.counts[result.index()] == 1;
            let next = uses.readers.get(&result).filter(|_| alone);
            let sum = next.and_then(|&n| Some((n, uses.added(n, scaled.axis, scaled.shift.len())?.1)));
            let mut b = Builder::new(consts, f);
            (b.region, b.loc) = (region, uses.f.nodes[n].loc.clone());
            let (from, to) = floats(&mut b, &scaled, sum)?;
            order.append(&mut f.regions[region].nodes);
            f.swap_names(from, to);
            stands_for.insert(from, to);
        }
        f.regions[region].nodes = order;
    }
    f.replace_all(&stands_for);
    f.remove_dead();
    Ok(out)
}

/// The product of decoded codes; `sum` is the addition that reads it and its constant. Gives a value, and what stands for it.
fn floats(b: &mut Builder, s: &Scaled, sum: Option<(NodeId, Vec<f64>)>) -> Result<(ValueId, ValueId)> {
    let [product, _, last] = s.nodes.map(|n| b.func.nodes[n].clone());
    let out = b.func.values[last.results[0]].clone();
    let (rank, w_rank) = (out.ty.rank(), b.ty(s.w).rank());
    let channel = if matches!(&product.op, Op::MatMul(m) if !m.trans_b) { w_rank - 1 } else { 0 };
    b.name = format!("{}.d", b.func.values[s.x].name);
    let x = b.op(DecodeAffine { axis: 0, group: 0 }, &[&[s.x, s.x_scale][..], s.x_zero.as_slice()].concat())?;
    b.name = format!("{}.d", b.func.values[s.w].name);
    let scale = b.constant(&format!("{}.s", b.name), &along(&s.w_scale, channel, w_rank));
    let w = b.op(DecodeAffine { axis: 0, group: 0 }, &[s.w, scale])?;
    b.name = out.name.to_string();
    let y = b.op(product.op, &[x, w])?;
    let (from, total) = match sum {
        Some((n, c)) => (b.func.nodes[n].results[0], s.shift.iter().zip(c).map(|(a, b)| a + b).collect()),
        None => (last.results[0], s.shift.clone()),
    };
    if is_rounding(&total, &s.shift) {
        return Ok((from, y));
    }
    let total = b.constant(&format!("{}.b", b.name), &along(&total, s.axis, rank));
    Ok((from, b.op(Binary { kind: BinaryKind::Add }, &[y, total])?))
}

impl Exporter<'_> {
    /// Writes a rounding together with the product that it rounds.
    pub(super) fn rounded_product(&mut self, n: NodeId, linear: &Linear) -> Result<()> {
        let (f, Linear { scaled: s, bias, .. }) = (self.f, linear);
        let (node, product) = (&f.nodes[n], &f.nodes[s.nodes[0]]);
        let low = |dtype| Tensor::from_i64(dtype, [], &[0]);
        let number = |e: &Self, v: ValueId| e.tensor(v).and_then(|t| t.reshaped(vec![])).expect("one number");
        let dtype = |v: ValueId| f.values[v].ty.dtype;
        let (y, y_zero) = (node.results[0], node.operands.get(2));
        let w_scale = along(&s.w_scale, 0, 1);
        let w_zero = Tensor::from_i64(dtype(s.w), w_scale.shape(), &vec![0; w_scale.len()]);
        let x_zero = s.x_zero.map_or_else(|| low(dtype(s.x)), |z| number(self, z));
        let y_zero = y_zero.map_or_else(|| low(dtype(y)), |&z| number(self, z));
        let mut inputs = vec![];
        for (v, scale, zero) in [(s.x, number(self, s.x_scale), x_zero), (s.w, w_scale, w_zero)] {
            let name = f.values[v].name.to_string();
            inputs.push(self.name(v)?);
            inputs.push(self.initializer(&format!("{name}.scale"), &scale)?);
            inputs.push(self.initializer(&format!("{name}.zero"), &zero)?);
        }
        let name = f.values[y].name.to_string();
        inputs.push(self.initializer(&format!("{name}.scale"), &number(self, node.operands[1]))?);
        inputs.push(self.initializer(&format!("{name}.zero"), &y_zero)?);
        let x_scale = number(self, s.x_scale).get_f64(0);
        let each = |i: usize| s.w_scale[if s.w_scale.len() == 1 { 0 } else { i }];
        let steps: Vec<i64> = bias.iter().enumerate().map(|(i, b)| (b / (x_scale * each(i))).round() as i64).collect();
        let (op, attrs) = match &product.op {
            Op::Conv(c) => ("QLinearConv", super::ops::conv_attrs(c)),
            _ => ("QLinearMatMul", vec![]),
        };
        if !steps.is_empty() {
            inputs
                .push(self.initializer(&format!("{name}.bias"), &Tensor::from_i64(DType::I32, [steps.len()], &steps))?);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.last(n, op, &inputs, &attrs)
    }
}
