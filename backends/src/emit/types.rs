//! The types of emitted values, and the values.

use std::fmt;

/// An element type. Integers have no sign: operations do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scalar {
    I1,
    I8,
    I16,
    I32,
    I64,
    F16,
    BF16,
    F32,
    F64,
}

impl Scalar {
    /// Bytes of one element in memory.
    pub const fn bytes(self) -> u32 {
        match self {
            Scalar::I1 | Scalar::I8 => 1,
            Scalar::I16 | Scalar::F16 | Scalar::BF16 => 2,
            Scalar::I32 | Scalar::F32 => 4,
            Scalar::I64 | Scalar::F64 => 8,
        }
    }

    /// Significant bits: one for `I1`, eight times [`Scalar::bytes`] otherwise.
    pub const fn bits(self) -> u32 {
        if matches!(self, Scalar::I1) { 1 } else { self.bytes() * 8 }
    }

    pub const fn is_float(self) -> bool {
        matches!(self, Scalar::F16 | Scalar::BF16 | Scalar::F32 | Scalar::F64)
    }

    /// The low bits that a value of this type may use.
    pub(crate) const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// A vector of `lanes` elements, or the scalar type itself for one lane.
    pub const fn x(self, lanes: u32) -> Ty {
        if lanes == 1 { Ty::Scalar(self) } else { Ty::Vec(lanes, self) }
    }

    /// How MLIR writes the type.
    pub const fn name(self) -> &'static str {
        match self {
            Scalar::I1 => "i1",
            Scalar::I8 => "i8",
            Scalar::I16 => "i16",
            Scalar::I32 => "i32",
            Scalar::I64 => "i64",
            Scalar::F16 => "f16",
            Scalar::BF16 => "bf16",
            Scalar::F32 => "f32",
            Scalar::F64 => "f64",
        }
    }
}

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ty {
    Scalar(Scalar),
    Vec(u32, Scalar),
    /// A pointer to bytes.
    Ptr,
    /// A pointer into a GPU block's shared memory.
    Shared,
    /// An AMX tile register.
    Tile,
}

impl Ty {
    pub const I1: Ty = Ty::Scalar(Scalar::I1);
    pub const I8: Ty = Ty::Scalar(Scalar::I8);
    pub const I16: Ty = Ty::Scalar(Scalar::I16);
    pub const I32: Ty = Ty::Scalar(Scalar::I32);
    pub const I64: Ty = Ty::Scalar(Scalar::I64);
    pub const F32: Ty = Ty::Scalar(Scalar::F32);
    pub const F64: Ty = Ty::Scalar(Scalar::F64);

    /// The element type of a scalar or vector.
    #[track_caller]
    pub fn elem(self) -> Scalar {
        match self {
            Ty::Scalar(s) | Ty::Vec(_, s) => s,
            other => panic!("{other} has no element type"),
        }
    }

    /// Lanes of a vector; one for everything else.
    pub const fn lanes(self) -> u32 {
        match self {
            Ty::Vec(n, _) => n,
            _ => 1,
        }
    }

    /// The same number of lanes of another element type.
    #[track_caller]
    pub fn with(self, elem: Scalar) -> Ty {
        match self {
            Ty::Scalar(_) => Ty::Scalar(elem),
            Ty::Vec(n, _) => Ty::Vec(n, elem),
            other => panic!("{other} has no element type"),
        }
    }

    /// Bytes that a value takes in memory; lanes are packed, and an `i1` takes one byte.
    pub fn bytes(self) -> u32 {
        match self {
            Ty::Scalar(s) => s.bytes(),
            Ty::Vec(n, s) => n * s.bytes(),
            Ty::Ptr | Ty::Shared => 8,
            Ty::Tile => 1024,
        }
    }

    pub const fn is_ptr(self) -> bool {
        matches!(self, Ty::Ptr | Ty::Shared)
    }

    pub fn is_float(self) -> bool {
        matches!(self, Ty::Scalar(s) | Ty::Vec(_, s) if s.is_float())
    }

    pub fn is_int(self) -> bool {
        matches!(self, Ty::Scalar(s) | Ty::Vec(_, s) if !s.is_float())
    }
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ty::Scalar(s) => f.write_str(s.name()),
            Ty::Vec(n, s) => write!(f, "vector<{n}x{}>", s.name()),
            Ty::Ptr => f.write_str("!llvm.ptr"),
            Ty::Shared => f.write_str("!llvm.ptr<3>"),
            Ty::Tile => f.write_str("!llvm.x86_amx"),
        }
    }
}

/// One value of a kernel: defined once, used anywhere its definition dominates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Val {
    pub(crate) id: u32,
    pub(crate) ty: Ty,
}

impl Val {
    pub fn ty(self) -> Ty {
        self.ty
    }

    /// The element type of a scalar or vector value.
    #[track_caller]
    pub fn elem(self) -> Scalar {
        self.ty.elem()
    }

    pub fn lanes(self) -> u32 {
        self.ty.lanes()
    }
}
