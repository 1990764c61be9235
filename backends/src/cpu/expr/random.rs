//! Random bits, as `tersor_ir::ops::random` says.

use crate::emit::{KernelBuilder, Scalar, Val};
use tersor_ir::ops::random::{MULTIPLIERS, ROUNDS, WEYL};

/// The first word of the blocks of counters of 64 bits. Words are kept in 64 bits, so that a product is one multiplication.
pub(super) fn bits(k: &mut KernelBuilder, counter: Val, key: u64) -> Val {
    let ty = counter.ty();
    let (low, half) = (k.int(ty, 0xffff_ffff), k.int(ty, 32));
    let zero = k.zero(ty);
    let mut c = [k.and(counter, low), k.shr(counter, half), zero, zero];
    let mut key = [key as u32, (key >> 32) as u32];
    for _ in 0..ROUNDS {
        let [m, n] = MULTIPLIERS.map(|m| k.int(ty, m as i64));
        let (p, q) = (k.mul(m, c[0]), k.mul(n, c[2]));
        let mut next = |product: Val, with: Val, key: u32| {
            let high = k.shr(product, half);
            let mixed = k.xor(high, with);
            let key = k.int(ty, key.into());
            k.xor(mixed, key)
        };
        let (first, third) = (next(q, c[1], key[0]), next(p, c[3], key[1]));
        c = [first, k.and(q, low), third, k.and(p, low)];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    k.trunc(c[0], Scalar::I32)
}
