//! `random`: numbers by chance, each a function of its position and a key.

use super::declare::{Meaning, Sample, Work};
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

op! {
    /// For each counter 32 random bits: the first word that Philox4x32-10 (Salmon, Moraes, Dror and Shaw, 2011) gives for the counter and the key. Equal counters
    /// give equal bits, so what is to be independent needs counters, or a key, of its own.
    pub struct Random = "random" {
        operands(counter: Int),
        results(y),
        attrs {
            /// The key.
            key: u64,
        },
    }
}

/// The constants that Philox multiplies by, one for each half of the block.
pub const MULTIPLIERS: [u64; 2] = [0xd251_1f53, 0xcd9e_8d57];
/// What is added to the halves of the key after each round.
pub const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
/// Rounds.
pub const ROUNDS: usize = 10;

/// The block of four words that Philox4x32-10 gives for a counter of four words and a key of two.
pub fn philox(mut c: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let (p, q) = (MULTIPLIERS[0] * u64::from(c[0]), MULTIPLIERS[1] * u64::from(c[2]));
        c = [(q >> 32) as u32 ^ c[1] ^ key[0], q as u32, (p >> 32) as u32 ^ c[3] ^ key[1], p as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    c
}

impl Meaning for Random {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        Ok(vec![t[0].with_dtype(DType::U32)])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let words = |v: u64| [v as u32, (v >> 32) as u32];
        let one = |i: i64| {
            let [low, high] = words(i as u64);
            u64::from(philox([low, high, 0, 0], words(self.key))[0])
        };
        let bits: Vec<u64> = x[0].to_i64().into_iter().map(one).collect();
        Ok(vec![Tensor::from_bits(DType::U32, x[0].shape(), bits.into_iter())])
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        Work { madds: outs[0].elements() * (4 * ROUNDS as i64).into(), ..Work::elementwise(ins, outs) }
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let rank = g.int(0, 3) as usize;
        let shape = g.shape(rank);
        let key = (g.int(0, 1 << 40) as u64).wrapping_mul(0x9e37_79b9);
        let dtype = g.one_of(&[DType::I64, DType::U64, DType::I32, DType::U8]);
        (Random { key }, vec![g.ty(dtype, &shape)])
    }
}

#[cfg(test)]
mod tests {
    use super::philox;

    /// The published answers (`kat_vectors` of Random123).
    #[test]
    fn blocks_are_the_published_ones() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let (counter, key) = ([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        assert_eq!(philox(counter, key), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }
}
