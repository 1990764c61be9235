//! What a kernel consists of: typed instructions in nested blocks.

use super::intrinsic::Intrinsic;
use super::types::{Ty, Val};
use std::collections::BTreeSet;

/// Operations on two values of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bin {
    Add,
    Sub,
    Mul,
    /// Division of floats.
    Div,
    DivS,
    DivU,
    RemS,
    RemU,
    /// `a < b ? a : b` on floats: the second operand where either is a NaN.
    Min,
    /// `a > b ? a : b` on floats: the second operand where either is a NaN.
    Max,
    /// Minimum of floats, a NaN where either is one.
    MinNan,
    /// Maximum of floats, a NaN where either is one.
    MaxNan,
    MinS,
    MaxS,
    MinU,
    MaxU,
    And,
    Or,
    Xor,
    Shl,
    ShrU,
    ShrS,
}

/// Operations on one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Un {
    /// Negation of floats.
    Neg,
    Abs,
    Sqrt,
    Floor,
    Ceil,
    RoundEven,
    /// Number of ones among the bits of an integer.
    Popcount,
}

/// Comparisons. The first six are signed on integers and ordered on floats, but for `Ne`, true when either is a NaN, as in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    ULt,
    ULe,
    UGt,
    UGe,
    /// Either float is a NaN.
    Nan,
}

/// Element conversions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Convert {
    SignExtend,
    ZeroExtend,
    /// Keeps the low bits.
    Truncate,
    /// To a wider float.
    Extend,
    /// To a narrower float, to nearest even.
    Round,
    SignedToFloat,
    UnsignedToFloat,
    /// Towards zero; undefined outside the range of the result.
    FloatToSigned,
    FloatToUnsigned,
}

/// One operation with its attributes. Comments name the operands in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// pointer; a pinned load is done where it stands, each time
    Load {
        align: u32,
        pinned: bool,
    },
    /// value, pointer
    Store {
        align: u32,
    },
    /// pointer, mask, value of the lanes that are off
    MaskedLoad {
        align: u32,
    },
    /// value, pointer, mask
    MaskedStore {
        align: u32,
    },
    /// pointer, byte offsets, mask, value of the lanes that are off
    Gather,
    /// pointer; `locality` runs from 0 (read once) to 3 (keep in L1)
    Prefetch {
        write: bool,
        locality: u8,
    },
    /// pointer, byte offset
    Gep,
    /// scalar
    Splat,
    /// vector
    Extract(u32),
    /// scalar, vector
    Insert(u32),
    /// two vectors of one type; lane numbers of their concatenation
    Shuffle(Vec<u32>),
    /// value of as many bits
    Bitcast,
    Bin(Bin),
    Un(Un),
    /// a, b, c: `a * b + c` rounded once
    Fma,
    Cmp(Cmp),
    /// condition, value when true, value when false
    Select,
    Convert(Convert),
    /// low, high, step, initial values; one region: induction variable and carried values
    For,
    /// condition; two regions
    If,
    Intrinsic(Intrinsic),
}

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Inst {
    pub op: Op,
    pub args: Vec<Val>,
    pub results: Vec<Val>,
    pub regions: Vec<Block>,
}

/// Instructions in order, with the values that come in and those handed out at the end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    pub params: Vec<Val>,
    pub insts: Vec<Inst>,
    pub yields: Vec<Val>,
}

/// An operand of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Arg {
    pub name: String,
    pub writable: bool,
    /// Another operand may be the same memory.
    pub aliased: bool,
    pub val: Val,
}

/// A constant: one pattern of bits per lane, or one for all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    pub val: Val,
    pub bits: Vec<u64>,
}

/// Memory of a kernel's own: a table of constants, stack or shared memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    pub val: Val,
    pub align: u32,
    pub kind: MemoryKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum MemoryKind {
    Table(Vec<u8>),
    Stack(u32),
    Shared(u32),
}

/// How a kernel is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// The kernel ABI of `ARCHITECTURE.md`.
    Cpu,
    /// A GPU entry point: operands, then extents, are its parameters.
    Gpu,
}

/// A finished kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    pub name: String,
    pub flavor: Flavor,
    pub args: Vec<Arg>,
    pub dims: Vec<(String, Val)>,
    pub scratch: Val,
    pub begin: Val,
    pub end: Val,
    pub constants: Vec<Constant>,
    pub memory: Vec<Memory>,
    pub body: Block,
    /// CPU features that the kernel cannot do without, by LLVM's names.
    pub features: BTreeSet<&'static str>,
    /// Number of values; ids are below it.
    pub values: u32,
}

impl Kernel {
    /// Calls `f` for each instruction, outer before inner.
    pub fn visit<'a>(&'a self, f: &mut dyn FnMut(&'a Inst)) {
        fn walk<'a>(block: &'a Block, f: &mut dyn FnMut(&'a Inst)) {
            for inst in &block.insts {
                f(inst);
                for region in &inst.regions {
                    walk(region, f);
                }
            }
        }
        walk(&self.body, f);
    }

    /// Whether any value has type `ty`.
    pub fn uses(&self, ty: Ty) -> bool {
        let mut found = false;
        self.visit(&mut |inst| found |= inst.results.iter().any(|v| v.ty == ty));
        found
    }
}
