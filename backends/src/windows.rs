//! Convolutions by weights that are computed: a product of the weights with the windows of the image, which are laid out in memory.
//!
//! Convolutions by constants have kernels of their own, which pack the weights once and lay out windows as they go. Here both sides are known only when
//! the program runs, as in hypernetworks and state-space models; each tap of the window is a slice of the padded image.

use tersor_ir::diag::Result;
use tersor_ir::module::Builder;
use tersor_ir::ops::pad::PadMode;
use tersor_ir::ops::{Concat, Conv, MatMul, Pad, Real, Reshape, Slice};
use tersor_ir::{Dim, Func, Type, ValueId};

/// Most taps of a window.
const TAPS: i64 = 1024;

/// Whether a convolution has this form: channels first, and weights that some input of the function decides.
pub fn fits(f: &Func, c: &Conv, w: ValueId) -> bool {
    let taps = f.values[w].ty.shape[2..].iter().try_fold(1i64, |n, d| n.checked_mul(d.as_const()?));
    !c.channels_last && taps.is_some_and(|n| (1..=TAPS).contains(&n)) && varies(f, w)
}

/// Whether a value is computed from an input of the function.
fn varies(f: &Func, v: ValueId) -> bool {
    let (mut open, mut seen) = (vec![v], std::collections::HashSet::new());
    while let Some(v) = open.pop() {
        match f.def_node(v) {
            _ if !seen.insert(v) => {}
            Some(n) => open.extend(&n.operands),
            None if f.def_const(v).is_none() => return true,
            None => {}
        }
    }
    false
}

/// The product: `x` of `[N, C, spatial…]` by `w` of `[O, C/groups, kernel…]`.
///
/// Windows are `[N, groups, C/groups * taps, pixels]`, weights `[groups, O/groups, C/groups * taps]`.
pub fn product(b: &mut Builder, c: &Conv, x: ValueId, w: ValueId) -> Result<ValueId> {
    let (tx, tw) = (b.ty(x).clone(), b.ty(w).clone());
    let y: Type = tersor_ir::Op::from(c.clone()).infer(&[&tx, &tw])?.remove(0);
    let spatial = tx.rank() - 2;
    let groups = Dim::from(c.groups);
    let (channels, pixels) = (tw.shape[1].clone(), y.shape[2..].iter().fold(Dim::from(1), |n, d| n * d.clone()));
    let with_batch = |pads: &[i64]| [&[0, 0], pads].concat();
    let (lo, hi) = (with_batch(&c.pads[..spatial]), with_batch(&c.pads[spatial..]));
    let padded = match lo.iter().chain(&hi).all(|&p| p == 0) {
        true => x,
        false => b.op(Pad { lo, hi, mode: PadMode::Constant, value: Real(0.0) }, &[x])?,
    };
    let kernel: Vec<i64> = tw.shape[2..].iter().map(|d| d.as_const().unwrap_or(1)).collect();
    let taps = kernel.iter().product::<i64>();
    let mut windows = vec![];
    for tap in 0..taps {
        let (mut v, mut rest) = (padded, tap);
        for axis in (0..spatial).rev() {
            let start = Dim::from(rest % kernel[axis] * c.dilations[axis]);
            rest /= kernel[axis];
            let (len, step) = (y.shape[2 + axis].clone(), c.strides[axis]);
            v = b.op(Slice { axis: 2 + axis as u8, start, len, step }, &[v])?;
        }
        let shape = vec![tx.shape[0].clone(), groups.clone(), channels.clone(), 1.into(), pixels.clone()];
        windows.push(b.op(Reshape { shape }, &[v])?);
    }
    let all = if taps == 1 { windows[0] } else { b.op(Concat { axis: 3 }, &windows)? };
    let depth = channels * taps.into();
    let shape = vec![tx.shape[0].clone(), groups.clone(), depth.clone(), pixels];
    let windows = b.op(Reshape { shape }, &[all])?;
    let outputs = tw.shape[0].as_const().unwrap_or(0) / c.groups.max(1);
    let weights = b.op(Reshape { shape: vec![groups, outputs.into(), depth] }, &[w])?;
    let sums = b.op(MatMul { trans_a: false, trans_b: false, wide: c.wide }, &[weights, windows])?;
    b.op(Reshape { shape: y.shape.to_vec() }, &[sums])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tersor_ir::testing::{Gen, max_abs};
    use tersor_ir::{DType, Module, interp};

    proptest! {
        #[test]
        fn products_are_convolutions(
            (n, groups, c, o) in (1usize..3, 1usize..3, 1usize..3, 1usize..3),
            kernel in prop::collection::vec(1usize..4, 1..3),
            (stride, dilation, pad) in (1i64..3, 1i64..3, 0i64..3),
            seed in any::<u64>(),
        ) {
            let spatial = kernel.len();
            let shape: Vec<usize> = [n, groups * c].into_iter().chain(kernel.iter().map(|_| 7)).collect();
            let weights: Vec<usize> = [groups * o, c].into_iter().chain(kernel).collect();
            let op = Conv {
                strides: vec![stride; spatial],
                dilations: vec![dilation; spatial],
                pads: vec![pad; 2 * spatial],
                groups: groups as i64,
                channels_last: false,
                wide: false,
            };
            let run = |product: bool| {
                let mut m = Module::new("m");
                let mut f = Func::new("main");
                let body = f.body_id();
                let x = f.add_param(body, "x", Type::new(DType::F32, shape.iter().copied()));
                let w = f.add_param(body, "w", Type::new(DType::F32, weights.iter().copied()));
                prop_assert!(fits(&f, &op, w));
                f.inputs = vec!["x".into(), "w".into()];
                let mut b = Builder::new(&mut m.consts, &mut f);
                let y = if product { super::product(&mut b, &op, x, w) } else { b.op(op.clone(), &[x, w]) };
                f.body_mut().results = vec![y.unwrap()];
                f.outputs = vec!["y".into()];
                m.funcs.push(f);
                let mut g = Gen::new(seed);
                let inputs: Vec<_> = [&shape, &weights].map(|s| g.tensor(&Type::new(DType::F32, s.iter().copied()))).into();
                Ok(interp::run(&m, &inputs).unwrap().remove(0))
            };
            let (a, b) = (run(false)?, run(true)?);
            prop_assert_eq!(a.shape(), b.shape());
            prop_assert!(max_abs(&a, &b) < 1e-5);
        }
    }
}
