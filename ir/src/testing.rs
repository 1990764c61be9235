//! Random shapes, types and tensors for property tests of this and other crates.

use crate::constant::SplitMix;
use crate::dim::Dim;
use crate::ops::{Class, Op};
use crate::string;
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// A seeded source of small valid things.
pub struct Gen {
    rng: SplitMix,
}

impl Gen {
    /// A source with a seed.
    pub fn new(seed: u64) -> Gen {
        Gen { rng: SplitMix(seed) }
    }
    /// Uniform in `lo..=hi`.
    pub fn int(&mut self, lo: i64, hi: i64) -> i64 {
        lo + self.rng.below((hi - lo + 1) as usize) as i64
    }
    /// True half of the time.
    pub fn flip(&mut self) -> bool {
        self.rng.bits() & 1 == 1
    }
    /// One of the items.
    pub fn one_of<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.rng.below(items.len())].clone()
    }
    /// A float in `lo..hi`.
    pub fn real(&mut self, lo: f64, hi: f64) -> f64 {
        lo + (hi - lo) * self.rng.unit()
    }
    /// Extents 1 to 6.
    pub fn shape(&mut self, rank: usize) -> Vec<usize> {
        (0..rank).map(|_| self.int(1, 6) as usize).collect()
    }
    /// Extents of which a broadcast with `shape` gives `shape` again: some axes 1, some leading axes left out.
    pub fn broadcastable(&mut self, shape: &[usize]) -> Vec<usize> {
        let skip = self.int(0, shape.len() as i64) as usize;
        shape[skip..].iter().map(|&d| if self.int(0, 3) == 0 { 1 } else { d }).collect()
    }
    /// A type of that shape.
    pub fn ty(&mut self, dtype: DType, shape: &[usize]) -> Type {
        Type::new(dtype, shape.iter().copied())
    }
    /// `f32` most of the time, else `f64`, `f16` or `bf16`.
    pub fn float(&mut self) -> DType {
        self.one_of(&[DType::F32, DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16])
    }
    /// A computing type: float, or integer of at least 8 bits.
    pub fn num(&mut self) -> DType {
        self.one_of(&[DType::F32, DType::F32, DType::F64, DType::F16, DType::I64, DType::I32, DType::I8, DType::U8])
    }
    /// Any element type but strings and complex numbers.
    pub fn plain(&mut self) -> DType {
        let all: Vec<DType> = DType::ALL.iter().copied().filter(|&d| Class::Plain.accepts(d)).collect();
        self.one_of(&all)
    }
    /// A tensor of a static type: strings of one letter or none, floats and parts of complex numbers around 0 with deviation 1, integers within -8..=8 (unsigned within 0..=8), truth values.
    pub fn tensor(&mut self, ty: &Type) -> Tensor {
        let shape = ty.static_shape().expect("static type");
        let n: usize = shape.iter().product();
        if ty.dtype == DType::Str {
            let words: Vec<&str> = (0..n).map(|_| self.one_of(&["", "a", "B", "é"])).collect();
            return string::tensor(shape, &words).expect("few strings");
        }
        if let Some(part) = ty.dtype.part() {
            let parts = self.tensor(&Type::new(part, [n, 2]));
            return Tensor::from_blob(ty.dtype, shape, parts.blob().clone()).expect("two parts each");
        }
        let one = |g: &mut Gen| match ty.dtype {
            DType::Bool => g.int(0, 1) as f64,
            d if d.is_float() => g.rng.normal(),
            d => {
                let (lo, hi) = d.int_range().expect("integer");
                g.int(lo.max(-8) as i64, hi.min(8) as i64) as f64
            }
        };
        let values: Vec<f64> = (0..n).map(|_| one(self)).collect();
        Tensor::from_f64(ty.dtype, shape, &values)
    }
    /// Operands for a sample of an op: [`Gen::tensor`]s, with a count that there is room for.
    pub fn operands(&mut self, op: &Op, types: &[Type]) -> Vec<Tensor> {
        let mut x: Vec<Tensor> = types.iter().map(|t| self.tensor(t)).collect();
        if let Op::Prefix(p) = op {
            let count = self.int(0, x[0].shape()[p.axis as usize] as i64);
            x[1] = Tensor::from_i64(DType::I64, [], &[count]);
        }
        x
    }
    /// Integers over the whole range of their type, a quarter of them at its ends.
    pub fn extremes(&mut self, ty: &Type) -> Tensor {
        let shape = ty.static_shape().expect("static type");
        let (lo, hi) = ty.dtype.int_range().expect("integer");
        let (lo, hi) = (lo as i64, hi as i64);
        let one = |g: &mut Gen| match g.int(0, 7) {
            0 => lo,
            1 => hi,
            _ => g.int(lo, hi),
        };
        let values: Vec<i64> = (0..shape.iter().product()).map(|_| one(self)).collect();
        Tensor::from_i64(ty.dtype, shape, &values)
    }
    /// A random permutation of `0..n`.
    pub fn permutation(&mut self, n: usize) -> Vec<u8> {
        let mut p: Vec<u8> = (0..n as u8).collect();
        for i in (1..n).rev() {
            p.swap(i, self.int(0, i as i64) as usize);
        }
        p
    }
    /// Constant extents.
    pub fn dims(&self, shape: &[usize]) -> Vec<Dim> {
        shape.iter().map(|&d| Dim::from(d)).collect()
    }
}

/// `|a - b| / |b|` in the Euclidean norm over all elements; NaN pairs and equal infinities count as equal.
pub fn rel_l2(a: &Tensor, b: &Tensor) -> f64 {
    let (mut d, mut n) = (0.0, 0.0);
    for (x, y) in a.parts().to_f64().into_iter().zip(b.parts().to_f64()) {
        if x == y || (x.is_nan() && y.is_nan()) {
            n += if y.is_finite() { y * y } else { 0.0 };
            continue;
        }
        d += (x - y) * (x - y);
        n += y * y;
    }
    if d == 0.0 {
        0.0
    } else if d.is_nan() || n == 0.0 {
        f64::INFINITY
    } else {
        (d / n).sqrt()
    }
}

/// The largest absolute difference; NaN pairs and equal infinities count as equal.
pub fn max_abs(a: &Tensor, b: &Tensor) -> f64 {
    let pairs = a.parts().to_f64().into_iter().zip(b.parts().to_f64());
    pairs.fold(0.0, |m, (x, y)| {
        if x == y || (x.is_nan() && y.is_nan()) {
            m
        } else if (x - y).is_nan() {
            f64::INFINITY
        } else {
            f64::max(m, (x - y).abs())
        }
    })
}
