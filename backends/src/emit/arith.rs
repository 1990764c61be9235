//! Builder methods that compute. Where one operand of an elementwise operation is a vector and another a scalar of its element
//! type, the scalar is broadcast.

use super::build::KernelBuilder;
use super::op::{Bin, Cmp, Convert, Flavor, Op, Un};
use super::types::{Scalar, Ty, Val};

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident: $int:expr, $float:expr;)*) => {$(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(&mut self, a: Val, b: Val) -> Val {
            self.binary(stringify!($name), $int, $float, a, b)
        }
    )*};
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident: $op:expr;)*) => {$(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(&mut self, a: Val) -> Val {
            assert!(a.ty().is_float(), "{} of {}", stringify!($name), a.ty());
            self.push1(Op::Un($op), vec![a], a.ty())
        }
    )*};
}

macro_rules! compare {
    ($($(#[$doc:meta])* $name:ident: $op:expr;)*) => {$(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(&mut self, a: Val, b: Val) -> Val {
            self.cmp($op, a, b)
        }
    )*};
}

const NONE: Option<Bin> = None;

const fn is(op: Bin) -> Option<Bin> {
    Some(op)
}

impl KernelBuilder {
    binary! {
        add: is(Bin::Add), is(Bin::Add);
        sub: is(Bin::Sub), is(Bin::Sub);
        mul: is(Bin::Mul), is(Bin::Mul);
        /// Quotient; of integers signed and towards zero.
        div: is(Bin::DivS), is(Bin::Div);
        udiv: is(Bin::DivU), NONE;
        /// Remainder with the sign of `a`.
        rem: is(Bin::RemS), NONE;
        urem: is(Bin::RemU), NONE;
        /// `a < b ? a : b` (signed); one instruction for floats too, with `b` as the result where either is a NaN.
        min: is(Bin::MinS), is(Bin::Min);
        /// `a > b ? a : b` (signed); one instruction for floats too, with `b` as the result where either is a NaN.
        max: is(Bin::MaxS), is(Bin::Max);
        /// Minimum of floats that is a NaN where either is one, and takes -0 as less than 0.
        min_nan: NONE, is(Bin::MinNan);
        /// Maximum of floats that is a NaN where either is one, and takes -0 as less than 0.
        max_nan: NONE, is(Bin::MaxNan);
        umin: is(Bin::MinU), NONE;
        umax: is(Bin::MaxU), NONE;
        and: is(Bin::And), NONE;
        or: is(Bin::Or), NONE;
        xor: is(Bin::Xor), NONE;
        /// Shifts by less than the width; more is undefined.
        shl: is(Bin::Shl), NONE;
        /// Logical shift right.
        shr: is(Bin::ShrU), NONE;
        /// Arithmetic shift right.
        sar: is(Bin::ShrS), NONE;
    }

    unary! {
        sqrt: Un::Sqrt;
        floor: Un::Floor;
        ceil: Un::Ceil;
        /// To the nearest integer, ties to even.
        round_even: Un::RoundEven;
    }

    compare! {
        eq: Cmp::Eq;
        /// Different; true for a NaN.
        ne: Cmp::Ne;
        /// Signed; false for a NaN.
        lt: Cmp::Lt;
        le: Cmp::Le;
        gt: Cmp::Gt;
        ge: Cmp::Ge;
        /// Unsigned.
        ult: Cmp::ULt;
        ule: Cmp::ULe;
        ugt: Cmp::UGt;
        uge: Cmp::UGe;
    }

    #[track_caller]
    fn binary(&mut self, name: &str, int: Option<Bin>, float: Option<Bin>, a: Val, b: Val) -> Val {
        let (a, b) = self.alike(a, b);
        let bin = if a.ty().is_float() { float } else { int };
        let bin = bin.unwrap_or_else(|| panic!("{name} of {}", a.ty()));
        match self.fold(bin, a, b) {
            Some(val) => val,
            None => self.push1(Op::Bin(bin), vec![a, b], a.ty()),
        }
    }

    /// Address arithmetic on constants leaves no instruction.
    fn fold(&mut self, bin: Bin, a: Val, b: Val) -> Option<Val> {
        let value = match (bin, self.known(a), self.known(b)) {
            (Bin::Add, Some(x), Some(y)) => x.wrapping_add(y),
            (Bin::Sub, Some(x), Some(y)) => x.wrapping_sub(y),
            (Bin::Mul, Some(x), Some(y)) => x.wrapping_mul(y),
            (Bin::DivS, Some(x), Some(y)) => x.checked_div(y)?,
            (Bin::RemS, Some(x), Some(y)) => x.checked_rem(y)?,
            (Bin::MinS, Some(x), Some(y)) => x.min(y),
            (Bin::MaxS, Some(x), Some(y)) => x.max(y),
            (Bin::Mul, _, Some(0)) | (Bin::Mul, Some(0), _) => 0,
            (Bin::Add | Bin::Sub, _, Some(0)) | (Bin::Mul | Bin::DivS, _, Some(1)) => return Some(a),
            (Bin::Add, Some(0), _) | (Bin::Mul, Some(1), _) => return Some(b),
            _ => return None,
        };
        Some(self.i64(value))
    }

    #[track_caller]
    pub(super) fn alike(&mut self, a: Val, b: Val) -> (Val, Val) {
        let (a, b) = match (a.ty(), b.ty()) {
            (Ty::Vec(n, s), Ty::Scalar(t)) if s == t => (a, self.splat(b, n)),
            (Ty::Scalar(s), Ty::Vec(n, t)) if s == t => (self.splat(a, n), b),
            _ => (a, b),
        };
        assert!(a.ty() == b.ty() && !a.ty().is_ptr() && a.ty() != Ty::Tile, "operands {} and {}", a.ty(), b.ty());
        (a, b)
    }

    /// `a * b + c`, rounded once.
    #[track_caller]
    pub fn fma(&mut self, a: Val, b: Val, c: Val) -> Val {
        let (a, b) = self.alike(a, b);
        let (a, c) = self.alike(a, c);
        let (a, b) = self.alike(a, b);
        assert!(a.ty().is_float(), "fma of {}", a.ty());
        self.push1(Op::Fma, vec![a, b, c], a.ty())
    }

    #[track_caller]
    pub fn cmp(&mut self, cmp: Cmp, a: Val, b: Val) -> Val {
        let (a, b) = self.alike(a, b);
        let float = a.ty().is_float();
        let fits = match cmp {
            Cmp::ULt | Cmp::ULe | Cmp::UGt | Cmp::UGe => !float,
            Cmp::Nan => float,
            _ => true,
        };
        assert!(fits, "{cmp:?} of {}", a.ty());
        self.push1(Op::Cmp(cmp), vec![a, b], a.ty().with(Scalar::I1))
    }

    #[track_caller]
    pub fn is_nan(&mut self, a: Val) -> Val {
        self.cmp(Cmp::Nan, a, a)
    }

    /// `cond ? a : b`, per lane where `cond` is a vector. An `i1` chooses between values of any type, pointers included.
    #[track_caller]
    pub fn select(&mut self, cond: Val, a: Val, b: Val) -> Val {
        let (mut a, mut b) = (a, b);
        if let Ty::Vec(n, Scalar::I1) = cond.ty() {
            for v in [&mut a, &mut b] {
                if matches!(v.ty(), Ty::Scalar(_)) {
                    *v = self.splat(*v, n);
                }
            }
            assert_eq!(a.lanes(), n, "lanes of a selection");
        } else {
            assert_eq!(cond.ty(), Ty::I1, "condition");
            if a.ty() != b.ty() {
                (a, b) = self.alike(a, b);
            }
        }
        assert_eq!(a.ty(), b.ty(), "operands of a selection");
        self.push1(Op::Select, vec![cond, a, b], a.ty())
    }

    #[track_caller]
    pub fn neg(&mut self, a: Val) -> Val {
        if a.ty().is_float() {
            return self.push1(Op::Un(Un::Neg), vec![a], a.ty());
        }
        let zero = self.zero(a.ty());
        self.sub(zero, a)
    }

    #[track_caller]
    pub fn abs(&mut self, a: Val) -> Val {
        if a.ty().is_float() {
            return self.push1(Op::Un(Un::Abs), vec![a], a.ty());
        }
        let minus = self.neg(a);
        self.max(a, minus)
    }

    /// All bits of an integer flipped; of an `i1`, its negation.
    #[track_caller]
    pub fn not(&mut self, a: Val) -> Val {
        let ones = self.int(a.ty(), -1);
        self.xor(a, ones)
    }

    #[track_caller]
    pub fn popcount(&mut self, a: Val) -> Val {
        assert!(a.ty().is_int(), "popcount of {}", a.ty());
        self.push1(Op::Un(Un::Popcount), vec![a], a.ty())
    }

    /// `a` divided by `b`, rounded up; both positive.
    #[track_caller]
    pub fn ceil_div(&mut self, a: Val, b: i64) -> Val {
        let (up, b) = (self.int(a.ty(), b - 1), self.int(a.ty(), b));
        let sum = self.add(a, up);
        self.div(sum, b)
    }

    // Conversions keep the number of lanes.

    #[track_caller]
    fn convert(&mut self, convert: Convert, a: Val, to: Scalar, fits: bool) -> Val {
        assert!(fits, "{convert:?} from {} to {}", a.ty(), to.name());
        self.push1(Op::Convert(convert), vec![a], a.ty().with(to))
    }

    /// Widens a signed integer.
    #[track_caller]
    pub fn sext(&mut self, a: Val, to: Scalar) -> Val {
        self.convert(Convert::SignExtend, a, to, a.ty().is_int() && !to.is_float() && to.bits() > a.elem().bits())
    }

    /// Widens an unsigned integer, or a boolean.
    #[track_caller]
    pub fn zext(&mut self, a: Val, to: Scalar) -> Val {
        self.convert(Convert::ZeroExtend, a, to, a.ty().is_int() && !to.is_float() && to.bits() > a.elem().bits())
    }

    /// Narrows an integer to its low bits.
    #[track_caller]
    pub fn trunc(&mut self, a: Val, to: Scalar) -> Val {
        self.convert(Convert::Truncate, a, to, a.ty().is_int() && !to.is_float() && to.bits() < a.elem().bits())
    }

    /// A signed integer as a float.
    #[track_caller]
    pub fn to_float(&mut self, a: Val, to: Scalar) -> Val {
        self.convert(Convert::SignedToFloat, a, to, a.ty().is_int() && matches!(to, Scalar::F32 | Scalar::F64))
    }

    /// An unsigned integer as a float.
    #[track_caller]
    pub fn unsigned_to_float(&mut self, a: Val, to: Scalar) -> Val {
        self.convert(Convert::UnsignedToFloat, a, to, a.ty().is_int() && matches!(to, Scalar::F32 | Scalar::F64))
    }

    /// A float as a signed integer, towards zero. Clamp first: out of range is undefined.
    #[track_caller]
    pub fn to_int(&mut self, a: Val, to: Scalar) -> Val {
        self.convert(Convert::FloatToSigned, a, to, matches!(a.elem(), Scalar::F32 | Scalar::F64) && !to.is_float())
    }

    /// A float as an unsigned integer, towards zero. Clamp first: out of range is undefined.
    #[track_caller]
    pub fn to_unsigned(&mut self, a: Val, to: Scalar) -> Val {
        self.convert(Convert::FloatToUnsigned, a, to, matches!(a.elem(), Scalar::F32 | Scalar::F64) && !to.is_float())
    }

    /// A float as another float type, to nearest even; the same value where the type is the same.
    #[track_caller]
    pub fn to_float_type(&mut self, a: Val, to: Scalar) -> Val {
        let from = a.elem();
        if from == to {
            return a;
        }
        let native = self.requires("avx512bf16") || self.flavor() == Flavor::Gpu;
        match (from, to) {
            (Scalar::BF16, Scalar::F32) => self.extend_bf16(a),
            (Scalar::F32, Scalar::BF16) if !native => self.round_bf16(a),
            (Scalar::F16 | Scalar::F32, Scalar::F32 | Scalar::F64) => {
                self.convert(Convert::Extend, a, to, to.bits() > from.bits())
            }
            (Scalar::F32 | Scalar::F64, Scalar::F32 | Scalar::F16 | Scalar::BF16) => {
                self.convert(Convert::Round, a, to, from == Scalar::F32 || to == Scalar::F32)
            }
            _ => panic!("conversion from {} to {}", from.name(), to.name()),
        }
    }

    fn extend_bf16(&mut self, a: Val) -> Val {
        let wide = a.ty().with(Scalar::I32);
        let bits = self.bitcast(a, a.ty().with(Scalar::I16));
        let (bits, places) = (self.zext(bits, Scalar::I32), self.int(wide, 16));
        let bits = self.shl(bits, places);
        self.bitcast(bits, a.ty().with(Scalar::F32))
    }

    fn round_bf16(&mut self, a: Val) -> Val {
        let wide = a.ty().with(Scalar::I32);
        let bits = self.bitcast(a, wide);
        let (places, one, half, quiet) =
            (self.int(wide, 16), self.int(wide, 1), self.int(wide, 0x7fff), self.int(wide, 0x40));
        let high = self.shr(bits, places);
        let odd = self.and(high, one);
        let up = self.add(bits, half);
        let up = self.add(up, odd);
        let up = self.shr(up, places);
        let (nan, quiet) = (self.is_nan(a), self.or(high, quiet));
        let bits = self.select(nan, quiet, up);
        let bits = self.trunc(bits, Scalar::I16);
        self.bitcast(bits, a.ty().with(Scalar::BF16))
    }

    /// The same bits as another type.
    #[track_caller]
    pub fn bitcast(&mut self, a: Val, ty: Ty) -> Val {
        if a.ty() == ty {
            return a;
        }
        let bits = |t: Ty| t.lanes() * t.elem().bits();
        assert!(bits(a.ty()) == bits(ty), "bitcast from {} to {ty}", a.ty());
        self.push1(Op::Bitcast, vec![a], ty)
    }

    // Lanes.

    /// The scalar in `lanes` lanes.
    #[track_caller]
    pub fn splat(&mut self, a: Val, lanes: u32) -> Val {
        assert!(matches!(a.ty(), Ty::Scalar(_)), "splat of {}", a.ty());
        match self.constant_bits(a) {
            _ if lanes == 1 => a,
            Some(bits) => self.constant(a.elem().x(lanes), vec![bits]),
            None => self.push1(Op::Splat, vec![a], a.elem().x(lanes)),
        }
    }

    #[track_caller]
    pub fn extract(&mut self, v: Val, lane: u32) -> Val {
        assert!(lane < v.lanes(), "lane {lane} of {}", v.ty());
        if v.lanes() == 1 { v } else { self.push1(Op::Extract(lane), vec![v], Ty::Scalar(v.elem())) }
    }

    /// `v` with one lane replaced.
    #[track_caller]
    pub fn insert(&mut self, scalar: Val, v: Val, lane: u32) -> Val {
        assert!(lane < v.lanes() && scalar.ty() == Ty::Scalar(v.elem()), "insert {} in {}", scalar.ty(), v.ty());
        self.push1(Op::Insert(lane), vec![scalar, v], v.ty())
    }

    /// Lanes of `a` followed by `b`, picked by number.
    #[track_caller]
    pub fn shuffle(&mut self, a: Val, b: Val, lanes: &[u32]) -> Val {
        assert!(a.ty() == b.ty() && matches!(a.ty(), Ty::Vec(..)), "shuffle of {} and {}", a.ty(), b.ty());
        assert!(lanes.len() > 1 && lanes.iter().all(|&l| l < 2 * a.lanes()), "shuffle of {} by {lanes:?}", a.ty());
        self.push1(Op::Shuffle(lanes.to_vec()), vec![a, b], a.elem().x(lanes.len() as u32))
    }

    /// Lanes `first..first + count` of `v`.
    #[track_caller]
    pub fn slice(&mut self, v: Val, first: u32, count: u32) -> Val {
        if count == 1 {
            return self.extract(v, first);
        }
        if first == 0 && count == v.lanes() {
            return v;
        }
        self.shuffle(v, v, &(first..first + count).collect::<Vec<_>>())
    }

    /// The lanes of `a`, then those of `b`.
    #[track_caller]
    pub fn concat(&mut self, a: Val, b: Val) -> Val {
        self.shuffle(a, b, &(0..2 * a.lanes()).collect::<Vec<_>>())
    }

    /// Combines the lanes pairwise, halves at a time, so that the order is the same everywhere. Lanes: a power of two.
    #[track_caller]
    pub fn reduce(&mut self, v: Val, combine: impl Fn(&mut Self, Val, Val) -> Val) -> Val {
        let mut v = v;
        assert!(v.lanes().is_power_of_two(), "reduction of {}", v.ty());
        while v.lanes() > 1 {
            let half = v.lanes() / 2;
            let (low, high) = (self.slice(v, 0, half), self.slice(v, half, half));
            v = combine(self, low, high);
        }
        v
    }

    #[track_caller]
    pub fn reduce_add(&mut self, v: Val) -> Val {
        self.reduce(v, Self::add)
    }

    #[track_caller]
    pub fn reduce_max(&mut self, v: Val) -> Val {
        self.reduce(v, Self::max)
    }

    #[track_caller]
    pub fn reduce_min(&mut self, v: Val) -> Val {
        self.reduce(v, Self::min)
    }
}
