//! Taps, and the rows of Gram matrices that they give: of a product the rows of its input, of a convolution the windows that its kernel sees.

use tersor_ir::ops::Conv;
use tersor_ir::ops::shape::{for_each_index, strides};
use tersor_ir::{DType, FuncId, Module, NodeId, Op, Result, Tensor, ValueId};

/// A value whose statistics are needed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Tap {
    /// The value, in `@main`.
    pub value: ValueId,
    /// The rows of the Gram matrix that is needed too.
    pub gram: Option<Patches>,
    /// Its sample is to have all elements of one input, not only those that one op needs: see [`crate::sample::whole`].
    pub whole: bool,
}

/// What a row of a Gram matrix is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Patches {
    /// The elements along the last axis.
    Rows,
    /// What a convolution's kernel sees at one place, in the order of `[C/groups, kernel…]`; one matrix for each group.
    Windows(Window),
}

/// A convolution, as far as its input's windows need it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Window {
    /// Extents of the kernel.
    pub kernel: Vec<usize>,
    /// One step for each spatial axis.
    pub strides: Vec<usize>,
    /// Padding before each spatial axis, then after each.
    pub pads: Vec<usize>,
    /// Distance of kernel taps.
    pub dilations: Vec<usize>,
    /// Channel groups.
    pub groups: usize,
    /// Channels are the last axis.
    pub channels_last: bool,
}

impl Tap {
    /// A value without a Gram matrix.
    pub fn of(value: ValueId) -> Tap {
        Tap { value, gram: None, whole: false }
    }
    /// A value with a sample of one whole input.
    pub fn whole(value: ValueId) -> Tap {
        Tap { whole: true, ..Tap::of(value) }
    }
    /// The inputs of all products and convolutions of f32 by constants in `@main`'s body, with their Gram matrices.
    pub fn all(m: &Module) -> Result<Vec<Tap>> {
        let main = m.main()?;
        let f = &m.funcs[main];
        let layer = |n: &&NodeId| {
            let x = f.nodes[**n].operands.first();
            let constant = f.nodes[**n].operands.get(1).is_some_and(|w| f.def_const(*w).is_some());
            let open = x.is_some_and(|x| f.def_const(*x).is_none() && f.values[*x].ty.dtype == DType::F32);
            constant && open && matches!(f.nodes[**n].op, Op::MatMul(_) | Op::Conv(_))
        };
        Ok(f.body().nodes.iter().filter(layer).map(|n| Tap::with_gram(m, main, *n)).collect())
    }
    /// The first operand of a product or convolution, with the Gram matrix of what the op sums over; without one where the op is another or its operand
    /// is transposed.
    pub fn with_gram(m: &Module, func: FuncId, node: NodeId) -> Tap {
        let f = &m.funcs[func];
        let n = &f.nodes[node];
        let weight = n.operands.get(1).and_then(|w| f.values[*w].ty.static_shape());
        Tap { gram: weight.and_then(|w| Patches::of(&n.op, &w)), ..Tap::of(n.operands[0]) }
    }
}

impl Patches {
    /// Those of an op with a weight of these extents; `None` when its first operand has none.
    pub fn of(op: &Op, weight: &[usize]) -> Option<Patches> {
        let sizes = |v: &[i64]| v.iter().map(|n| usize::try_from(*n).ok()).collect::<Option<Vec<_>>>();
        match op {
            Op::MatMul(m) if !m.trans_a && weight.len() == 2 => Some(Patches::Rows),
            Op::Conv(c) => Some(Patches::Windows(Window {
                kernel: weight.get(2..)?.to_vec(),
                strides: sizes(&c.strides)?,
                pads: sizes(&c.pads)?,
                dilations: sizes(&c.dilations)?,
                groups: usize::try_from(c.groups).ok()?,
                channels_last: c.channels_last,
            })),
            _ => None,
        }
    }
    /// How many matrices there are for a value with so many channels, or elements along the last axis, and the elements of a row of each.
    pub fn extent(&self, channels: usize) -> (usize, usize) {
        match self {
            Patches::Rows => (1, channels),
            Patches::Windows(w) => {
                let groups = w.groups.max(1);
                let taps = w.kernel.iter().fold(1, |n: usize, k| n.saturating_mul(*k));
                (groups, (channels / groups).saturating_mul(taps))
            }
        }
    }
    /// The axis of a value of this rank along which those channels lie.
    pub fn axis(&self, rank: usize) -> usize {
        match self {
            Patches::Windows(w) if rank >= 3 => Conv::axes(w.channels_last, rank).1,
            _ => rank.saturating_sub(1),
        }
    }
}

impl Window {
    /// Extents of what the convolution gives for an input of this shape, along the spatial axes.
    fn outputs(&self, shape: &[usize]) -> Vec<usize> {
        let (spatial, first) = (shape.len() - 2, Conv::axes(self.channels_last, shape.len()).2);
        (0..spatial).map(|i| self.output(i, shape[first + i])).collect()
    }
    /// Places along one spatial axis of this extent.
    fn output(&self, i: usize, extent: usize) -> usize {
        let padded = extent + self.pads[i] + self.pads[self.kernel.len() + i];
        let reach = self.dilations[i].saturating_mul(self.kernel[i].saturating_sub(1)).saturating_add(1);
        padded.checked_sub(reach).map_or(0, |n| n / self.strides[i].max(1) + 1)
    }
    /// The share of places at which each element of the kernel sees the image and not its padding, for an input of these spatial extents.
    pub fn inside(&self, extents: &[usize]) -> Vec<f64> {
        let along = |i: usize| -> Vec<f64> {
            let (places, step) = (self.output(i, extents[i]), self.strides[i].max(1));
            // Places o with 0 <= o * step + k * dilation - pad < extent.
            let share = |k: usize| {
                let offset = k.saturating_mul(self.dilations[i]);
                let first = self.pads[i].saturating_sub(offset).div_ceil(step);
                let end = (extents[i] + self.pads[i]).saturating_sub(offset).div_ceil(step).min(places);
                end.saturating_sub(first) as f64 / places.max(1) as f64
            };
            (0..self.kernel[i]).map(share).collect()
        };
        let axes: Vec<Vec<f64>> = (0..extents.len()).map(along).collect();
        let mut out = vec![];
        for_each_index(&self.kernel, |k| out.push(k.iter().zip(&axes).map(|(&k, along)| along[k]).product()));
        out
    }
    /// Rows that an input of this shape gives, for each group.
    pub fn places(&self, shape: &[usize]) -> usize {
        self.outputs(shape).iter().product::<usize>() * shape[0]
    }
    /// Calls `f` with the first `columns` elements of every row of a group, some rows at a time, one after another in a slice.
    pub fn blocks(&self, x: &Tensor, group: usize, columns: usize, rows: usize, f: &mut dyn FnMut(&[f32])) {
        let (values, shape) = (x.f32s(), x.shape());
        let rank = shape.len();
        let (_, channel_axis, first) = Conv::axes(self.channels_last, rank);
        let step = strides(shape);
        let spatial = rank - 2;
        let outputs = self.outputs(shape);
        let channels = shape[channel_axis] / self.groups.max(1);
        let per_channel: usize = self.kernel.iter().product();
        if values.is_empty() || columns == 0 || per_channel == 0 {
            return;
        }
        let mut out = Vec::with_capacity(rows * columns);
        // Where the elements of one channel lie at the place at hand; `None` is padding.
        let mut lies = Vec::with_capacity(per_channel);
        for image in 0..shape[0] {
            let base = image * step[0] + group * channels * step[channel_axis];
            for_each_index(&outputs, |at| {
                lies.clear();
                for_each_index(&self.kernel, |k| {
                    let offset = (0..spatial).try_fold(0, |sum, i| {
                        let p = (at[i] * self.strides[i] + k[i] * self.dilations[i]).checked_sub(self.pads[i])?;
                        (p < shape[first + i]).then(|| sum + p * step[first + i])
                    });
                    lies.push(offset);
                });
                let mut left = columns;
                for c in 0..columns.div_ceil(per_channel) {
                    let from = base + c * step[channel_axis];
                    let taps = &lies[..left.min(per_channel)];
                    out.extend(taps.iter().map(|o| o.map_or(0.0, |o| values[from + o])));
                    left -= taps.len();
                }
                if out.len() >= rows * columns {
                    f(&out);
                    out.clear();
                }
            });
        }
        if !out.is_empty() {
            f(&out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tersor_ir::dim::Bindings;
    use tersor_ir::testing::{Gen, rel_l2};
    use tersor_ir::types::Type;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_convolution_is_the_product_of_its_windows_and_the_kernel(
            seed in 0u64..1 << 40,
            kernel in prop::collection::vec(1usize..4, 1..3),
            (groups, channels, outs) in (1usize..3, 1usize..4, 1usize..4),
            (stride, dilation, before, after) in (1i64..3, 1i64..3, 0i64..3, 0i64..3),
            channels_last: bool,
            rows in 1usize..9,
        ) {
            let spatial = kernel.len();
            let mut g = Gen::new(seed);
            let mut shape = vec![2];
            shape.extend(vec![7; spatial]);
            shape.insert(if channels_last { spatial + 1 } else { 1 }, channels * groups);
            let x = g.tensor(&Type::new(DType::F32, shape));
            let weight = [&[outs * groups, channels][..], &kernel].concat();
            let w = g.tensor(&Type::new(DType::F32, weight.clone()));
            let pads = [vec![before; spatial], vec![after; spatial]].concat();
            let (strides, dilations) = (vec![stride; spatial], vec![dilation; spatial]);
            let op: Op = Conv { strides, pads, dilations, groups: groups as i64, channels_last, wide: false }.into();
            let y = op.eval(&[&x, &w], &Bindings::new()).unwrap().remove(0);
            let patches = Patches::of(&op, &weight).unwrap();
            let (many, dim) = patches.extent(channels * groups);
            prop_assert_eq!((many, dim), (groups, channels * kernel.iter().product::<usize>()));
            let Patches::Windows(window) = patches else { unreachable!("of a convolution") };
            // The result as rows of channels, in the order of the places.
            let places = y.len() / (outs * groups);
            let mut found = vec![0f32; y.len()];
            for group in 0..groups {
                let mut place = 0;
                window.blocks(&x, group, dim, rows, &mut |block| {
                    for row in block.chunks_exact(dim) {
                        for o in 0..outs {
                            let c = group * outs + o;
                            let dot: f32 = row.iter().zip(&w.to_f32()[c * dim..]).map(|(a, b)| a * b).sum();
                            let (image, at) = (place / (places / 2), place % (places / 2));
                            let channel = outs * groups;
                            let i = if channels_last { place * channel + c } else { (image * channel + c) * (places / 2) + at };
                            found[i] = dot;
                        }
                        place += 1;
                    }
                });
                prop_assert_eq!((place, window.places(x.shape())), (places, places));
                // The first columns alone are the same.
                let (mut all, mut some) = (vec![], vec![]);
                window.blocks(&x, group, dim, rows, &mut |b| all.extend(b.chunks_exact(dim).flat_map(|r| &r[..dim.div_ceil(2)]).copied()));
                window.blocks(&x, group, dim.div_ceil(2), rows, &mut |b| some.extend_from_slice(b));
                prop_assert_eq!(all, some);
            }
            prop_assert!(rel_l2(&Tensor::from_f32(y.shape().to_vec(), &found), &y) < 1e-5);
            // An image of ones shows how often each element of the kernel sees it.
            let ones = Tensor::from_f32(x.shape().to_vec(), &vec![1.0; x.len()]);
            let (mut seen, mut places) = (vec![0.0; dim], 0.0);
            window.blocks(&ones, 0, dim, rows, &mut |block| {
                for row in block.chunks_exact(dim) {
                    seen.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
                    places += 1.0;
                }
            });
            let inside = window.inside(&vec![7; spatial]);
            prop_assert!(seen.iter().enumerate().all(|(j, s)| (s / places - inside[j % inside.len()]).abs() < 1e-12));
        }
    }
}
