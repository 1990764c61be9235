//! Strided operands of attention, read as vectors of `f32`.

use crate::emit::{KernelBuilder, Scalar, Val};
use crate::kernel::{GroupCx, LaunchBuilder};
use tersor_ir::{DType, Dim, ValueId};

/// How neighbours along an axis lie.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Unit {
    /// They are the same element.
    Zero,
    /// Side by side.
    One,
    /// At a distance that is known when the kernel runs.
    Any,
}

/// An operand of up to four axes, broadcast to `[B, H, S, T]` or the like.
pub struct Rows {
    /// The first element.
    pub ptr: Val,
    /// Bytes between neighbours along each axis.
    pub strides: [Val; 4],
    /// How the last axis lies.
    pub last: Unit,
    /// How the last axis but one lies.
    pub before: Unit,
    /// Storage type.
    pub elem: Scalar,
}

/// The storage type of floats that these kernels read and write.
pub fn float(dtype: DType) -> Option<Scalar> {
    match dtype {
        DType::F32 => Some(Scalar::F32),
        DType::F16 => Some(Scalar::F16),
        DType::BF16 => Some(Scalar::BF16),
        _ => None,
    }
}

impl Rows {
    /// The operand `v` with missing leading axes and axes of extent 1 repeated. `elem` is its storage type.
    pub fn new(cx: &GroupCx, lb: &mut LaunchBuilder, v: ValueId, elem: Scalar) -> Rows {
        let (ty, view) = (cx.ty(v), cx.view(v));
        let missing = 4 - ty.rank();
        let stride = |axis: usize| match axis.checked_sub(missing) {
            Some(i) if ty.shape[i] != Dim::from(1) => view.strides[i].clone(),
            _ => Dim::from(0),
        };
        let unit = |axis: usize| match stride(axis).as_const() {
            Some(0) => Unit::Zero,
            Some(1) => Unit::One,
            _ => Unit::Any,
        };
        let size = Dim::from(i64::from(elem.bytes()));
        let strides = [0, 1, 2, 3].map(|axis| lb.extent(&(stride(axis) * size.clone())));
        let (root, offset) = (lb.read(view.root), lb.extent(&(view.offset * size)));
        let ptr = lb.gep(root, offset);
        Rows { ptr, strides, last: unit(3), before: unit(2), elem }
    }

    /// The same rows of 16-bit elements taken two by two, as words.
    pub fn pairs(&self, k: &mut KernelBuilder) -> Rows {
        let [batch, head, row, _] = self.strides;
        Rows {
            ptr: self.ptr,
            strides: [batch, head, row, k.i64(4)],
            last: Unit::One,
            before: Unit::Any,
            elem: Scalar::F32,
        }
    }

    fn unit(&self, axis: usize) -> Unit {
        if axis == 3 { self.last } else { self.before }
    }

    /// The address `index` steps along an axis from `from`.
    pub fn step(&self, k: &mut KernelBuilder, from: Val, axis: usize, index: Val) -> Val {
        let bytes = k.mul(index, self.strides[axis]);
        k.gep(from, bytes)
    }

    /// The address of row `index` (axis 2) of a head (axis 1) of a batch element (axis 0).
    pub fn head(&self, k: &mut KernelBuilder, batch: Val, head: Val) -> Val {
        let p = self.step(k, self.ptr, 0, batch);
        self.step(k, p, 1, head)
    }

    /// `lanes` elements along an axis from `ptr` on, of which the first `valid` exist; the others are zero and are not touched.
    pub fn chunk(&self, k: &mut KernelBuilder, ptr: Val, axis: usize, lanes: u32, valid: u32) -> Val {
        let ty = self.elem.x(lanes);
        let v = match self.unit(axis) {
            Unit::One if valid == lanes => k.load(ptr, ty),
            Unit::One => {
                let valid = k.i64(valid.into());
                k.load_first(ptr, ty, valid)
            }
            Unit::Zero if valid == lanes => {
                let x = k.load(ptr, self.elem.x(1));
                k.splat(x, lanes)
            }
            Unit::Zero | Unit::Any => {
                let mut v = k.zero(ty);
                for lane in 0..valid {
                    let index = k.i64(lane.into());
                    let p = self.step(k, ptr, axis, index);
                    let x = k.load(p, self.elem.x(1));
                    v = k.insert(x, v, lane);
                }
                v
            }
        };
        k.to_float_type(v, Scalar::F32)
    }

    /// As [`Rows::chunk`] where the number of elements that exist, at least one, is known when the kernel runs. Other lanes hold anything finite
    /// or any element.
    pub fn chunk_first(&self, k: &mut KernelBuilder, ptr: Val, axis: usize, lanes: u32, valid: Val) -> Val {
        let ty = self.elem.x(lanes);
        let v = match self.unit(axis) {
            Unit::One => k.load_first(ptr, ty, valid),
            Unit::Zero => {
                let x = k.load(ptr, self.elem.x(1));
                k.splat(x, lanes)
            }
            Unit::Any => {
                let (mut v, one) = (k.zero(ty), k.i64(1));
                let last = k.sub(valid, one);
                for lane in 0..lanes {
                    let index = k.i64(lane.into());
                    let index = k.min(index, last);
                    let p = self.step(k, ptr, axis, index);
                    let x = k.load(p, self.elem.x(1));
                    v = k.insert(x, v, lane);
                }
                v
            }
        };
        k.to_float_type(v, Scalar::F32)
    }
}

/// Exchanges rows and columns of eight vectors of eight lanes.
pub fn transpose8(k: &mut KernelBuilder, r: [Val; 8]) -> [Val; 8] {
    let mut stage = |v: [Val; 8], pairs: [(usize, usize); 4], low: [u32; 8], high: [u32; 8]| {
        let mut out = v;
        for (i, (a, b)) in pairs.into_iter().enumerate() {
            out[2 * i] = k.shuffle(v[a], v[b], &low);
            out[2 * i + 1] = k.shuffle(v[a], v[b], &high);
        }
        out
    };
    let t = stage(r, [(0, 1), (2, 3), (4, 5), (6, 7)], [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]);
    let u = stage(t, [(0, 2), (1, 3), (4, 6), (5, 7)], [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]);
    let [a, e, b, f, c, g, d, h] =
        stage(u, [(0, 4), (1, 5), (2, 6), (3, 7)], [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]);
    [a, b, c, d, e, f, g, h]
}
