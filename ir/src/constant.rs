//! Constants: found by content hash, mapped, never copied.

use crate::blob::Blob;
use crate::entity_id;
use crate::loc::Loc;
use crate::string;
use crate::tensor::Tensor;
use crate::types::{DType, Type};
use std::fmt;
use std::sync::{Arc, OnceLock};

entity_id!(
    /// A constant of a module.
    ConstId,
    "const"
);

/// blake3 over dtype, shape and bytes.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// The hash of a tensor's dtype, shape and bytes as they are stored.
    pub fn of(dtype: DType, shape: &[usize], bytes: &[u8]) -> ContentHash {
        let mut h = blake3::Hasher::new();
        h.update(dtype.name().as_bytes());
        h.update(&[0]);
        for &d in shape {
            h.update(&(d as u64).to_le_bytes());
        }
        h.update(&[0xff]);
        h.update(bytes);
        ContentHash(*h.finalize().as_bytes())
    }
    /// The hash that begins with these hexadecimal digits, followed by zeros; of what is no such digits, their own hash.
    fn known(digits: &str) -> ContentHash {
        let pairs = digits.as_bytes().chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).ok()?, 16).ok());
        let mut all = [0; 32];
        match pairs.collect::<Option<Vec<u8>>>() {
            Some(bytes) if bytes.len() <= all.len() => all[..bytes.len()].copy_from_slice(&bytes),
            _ => all = *blake3::hash(digits.as_bytes()).as_bytes(),
        }
        ContentHash(all)
    }
    /// The first sixteen hexadecimal digits, as `.tir` shows them.
    pub fn short(&self) -> String {
        self.0[..8].iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// Where the elements come from.
#[derive(Clone, Debug)]
pub enum ConstData {
    /// Row-major bytes; handles, for strings.
    Bytes(Blob),
    /// One element, repeated.
    Splat(Tensor),
    /// Seeded pseudo-random numbers, for tests.
    Rng(Rng),
    /// Known by hash only: the bytes are not in the store that was opened.
    Missing(String),
}

/// Seeded random elements, the same on every machine.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rng {
    /// Distribution.
    pub dist: Distribution,
    /// Seed.
    pub seed: u64,
}

/// A distribution of independent elements.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Distribution {
    /// Gaussian: mean, standard deviation.
    Normal(f64, f64),
    /// Uniform over a half-open range; integers are drawn below the upper end.
    Uniform(f64, f64),
}

/// A named constant.
#[derive(Clone, Debug)]
pub struct Constant {
    /// Unique name in the module.
    pub name: Arc<str>,
    /// Type with constant extents.
    pub ty: Type,
    /// Origin.
    pub loc: Loc,
    data: ConstData,
    bytes: OnceLock<Tensor>,
    hash: OnceLock<ContentHash>,
}

impl Constant {
    /// A constant of a static type. Bytes must have the type's length.
    pub fn new(name: impl Into<Arc<str>>, ty: Type, data: ConstData, loc: Loc) -> Constant {
        Constant { name: name.into(), ty, loc, data, bytes: OnceLock::new(), hash: OnceLock::new() }
    }
    /// A constant that holds a tensor.
    pub fn from_tensor(name: impl Into<Arc<str>>, t: &Tensor, loc: Loc) -> Constant {
        Constant::new(name, t.ty(), ConstData::Bytes(t.blob().clone()), loc)
    }
    /// Where the elements come from.
    pub fn data(&self) -> &ConstData {
        &self.data
    }
    /// Extents.
    pub fn shape(&self) -> Vec<usize> {
        self.ty.static_shape().expect("constants have static types")
    }
    /// Bytes in storage.
    pub fn byte_len(&self) -> usize {
        self.ty.static_elements().and_then(|n| self.ty.dtype.bytes(n)).expect("constants have static types")
    }
    /// The elements; `None` when the store does not have them.
    pub fn tensor(&self) -> Option<&Tensor> {
        if matches!(self.data, ConstData::Missing(_)) {
            return None;
        }
        Some(self.bytes.get_or_init(|| {
            let (dtype, shape) = (self.ty.dtype, self.shape());
            let n = shape.iter().product::<usize>();
            match &self.data {
                ConstData::Bytes(b) => Tensor::from_blob(dtype, shape, b.clone()).expect("checked length"),
                ConstData::Splat(one) => Tensor::collected(dtype, shape, std::iter::repeat_n((one, 0), n)),
                ConstData::Rng(rng) => rng.tensor(dtype, &shape),
                ConstData::Missing(_) => unreachable!("returned above"),
            }
        }))
    }
    /// The one value that all elements have, if it is known without reading them, or if there is only one; no complex number.
    pub fn splat(&self) -> Option<f64> {
        match &self.data {
            _ if self.ty.dtype.part().is_some() => None,
            ConstData::Splat(one) => Some(one.get_f64(0)),
            _ if self.ty.static_elements() == Some(1) => self.tensor().map(|t| t.get_f64(0)),
            _ => None,
        }
    }
    /// The content hash; as much as is known of it, followed by zeros, when the bytes are missing.
    pub fn hash(&self) -> ContentHash {
        *self.hash.get_or_init(|| match &self.data {
            ConstData::Missing(digits) => ContentHash::known(digits),
            _ => {
                let t = self.tensor().expect("elements that are not missing");
                ContentHash::of(t.dtype(), t.shape(), &string::stored(t))
            }
        })
    }
}

/// SplitMix64 (Steele, Lea, Flood, 2014): the project's only random generator; small, seedable, the same everywhere.
#[derive(Clone, Debug)]
pub struct SplitMix(pub u64);

impl SplitMix {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
    /// Standard normal (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
    /// Uniform in `0..n`, `n` positive.
    pub fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }
}

impl Rng {
    /// Draws the elements.
    pub fn tensor(&self, dtype: DType, shape: &[usize]) -> Tensor {
        let mut g = SplitMix(self.seed);
        let n = shape.iter().product::<usize>();
        let draw = |_| match self.dist {
            Distribution::Normal(mean, deviation) => mean + deviation * g.normal(),
            Distribution::Uniform(lo, hi) if dtype.is_float() => lo + (hi - lo) * g.unit(),
            Distribution::Uniform(lo, hi) => (lo + (hi - lo) * g.unit()).floor(),
        };
        Tensor::from_f64(dtype, shape, &(0..n).map(draw).collect::<Vec<_>>())
    }
}
