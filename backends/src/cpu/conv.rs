//! Convolution of channels-last images as a product: rows are output pixels, K runs over the window's taps and their channels.
//!
//! A block's windows are laid out in scratch, where padding is zeros, and multiplied from there: the copy costs one load and store for each element that
//! then meets every output channel. A window of one pixel in place is the product itself.

use super::expr::Fused;
use super::gemm::rows::Change;
use super::gemm::weights::{Left, Product};
use super::gemm::{change, constant, finish, name, storage};
use super::pack::Matrix;
use crate::emit::{Scalar, Val};
use crate::fuse::is_rows;
use crate::kernel::{GroupCx, Launch, LaunchBuilder};
use tersor_ir::ops::Conv;
use tersor_ir::{Diagnostic, Dim, Failure, Op};

/// The window along one axis.
struct Axis {
    taps: i64,
    stride: i64,
    before: i64,
    dilation: i64,
    /// Bytes between neighbours along the axis.
    step: Val,
    extent: Val,
    outputs: Val,
}

/// What lays out windows.
struct Windows<'a> {
    axes: Vec<Axis>,
    image: Val,
    image_step: Val,
    /// Channels of a group.
    channels: i64,
    /// Whether neighbouring pixels of a row follow each other without other groups' channels between them.
    dense: bool,
    change: &'a Change,
}

/// The kernel of a group whose anchor is a convolution.
pub fn build(cx: &GroupCx) -> Result<Launch, Diagnostic> {
    const VARIABLE: &str = "the weights of a convolution must be constant";
    let unsupported = |what: &str| Err(Diagnostic::error("B0370", what.to_string()).failure(Failure::Unsupported));
    let node = &cx.f.nodes[cx.group.anchor.expect("a group with an anchor")];
    let Op::Conv(op) = &node.op else { return unsupported("not a convolution") };
    let (x, y) = (node.operands[0], node.results[0]);
    let w = node.operands[1];
    let (tx, ty, view) = (cx.ty(x), cx.ty(y), cx.view(x));
    let last = tx.rank() - 1;
    if !op.channels_last || (view.strides[last] != Dim::from(1) && tx.shape[last] != Dim::from(1)) {
        return unsupported("convolutions compile for images whose channels are the last axis");
    }
    let elem = storage(tx.dtype)?;
    storage(ty.dtype)?;
    let fused = Fused::new(cx, y)?;
    let groups = op.groups as usize;
    let Some(shape) = cx.ty(w).static_shape() else { return unsupported(VARIABLE) };
    let (out, channels, taps) = (shape[0] / groups, shape[1], shape[2..].iter().product::<usize>());
    let at = move |g: usize, k: usize, n: usize| ((g * out + n) * channels + k % channels) * taps + k / channels;
    let matrix = Matrix { groups, k: channels * taps, n: out, at: &at };
    let Some((scheme, weights)) = constant(cx, (x, w, y), &matrix) else { return unsupported(VARIABLE) };
    let change = change(scheme, tx.dtype, elem);
    let m = ty.shape[..last].iter().fold(Dim::from(1), |m, d| m * d.clone());
    let product = Product { scheme, isa: cx.isa, m, weights, matrix: &matrix, biased: change.bias != 0 };
    let types = [tx.dtype.name(), &product.weights.name(), ty.dtype.name()];
    let mut b = LaunchBuilder::new(name(cx, types, "conv", product.tile()));
    let base = b.read(x);
    let offset = b.extent(&view.offset);
    let image = b.elem(base, offset, elem);
    let size = b.i64(elem.bytes().into());
    let step = |b: &mut LaunchBuilder, axis: usize| {
        let s = b.extent(&view.strides[axis]);
        b.mul(s, size)
    };
    let finish = finish(&fused, y);
    if in_place(op, taps) && is_rows(&view, &tx.shape) && product.takes(&change) {
        let axis = (0..last).rev().find(|&i| tx.shape[i] != Dim::from(1)).unwrap_or(0);
        let pitch = step(&mut b, axis);
        return Ok(product.build(b, &Left::There { row: image, pitch }, &finish));
    }
    let axes = (0..last - 1)
        .map(|i| Axis {
            taps: shape[2 + i] as i64,
            stride: op.strides[i],
            before: op.pads[i],
            dilation: op.dilations[i],
            step: step(&mut b, 1 + i),
            extent: b.extent(&tx.shape[1 + i]),
            outputs: b.extent(&ty.shape[1 + i]),
        })
        .collect();
    let dense = groups == 1 && view.strides[last - 1] == Dim::from(channels) && op.dilations[last - 2] == 1;
    let image_step = step(&mut b, 0);
    let windows = Windows { axes, image, image_step, channels: channels as i64, dense, change: &change };
    let pack = |b: &mut LaunchBuilder, group: Val, row: Val, to: Val| windows.row(b, group, row, to);
    Ok(product.build(b, &Left::Packed(&pack, change), &finish))
}

/// Whether every window is the pixel at the same place.
fn in_place(op: &Conv, taps: usize) -> bool {
    taps == 1 && op.groups == 1 && op.strides.iter().all(|&s| s == 1) && op.pads.iter().all(|&p| p == 0)
}

impl Windows<'_> {
    fn from(&self) -> Scalar {
        self.change.from
    }

    /// Lays out the window of output pixel `row`.
    fn row(&self, b: &mut LaunchBuilder, group: Val, row: Val, to: Val) {
        let (mut rest, mut first) = (row, vec![]);
        for axis in self.axes.iter().rev() {
            let next = b.div(rest, axis.outputs);
            let skip = b.mul(next, axis.outputs);
            let at = b.sub(rest, skip);
            let (stride, before) = (b.i64(axis.stride), b.i64(axis.before));
            let at = b.mul(at, stride);
            first.insert(0, b.sub(at, before));
            rest = next;
        }
        let skip = b.mul(rest, self.image_step);
        let image = b.gep(self.image, skip);
        let channels = b.i64(self.channels);
        let channel = b.mul(group, channels);
        let image = b.elem(image, channel, self.from());
        self.taps(b, 0, &first, image, to);
    }

    /// Elements of a window from axis `axis` on.
    fn elements(&self, axis: usize) -> i64 {
        self.axes[axis..].iter().map(|a| a.taps).product::<i64>() * self.channels
    }

    /// Lays out the taps from axis `axis` on; `at` is the pixel whose position along those axes is 0.
    fn taps(&self, b: &mut LaunchBuilder, axis: usize, first: &[Val], at: Val, to: Val) {
        let Some(a) = self.axes.get(axis) else { return self.change.run(b, at, to, self.channels) };
        let each = |b: &mut LaunchBuilder| {
            let (zero, count, inner) = (b.i64(0), b.i64(a.taps), self.elements(axis) / a.taps);
            b.loop_(zero, count, 1, |b, tap| {
                let dilation = b.i64(a.dilation);
                let far = b.mul(tap, dilation);
                let place = b.add(first[axis], far);
                let inner_count = b.i64(inner);
                let skip = b.mul(tap, inner_count);
                let to = b.elem(to, skip, self.change.to);
                let inside = b.ult(place, a.extent);
                b.if_(
                    inside,
                    |b| {
                        let skip = b.mul(place, a.step);
                        let at = b.gep(at, skip);
                        self.taps(b, axis + 1, first, at, to);
                        vec![]
                    },
                    |b| {
                        self.change.zeros(b, to, inner);
                        vec![]
                    },
                );
            });
        };
        if axis + 1 < self.axes.len() || !self.dense || a.taps == 1 {
            return each(b);
        }
        // Pixels follow each other: a window that crosses no edge is one run.
        let (zero, taps) = (b.i64(0), b.i64(a.taps));
        let end = b.add(first[axis], taps);
        let (low, high) = (b.ge(first[axis], zero), b.le(end, a.extent));
        let whole = b.and(low, high);
        b.if_(
            whole,
            |b| {
                let skip = b.mul(first[axis], a.step);
                let at = b.gep(at, skip);
                self.change.run(b, at, to, self.elements(axis));
                vec![]
            },
            |b| {
                each(b);
                vec![]
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::cpu::testing::{check, one_op, random_inputs, whole};
    use crate::kernel::Isa;
    use tersor_ir::module::Builder;
    use tersor_ir::ops::Conv;
    use tersor_ir::testing::Gen;
    use tersor_ir::{Bindings, DType, Dim, Module, Type};

    /// A convolution with constant weights.
    fn module(types: (DType, DType), x: Vec<Dim>, w: &[usize], op: Conv, g: &mut Gen) -> Module {
        let weights = g.tensor(&g_type(types.1, w));
        let mut m = one_op(op.clone(), &[Type::new(types.0, x), g_type(types.1, w)]);
        let mut f = m.funcs.iter().next().expect("main").1.clone();
        let x = f.body().params[0];
        f.body_mut().params.truncate(1);
        f.body_mut().nodes.clear();
        f.inputs.truncate(1);
        let mut b = Builder::new(&mut m.consts, &mut f);
        let w = b.constant("w", &weights);
        let y = b.op(op, &[x, w]).unwrap();
        f.body_mut().results = vec![y];
        let id = m.main().unwrap();
        m.funcs[id] = f;
        m
    }

    fn g_type(d: DType, shape: &[usize]) -> Type {
        Type::new(d, shape.iter().copied())
    }

    #[test]
    fn agrees_with_the_evaluator() {
        let mut g = Gen::new(41);
        let types = [
            (DType::F32, DType::F32),
            (DType::F32, DType::F32),
            (DType::U8, DType::I8),
            (DType::I8, DType::I8),
            (DType::BF16, DType::BF16),
            (DType::F16, DType::F16),
        ];
        for seed in 0..90 {
            let rank = g.int(1, 3) as usize;
            let list = |g: &mut Gen, low, high, n: usize| (0..n).map(|_| g.int(low, high)).collect::<Vec<_>>();
            let types = g.one_of(&types);
            let point = g.int(0, 4) == 0;
            let groups = if point { 1 } else { g.one_of(&[1, 1, 2, 3]) };
            let (channels, out) = (g.one_of(&[1, 2, 3, 4, 16, 21]), g.one_of(&[1, 3, 8, 17]));
            let most = if point { 1 } else { 3 };
            let taps = list(&mut g, 1, most, rank);
            let op = Conv {
                strides: list(&mut g, 1, if point { 1 } else { 2 }, rank),
                pads: list(&mut g, 0, if point { 0 } else { 2 }, 2 * rank),
                dilations: list(&mut g, 1, if point { 1 } else { 2 }, rank),
                groups,
                channels_last: true,
                wide: types.0 == DType::BF16 && g.flip(),
            };
            let symbolic = g.flip();
            let names = ["H", "W", "D"];
            let mut env = Bindings::from([("N".into(), g.int(1, 2))]);
            let mut x = vec![Dim::from("N")];
            for name in &names[..rank] {
                let n = g.int(5, 8);
                env.insert((*name).into(), n);
                x.push(if symbolic { Dim::from(*name) } else { n.into() });
            }
            x.push((channels * groups).into());
            let mut w = vec![(out * groups) as usize, channels as usize];
            w.extend(taps.iter().map(|&t| t as usize));
            let m = module(types, x, &w, op, &mut g);
            check(&m, &whole(&m), g.one_of(&Isa::ALL), super::build, &random_inputs(&m, &env, seed), 1e-5);
        }
    }

    #[cfg(feature = "mlir")]
    #[test]
    fn compiled_code_agrees_with_the_evaluator() {
        use crate::cpu::testing::{Engine, check_on};
        let mut g = Gen::new(42);
        for types in [(DType::F32, DType::F32), (DType::U8, DType::I8), (DType::BF16, DType::BF16)] {
            for groups in [1, 2] {
                let op = Conv {
                    strides: vec![2, 1],
                    pads: vec![1; 4],
                    dilations: vec![1; 2],
                    groups,
                    channels_last: true,
                    wide: false,
                };
                let x = ["N".into(), "H".into(), 9.into(), 10.into()].to_vec();
                let m = module(types, x, &[20, 10 / groups as usize, 3, 3], op, &mut g);
                let env = Bindings::from([("N".into(), 2), ("H".into(), 7)]);
                let inputs = random_inputs(&m, &env, 7);
                for isa in Isa::ALL {
                    check_on(Engine::Native, &m, &whole(&m), isa, super::build, &inputs, 1e-5);
                }
            }
        }
    }
}
