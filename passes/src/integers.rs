//! Products of codes as products of integers of 8 bits, whose zero points are taken into account by sums: with the weight's codes `w + v`,
//! `Σ (q - z) (w + v) = q·w + v Σq - z Σ(w + v)` (Jacob et al., 2018, section 2.3). Sums of integers are exact.

use crate::propose::{ConstNames, Editor};
use foldhash::HashMap;
use tersor_ir::ops::attr::Real;
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::ops::pad::PadMode;
use tersor_ir::ops::{Binary, Broadcast, Cast, Conv, Pad, Reshape, Select};
use tersor_ir::{Consts, DType, Dim, Func, Node, NodeId, Op, Result, Tensor, ValueId};

/// Products that one element may add up: of codes of 8 bits each is below `2^16`, and the sum must be below `2^31`.
const SUMMED: usize = 1 << 15;

/// A product whose operands are codes less their zero points, decoded or as integers.
struct Product {
    q: ValueId,
    zero: Zero,
    w: Weight,
    /// The axis of channels in the result.
    axis: usize,
    /// Scale of each channel of the result; none where that is of integers.
    scales: Option<Vec<f64>>,
}

/// The zero point of the left operand.
pub enum Zero {
    /// Codes stand for multiples of the scale.
    None,
    /// A number.
    Fixed(f64),
    /// A scalar that the run computes.
    Given(ValueId),
}

/// The right operand.
struct Weight {
    /// The constant that it is made of.
    value: ValueId,
    shape: Vec<usize>,
    /// The axis of channels.
    axis: usize,
    /// Codes less their zero points.
    numbers: Vec<i64>,
    /// What is taken from the numbers of each channel so that they are codes of 8 bits with a sign.
    offsets: Vec<i64>,
}

impl Weight {
    fn new(value: ValueId, shape: Vec<usize>, axis: usize, numbers: Vec<i64>) -> Option<Weight> {
        let mut w = Weight { value, offsets: vec![0; shape[axis]], shape, axis, numbers };
        let mut ranges = vec![(0, 0); w.offsets.len()];
        for (i, &v) in w.numbers.iter().enumerate() {
            let (lo, hi) = &mut ranges[w.channel(i)];
            (*lo, *hi) = (v.min(*lo), v.max(*hi));
        }
        for (offset, (lo, hi)) in w.offsets.iter_mut().zip(ranges) {
            if lo < -128 || hi > 127 {
                *offset = lo + 128;
            }
            if hi - lo > 255 {
                return None;
            }
        }
        Some(w)
    }
    fn channel(&self, i: usize) -> usize {
        let inner = self.shape[self.axis + 1..].iter().product::<usize>().max(1);
        i / inner % self.shape[self.axis]
    }
    fn codes(&self) -> Tensor {
        let codes: Vec<i64> = self.numbers.iter().enumerate().map(|(i, v)| v - self.offsets[self.channel(i)]).collect();
        Tensor::from_i64(DType::I8, self.shape.clone(), &codes)
    }
    /// The sum of each channel's numbers.
    fn sums(&self) -> Vec<f64> {
        let mut out = vec![0.0; self.offsets.len()];
        self.numbers.iter().enumerate().for_each(|(i, &v)| out[self.channel(i)] += v as f64);
        out
    }
}

fn is_code(d: DType) -> bool {
    matches!(d, DType::U8 | DType::I8)
}

/// A function whose products are looked at.
struct Reader<'m> {
    consts: &'m Consts,
    f: &'m Func,
}

impl<'m> Reader<'m> {
    fn tensor(&self, v: ValueId) -> Option<&'m Tensor> {
        self.f.def_const(v).and_then(|c| self.consts[c].tensor())
    }
    fn dtype(&self, v: ValueId) -> DType {
        self.f.values[v].ty.dtype
    }
    /// The operands of the decoding that a value is, if one scale is for all or for each channel.
    fn decoded(&self, v: ValueId) -> Option<&'m [ValueId]> {
        let node = self.f.def_node(v)?;
        matches!(&node.op, Op::DecodeAffine(d) if d.group == 0).then_some(&node.operands)
    }
    /// What is cast to the integers that sums are made of.
    fn widened(&self, v: ValueId) -> Option<ValueId> {
        let node = self.f.def_node(v)?;
        matches!(&node.op, Op::Cast(c) if c.to == DType::I32).then_some(node.operands[0])
    }
    fn difference(&self, v: ValueId) -> Option<(ValueId, ValueId)> {
        let node = self.f.def_node(v)?;
        // Narrower integers would wrap around.
        let wide = self.dtype(v) == DType::I32 && matches!(node.op, Op::Binary(Binary { kind: BinaryKind::Sub }));
        wide.then(|| (node.operands[0], node.operands[1]))
    }
    /// Codes that the run computes, their zero point, and their scale where they are decoded.
    fn left(&self, v: ValueId) -> Option<(ValueId, Zero, Option<f64>)> {
        let codes = |q: ValueId| (is_code(self.dtype(q)) && self.f.def_const(q).is_none()).then_some(q);
        let fixed = |z: ValueId| self.tensor(z).filter(|t| t.len() == 1).map(|t| Zero::Fixed(t.get_f64(0)));
        if let Some(x) = self.decoded(v) {
            let scale = self.tensor(x[1]).filter(|s| s.len() == 1 && s.dtype() == DType::F32)?.get_f64(0);
            let zero = x.get(2).map_or(Some(Zero::None), |&z| fixed(z))?;
            return Some((codes(x[0])?, zero, Some(scale)));
        }
        let Some((a, z)) = self.difference(v) else {
            return Some((codes(self.widened(v).unwrap_or(v))?, Zero::None, None));
        };
        let zero = fixed(z).or_else(|| {
            let z = self.widened(z).filter(|&z| is_code(self.dtype(z)))?;
            (self.f.values[z].ty.elements() == Dim::Const(1)).then_some(Zero::Given(z))
        })?;
        Some((codes(self.widened(a)?)?, zero, None))
    }
    /// A constant, its integers less their zero points, and its scales where they are decoded.
    fn right(&self, v: ValueId, axis: usize, rank: usize) -> Option<(ValueId, Vec<i64>, Option<&'m Tensor>)> {
        let less = |w: ValueId, z: Option<ValueId>| {
            let (w, mut numbers) = (self.tensor(w)?, self.tensor(w)?.to_i64());
            let count = *w.shape().get(axis)?;
            let z = match z {
                Some(z) => self.tensor(z)?.channels(axis, rank, count)?,
                None => return Some(numbers),
            };
            let inner = w.shape()[axis + 1..].iter().product::<usize>().max(1);
            numbers.iter_mut().enumerate().for_each(|(i, v)| *v -= z[i / inner % count] as i64);
            Some(numbers)
        };
        let source = |v: ValueId| self.widened(v).unwrap_or(v);
        if let Some(w) = self.decoded(v) {
            let scales = self.tensor(w[1]).filter(|s| s.dtype() == DType::F32)?;
            return is_code(self.dtype(w[0])).then_some((w[0], less(w[0], w.get(2).copied())?, Some(scales)));
        }
        let (w, z) = self.difference(v).map_or((v, None), |(w, z)| (w, Some(source(z))));
        let w = source(w);
        let integers = is_code(self.dtype(w)) || self.dtype(w) == DType::I32;
        integers.then_some((w, less(w, z)?, None))
    }

    /// The product of codes that a node is, and is not yet one of integers of 8 bits.
    fn product(&self, n: NodeId) -> Option<Product> {
        let node: &Node = &self.f.nodes[n];
        let out = &self.f.values[*node.results.first()?].ty;
        let rank = out.rank();
        // The rank of the weight, and the axes of its channels and of the result's.
        let (w_rank, w_axis, axis) = match &node.op {
            Op::MatMul(m) if !m.trans_a && !m.wide => (2, usize::from(!m.trans_b), rank.checked_sub(1)?),
            Op::Conv(c) if !c.wide => (rank, 0, Conv::axes(c.channels_last, rank).1),
            _ => return None,
        };
        let (q, zero, scale) = self.left(node.operands[0])?;
        // A zero point may stand for 0 beyond a border, among codes; and one of more axes would make more of them.
        let code = match zero {
            Zero::None => true,
            Zero::Fixed(z) => self.dtype(q).int_range().is_some_and(|(lo, hi)| (lo as f64..=hi as f64).contains(&z)),
            Zero::Given(z) => self.dtype(z) == self.dtype(q),
        };
        let shape = |v: ValueId| &self.f.values[v].ty.shape;
        if !code || shape(node.operands[0]) != shape(q) {
            return None;
        }
        let whole = q == node.operands[0];
        if whole && (self.dtype(node.operands[1]) == DType::I8 || !matches!(zero, Zero::None)) {
            return None;
        }
        let (value, numbers, scales) = self.right(node.operands[1], w_axis, w_rank)?;
        if shape(node.operands[1]) != shape(value) {
            return None;
        }
        let shape = self.tensor(value)?.shape().to_vec();
        let count = *shape.get(w_axis).filter(|&&n| n > 0 && shape.len() == w_rank)?;
        if numbers.len() / count > SUMMED || scale.is_some() != scales.is_some() {
            return None;
        }
        let scales = match (scale, scales) {
            // As they are stored, so that what stands for 0 adds up to 0.
            (Some(s), Some(t)) => {
                let product = |t: f64| f64::from((t * s) as f32);
                Some(t.channels(w_axis, w_rank, count)?.into_iter().map(product).collect())
            }
            _ => None,
        };
        let w = Weight::new(value, shape, w_axis, numbers)?;
        // The codes would have to be summed for each group.
        let grouped = matches!(&node.op, Op::Conv(c) if c.groups > 1);
        (!grouped || w.offsets.iter().all(|&o| o == 0)).then_some(Product { q, zero, w, axis, scales })
    }
}

/// Codes with those that stand for 0 beyond the border of a convolution, which then has no padding of its own.
pub fn padded(b: &mut Editor, c: &mut Conv, q: ValueId, zero: &Zero) -> Result<ValueId> {
    if matches!(zero, Zero::None | Zero::Fixed(0.0)) || c.pads.iter().all(|&p| p == 0) {
        return Ok(q);
    }
    let (ty, spatial) = (b.ty(q).clone(), c.strides.len());
    let first = Conv::axes(c.channels_last, ty.rank()).2;
    let (mut lo, mut hi) = (vec![0; ty.rank()], vec![0; ty.rank()]);
    lo[first..first + spatial].copy_from_slice(&c.pads[..spatial]);
    hi[first..first + spatial].copy_from_slice(&c.pads[spatial..]);
    c.pads.fill(0);
    b.name = format!("{}.pad", b.func.values[q].name);
    let pad = |value: f64| Pad { lo: lo.clone(), hi: hi.clone(), mode: PadMode::Constant, value: Real(value) };
    match *zero {
        Zero::Given(z) => {
            let inside = b.constant("inside", &Tensor::from_f64(DType::Bool, [], &[1.0]));
            let inside = b.op(Broadcast { shape: ty.shape.to_vec() }, &[inside])?;
            let (inside, q) = (b.op(pad(0.0), &[inside])?, b.op(pad(0.0), &[q])?);
            let z = b.op(Reshape { shape: vec![] }, &[z])?;
            b.op(Select {}, &[inside, q, z])
        }
        Zero::Fixed(z) => b.op(pad(z), &[q]),
        Zero::None => Ok(q),
    }
}

/// Appends the product to the region.
fn build(b: &mut Editor, op: &Op, result: ValueId, p: &Product) -> Result<ValueId> {
    let (name, rank) = (b.func.values[result].name.to_string(), b.func.values[result].ty.rank());
    let w_name = b.func.values[p.w.value].name.to_string();
    let (mut op, mut q) = (op.clone(), p.q);
    if let Op::Conv(c) = &mut op {
        q = padded(b, c, q, &p.zero)?;
    }
    let dtype = if p.scales.is_some() { DType::F32 } else { DType::I32 };
    let each = |v: &[f64]| {
        let scaled: Vec<f64> = match &p.scales {
            Some(s) => v.iter().zip(s).map(|(v, s)| v * s).collect(),
            None => v.to_vec(),
        };
        let mut shape = vec![1; rank - p.axis];
        shape[0] = scaled.len();
        let one = scaled.iter().all(|x| *x == scaled[0]);
        if one { Tensor::from_f64(dtype, [], &scaled[..1]) } else { Tensor::from_f64(dtype, shape, &scaled) }
    };
    // The sum of products with `w`, times a number for each channel.
    let times = |b: &mut Editor, w: ValueId, part: &str, by: &[f64]| {
        b.name = format!("{name}.i{part}");
        let mut sum = b.op(op.clone(), &[q, w])?;
        if p.scales.is_some() {
            b.name = format!("{name}.f{part}");
            sum = b.op(Cast::to(DType::F32), &[sum])?;
        } else if by.iter().all(|&v| v == 1.0) {
            return Ok(sum);
        }
        let by = b.constant(&format!("{w_name}.s{part}"), &each(by));
        b.name = name.clone();
        b.op(Binary { kind: BinaryKind::Mul }, &[sum, by])
    };
    let (codes, count) = (p.w.codes(), p.w.offsets.len());
    let own = b.tensor(p.w.value).is_some_and(|(_, t)| *t == codes);
    let w = if own { p.w.value } else { b.constant(&format!("{w_name}.q"), &codes) };
    let mut y = times(b, w, "", &vec![1.0; count])?;
    if p.w.offsets.iter().any(|&v| v != 0) {
        let mut shape = p.w.shape.clone();
        shape[p.w.axis] = 1;
        let ones = Tensor::from_i64(DType::I8, shape.clone(), &vec![1; shape.iter().product()]);
        let ones = b.constant(&format!("{w_name}.ones"), &ones);
        let rows = times(b, ones, "z", &p.w.offsets.iter().map(|&v| v as f64).collect::<Vec<_>>())?;
        y = b.op(Binary { kind: BinaryKind::Add }, &[y, rows])?;
    }
    b.name = name.clone();
    let shift = |b: &mut Editor, z: f64| {
        let shift = each(&p.w.sums().iter().map(|sum| -z * sum).collect::<Vec<_>>());
        b.constant(&format!("{w_name}.z"), &shift)
    };
    let shift = match p.zero {
        Zero::None | Zero::Fixed(0.0) => return Ok(y),
        Zero::Fixed(z) => shift(b, z),
        Zero::Given(z) => {
            let sums = shift(b, 1.0);
            let z = b.op(Reshape { shape: vec![] }, &[z])?;
            let z = b.op(Cast::to(dtype), &[z])?;
            b.op(Binary { kind: BinaryKind::Mul }, &[sums, z])?
        }
    };
    b.op(Binary { kind: BinaryKind::Add }, &[y, shift])
}

/// Puts products of integers of 8 bits in place of those of decoded or centred codes; gives how many.
pub fn integers(consts: &mut Consts, f: &mut Func, names: &mut ConstNames) -> Result<u64> {
    let reader = Reader { consts, f };
    let all = f.live_nodes().into_iter().filter_map(|n| Some((n, reader.product(n)?)));
    let mut found: HashMap<NodeId, Product> = all.collect();
    let count = found.len() as u64;
    if count == 0 {
        return Ok(0);
    }
    let mut stands_for = HashMap::default();
    for region in f.regions.iter().map(|(r, _)| r).collect::<Vec<_>>() {
        let mut order = vec![];
        for n in std::mem::take(&mut f.regions[region].nodes) {
            order.push(n);
            let Some(p) = found.remove(&n) else { continue };
            let (op, result, loc) = (f.nodes[n].op.clone(), f.nodes[n].results[0], f.nodes[n].loc.made_by("normalize"));
            let mut b =
                Editor { consts, func: f, region, loc, name: String::new(), choice: None, narrowed: vec![], names };
            let y = build(&mut b, &op, result, &p)?;
            order.append(&mut f.regions[region].nodes);
            f.swap_names(result, y);
            stands_for.insert(result, y);
        }
        f.regions[region].nodes = order;
    }
    f.replace_all(&stands_for);
    Ok(count)
}
