//! Element types, numbered as in ONNX so that a `TensorProto` and a manifest speak of the same ones.

use std::fmt;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum DType {
    /// No type given; never valid in an artifact.
    Undefined = 0,
    F32 = 1,
    U8 = 2,
    I8 = 3,
    U16 = 4,
    I16 = 5,
    I32 = 6,
    I64 = 7,
    /// Handles of a table of strings.
    Str = 8,
    Bool = 9,
    F16 = 10,
    F64 = 11,
    U32 = 12,
    U64 = 13,
    C64 = 14,
    C128 = 15,
    Bf16 = 16,
    F8e4m3 = 17,
    F8e4m3fnuz = 18,
    F8e5m2 = 19,
    F8e5m2fnuz = 20,
    U4 = 21,
    I4 = 22,
    F4e2m1 = 23,
    F8e8m0 = 24,
    U2 = 25,
    I2 = 26,
}

impl DType {
    /// Bits of one element; elements of fewer than 8 bits are packed, the first in the lowest bits.
    pub const fn bits(self) -> u64 {
        match self {
            DType::Undefined => 0,
            DType::U2 | DType::I2 => 2,
            DType::U4 | DType::I4 | DType::F4e2m1 => 4,
            DType::U8 | DType::I8 | DType::Bool => 8,
            DType::F8e4m3 | DType::F8e4m3fnuz | DType::F8e5m2 | DType::F8e5m2fnuz | DType::F8e8m0 => 8,
            DType::U16 | DType::I16 | DType::F16 | DType::Bf16 => 16,
            DType::F32 | DType::I32 | DType::U32 | DType::Str => 32,
            DType::F64 | DType::I64 | DType::U64 | DType::C64 => 64,
            DType::C128 => 128,
        }
    }

    /// Bytes of `elements` elements, `None` on overflow.
    pub const fn bytes_of(self, elements: u64) -> Option<u64> {
        match elements.checked_mul(self.bits()) {
            Some(bits) => Some(bits.div_ceil(8)),
            None => None,
        }
    }

    /// Bytes of one element, `None` for packed types.
    pub const fn size(self) -> Option<usize> {
        if self.bits() >= 8 { Some((self.bits() / 8) as usize) } else { None }
    }

    /// Bytes of what has an order of bytes: an element, or a part of a complex number; `None` for packed types.
    pub const fn word(self) -> Option<usize> {
        match self {
            DType::C64 => Some(4),
            DType::C128 => Some(8),
            other => other.size(),
        }
    }

    /// The name used in `.tir` and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            DType::Undefined => "undefined",
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::F8e4m3 => "f8e4m3",
            DType::F8e4m3fnuz => "f8e4m3fnuz",
            DType::F8e5m2 => "f8e5m2",
            DType::F8e5m2fnuz => "f8e5m2fnuz",
            DType::F8e8m0 => "f8e8m0",
            DType::F4e2m1 => "f4e2m1",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::I16 => "i16",
            DType::I8 => "i8",
            DType::I4 => "i4",
            DType::I2 => "i2",
            DType::U64 => "u64",
            DType::U32 => "u32",
            DType::U16 => "u16",
            DType::U8 => "u8",
            DType::U4 => "u4",
            DType::U2 => "u2",
            DType::Bool => "bool",
            DType::Str => "str",
            DType::C64 => "c64",
            DType::C128 => "c128",
        }
    }

    /// All types that an artifact's values may have.
    pub const ALL: [DType; 26] = [
        DType::F64,
        DType::F32,
        DType::F16,
        DType::Bf16,
        DType::F8e4m3,
        DType::F8e4m3fnuz,
        DType::F8e5m2,
        DType::F8e5m2fnuz,
        DType::F8e8m0,
        DType::F4e2m1,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::I4,
        DType::I2,
        DType::U64,
        DType::U32,
        DType::U16,
        DType::U8,
        DType::U4,
        DType::U2,
        DType::Bool,
        DType::Str,
        DType::C64,
        DType::C128,
    ];

    /// The type of that name.
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.name() == name)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
