//! Element types and tensor types.

use crate::dim::Dim;
use smallvec::SmallVec;
use std::fmt;

/// What a dtype holds.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum DTypeClass {
    /// IEEE and reduced floating point.
    Float,
    /// Signed integers.
    Int,
    /// Unsigned integers.
    UInt,
    /// Truth values, one byte each.
    Bool,
    /// Strings.
    Text,
    /// Complex numbers.
    Complex,
}

macro_rules! dtypes {
    ($($variant:ident $name:literal $bits:literal $class:ident;)*) => {
        /// The type of one element.
        ///
        /// The floats of at most 8 bits (`f8e4m3` is the OCP "fn" form without infinities) and the integers under 8 bits are storage types: only `decode.*`,
        /// `cast`, `bitcast` and ops that move elements take them as operands. Types under 8 bits are packed, the first element in the low bits. A
        /// string is a handle, the number of an entry of a table in which each string stands once ([`crate::string`]). Complex numbers are two floats, the
        /// real part first; they are moved, and never computed with.
        #[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum DType { $(#[doc = concat!("`", $name, "`, ", stringify!($bits), " bits.")] $variant,)* }
        impl DType {
            /// Every dtype, widest float first.
            pub const ALL: &'static [DType] = &[$(DType::$variant),*];
            /// Name in `.tir`.
            pub const fn name(self) -> &'static str { match self { $(DType::$variant => $name,)* } }
            /// Bits of one element in storage.
            pub const fn bits(self) -> u32 { match self { $(DType::$variant => $bits,)* } }
            /// Float, integer, truth value, text or complex number.
            pub const fn class(self) -> DTypeClass { match self { $(DType::$variant => DTypeClass::$class,)* } }
        }
    };
}
dtypes! {
    F64 "f64" 64 Float; F32 "f32" 32 Float; F16 "f16" 16 Float; BF16 "bf16" 16 Float;
    F8E4M3 "f8e4m3" 8 Float; F8E4M3FNUZ "f8e4m3fnuz" 8 Float; F8E5M2 "f8e5m2" 8 Float; F8E5M2FNUZ "f8e5m2fnuz" 8 Float;
    F8E8M0 "f8e8m0" 8 Float; F4E2M1 "f4e2m1" 4 Float;
    I64 "i64" 64 Int; I32 "i32" 32 Int; I16 "i16" 16 Int; I8 "i8" 8 Int;
    I6 "i6" 6 Int; I5 "i5" 5 Int; I4 "i4" 4 Int; I3 "i3" 3 Int; I2 "i2" 2 Int;
    U64 "u64" 64 UInt; U32 "u32" 32 UInt; U16 "u16" 16 UInt; U8 "u8" 8 UInt;
    U6 "u6" 6 UInt; U5 "u5" 5 UInt; U4 "u4" 4 UInt; U3 "u3" 3 UInt; U2 "u2" 2 UInt;
    Bool "bool" 8 Bool;
    Str "str" 32 Text;
    C64 "c64" 64 Complex; C128 "c128" 128 Complex;
}

impl DType {
    /// The dtype of that `.tir` name.
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.iter().copied().find(|d| d.name() == name)
    }
    /// Whether this is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self.class(), DTypeClass::Float)
    }
    /// Whether this is a signed or unsigned integer.
    pub const fn is_int(self) -> bool {
        matches!(self.class(), DTypeClass::Int | DTypeClass::UInt)
    }
    /// The type of the two parts of a complex number.
    pub const fn part(self) -> Option<DType> {
        match self {
            DType::C64 => Some(DType::F32),
            DType::C128 => Some(DType::F64),
            _ => None,
        }
    }
    /// Whether several elements share a byte.
    pub const fn is_packed(self) -> bool {
        self.bits() < 8
    }
    /// Bytes that `elements` packed elements take, `None` on overflow.
    pub fn bytes(self, elements: usize) -> Option<usize> {
        Some(elements.checked_mul(self.bits() as usize)?.div_ceil(8))
    }
    /// Smallest and largest value of an integer type.
    pub fn int_range(self) -> Option<(i128, i128)> {
        match self.class() {
            DTypeClass::Int => Some((-(1i128 << (self.bits() - 1)), (1i128 << (self.bits() - 1)) - 1)),
            DTypeClass::UInt => Some((0, (1i128 << self.bits()) - 1)),
            _ => None,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The extents of a tensor, outermost first.
pub type Shape = SmallVec<[Dim; 4]>;

/// A dtype and a shape.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// Extents; empty for a scalar.
    pub shape: Shape,
}

impl Type {
    /// A tensor type of these extents.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = impl Into<Dim>>) -> Type {
        Type { dtype, shape: shape.into_iter().map(Into::into).collect() }
    }
    /// A rank-0 tensor.
    pub fn scalar(dtype: DType) -> Type {
        Type { dtype, shape: Shape::new() }
    }
    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }
    /// The same shape with another element type.
    pub fn with_dtype(&self, dtype: DType) -> Type {
        Type { dtype, shape: self.shape.clone() }
    }
    /// The extents, when all are known.
    pub fn static_shape(&self) -> Option<Vec<usize>> {
        self.shape.iter().map(|d| d.as_const().and_then(|c| usize::try_from(c).ok())).collect()
    }
    /// Number of elements as an extent.
    pub fn elements(&self) -> Dim {
        self.shape.iter().fold(Dim::from(1), |a, d| a * d.clone())
    }
    /// Number of elements, when all extents are known.
    pub fn static_elements(&self) -> Option<usize> {
        let extent = |d: &Dim| usize::try_from(d.as_const()?).ok();
        self.shape.iter().try_fold(1usize, |n, d| n.checked_mul(extent(d)?))
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.shape.iter().enumerate() {
            write!(f, "{}{d}", if i > 0 { "," } else { "" })?;
        }
        f.write_str("]")
    }
}
