//! Layers: products and convolutions by a constant weight, and lookups in a constant table, seen as the matrices that [`crate::solve`] works on; and the expressions that weights become.
//!
//! A weight has a row for each output channel and a column for each element that is summed over, wherever it lies in the constant: a matrix of a product as it
//! is or transposed, the kernel of a convolution with all its axes but the first in one. A table's rows are its own.

use crate::coupling::choices;
use crate::gram::Gram;
use crate::patches::{Patches, Tap};
use crate::propose::{Editor, Site};
use crate::solve::formats::Table;
use crate::solve::grid::ScaleType;
use crate::solve::{Affine, Mat};
use crate::statistics::{Statistics, ValueStatistics};
use std::collections::HashMap;
use tersor_ir::ops::binary::{Binary, BinaryKind};
use tersor_ir::ops::reduce::{Reduce, ReduceKind};
use tersor_ir::ops::{Cast, Conv, DecodeAffine, DecodeCodebook, DecodeSparse, MatMul, Reshape};
use tersor_ir::types::DTypeClass;
use tersor_ir::{DType, Def, Dim, Func, FuncId, Module, NodeId, Op, Result, Tensor, Type, ValueId};

/// The weight operand of products and convolutions.
pub const WEIGHT: usize = 1;
/// The table operand of lookups.
pub const TABLE: usize = 0;

/// The operand of an op that is the weight where it is a constant.
pub fn weight_operand(op: &Op) -> Option<usize> {
    match op {
        Op::MatMul(_) | Op::Conv(_) => Some(WEIGHT),
        Op::Gather(g) if g.axis == 0 => Some(TABLE),
        _ => None,
    }
}

/// Whether all elements of a constant have one magnitude, as those of Hadamard matrices: such a product turns channels, and has nothing that was trained.
fn turns(t: &Tensor) -> bool {
    let square = t.shape().len() == 2 && t.shape()[0] == t.shape()[1] && t.shape()[0] > 1;
    square && t.get_f64(0) != 0.0 && (1..t.len()).all(|i| t.get_f64(i).abs() == t.get_f64(0).abs())
}

/// Products by a constant matrix that is no rotation and convolutions with a constant kernel, of f32, in the order of the program.
pub fn candidates(m: &Module) -> Vec<(Site, NodeId)> {
    let one = |(id, f): (_, &Func)| {
        let fits = |&n: &NodeId| {
            let node = &f.nodes[n];
            let weight = node.operands.get(WEIGHT).filter(|&&w| f.def_const(w).is_some()).map(|&w| &f.values[w].ty);
            let right = match &node.op {
                Op::MatMul(_) => weight.is_some_and(|w| w.rank() == 2),
                Op::Conv(_) => weight.is_some(),
                _ => false,
            };
            right
                && weight.is_some_and(|w| w.dtype == DType::F32)
                && f.def_const(node.operands[0]).is_none()
                && f.values[node.operands[0]].ty.dtype == DType::F32
                && !f.def_const(node.operands[WEIGHT]).and_then(|c| m.consts[c].tensor()).is_some_and(turns)
        };
        f.live_nodes().into_iter().filter(fits).map(|n| (Site::at(m, id, n, WEIGHT), n)).collect::<Vec<_>>()
    };
    m.funcs.iter().flat_map(one).collect()
}

/// Those [`candidates`] at which alternatives stand.
pub fn standing(m: &Module) -> Vec<(Site, NodeId)> {
    let chosen: HashMap<FuncId, HashMap<ValueId, NodeId>> = m.funcs.iter().map(|(id, f)| (id, choices(f))).collect();
    candidates(m).into_iter().filter(|(s, _)| chosen[&s.func].contains_key(&s.value)).collect()
}

/// What `tap` gathers for the layers among these that `wanted` accepts, each once, in order.
pub fn inputs(
    all: Vec<(Site, NodeId)>,
    wanted: impl Fn(&Site, NodeId) -> bool,
    tap: impl Fn(NodeId) -> Tap,
) -> Vec<Tap> {
    let mut taps: Vec<Tap> = all.into_iter().filter(|(s, n)| wanted(s, *n)).map(|(_, n)| tap(n)).collect();
    taps.sort_unstable();
    taps.dedup();
    taps
}

/// Whether a layer's input can be tapped: not inside a region or another function.
pub fn tapped(m: &Module, site: &Site, n: NodeId) -> bool {
    let f = &m.funcs[site.func];
    f.body().nodes.contains(&n) && &*f.name == "main"
}

/// Products over fewer elements, or with fewer results, have nothing to gain.
pub const SHORT: usize = 16;

/// Why a layer with a weight of these extents is too small to gain, where it is.
pub fn too_small(op: &Op, w: &[usize]) -> Option<String> {
    let (inner, outer) = match op {
        Op::MatMul(op) if op.trans_b => (w[1], w[0]),
        Op::Conv(_) => (w[1..].iter().product(), w[0]),
        _ => (w[0], w[1]),
    };
    (inner < SHORT || outer < SHORT)
        .then(|| format!("{inner} x {outer} is too small, less than {SHORT} in one direction"))
}

/// How a weight lies in its constant.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Lie {
    /// `[in, out]`.
    Columns,
    /// `[out, in]`.
    Rows,
    /// `[out, in, …]`.
    Kernel,
}

impl Lie {
    /// A constant that lies like this, as a matrix with a row for each output.
    fn matrix(self, t: &Tensor) -> Mat {
        let (shape, values) = (t.shape(), t.to_f32());
        match self {
            Lie::Columns => Mat::from_fn(shape[1], shape[0], |i, j| values[j * shape[1] + i].into()),
            _ => Mat::from_f32(shape[0], shape[1..].iter().product(), &values),
        }
    }
}

/// A layer.
pub struct Layer<'a> {
    /// The op.
    pub op: Op,
    /// Its input; of a lookup the rows' numbers.
    pub x: ValueId,
    /// Name of the weight.
    pub name: String,
    /// The weight.
    pub w: Mat,
    /// What calibration saw of the input.
    pub inputs: Option<&'a ValueStatistics>,
    shape: Vec<usize>,
    lie: Lie,
    base: String,
    /// Of a convolution: how often each element of its kernel sees the image, where that is known.
    inside: Option<Vec<f64>>,
}

impl<'a> Layer<'a> {
    /// The layer that makes a site's value; the reason where there is none.
    pub fn of(b: &Editor, site: &Site, statistics: Option<&'a Statistics>) -> Result<Layer<'a>, String> {
        let Def::Node(n, _) = b.func.values[site.value].def else { return Err("no op makes the value".into()) };
        let node = &b.func.nodes[n];
        let weight = weight_operand(&node.op).ok_or("the op has no weight")?;
        let (op, x) = (node.op.clone(), node.operands[1 - weight]);
        let (name, t) = b.tensor(node.operands[weight]).ok_or("the weight's elements are not in the store")?;
        let lie = match &op {
            Op::Gather(_) => Lie::Rows,
            Op::MatMul(m) if m.trans_b => Lie::Rows,
            Op::MatMul(_) => Lie::Columns,
            _ => Lie::Kernel,
        };
        let (shape, w) = (t.shape().to_vec(), lie.matrix(t));
        if !w.is_finite() {
            return Err("the weight has elements that are NaN or infinite".into());
        }
        let inputs = statistics.and_then(|s| s.get(&b.func.values[x].name));
        let inside = inside(&op, &shape, b.ty(x));
        Ok(Layer { op, x, name: name.to_string(), w, inputs, shape, lie, base: b.name.clone(), inside })
    }
    /// Another weight of the constant's shape, as [`Layer::w`].
    pub fn matrix(&self, t: &Tensor) -> Mat {
        self.lie.matrix(t)
    }
    /// Whether what is shared along rows needs the kernel's axes in one.
    fn flat(&self, group: usize) -> bool {
        self.lie == Lie::Kernel && group > 0
    }
    /// Elements in the order of [`Layer::w`], as a constant's tensor: with `flat` one axis for all that is summed over.
    fn place<T: Copy>(&self, values: &[T], cols: usize, flat: bool) -> (Vec<usize>, Vec<T>) {
        let rows = self.w.rows;
        match self.lie {
            Lie::Columns => {
                (vec![cols, rows], (0..rows * cols).map(|at| values[at % rows * cols + at / rows]).collect())
            }
            Lie::Kernel if !flat => (self.shape.clone(), values.to_vec()),
            _ => (vec![rows, cols], values.to_vec()),
        }
    }
    /// One number for each row, or with groups for each of them, so that it fits the codes.
    fn params<T: Copy>(&self, values: &[T], group: usize) -> (Vec<usize>, Vec<T>) {
        if group > 0 {
            return self.place(values, values.len() / self.w.rows.max(1), true);
        }
        let mut shape = vec![1; if self.lie == Lie::Kernel { self.shape.len() } else { 2 }];
        shape[usize::from(self.lie == Lie::Columns)] = self.w.rows;
        (shape, values.to_vec())
    }
    fn decode_axis(&self) -> u8 {
        u8::from(self.lie != Lie::Columns)
    }
    /// A constant in the weight's order, of a type, under the weight's name with a suffix.
    fn constant(&self, b: &mut Editor, suffix: &str, dtype: DType, (shape, values): (Vec<usize>, Vec<f64>)) -> ValueId {
        b.constant(&format!("{}.{suffix}", self.name), &Tensor::from_f64(dtype, shape, &values))
    }
    /// Scales as they are stored, as f32.
    fn scales(&self, b: &mut Editor, scale: &[f64], group: usize, stored: ScaleType) -> Result<ValueId> {
        let dtype = if stored == ScaleType::F16 { DType::F16 } else { DType::F32 };
        let s = self.constant(b, "s", dtype, self.params(scale, group));
        if stored == ScaleType::F32 { Ok(s) } else { self.named(b, "s.f32", Cast::to(DType::F32), &[s]) }
    }
    fn named(&self, b: &mut Editor, suffix: &str, op: impl Into<Op>, operands: &[ValueId]) -> Result<ValueId> {
        b.name = if suffix.is_empty() { self.name.clone() } else { format!("{}.{suffix}", self.name) };
        let v = b.op(op, operands);
        b.name = self.base.clone();
        v
    }
    /// Gives a decoded weight the shape of the constant.
    fn unflatten(&self, b: &mut Editor, w: ValueId, group: usize) -> Result<ValueId> {
        if !self.flat(group) {
            return Ok(w);
        }
        self.named(b, "k", Reshape { shape: self.shape.iter().map(|&d| d.into()).collect() }, &[w])
    }

    /// The weight as codes of a uniform grid whose zero points are integers.
    pub fn affine(&self, b: &mut Editor, grid: &Affine, codes: &[i16]) -> Result<ValueId> {
        let group = grid.stored_group(self.w.cols);
        let codes: Vec<f64> = codes.iter().map(|&c| c.into()).collect();
        let dtype = code_type(grid.grid.bits, grid.grid.symmetric);
        let q = self.constant(b, "q", dtype, self.place(&codes, self.w.cols, self.flat(group)));
        let mut operands = vec![q, self.scales(b, &grid.scale, group, grid.grid.scales)?];
        if !grid.grid.symmetric {
            operands.push(self.constant(b, "z", dtype, self.params(&grid.zero, group)));
        }
        self.decode(b, &operands, group)
    }
    /// The product with codes of a grid whose zero points are real numbers: what they add is a product of the sums of the input over groups, which divide the
    /// weight's columns.
    pub fn real_zeros(&self, b: &mut Editor, grid: &Affine, codes: &[i16]) -> Result<ValueId> {
        let (group, middle) = (grid.stored_group(self.w.cols), f64::from(1u32 << (grid.grid.bits - 1)));
        let codes: Vec<f64> = codes.iter().map(|&c| f64::from(c) - middle).collect();
        let q = self.constant(b, "q", code_type(grid.grid.bits, true), self.place(&codes, self.w.cols, false));
        let s = self.scales(b, &grid.scale, group, grid.grid.scales)?;
        let w = self.decode(b, &[q, s], group)?;
        let y = self.apply(b, self.x, w)?;
        let (name, mut shape) = (b.func.values[self.x].name.to_string(), b.ty(self.x).shape.to_vec());
        let axis = shape.len() as u8;
        shape.truncate(shape.len() - 1);
        shape.extend([grid.groups.into(), (self.w.cols / grid.groups).into()]);
        b.name = format!("{name}.groups");
        let sums = b.op(Reshape { shape }, &[self.x])?;
        b.name = format!("{name}.sums");
        let sums = b.op(Reduce { kind: ReduceKind::Sum, axes: vec![axis], keep: false }, &[sums])?;
        let zeros: Vec<f64> = grid.zero.iter().zip(&grid.scale).map(|(z, s)| (middle - z) * s).collect();
        let z = self.constant(b, "z", DType::F32, self.place(&zeros, grid.groups, false));
        b.name = format!("{}.zeros", self.base);
        let shift = self.apply(b, sums, z)?;
        b.name = self.base.clone();
        b.op(Binary { kind: BinaryKind::Add }, &[y, shift])
    }
    /// The Gram matrix of what it sums over, where calibration gathered one that fits.
    pub fn gram(&self) -> Option<&'a Gram> {
        let grams = self.inputs.zip(Patches::of(&self.op, &self.shape)).and_then(|(i, p)| i.grams(&p));
        grams.and_then(<[Gram]>::first).filter(|g| g.dim == self.w.cols && g.rows > 0)
    }
    /// The mean of each element that is summed over. Of a convolution without a Gram matrix it is the mean of its channel, times the share of places at which the kernel's element
    /// sees the image and not its padding: as if the mean were the same all over the image, which of extents that are not fixed has no border.
    pub fn mean(&self) -> Vec<f64> {
        if let Some(gram) = self.gram() {
            return gram.mean();
        }
        let mean = self.inputs.map_or_else(Vec::new, |i| i.mean());
        let each = (self.w.cols / mean.len().max(1)).max(1);
        let share = |j: usize| self.inside.as_ref().and_then(|s| s.get(j % each)).copied().unwrap_or(1.0);
        (0..self.w.cols).map(|j| mean.get(j / each).map_or(0.0, |m| m * share(j))).collect()
    }
    /// The weight as `decode.affine` of codes, scale and zero points.
    fn decode(&self, b: &mut Editor, operands: &[ValueId], group: usize) -> Result<ValueId> {
        let axis = if group == 0 { 0 } else { self.decode_axis() };
        let w = self.named(b, "", DecodeAffine { axis, group: group as u32 }, operands)?;
        self.unflatten(b, w, group)
    }
    /// The weight as indices of a table's levels, times a scale for each group.
    pub fn table(&self, b: &mut Editor, t: &Table, codes: &[i16], bits: u32, stored: ScaleType) -> Result<ValueId> {
        let group = if t.group >= self.w.cols { 0 } else { t.group };
        let codes: Vec<f64> = codes.iter().map(|&c| c.into()).collect();
        let dtype = code_type(bits, false);
        let q = self.constant(b, "q", dtype, self.place(&codes, self.w.cols, self.flat(group)));
        let mut levels = t.levels.clone();
        levels.resize(1 << dtype.bits(), t.levels.last().copied().unwrap_or(0.0));
        let levels = self.constant(b, "levels", DType::F32, (vec![levels.len()], levels));
        let s = self.scales(b, &t.scale, group, stored)?;
        let axis = if group == 0 { 0 } else { self.decode_axis() };
        let w = self.named(b, "", DecodeCodebook { axis, group: group as u32 }, &[q, levels, s])?;
        self.unflatten(b, w, group)
    }
    /// The weight as E2M1 numbers with a scale for each block, stored in a type of 8 bits, and one for all.
    pub fn blocks(
        &self,
        b: &mut Editor,
        t: &Table,
        rounded: &Mat,
        scales: (DType, &[f64]),
        all: f64,
    ) -> Result<ValueId> {
        let numbers: Vec<f64> = (0..rounded.data.len())
            .map(|at| rounded.data[at] / t.scale[at / rounded.cols * t.groups + at % rounded.cols / t.group])
            .collect();
        let q = self.constant(b, "q", DType::F4E2M1, self.place(&numbers, self.w.cols, self.flat(t.group)));
        let s = self.constant(b, "s", scales.0, self.params(scales.1, t.group));
        let s = self.named(b, "s.f32", Cast::to(DType::F32), &[s])?;
        let g = b.constant(&format!("{}.g", self.name), &Tensor::scalar(DType::F32, all));
        let s = self.named(b, "s.all", Binary { kind: BinaryKind::Mul }, &[s, g])?;
        self.decode(b, &[q, s], t.group)
    }
    /// A dense weight of f32, rounded from these elements.
    pub fn dense(&self, b: &mut Editor, suffix: &str, w: &Mat) -> ValueId {
        b.constant(&format!("{}.{suffix}", self.name), &self.tensor(w))
    }
    /// A weight of the constant's shape, rounded to f32 from these elements.
    pub fn tensor(&self, w: &Mat) -> Tensor {
        let (shape, values) = self.place(&w.data, w.cols, false);
        Tensor::from_f64(DType::F32, shape, &values)
    }
    /// The axis of the op's result along which its output channels lie.
    pub fn output_axis(&self, rank: usize) -> usize {
        match &self.op {
            Op::Conv(c) => Conv::axes(c.channels_last, rank).1,
            _ => rank - 1,
        }
    }
    /// The weight's op on an input and a weight of the constant's shape.
    pub fn apply(&self, b: &mut Editor, x: ValueId, w: ValueId) -> Result<ValueId> {
        let operands = if weight_operand(&self.op) == Some(TABLE) { [w, x] } else { [x, w] };
        b.op(self.op.clone(), &operands)
    }
    /// The input times a factor for each element of its last axis: the columns of a product's weight.
    pub fn scaled_input(&self, b: &mut Editor, by: &[f64]) -> Result<ValueId> {
        let x = b.func.values[self.x].name.to_string();
        let t = b.constant(&format!("{x}.t"), &Tensor::from_f64(DType::F32, [by.len()], by));
        b.name = format!("{x}.scaled");
        let v = b.op(Binary { kind: BinaryKind::Mul }, &[self.x, t]);
        b.name = self.base.clone();
        v
    }
    /// A value of as many channels as the input, block after block of them times a square matrix.
    pub fn rotated(&self, b: &mut Editor, x: ValueId, by: &Mat) -> Result<ValueId> {
        let (block, whole) = (by.rows, b.ty(x).shape.to_vec());
        let mut parts = whole.clone();
        parts.truncate(whole.len() - 1);
        parts.extend([(self.w.cols / block).into(), block.into()]);
        let h = b.constant(&format!("hadamard.{block}"), &Tensor::from_f64(DType::F32, [block, block], &by.data));
        b.name = format!("{}.rotated", b.func.values[self.x].name);
        let x = b.op(Reshape { shape: parts }, &[x])?;
        let x = b.op(MatMul { trans_a: false, trans_b: false, wide: false }, &[x, h])?;
        let x = b.op(Reshape { shape: whole }, &[x]);
        b.name = self.base.clone();
        x
    }
    /// Adds a number to each output channel.
    pub fn shifted(&self, b: &mut Editor, y: ValueId, by: &[f64]) -> Result<ValueId> {
        let rank = b.ty(y).rank();
        let mut shape = vec![1; rank - self.output_axis(rank)];
        shape[0] = by.len();
        let t = b.constant(&format!("{}.shift", self.name), &Tensor::from_f64(DType::F32, shape, by));
        b.op(Binary { kind: BinaryKind::Add }, &[y, t])
    }
    /// The op on a weight of which only the elements to keep are stored: floats, or codes of a symmetric grid. The weight is stored row by row.
    pub fn sparse(
        &self,
        b: &mut Editor,
        w: &Mat,
        keep: &[bool],
        run: usize,
        grid: Option<(&Affine, &[i16])>,
    ) -> Result<ValueId> {
        let (dtype, elements) = match grid {
            None => (DType::F32, w.data.clone()),
            Some((g, codes)) => (code_type(g.grid.bits, true), codes.iter().map(|&c| c.into()).collect()),
        };
        let shape = [w.rows, w.cols];
        let (values, mask) = DecodeSparse::encode(&Tensor::from_f64(dtype, shape, &elements), keep, run);
        let values = b.constant(&format!("{}.v", self.name), &values);
        let mask = b.constant(&format!("{}.m", self.name), &mask);
        let decode = DecodeSparse { shape: shape.iter().map(|&d| d.into()).collect(), run: run as u32 };
        let mut v = self.named(b, if grid.is_some() { "q" } else { "" }, decode, &[values, mask])?;
        if let Some((g, _)) = grid {
            let group = g.stored_group(w.cols) as u32;
            let s = self.constant(b, "s", DType::F32, (vec![w.rows, g.groups], g.scale.clone()));
            v = self.named(b, "", DecodeAffine { axis: 1, group }, &[v, s])?;
        }
        let mut op = self.op.clone();
        match &mut op {
            Op::MatMul(m) => m.trans_b = true,
            _ => v = self.unflatten(b, v, 1)?,
        }
        b.op(op, &[self.x, v])
    }
}

/// [`crate::patches::Window::inside`] of a convolution with a weight of this shape, for inputs of a type.
fn inside(op: &Op, weight: &[usize], input: &Type) -> Option<Vec<f64>> {
    let Some(Patches::Windows(w)) = Patches::of(op, weight) else { return None };
    let (first, spatial) = (Conv::axes(w.channels_last, input.rank()).2, w.kernel.len());
    let fixed = |d: &Dim| d.as_const().and_then(|d| usize::try_from(d).ok());
    let extents: Option<Vec<usize>> = input.shape.get(first..first + spatial)?.iter().map(fixed).collect();
    extents.map(|e| w.inside(&e))
}

/// The type of codes.
fn code_type(bits: u32, signed: bool) -> DType {
    let width = |d: &&DType| d.is_int() && d.bits() >= bits && (d.class() == DTypeClass::Int) == signed;
    DType::ALL.iter().filter(width).min_by_key(|d| d.bits()).copied().unwrap_or(DType::I8)
}
