//! `MatMulNBits` of ONNX Runtime: a product with weights of 2, 4 or 8 bits in blocks along the depth.

use super::Topic;
use super::microsoft::product;
use crate::import::Meaning;
use crate::import::build::done;
use crate::import::node::NodeCx;
use crate::nbits::{CODED_ROWS, COLUMNS, rounds_rows};
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind::Add;
use tersor_ir::ops::{DecodeAffine, QuantDynamic};
use tersor_ir::{DType, Diagnostic, Dim, Tensor, ValueId};

/// How the operator stores its weight: `[N, blocks * block]` codes.
struct Weight {
    depth: usize,
    columns: usize,
    block: usize,
    /// The type of codes with a zero point, and of those whose zero point is the middle.
    types: (DType, DType),
}

impl Weight {
    fn of(cx: &NodeCx) -> Result<Weight> {
        let (k, n, bits, block) = (cx.int("K", 0), cx.int("N", 0), cx.int("bits", 4), cx.int("block_size", 0));
        let types = match bits {
            2 => (DType::U2, DType::I2),
            4 => (DType::U4, DType::I4),
            8 => (DType::U8, DType::I8),
            _ => return Err(cx.unsupported(format!("weights of {bits} bits"))),
        };
        let small = |v: i64| (1..=1 << 28).contains(&v);
        if !small(k) || !small(n) || !small(block) {
            return Err(cx.invalid(format!("a weight of {k} x {n} in blocks of {block}")));
        }
        Ok(Weight { depth: k as usize, columns: n as usize, block: block as usize, types })
    }

    fn bits(&self) -> usize {
        self.types.0.bits() as usize
    }

    fn blocks(&self) -> usize {
        self.depth.div_ceil(self.block)
    }

    fn bad(&self, cx: &NodeCx, what: &str) -> Diagnostic {
        cx.invalid(format!("{what} do not have the size of {} x {} blocks", self.columns, self.blocks()))
    }

    /// The first `count` elements of each row of `stored`: `[count, N]` with `columns`, else `[N, count]`.
    fn oriented(&self, t: &Tensor, stored: usize, count: usize, columns: bool) -> Tensor {
        let n = self.columns;
        if columns {
            let at = |i: usize| t.get_bits(i % n * stored + i / n);
            return Tensor::from_bits(t.dtype(), [count, n], (0..count * n).map(at));
        }
        if stored == count {
            return t.clone();
        }
        let at = |i: usize| t.get_bits(i / count * stored + i % count);
        Tensor::from_bits(t.dtype(), [n, count], (0..count * n).map(at))
    }

    /// Codes of a type in rows of `stored`, from packed bytes.
    fn unpacked(&self, packed: &Tensor, dtype: DType, stored: usize) -> Option<Tensor> {
        let bytes = if dtype == self.types.0 {
            packed.blob().clone()
        } else {
            // Less the middle of the range: the highest bit of each code is another.
            let top = (0..8).step_by(self.bits()).fold(0u8, |m, at| m | 1 << (at + self.bits() - 1));
            packed.bytes().iter().map(|b| b ^ top).collect::<Vec<_>>().into()
        };
        Tensor::from_blob(dtype, vec![self.columns, stored], bytes)
    }

    /// Scales of the blocks, oriented as codes are.
    fn scales(&self, cx: &mut NodeCx, columns: bool) -> Result<ValueId> {
        let (v, blocks) = (cx.input(2)?, self.blocks());
        if cx.ty(v).elements() != Dim::from((self.columns * blocks) as i64) {
            return Err(self.bad(cx, "scales"));
        }
        if let Some(t) = cx.constant_of(v).and_then(|t| t.reshaped(vec![self.columns, blocks])) {
            let t = self.oriented(&t, blocks, blocks, columns);
            return Ok(cx.emit_constant(&t));
        }
        let v = cx.reshape(v, [self.columns, blocks].map(|n| Dim::from(n as i64)).into())?;
        if columns { cx.transpose(v, vec![1, 0]) } else { Ok(v) }
    }

    /// Zero points of the blocks, oriented as codes are; none where all are 0.
    fn zeros(&self, cx: &mut NodeCx, v: ValueId, columns: bool) -> Result<Option<ValueId>> {
        let packed = cx.constant_of(v).filter(|t| !t.dtype().is_float());
        let packed = packed.ok_or_else(|| cx.unsupported("zero points that are not constant integers"))?;
        // Rows end at whole bytes.
        let (blocks, bits) = (self.blocks(), self.bits());
        let stored = (blocks * bits).next_multiple_of(8) / bits;
        let z = self.unpacked(&packed, self.types.0, stored).ok_or_else(|| self.bad(cx, "zero points"))?;
        let z = self.oriented(&z, stored, blocks, columns);
        Ok(z.to_i64().iter().any(|&z| z != 0).then(|| cx.emit_constant(&z)))
    }

    /// The weight as floats of a type: `[K, N]` with `columns`, else `[N, K]`.
    fn decoded(&self, cx: &mut NodeCx, columns: bool, float: DType) -> Result<ValueId> {
        let (w, zeros) = (cx.input(1)?, cx.optional(3)?);
        let packed = cx.constant_of(w).ok_or_else(|| cx.undecided_value(w, "weights that are not constant"))?;
        let dtype = if zeros.is_some() { self.types.0 } else { self.types.1 };
        let stored = self.blocks() * self.block;
        let codes = self.unpacked(&packed, dtype, stored).ok_or_else(|| self.bad(cx, "weights"))?;
        let codes = self.oriented(&codes, stored, self.depth, columns);
        let mut operands = vec![cx.emit_constant(&codes), self.scales(cx, columns)?];
        if let Some(z) = zeros {
            operands.extend(self.zeros(cx, z, columns)?);
        }
        let w = cx.op(DecodeAffine { axis: u8::from(!columns), group: self.block as u32 }, &operands)?;
        cx.cast(w, float)
    }
}

/// Rows as codes of 8 bits in blocks make them.
fn rounded(cx: &mut NodeCx, x: ValueId, w: &Weight) -> Result<ValueId> {
    let group = w.block as u32;
    let key = (cx.importer.b.region, x, group);
    if let Some(&known) = cx.importer.rounded.get(&key) {
        return Ok(known);
    }
    let axis = cx.ty(x).rank().checked_sub(1).ok_or_else(|| cx.invalid("rows without an axis"))?;
    cx.equal(&cx.ty(x).shape[axis], &(w.depth as i64).into(), "rows have extent")?;
    let codes = cx.ops(QuantDynamic { group }, &[x])?;
    let y = cx.op(DecodeAffine { axis: axis as u8, group }, &codes)?;
    cx.importer.rounded.insert(key, y);
    Ok(y)
}

fn matmul_nbits(cx: &mut NodeCx) -> Result<Vec<Meaning>> {
    let (mut x, groups, bias) = (cx.input(0)?, cx.optional(4)?, cx.optional(5)?);
    if groups.is_some() {
        return Err(cx.unsupported("an order of rows (g_idx)"));
    }
    let w = Weight::of(cx)?;
    let columns = cx.node.metadata_props.iter().any(|p| (p.key.as_str(), p.value.as_str()) == COLUMNS);
    let float = cx.ty(x).dtype;
    let decoded = w.decoded(cx, columns, float)?;
    // Codes of rows have whole blocks; exact rows are allowed at any level.
    let whole = w.depth.is_multiple_of(w.block);
    if cx.int("accuracy_level", 0) == CODED_ROWS && whole && rounds_rows(float, w.bits(), w.block) {
        x = rounded(cx, x, &w)?;
    }
    let y = if columns { super::nn::product(cx, x, decoded)? } else { product(cx, x, decoded)? };
    done(match bias {
        Some(b) => cx.binary(Add, y, b)?,
        None => y,
    })
}

pub(super) const OPS: Topic = &[("com.microsoft:MatMulNBits", matmul_nbits)];
