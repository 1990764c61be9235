//! Builder methods for pointers, loads and stores.

use super::build::KernelBuilder;
use super::intrinsic::Intrinsic;
use super::op::Op;
use super::types::{Scalar, Ty, Val};

/// The alignment that any value in memory has: that of one element.
fn natural(ty: Ty) -> u32 {
    match ty {
        Ty::Scalar(s) | Ty::Vec(_, s) => s.bytes(),
        _ => 8,
    }
}

/// What masked accesses move elements as: machines without 16-bit floats would convert single ones on the way.
fn whole(elem: Scalar) -> Scalar {
    if matches!(elem, Scalar::F16 | Scalar::BF16) { Scalar::I16 } else { elem }
}

#[track_caller]
fn check_ptr(ptr: Val) {
    assert!(ptr.ty().is_ptr(), "{} is not a pointer", ptr.ty());
}

impl KernelBuilder {
    /// `ptr` plus a number of bytes.
    #[track_caller]
    pub fn gep(&mut self, ptr: Val, bytes: Val) -> Val {
        check_ptr(ptr);
        assert_eq!(bytes.ty(), Ty::I64, "byte offset");
        if self.known(bytes) == Some(0) {
            return ptr;
        }
        self.push1(Op::Gep, vec![ptr, bytes], ptr.ty())
    }

    /// `ptr` plus a constant number of bytes.
    #[track_caller]
    pub fn offset(&mut self, ptr: Val, bytes: i64) -> Val {
        let bytes = self.i64(bytes);
        self.gep(ptr, bytes)
    }

    /// The address of element `index` of an array of `elem`.
    #[track_caller]
    pub fn elem(&mut self, ptr: Val, index: Val, elem: Scalar) -> Val {
        let size = self.i64(elem.bytes().into());
        let bytes = self.mul(index, size);
        self.gep(ptr, bytes)
    }

    /// Loads a scalar, or a vector from consecutive elements aligned like one of them.
    #[track_caller]
    pub fn load(&mut self, ptr: Val, ty: Ty) -> Val {
        self.load_aligned(ptr, ty, natural(ty))
    }

    /// [`Self::load`] where the address is known to be a multiple of `align`.
    #[track_caller]
    pub fn load_aligned(&mut self, ptr: Val, ty: Ty, align: u32) -> Val {
        check_ptr(ptr);
        assert!(matches!(ty, Ty::Scalar(_) | Ty::Vec(..)) && align.is_power_of_two(), "load of {ty}, align {align}");
        assert!(ty.elem() != Scalar::I1, "booleans are i8 in memory");
        self.push1(Op::Load { align, pinned: false }, vec![ptr], ty)
    }

    /// Loads from `ptr + bytes`.
    #[track_caller]
    pub fn load_at(&mut self, ptr: Val, bytes: Val, ty: Ty) -> Val {
        let ptr = self.gep(ptr, bytes);
        self.load(ptr, ty)
    }

    #[track_caller]
    pub fn store(&mut self, value: Val, ptr: Val) {
        self.store_aligned(value, ptr, natural(value.ty()));
    }

    /// [`Self::store`] where the address is known to be a multiple of `align`.
    #[track_caller]
    pub fn store_aligned(&mut self, value: Val, ptr: Val, align: u32) {
        check_ptr(ptr);
        assert!(align.is_power_of_two() && value.elem() != Scalar::I1, "store of {}, align {align}", value.ty());
        self.push0(Op::Store { align }, vec![value, ptr]);
    }

    /// Stores to `ptr + bytes`.
    #[track_caller]
    pub fn store_at(&mut self, value: Val, ptr: Val, bytes: Val) {
        let ptr = self.gep(ptr, bytes);
        self.store(value, ptr);
    }

    /// The mask of the first `count` lanes (`count` an i64, clamped to `0..=lanes`).
    pub fn first_lanes(&mut self, lanes: u32, count: Val) -> Val {
        let (zero, most) = (self.i64(0), self.i64(lanes.into()));
        let count = self.max(count, zero);
        let count = self.min(count, most);
        let count = self.trunc(count, Scalar::I32);
        let lane = self.iota(Scalar::I32.x(lanes));
        self.lt(lane, count)
    }

    /// Loads the lanes that are on in `mask`, the others are zero and their memory is not touched. Fast for 4 and 8 byte
    /// elements on every CPU, for smaller ones with AVX-512 only.
    #[track_caller]
    pub fn load_mask(&mut self, ptr: Val, ty: Ty, mask: Val) -> Val {
        check_ptr(ptr);
        assert_eq!(mask.ty(), ty.with(Scalar::I1), "mask of a load of {ty}");
        let raw = ty.with(whole(ty.elem()));
        let other = self.zero(raw);
        let v = self.push1(Op::MaskedLoad { align: natural(ty) }, vec![ptr, mask, other], raw);
        self.bitcast(v, ty)
    }

    /// Stores the lanes that are on in `mask` and leaves other memory alone.
    #[track_caller]
    pub fn store_mask(&mut self, value: Val, ptr: Val, mask: Val) {
        check_ptr(ptr);
        assert_eq!(mask.ty(), value.ty().with(Scalar::I1), "mask of a store of {}", value.ty());
        let value = self.bitcast(value, value.ty().with(whole(value.elem())));
        self.push0(Op::MaskedStore { align: natural(value.ty()) }, vec![value, ptr, mask]);
    }

    /// Loads the first `count` lanes; the others are zero.
    #[track_caller]
    pub fn load_first(&mut self, ptr: Val, ty: Ty, count: Val) -> Val {
        let mask = self.first_lanes(ty.lanes(), count);
        self.load_mask(ptr, ty, mask)
    }

    /// Stores the first `count` lanes.
    #[track_caller]
    pub fn store_first(&mut self, value: Val, ptr: Val, count: Val) {
        let mask = self.first_lanes(value.lanes(), count);
        self.store_mask(value, ptr, mask);
    }

    /// Loads `elem` from `ptr + offsets[lane]` bytes in each lane (`offsets` a vector of i32, sign extended, or i64).
    #[track_caller]
    pub fn gather(&mut self, ptr: Val, offsets: Val, elem: Scalar) -> Val {
        let on = self.int(offsets.ty().with(Scalar::I1), 1);
        self.gather_mask(ptr, offsets, elem, on)
    }

    /// [`Self::gather`] of the lanes that are on; the others are zero and their memory is not touched.
    #[track_caller]
    pub fn gather_mask(&mut self, ptr: Val, offsets: Val, elem: Scalar, mask: Val) -> Val {
        check_ptr(ptr);
        assert!(matches!(offsets.ty(), Ty::Vec(_, Scalar::I32 | Scalar::I64)), "gather offsets of {}", offsets.ty());
        assert_eq!(mask.ty(), offsets.ty().with(Scalar::I1), "gather mask");
        let ty = offsets.ty().with(elem);
        let other = self.zero(ty);
        self.push1(Op::Gather, vec![ptr, offsets, mask, other], ty)
    }

    /// Asks for the cache line at `ptr`, which may be any address; `locality` runs from 0 (used once) to 3 (keep in L1).
    #[track_caller]
    pub fn prefetch(&mut self, ptr: Val, locality: u8) {
        check_ptr(ptr);
        self.push0(Op::Prefetch { write: false, locality }, vec![ptr]);
    }

    // AMX tiles: `rows` rows of `row_bytes` bytes, at most 16 of 64.

    pub fn tile_zero(&mut self, rows: u16, row_bytes: u16) -> Val {
        self.intrinsic(Intrinsic::TileZero { rows, row_bytes }, &[])
    }

    /// Loads a tile from rows that lie `stride` bytes (i64) apart.
    #[track_caller]
    pub fn tile_load(&mut self, ptr: Val, stride: Val, rows: u16, row_bytes: u16) -> Val {
        self.intrinsic(Intrinsic::TileLoad { rows, row_bytes }, &[ptr, stride])
    }

    #[track_caller]
    pub fn tile_store(&mut self, tile: Val, ptr: Val, stride: Val, rows: u16, row_bytes: u16) {
        self.intrinsics(Intrinsic::TileStore { rows, row_bytes }, &[ptr, stride, tile]);
    }
}
