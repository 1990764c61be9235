//! Constant weights that stay encoded: what products keep of a `decode` expression, and how they read it.
//!
//! A weight is codes of 2 to 8 bits, decoded to floats by a scale, zero points or a table. Its panels hold the codes ([`panels`]); the micro-kernels decode them in
//! registers, or once into scratch where many rows follow ([`decode`]). A scale for each column, or one for all, is applied to finished sums; scales in groups along
//! K lie in the panels before the codes of their group.
//!
//! Where rows are codes too, neither is decoded ([`codes`]).
//!
//! A weight of which only a part is stored has masks in its panels, and its values beside them ([`sparse`]); these may be codes or floats.
//!
//! Invariant: what is computed equals the evaluation of the expression up to the rounding of floats; codes and zero points are exact.

pub mod codes;
pub mod decode;
pub mod panels;
mod source;
pub mod sparse;

#[cfg(test)]
mod tests;

use super::gemm::block::Finish;
use super::pack::{Matrix, PANEL};
use crate::emit::{Scalar, Val};
use crate::kernel::{GroupCx, LaunchBuilder};
use source::Source;
use sparse::Sparse;
use tersor_ir::{DType, Tensor, ValueId};

/// How a panel of codes is laid out and decoded.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Format {
    /// Rows of the weight.
    pub k: i64,
    /// Bits of a code, or of a value that is stored as it is.
    pub bits: u32,
    /// Elements of a column that share what stands before their codes; `k` where nothing does or all do.
    pub group: i64,
    /// The type of the scales before each group.
    pub scale: Option<Scalar>,
    /// Whether zero points stand before each group, as `i8`.
    pub zero: bool,
    /// Whether codes are numbers of table entries; they are two's complement otherwise.
    pub table: bool,
    /// Where only a part is stored: panels hold masks then.
    pub sparse: Option<Sparse>,
}

/// The widths of the parts that a code is stored in, the most significant first.
pub fn planes(bits: u32) -> &'static [u32] {
    match bits {
        8 => &[8],
        6 => &[4, 2],
        5 => &[4, 1],
        4 => &[4],
        3 => &[2, 1],
        2 => &[2],
        _ => &[],
    }
}

impl Format {
    /// Codes of a column that are stored together.
    pub fn unit(&self) -> i64 {
        if let Some(s) = self.sparse {
            return s.unit();
        }
        i64::from(32 / planes(self.bits).last().copied().unwrap_or(8))
    }
    /// Bytes of a unit of sixteen columns.
    pub fn unit_bytes(&self) -> i64 {
        if let Some(s) = self.sparse {
            return s.unit() / s.run * Sparse::MASK_BYTES;
        }
        self.unit() * i64::from(self.bits) * PANEL as i64 / 8
    }
    /// Whether anything stands before the codes of a group.
    pub fn grouped(&self) -> bool {
        self.scale.is_some() || self.zero
    }
    /// Rows of a panel may be cut at multiples of this.
    pub fn chunk(&self) -> i64 {
        match self.sparse {
            _ if self.grouped() => self.group,
            Some(_) => Sparse::CHUNK,
            None => self.unit(),
        }
    }
    /// Bytes before the codes of a chunk.
    pub fn head_bytes(&self) -> i64 {
        let scale = self.scale.map_or(0, |s| i64::from(s.bytes()));
        let first = if self.sparse.is_some() { Sparse::FIRST_BYTES } else { 0 };
        (scale + i64::from(self.zero)) * PANEL as i64 + first
    }
    /// Bytes of a chunk.
    pub fn chunk_bytes(&self) -> i64 {
        self.head_bytes() + (self.chunk() + self.unit() - 1) / self.unit() * self.unit_bytes()
    }
    /// Bytes of a panel.
    pub fn panel_bytes(&self) -> i64 {
        let rest = self.k % self.chunk();
        let tail =
            if rest == 0 { 0 } else { self.head_bytes() + (rest + self.unit() - 1) / self.unit() * self.unit_bytes() };
        self.k / self.chunk() * self.chunk_bytes() + tail
    }
    /// The layout's name in artifacts.
    pub fn name(&self) -> String {
        let scale = self.scale.map_or(String::new(), |s| format!(" {}", s.name()));
        let zero = if self.zero { " i8" } else { "" };
        let head = if self.grouped() { format!(" group {}{scale}{zero}", self.group) } else { String::new() };
        if let Some(s) = self.sparse {
            let kind = s.float.map_or_else(|| format!("i{}", self.bits), |f| f.name().into());
            return format!("sparse {kind}{head} [N/16][K/{}] run {}", self.chunk(), s.run);
        }
        let kind = if self.table { "u" } else { "i" };
        format!("{kind}{}{head} [N/16][K/{}][16][{}]", self.bits, self.unit(), self.unit())
    }
}

/// A constant weight of a product in its encoding.
#[derive(Debug)]
pub struct Encoded {
    /// The layout of `panels`.
    pub format: Format,
    /// Bytes of all panels, group after group.
    pub panels: Tensor,
    /// What panels refer to: the entries that codes stand for, or the values that are stored of a sparse weight.
    pub table: Option<Tensor>,
    /// What sums are multiplied by: one for each column through all groups, with 16 more, or one.
    pub factors: Option<Tensor>,
    /// Whether codes less their zero points fit an `i8`.
    pub narrow: bool,
}

impl Encoded {
    /// The encoding of a weight that is a `decode` of constants, where products can keep it.
    pub fn of(cx: &GroupCx, w: ValueId, m: &Matrix) -> Option<Encoded> {
        matches!(cx.ty(w).dtype, DType::F32 | DType::F16 | DType::BF16).then_some(())?;
        let source = Source::of(cx, w)?;
        let elements = m.groups * m.k * m.n;
        let most = match source.keep {
            Some(_) => elements * cx.ty(w).dtype.bits() as usize / 8,
            None => elements * 3,
        };
        panels::encode(&source, m).filter(|e| e.bytes() < most)
    }

    /// Bytes that the artifact holds.
    pub fn bytes(&self) -> usize {
        self.panels.bytes().len() + self.table.as_ref().map_or(0, |t| t.bytes().len())
    }

    /// The table, or the values, as an operand.
    pub fn lookup(&self, b: &mut LaunchBuilder) -> Option<Val> {
        let layout = if self.format.sparse.is_some() { "values" } else { "f32" };
        self.table.as_ref().map(|t| b.packed(format!("{layout} [{}]", t.len()), t.clone()))
    }

    /// An epilogue on sums that `factors` multiply first.
    pub fn finish<'a>(&self, b: &mut LaunchBuilder, then: &'a Finish<'a>) -> Box<Finish<'a>> {
        let Some(factors) = self.factors.clone() else { return Box::new(then) };
        let each = factors.len() > 1;
        let at = b.packed("f32 [N]", factors);
        Box::new(move |b: &mut LaunchBuilder, sums, row, column, count| {
            let ty = Scalar::F32;
            let factor = if each {
                let from = b.elem(at, column, ty);
                b.load(from, ty.x(PANEL as u32))
            } else {
                b.load(at, ty.x(1))
            };
            let sums = b.mul(sums, factor);
            then(b, sums, row, column, count);
        })
    }
}
