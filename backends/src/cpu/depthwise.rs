//! Depthwise convolution of channels-last images: vectors run over channels.
//!
//! A grid point is one output row of one image. For each 16 channels the row is cut in three: pixels whose window crosses the left or the right edge, which
//! take the taps that exist one by one, and those between, which are computed several at once from each input column that they share.

use super::expr::{Fused, Point, Row};
use crate::emit::{KernelBuilder, Scalar, Ty, Val};
use crate::kernel::{GroupCx, Launch, LaunchBuilder};
use tersor_ir::ops::Conv;
use tersor_ir::{DType, Diagnostic, Dim, Failure, Op, Tensor, ValueId};

/// Channels of a block.
const LANES: i64 = 16;
/// Multiply-adds worth another thread.
const THREAD_WORK: i64 = 1 << 18;

/// Whether the group's anchor is a convolution that this family runs.
pub fn fits(cx: &GroupCx) -> bool {
    let Some(node) = cx.group.anchor.map(|n| &cx.f.nodes[n]) else { return false };
    let Op::Conv(op) = &node.op else { return false };
    let (x, w) = (cx.ty(node.operands[0]), cx.ty(node.operands[1]));
    let one = w.shape[1] == Dim::from(1) && op.groups > 1 && op.channels_last;
    one && matches!(x.rank(), 3 | 4) && types(x.dtype, w.dtype).is_some() && cx.constant(node.operands[1]).is_some()
}

/// Storage of images, storage of packed weights and accumulators' type.
fn types(x: DType, w: DType) -> Option<(Scalar, Scalar, Scalar)> {
    match (x, w) {
        (DType::F32, DType::F32) => Some((Scalar::F32, Scalar::F32, Scalar::F32)),
        (DType::BF16, DType::BF16) => Some((Scalar::BF16, Scalar::F32, Scalar::F32)),
        (DType::F16, DType::F16) => Some((Scalar::F16, Scalar::F32, Scalar::F32)),
        (DType::I8 | DType::U8, DType::I8 | DType::U8) => Some((Scalar::I8, Scalar::I8, Scalar::I32)),
        _ => None,
    }
}

/// The window along one axis.
#[derive(Copy, Clone)]
struct Window {
    taps: i64,
    stride: i64,
    before: i64,
    dilation: i64,
}

impl Window {
    /// A window of one tap.
    const POINT: Window = Window { taps: 1, stride: 1, before: 0, dilation: 1 };

    fn new(op: &Conv, axis: usize, taps: i64) -> Window {
        Window { taps, stride: op.strides[axis], before: op.pads[axis], dilation: op.dilations[axis] }
    }

    /// Where the window of output `index` begins, and its taps `low..high` that lie in `0..extent`.
    fn taps(&self, k: &mut KernelBuilder, index: Val, extent: Val) -> (Val, Val, Val) {
        let (stride, before, zero, taps) = (k.i64(self.stride), k.i64(self.before), k.i64(0), k.i64(self.taps));
        let first = k.mul(index, stride);
        let first = k.sub(first, before);
        let missing = k.sub(zero, first);
        let missing = k.max(missing, zero);
        let low = k.ceil_div(missing, self.dilation);
        let left = k.sub(extent, first);
        let left = k.max(left, zero);
        let high = k.ceil_div(left, self.dilation);
        (first, low, k.min(high, taps))
    }

    /// The outputs `low..high` of `outputs` whose windows lie in `0..extent`.
    fn inside(&self, k: &mut KernelBuilder, outputs: Val, extent: Val) -> (Val, Val) {
        let low = k.i64((self.before + self.stride - 1) / self.stride);
        let low = k.min(low, outputs);
        let reach = k.i64(self.before - (self.taps - 1) * self.dilation - 1 + self.stride);
        let high = k.add(extent, reach);
        let (zero, stride) = (k.i64(0), k.i64(self.stride));
        let high = k.max(high, zero);
        let high = k.div(high, stride);
        let high = k.min(high, outputs);
        (low, k.max(high, low))
    }
}

/// `[O, 1, KH, KW]` as `[O/16][KH*KW][16]`, the last block filled up with zeros.
fn pack(w: &Tensor, dtype: DType) -> Tensor {
    let (channels, taps) = (w.shape()[0], w.shape()[1..].iter().product::<usize>());
    let blocks = channels.div_ceil(LANES as usize);
    let source = w.to_f64();
    let mut data = vec![0.0; blocks * taps * LANES as usize];
    for (i, v) in source.into_iter().enumerate() {
        let (channel, tap) = (i / taps, i % taps);
        data[(channel / 16 * taps + tap) * 16 + channel % 16] = v;
    }
    Tensor::from_f64(dtype, [blocks, taps, LANES as usize], &data)
}

/// The kernel of a group whose anchor is a depthwise convolution.
pub fn build(cx: &GroupCx) -> Result<Launch, Diagnostic> {
    let unsupported = |what: String| Err(Diagnostic::error("B0350", what).failure(Failure::Unsupported));
    let node = &cx.f.nodes[cx.group.anchor.expect("a group with an anchor")];
    let Op::Conv(op) = &node.op else { return unsupported(format!("{} is not a convolution", node.op.mnemonic())) };
    let (x, w, y) = (cx.ty(node.operands[0]), cx.ty(node.operands[1]), cx.ty(node.results[0]));
    let Some((elem, weight, acc)) = types(x.dtype, w.dtype).filter(|_| fits(cx)) else {
        return unsupported(format!("depthwise convolution of {x} with {w}"));
    };
    let Some(weights) = cx.constant(node.operands[1]) else {
        return unsupported("depthwise convolution whose weights are not constant".into());
    };
    let flat = x.rank() == 3;
    let taps = |axis: usize| weights.shape()[2 + axis] as i64;
    let (rows, columns) = match flat {
        true => (Window::POINT, Window::new(op, 0, taps(0))),
        false => (Window::new(op, 0, taps(0)), Window::new(op, 1, taps(1))),
    };
    let out = cx.ty(cx.group.outputs[0]);
    let pixels = if cx.isa.wide() { 8 } else { 4 };
    let name = format!("{}_{}_{}_depthwise_1x{}__{}", x.dtype, w.dtype, out.dtype, pixels * LANES, cx.isa.suffix());
    let mut lb = LaunchBuilder::new(name);

    let view = cx.view(node.operands[0]);
    let size = i64::from(elem.bytes());
    let (root, offset) = (lb.read(view.root), lb.extent(&(view.offset.clone() * size.into())));
    let image = lb.gep(root, offset);
    let last = x.rank() - 1;
    if view.strides[last] != Dim::from(1) {
        return unsupported("depthwise convolution of an image whose channels are apart".into());
    }
    let mut stride = |axis: usize| lb.extent(&(view.strides[axis].clone() * size.into()));
    let (image_stride, column_stride) = (stride(0), stride(last - 1));
    let row_stride = if flat { lb.i64(0) } else { stride(1) };
    let [height, out_height] = [x, y].map(|t| if flat { Dim::from(1) } else { t.shape[1].clone() });
    let [width, out_width] = [x, y].map(|t| lb.extent(&t.shape[last - 1]));
    let packed_dtype = if acc == Scalar::F32 { DType::F32 } else { w.dtype };
    let layout = format!("{packed_dtype} [N/16][taps][16]");
    let filter = lb.packed(layout, pack(&weights, packed_dtype));
    let channels = weights.shape()[0] as i64;
    let depthwise = Depthwise {
        rows,
        columns,
        pixels,
        channels,
        multiplier: channels / op.groups,
        elem,
        weight,
        acc,
        unsigned: [x.dtype == DType::U8, w.dtype == DType::U8],
        image,
        image_stride,
        row_stride,
        column_stride,
        height: lb.extent(&height),
        out_height: lb.extent(&out_height),
        width,
        out_width,
        filter,
        fused: Fused::new(cx, node.results[0])?,
        result: node.results[0],
        flat,
    };
    depthwise.grid(&mut lb);
    let row = y.shape[last - 1].clone() * Dim::from(channels * rows.taps * columns.taps);
    let grain = Dim::from(THREAD_WORK).floor_div(row + Dim::from(1)).max(1.into());
    Ok(lb.launch(x.shape[0].clone() * out_height, 0, grain))
}

/// Everything that the kernel's instructions refer to. Strides are in bytes.
struct Depthwise<'a> {
    rows: Window,
    columns: Window,
    /// Output pixels of a tile.
    pixels: i64,
    /// Output channels.
    channels: i64,
    /// Output channels of an input channel.
    multiplier: i64,
    elem: Scalar,
    weight: Scalar,
    acc: Scalar,
    /// Whether bytes of images and of weights have no sign.
    unsigned: [bool; 2],
    image: Val,
    image_stride: Val,
    row_stride: Val,
    column_stride: Val,
    height: Val,
    out_height: Val,
    width: Val,
    out_width: Val,
    filter: Val,
    /// What becomes of the results.
    fused: Fused<'a>,
    result: ValueId,
    /// Whether images have one spatial axis.
    flat: bool,
}

/// A block of channels of an output row.
struct Strip {
    /// First channel.
    channel: Val,
    /// Channels, at most [`LANES`].
    lanes: u32,
    /// The image.
    image: Val,
    /// First tap of the block.
    filter: Val,
    /// First row of the window.
    first: Val,
    /// Rows of the window that exist.
    low: Val,
    high: Val,
    /// Number of the image.
    number: Val,
    /// Output row.
    row: Val,
}

impl Depthwise<'_> {
    fn ty(&self) -> Ty {
        self.acc.x(LANES as u32)
    }

    fn grid(&self, k: &mut LaunchBuilder) {
        let (begin, end) = k.range();
        let whole = self.channels / LANES * LANES;
        k.loop_(begin, end, 1, |k, row| {
            let n = k.div(row, self.out_height);
            let skipped = k.mul(n, self.out_height);
            let index = k.sub(row, skipped);
            let (first, low, high) = self.rows.taps(k, index, self.height);
            let offset = k.mul(n, self.image_stride);
            let image = k.gep(self.image, offset);
            let strip = |k: &mut LaunchBuilder, channel: Val, lanes: u32| {
                let size = k.i64(self.rows.taps * self.columns.taps * i64::from(self.weight.bytes()));
                let offset = k.mul(channel, size);
                let filter = k.gep(self.filter, offset);
                self.strip(k, &Strip { channel, lanes, image, filter, first, low, high, number: n, row: index });
            };
            let (zero, end) = (k.i64(0), k.i64(whole));
            k.loop_(zero, end, LANES, |k, channel| strip(k, channel, LANES as u32));
            if whole < self.channels {
                strip(k, end, (self.channels - whole) as u32);
            }
        });
    }

    /// One output row of a block of channels.
    fn strip(&self, k: &mut LaunchBuilder, s: &Strip) {
        let zero = k.i64(0);
        let (low, high) = self.columns.inside(k, self.out_width, self.width);
        k.loop_(zero, low, 1, |k, at| self.edge(k, s, at));
        let (count, size) = (k.sub(high, low), k.i64(self.pixels));
        let tiles = k.div(count, size);
        let tiles = k.mul(tiles, size);
        let tiled = k.add(low, tiles);
        k.loop_(low, tiled, self.pixels, |k, at| self.tile(k, s, at, self.pixels));
        k.loop_(tiled, high, 1, |k, at| self.tile(k, s, at, 1));
        k.loop_(high, self.out_width, 1, |k, at| self.edge(k, s, at));
    }

    /// The address of the input column at `column` of the window's row `tap`.
    fn at(&self, k: &mut LaunchBuilder, s: &Strip, tap: Val, column: Val) -> Val {
        let dilation = k.i64(self.rows.dilation);
        let row = k.mul(tap, dilation);
        let row = k.add(s.first, row);
        let (row, column) = (k.mul(row, self.row_stride), k.mul(column, self.column_stride));
        let p = k.gep(s.image, row);
        k.gep(p, column)
    }

    /// A block's channels of the pixel at `ptr`, as accumulators are.
    fn pixel(&self, k: &mut LaunchBuilder, s: &Strip, ptr: Val) -> Val {
        let (m, all) = (self.multiplier, LANES as u32);
        let v = if m == 1 || LANES % m == 0 {
            // Lanes of one input channel follow each other.
            let (divisor, lanes) = (k.i64(m), all / m as u32);
            let channel = k.div(s.channel, divisor);
            let at = k.elem(ptr, channel, self.elem);
            let valid = (i64::from(s.lanes) + m - 1) / m;
            let v = if valid == i64::from(lanes) || lanes == 1 {
                k.load(at, self.elem.x(lanes))
            } else {
                let valid = k.i64(valid);
                k.load_first(at, self.elem.x(lanes), valid)
            };
            match lanes {
                1 => k.splat(v, all),
                _ if m > 1 => k.shuffle(v, v, &(0..all).map(|lane| lane / m as u32).collect::<Vec<_>>()),
                _ => v,
            }
        } else {
            let (mut v, divisor) = (k.zero(self.elem.x(all)), k.i64(m));
            for lane in 0..s.lanes {
                let channel = k.i64(lane.into());
                let channel = k.add(s.channel, channel);
                let channel = k.div(channel, divisor);
                let at = k.elem(ptr, channel, self.elem);
                let x = k.load(at, self.elem.x(1));
                v = k.insert(x, v, lane);
            }
            v
        };
        self.widen(k, v, self.unsigned[0])
    }

    fn widen(&self, k: &mut LaunchBuilder, v: Val, unsigned: bool) -> Val {
        match (self.acc, unsigned) {
            (Scalar::F32, _) => k.to_float_type(v, Scalar::F32),
            (to, true) => k.zext(v, to),
            (to, false) => k.sext(v, to),
        }
    }

    /// The weights of tap number `tap`.
    fn weights(&self, k: &mut LaunchBuilder, s: &Strip, tap: Val) -> Val {
        let size = k.i64(LANES * i64::from(self.weight.bytes()));
        let offset = k.mul(tap, size);
        let w = k.load_at(s.filter, offset, self.weight.x(LANES as u32));
        self.widen(k, w, self.unsigned[1])
    }

    fn fma(&self, k: &mut LaunchBuilder, a: Val, b: Val, acc: Val) -> Val {
        if self.acc == Scalar::F32 {
            return k.fma(a, b, acc);
        }
        let product = k.mul(a, b);
        k.add(acc, product)
    }

    /// `pixels` output pixels from `at` on whose windows cross neither the left nor the right edge.
    fn tile(&self, k: &mut LaunchBuilder, s: &Strip, at: Val, pixels: i64) {
        let (w, one, zero) = (self.columns, k.i64(1), k.zero(self.ty()));
        let (stride, before) = (k.i64(w.stride), k.i64(w.before));
        let column = k.mul(at, stride);
        let column = k.sub(column, before);
        let start = vec![zero; pixels as usize];
        let sums = k.for_(s.low, s.high, one, &start, |k, tap, sums| {
            let mut sums = sums.to_vec();
            let row = self.at(k, s, tap, column);
            let taps = k.i64(w.taps);
            let first = k.mul(tap, taps);
            let weights: Vec<Val> = (0..w.taps)
                .map(|i| {
                    let i = k.i64(i);
                    let tap = k.add(first, i);
                    self.weights(k, s, tap)
                })
                .collect();
            for j in 0..=(pixels - 1) * w.stride + (w.taps - 1) * w.dilation {
                let uses = |p: i64| {
                    let d = j - p * w.stride;
                    (d >= 0 && d % w.dilation == 0 && d / w.dilation < w.taps).then_some((p, d / w.dilation))
                };
                let uses: Vec<_> = (0..pixels).filter_map(uses).collect();
                if uses.is_empty() {
                    continue;
                }
                let offset = k.i64(j);
                let offset = k.mul(offset, self.column_stride);
                let from = k.gep(row, offset);
                let x = self.pixel(k, s, from);
                for (p, tap) in uses {
                    sums[p as usize] = self.fma(k, x, weights[tap as usize], sums[p as usize]);
                }
            }
            sums
        });
        for (p, sum) in sums.into_iter().enumerate() {
            let p = k.i64(p as i64);
            let at = k.add(at, p);
            self.store(k, s, at, sum);
        }
    }

    /// The output pixel `at`, with the taps that exist.
    fn edge(&self, k: &mut LaunchBuilder, s: &Strip, at: Val) {
        let (one, zero) = (k.i64(1), k.zero(self.ty()));
        let (column, low, high) = self.columns.taps(k, at, self.width);
        let sums = k.for_(s.low, s.high, one, &[zero], |k, row_tap, sums| {
            let row = self.at(k, s, row_tap, column);
            let (taps, dilation) = (k.i64(self.columns.taps), k.i64(self.columns.dilation));
            let first = k.mul(row_tap, taps);
            let step = k.mul(dilation, self.column_stride);
            k.for_(low, high, one, sums, |k, tap, sums| {
                let offset = k.mul(tap, step);
                let from = k.gep(row, offset);
                let tap = k.add(first, tap);
                let (x, w) = (self.pixel(k, s, from), self.weights(k, s, tap));
                vec![self.fma(k, x, w, sums[0])]
            })
        });
        self.store(k, s, at, sums[0]);
    }

    fn store(&self, k: &mut LaunchBuilder, s: &Strip, at: Val, sum: Val) {
        let index = if self.flat { vec![s.number, at] } else { vec![s.number, s.row, at] };
        let mut point = Point::new(Row::Index(index), s.channel, LANES as u32);
        if i64::from(s.lanes) < LANES {
            point = point.first(k.i64(s.lanes.into()));
        }
        self.fused.store_outputs(k, &[(self.result, sum)], &point);
    }
}

#[cfg(test)]
mod tests {
    use super::build;
    use crate::cpu::testing::{check, random_inputs, whole};
    use crate::kernel::Isa;
    use tersor_ir::module::Builder;
    use tersor_ir::ops::binary::BinaryKind;
    use tersor_ir::ops::unary::UnaryKind;
    use tersor_ir::ops::{Binary, Cast, Conv, Unary};
    use tersor_ir::testing::Gen;
    use tersor_ir::{Bindings, DType, Dim, Func, Module, Type};

    #[derive(Debug)]
    struct Case {
        types: (DType, DType),
        wide: bool,
        image: Vec<usize>,
        taps: Vec<usize>,
        channels: usize,
        multiplier: usize,
        strides: Vec<i64>,
        pads: Vec<i64>,
        dilations: Vec<i64>,
        symbolic: bool,
        /// Bias, relu and a product follow.
        finished: bool,
    }

    fn run(c: &Case, isa: Isa, g: &mut Gen) {
        let mut m = Module::new("m");
        let mut f = Func::new("main");
        let body = f.body_id();
        let (n, out) = (if c.symbolic { Dim::from("N") } else { 2.into() }, c.channels * c.multiplier);
        let images = c.image.iter().map(|&d| Dim::from(d));
        let shape: Vec<Dim> = [n].into_iter().chain(images).chain([c.channels.into()]).collect();
        let mut filter = vec![out, 1];
        filter.extend(&c.taps);
        let w = g.tensor(&Type::new(c.types.1, filter));
        let x = f.add_param(body, "x", Type::new(c.types.0, shape));
        let mut b = Builder::new(&mut m.consts, &mut f);
        let w = b.constant("w", &w);
        let op = Conv {
            strides: c.strides.clone(),
            pads: c.pads.clone(),
            dilations: c.dilations.clone(),
            groups: c.channels as i64,
            channels_last: true,
            wide: c.wide,
        };
        let mut y = b.op(op, &[x, w]).unwrap();
        if c.finished {
            let kinds = [BinaryKind::Add, BinaryKind::Mul];
            let (dtype, shape) = (b.ty(y).dtype, b.ty(y).shape.clone());
            let bias = b.constant("bias", &g.tensor(&Type::new(dtype, [out])));
            y = b.op(Binary { kind: kinds[0] }, &[y, bias]).unwrap();
            y = b.op(Cast::to(DType::F32), &[y]).unwrap();
            y = b.op(Unary { kind: UnaryKind::Relu }, &[y]).unwrap();
            let other = b.func.add_param(body, "other", Type::new(DType::F32, shape));
            y = b.op(Binary { kind: kinds[1] }, &[y, other]).unwrap();
        }
        f.body_mut().results = vec![y];
        f.inputs = f.body().params.iter().map(|&p| f.values[p].name.clone()).collect();
        f.outputs = vec!["y".into()];
        m.funcs.push(f);
        let inputs = random_inputs(&m, &Bindings::from([("N".into(), 2)]), g.int(0, 1 << 30) as u64);
        // Between fused nodes half floats are not rounded.
        let tolerance = if matches!(c.types.0, DType::F16 | DType::BF16) { 2e-2 } else { 1e-5 };
        check(&m, &whole(&m), isa, build, &inputs, tolerance);
    }

    #[test]
    fn agrees_with_the_evaluator() {
        let mut g = Gen::new(21);
        let bytes = [DType::I8, DType::U8];
        for _ in 0..60 {
            let rank = g.int(1, 2) as usize;
            let list = |g: &mut Gen, low, high, n: usize| (0..n).map(|_| g.int(low, high)).collect::<Vec<_>>();
            let float = g.one_of(&[DType::F32, DType::F32, DType::BF16, DType::F16]);
            let types = if g.flip() { (float, float) } else { (g.one_of(&bytes), g.one_of(&bytes)) };
            let case = Case {
                types,
                wide: types.0 == DType::BF16 && g.flip(),
                image: list(&mut g, 7, 19, rank).into_iter().map(|d| d as usize).collect(),
                taps: list(&mut g, 1, 4, rank).into_iter().map(|d| d as usize).collect(),
                channels: g.int(2, 40) as usize,
                multiplier: g.one_of(&[1, 1, 2, 3, 4, 16]),
                strides: list(&mut g, 1, 3, rank),
                pads: list(&mut g, 0, 3, 2 * rank),
                dilations: list(&mut g, 1, 2, rank),
                symbolic: g.flip(),
                finished: g.flip(),
            };
            let isa = g.one_of(&[Isa::V3, Isa::V4]);
            run(&case, isa, &mut g);
        }
    }
}
