//! Where in a tensor: coordinates along spans of axes.

use crate::emit::{KernelBuilder, Scalar, Ty, Val};
use crate::kernel::{LaunchBuilder, View};
use tersor_ir::Dim;

/// A coordinate: the same in all lanes, or one for each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Coord {
    /// One index.
    One(Val),
    /// `start + step * lane`.
    Run { start: Val, step: i64 },
    /// Any index in each lane.
    Lanes(Val),
}

/// Consecutive axes under one row-major index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Span {
    pub axes: usize,
    pub at: Coord,
}

/// A position in a tensor's index space for each lane, and which lanes are inside it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pos {
    pub spans: Vec<Span>,
    pub mask: Option<Val>,
}

/// Where the lanes of a tensor are in memory, in elements.
pub struct Address {
    pub base: Val,
    /// Distance of neighbouring lanes.
    pub step: i64,
    /// Distances from `base` beyond that, for each lane.
    pub lanes: Option<Val>,
}

impl Coord {
    pub fn one(k: &mut KernelBuilder, i: i64) -> Coord {
        Coord::One(k.i64(i))
    }

    /// The index of each lane.
    pub fn vector(self, k: &mut KernelBuilder, lanes: u32) -> Val {
        match self {
            Coord::One(v) => k.splat(v, lanes),
            Coord::Run { start, step } => {
                let ty = Scalar::I64.x(lanes);
                let steps: Vec<i64> = (0..i64::from(lanes)).map(|i| i * step).collect();
                let steps = if lanes == 1 { k.i64(0) } else { k.vec_int(ty.elem(), &steps) };
                k.add(start, steps)
            }
            Coord::Lanes(v) => v,
        }
    }

    pub fn plus(self, k: &mut KernelBuilder, by: Val) -> Coord {
        match self {
            Coord::One(v) => Coord::One(k.add(v, by)),
            Coord::Run { start, step } => Coord::Run { start: k.add(start, by), step },
            Coord::Lanes(v) => Coord::Lanes(k.add(v, by)),
        }
    }

    pub fn times(self, k: &mut KernelBuilder, by: i64) -> Coord {
        let factor = k.i64(by);
        match self {
            Coord::One(v) => Coord::One(k.mul(v, factor)),
            Coord::Run { start, step } => Coord::Run { start: k.mul(start, factor), step: step * by },
            Coord::Lanes(v) => Coord::Lanes(k.mul(v, factor)),
        }
    }

    /// Applies a function of indices.
    pub fn map(self, k: &mut KernelBuilder, lanes: u32, f: impl FnOnce(&mut KernelBuilder, Val) -> Val) -> Coord {
        match self {
            Coord::One(v) => Coord::One(f(k, v)),
            other => {
                let v = other.vector(k, lanes);
                Coord::Lanes(f(k, v))
            }
        }
    }

    pub fn varies(self) -> bool {
        !matches!(self, Coord::One(_))
    }
}

/// An `i64` constant like `v`.
pub fn like(k: &mut KernelBuilder, v: Val, c: i64) -> Val {
    let ty: Ty = v.ty();
    k.int(ty, c)
}

/// The indices of each axis that a span's index stands for.
pub fn split(b: &mut LaunchBuilder, span: Span, extents: &[Dim], lanes: u32) -> Vec<Coord> {
    let mut out = vec![Coord::one(b, 0); extents.len()];
    let real: Vec<usize> = (0..extents.len()).filter(|&i| extents[i] != Dim::Const(1)).collect();
    let Some((&first, rest)) = real.split_first() else { return out };
    let mut at = span.at;
    for &i in rest.iter().rev() {
        let d = b.extent(&extents[i]);
        out[i] = at.map(b, lanes, |k, v| {
            let d = if v.lanes() > 1 { k.splat(d, v.lanes()) } else { d };
            k.rem(v, d)
        });
        at = at.map(b, lanes, |k, v| {
            let d = if v.lanes() > 1 { k.splat(d, v.lanes()) } else { d };
            k.div(v, d)
        });
    }
    out[first] = at;
    out
}

impl Pos {
    pub fn new(coords: impl IntoIterator<Item = Coord>, mask: Option<Val>) -> Pos {
        Pos { spans: coords.into_iter().map(|at| Span { axes: 1, at }).collect(), mask }
    }

    /// Makes spans end at axis `at`, and gives those before it and those after.
    pub fn cut(&self, b: &mut LaunchBuilder, shape: &[Dim], at: usize, lanes: u32) -> (Vec<Span>, Vec<Span>) {
        let (mut before, mut after, mut axis) = (vec![], vec![], 0);
        for &span in &self.spans {
            let end = axis + span.axes;
            if end <= at {
                before.push(span);
            } else if axis >= at {
                after.push(span);
            } else {
                for (i, c) in split(b, span, &shape[axis..end], lanes).into_iter().enumerate() {
                    let side = if axis + i < at { &mut before } else { &mut after };
                    side.push(Span { axes: 1, at: c });
                }
            }
            axis = end;
        }
        (before, after)
    }

    /// The index along every axis.
    pub fn coords(&self, b: &mut LaunchBuilder, shape: &[Dim], lanes: u32) -> Vec<Coord> {
        let (mut out, mut axis) = (vec![], 0);
        for &span in &self.spans {
            match span.axes {
                1 => out.push(span.at),
                n => out.extend(split(b, span, &shape[axis..axis + n], lanes)),
            }
            axis += span.axes;
        }
        out
    }

    /// The position in an operand of shape `to` that broadcasts to `from`.
    pub fn broadcast(&self, b: &mut LaunchBuilder, from: &[Dim], to: &[Dim], lanes: u32) -> Pos {
        if from == to {
            return self.clone();
        }
        let skip = from.len() - to.len();
        let (mut spans, mut axis) = (vec![], 0);
        for &span in &self.spans {
            let (start, end) = (axis, axis + span.axes);
            axis = end;
            let kept: Vec<usize> = (start.max(skip)..end).collect();
            let unit = |i: &usize| to[i - skip] == Dim::Const(1);
            if kept.is_empty() {
                continue;
            }
            if start >= skip && kept.iter().all(|&i| to[i - skip] == from[i]) {
                spans.push(span);
            } else if kept.iter().all(unit) {
                spans.push(Span { axes: kept.len(), at: Coord::one(b, 0) });
            } else {
                let coords = split(b, span, &from[start..end], lanes);
                for i in kept {
                    let at = if unit(&i) { Coord::one(b, 0) } else { coords[i - start] };
                    spans.push(Span { axes: 1, at });
                }
            }
        }
        Pos { spans, mask: self.mask }
    }

    /// The address in a strided view of a tensor of this shape.
    pub fn address(&self, b: &mut LaunchBuilder, view: &View, shape: &[Dim], lanes: u32) -> Address {
        let base = b.extent(&view.offset);
        let mut a = Address { base, step: 0, lanes: None };
        let mut axis = 0;
        for &span in &self.spans {
            let axes = axis..axis + span.axes;
            axis = axes.end;
            let real: Vec<usize> = axes.clone().filter(|&i| shape[i] != Dim::Const(1)).collect();
            let dense = |w: &[usize]| view.strides[w[0]] == view.strides[w[1]].clone() * shape[w[1]].clone();
            match real.last() {
                None => {}
                Some(&last) if real.windows(2).all(dense) => a.add(b, span.at, &view.strides[last], lanes),
                Some(_) => {
                    for (i, c) in axes.clone().zip(split(b, span, &shape[axes], lanes)) {
                        a.add(b, c, &view.strides[i], lanes);
                    }
                }
            }
        }
        a
    }
}

impl Address {
    fn add(&mut self, b: &mut LaunchBuilder, at: Coord, stride: &Dim, lanes: u32) {
        if *stride == Dim::Const(0) {
            return;
        }
        let distance = b.extent(stride);
        match at {
            Coord::One(v) => {
                let v = b.mul(v, distance);
                self.base = b.add(self.base, v);
            }
            Coord::Run { start, step } => {
                let v = b.mul(start, distance);
                self.base = b.add(self.base, v);
                match stride.as_const() {
                    Some(c) => self.step += step * c,
                    None => {
                        let zero = b.i64(0);
                        let v = Coord::Run { start: zero, step }.vector(b, lanes);
                        let v = b.mul(v, distance);
                        self.add_lanes(b, v);
                    }
                }
            }
            Coord::Lanes(v) => {
                let v = b.mul(v, distance);
                self.add_lanes(b, v);
            }
        }
    }

    fn add_lanes(&mut self, b: &mut LaunchBuilder, v: Val) {
        self.lanes = Some(match self.lanes {
            Some(w) => b.add(w, v),
            None => v,
        });
    }
}
