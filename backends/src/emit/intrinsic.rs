//! Instructions of particular processors: their types, names in LLVM and the features that they need.

use super::types::{Scalar, Ty};

/// Which operands of a tile product are signed, or that they are bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dot {
    SS,
    SU,
    US,
    UU,
    Bf16,
}

/// A coordinate of a GPU thread or block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Axis {
    X,
    Y,
    Z,
}

/// A machine instruction with exact semantics; operands in parentheses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Intrinsic {
    /// (acc `16xi32`, unsigned `64xi8`, signed `64xi8`): adds four products to each lane, wrapping.
    Vpdpbusd512,
    /// (acc `8xi32`, unsigned `32xi8`, signed `32xi8`)
    Vpdpbusd256,
    /// (`16xi16`, `16xi16`) -> `8xi32`: sums of two neighbouring products.
    Vpmaddwd256,
    /// (`32xi16`, `32xi16`) -> `16xi32`
    Vpmaddwd512,
    /// (unsigned `32xi8`, signed `32xi8`) -> `16xi16`: sums of two neighbouring products, saturating.
    Vpmaddubsw256,
    /// (unsigned `64xi8`, signed `64xi8`) -> `32xi16`
    Vpmaddubsw512,
    /// (acc `16xf32`, `32xbf16`, `32xbf16`): each lane gains two products; denormals are zero.
    Vdpbf16ps512,
    /// (table `8xf32`, index `8xi32`) -> `8xf32`: low 3 bits of each index.
    Vpermps256,
    /// (table `16xf32`, index `16xi32`) -> `16xf32`: low 4 bits of each index.
    Vpermps512,
    /// (packed `16xf32`, other `16xf32`, mask `16xi1`) -> `16xf32`: lanes that are on take the next of `packed`, others keep `other`'s.
    Vexpandps512,
    /// (table `32xi8`, index `32xi8`) -> `32xi8`: per 16-byte half, low 4 bits; zero where the index is negative.
    Vpshufb256,
    /// (table `64xi8`, index `64xi8`) -> `64xi8`: per 16-byte quarter.
    Vpshufb512,
    /// () -> tile of zeros.
    TileZero {
        rows: u16,
        row_bytes: u16,
    },
    /// (pointer, i64 bytes from row to row) -> tile
    TileLoad {
        rows: u16,
        row_bytes: u16,
    },
    /// (pointer, i64 bytes from row to row, tile)
    TileStore {
        rows: u16,
        row_bytes: u16,
    },
    /// (acc tile `rows x row_bytes`, a tile `rows x depth_bytes`, b tile `depth_bytes/4 x row_bytes`) -> tile
    TileDot {
        dot: Dot,
        rows: u16,
        row_bytes: u16,
        depth_bytes: u16,
    },
    /// () -> i32
    ThreadId(Axis),
    /// () -> i32
    BlockId(Axis),
    /// (): all threads of the block meet.
    Barrier,
    /// (4 i32 of bf16 pairs, 2 i32 of bf16 pairs, 4 f32) -> 4 f32: one 16x8x16 product of a warp.
    MmaBf16,
    /// (shared pointer) -> 4 i32: four 8x8 matrices of 16-bit elements.
    LdMatrix {
        transpose: bool,
    },
    /// (shared pointer, pointer, i32 bytes to read): copies 16 bytes asynchronously, zeros past those read.
    CpAsync,
    CpAsyncCommit,
    /// Waits until at most so many groups are pending.
    CpAsyncWait(u8),
}

const fn v(n: u32, s: Scalar) -> Ty {
    Ty::Vec(n, s)
}

impl Intrinsic {
    /// Types of the operands and of the results.
    pub fn signature(self) -> (Vec<Ty>, Vec<Ty>) {
        use Scalar::*;
        let vnni = |n| (vec![v(n, I32), v(n * 4, I8), v(n * 4, I8)], vec![v(n, I32)]);
        let same = |a, b, r| (vec![a, b], vec![r]);
        match self {
            Intrinsic::Vpdpbusd512 => vnni(16),
            Intrinsic::Vpdpbusd256 => vnni(8),
            Intrinsic::Vpmaddwd256 => same(v(16, I16), v(16, I16), v(8, I32)),
            Intrinsic::Vpmaddwd512 => same(v(32, I16), v(32, I16), v(16, I32)),
            Intrinsic::Vpmaddubsw256 => same(v(32, I8), v(32, I8), v(16, I16)),
            Intrinsic::Vpmaddubsw512 => same(v(64, I8), v(64, I8), v(32, I16)),
            Intrinsic::Vdpbf16ps512 => (vec![v(16, F32), v(32, BF16), v(32, BF16)], vec![v(16, F32)]),
            Intrinsic::Vpermps256 => same(v(8, F32), v(8, I32), v(8, F32)),
            Intrinsic::Vpermps512 => same(v(16, F32), v(16, I32), v(16, F32)),
            Intrinsic::Vexpandps512 => (vec![v(16, F32), v(16, F32), v(16, I1)], vec![v(16, F32)]),
            Intrinsic::Vpshufb256 => same(v(32, I8), v(32, I8), v(32, I8)),
            Intrinsic::Vpshufb512 => same(v(64, I8), v(64, I8), v(64, I8)),
            Intrinsic::TileZero { .. } => (vec![], vec![Ty::Tile]),
            Intrinsic::TileLoad { .. } => (vec![Ty::Ptr, Ty::I64], vec![Ty::Tile]),
            Intrinsic::TileStore { .. } => (vec![Ty::Ptr, Ty::I64, Ty::Tile], vec![]),
            Intrinsic::TileDot { .. } => (vec![Ty::Tile; 3], vec![Ty::Tile]),
            Intrinsic::ThreadId(_) | Intrinsic::BlockId(_) => (vec![], vec![Ty::I32]),
            Intrinsic::Barrier | Intrinsic::CpAsyncCommit | Intrinsic::CpAsyncWait(_) => (vec![], vec![]),
            Intrinsic::MmaBf16 => ([vec![Ty::I32; 6], vec![Ty::F32; 4]].concat(), vec![Ty::F32; 4]),
            Intrinsic::LdMatrix { .. } => (vec![Ty::Shared], vec![Ty::I32; 4]),
            Intrinsic::CpAsync => (vec![Ty::Shared, Ty::Ptr, Ty::I32], vec![]),
        }
    }

    /// CPU features by LLVM's names; none for GPU instructions.
    pub fn features(self) -> &'static [&'static str] {
        match self {
            Intrinsic::Vpdpbusd512 => &["avx512f", "avx512vnni"],
            Intrinsic::Vpdpbusd256 => &["avx512f", "avx512vl", "avx512vnni"],
            Intrinsic::Vpmaddwd256 | Intrinsic::Vpmaddubsw256 | Intrinsic::Vpermps256 | Intrinsic::Vpshufb256 => {
                &["avx2"]
            }
            Intrinsic::Vpmaddwd512 | Intrinsic::Vpmaddubsw512 | Intrinsic::Vpshufb512 => &["avx512f", "avx512bw"],
            Intrinsic::Vdpbf16ps512 => &["avx512f", "avx512bf16"],
            Intrinsic::Vpermps512 | Intrinsic::Vexpandps512 => &["avx512f"],
            Intrinsic::TileZero { .. } | Intrinsic::TileLoad { .. } | Intrinsic::TileStore { .. } => &["amx-tile"],
            Intrinsic::TileDot { dot: Dot::Bf16, .. } => &["amx-tile", "amx-bf16"],
            Intrinsic::TileDot { .. } => &["amx-tile", "amx-int8"],
            _ => &[],
        }
    }

    /// Whether the instruction does more than compute its results.
    pub fn has_effect(self) -> bool {
        self.signature().1.is_empty()
    }

    /// The LLVM intrinsic, where there is exactly one.
    pub fn llvm(self) -> &'static str {
        match self {
            Intrinsic::Vpdpbusd512 => "llvm.x86.avx512.vpdpbusd.512",
            Intrinsic::Vpdpbusd256 => "llvm.x86.avx512.vpdpbusd.256",
            Intrinsic::Vpmaddwd256 => "llvm.x86.avx2.pmadd.wd",
            Intrinsic::Vpmaddwd512 => "llvm.x86.avx512.pmaddw.d.512",
            Intrinsic::Vpmaddubsw256 => "llvm.x86.avx2.pmadd.ub.sw",
            Intrinsic::Vpmaddubsw512 => "llvm.x86.avx512.pmaddubs.w.512",
            Intrinsic::Vdpbf16ps512 => "llvm.x86.avx512bf16.dpbf16ps.512",
            Intrinsic::Vpermps256 => "llvm.x86.avx2.permps",
            Intrinsic::Vpermps512 => "llvm.x86.avx512.permvar.sf.512",
            Intrinsic::Vexpandps512 => "llvm.x86.avx512.mask.expand",
            Intrinsic::Vpshufb256 => "llvm.x86.avx2.pshuf.b",
            Intrinsic::Vpshufb512 => "llvm.x86.avx512.pshuf.b.512",
            Intrinsic::TileZero { .. } => "llvm.x86.tilezero.internal",
            Intrinsic::TileLoad { .. } => "llvm.x86.tileloadd64.internal",
            Intrinsic::TileStore { .. } => "llvm.x86.tilestored64.internal",
            Intrinsic::TileDot { dot, .. } => match dot {
                Dot::SS => "llvm.x86.tdpbssd.internal",
                Dot::SU => "llvm.x86.tdpbsud.internal",
                Dot::US => "llvm.x86.tdpbusd.internal",
                Dot::UU => "llvm.x86.tdpbuud.internal",
                Dot::Bf16 => "llvm.x86.tdpbf16ps.internal",
            },
            Intrinsic::ThreadId(Axis::X) => "llvm.nvvm.read.ptx.sreg.tid.x",
            Intrinsic::ThreadId(Axis::Y) => "llvm.nvvm.read.ptx.sreg.tid.y",
            Intrinsic::ThreadId(Axis::Z) => "llvm.nvvm.read.ptx.sreg.tid.z",
            Intrinsic::BlockId(Axis::X) => "llvm.nvvm.read.ptx.sreg.ctaid.x",
            Intrinsic::BlockId(Axis::Y) => "llvm.nvvm.read.ptx.sreg.ctaid.y",
            Intrinsic::BlockId(Axis::Z) => "llvm.nvvm.read.ptx.sreg.ctaid.z",
            Intrinsic::Barrier => "llvm.nvvm.barrier0",
            Intrinsic::MmaBf16 => "llvm.nvvm.mma.m16n8k16.row.col.bf16",
            Intrinsic::LdMatrix { transpose: false } => "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.b16.p3",
            Intrinsic::LdMatrix { transpose: true } => "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.trans.b16.p3",
            Intrinsic::CpAsync => "llvm.nvvm.cp.async.cg.shared.global.16.s",
            Intrinsic::CpAsyncCommit => "llvm.nvvm.cp.async.commit.group",
            Intrinsic::CpAsyncWait(_) => "llvm.nvvm.cp.async.wait.group",
        }
    }
}
