//! Between which numbers the elements of a value lie, as far as constants and element types say it.

use super::Importer;
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::ops::unary::UnaryKind;
use tersor_ir::ops::{Binary, Unary};
use tersor_ir::{DType, Op, Tensor, ValueId};

/// Elements of a constant that are looked at.
const LOOKED_AT: usize = 1 << 24;
/// Ops that are followed from a value back.
const DEPTH: usize = 64;

/// Least and most; infinite where nothing is known.
pub(super) type Range = (f64, f64);

const UNKNOWN: Range = (f64::NEG_INFINITY, f64::INFINITY);

fn largest(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 65504.0,
        DType::F64 => f64::MAX,
        _ => f64::from(f32::MAX),
    }
}

impl Importer<'_> {
    /// Whether no element of a value is negative infinity, or not a number.
    pub(super) fn is_bounded_below(&mut self, v: ValueId) -> bool {
        self.range(v, DEPTH).0 > f64::NEG_INFINITY
    }

    fn range(&mut self, v: ValueId, depth: usize) -> Range {
        if let Some(known) = self.ranges.get(&v) {
            return *known;
        }
        let (dtype, found) = (self.b.ty(v).dtype, self.found(v, depth));
        // What overflows is infinite.
        let most = largest(dtype);
        let range = if dtype.is_float() && !(-most <= found.0 && found.1 <= most) { UNKNOWN } else { found };
        self.ranges.insert(v, range);
        range
    }

    fn found(&mut self, v: ValueId, depth: usize) -> Range {
        if let Some(c) = self.b.func.def_const(v) {
            let plain = |t: &&Tensor| t.len() <= LOOKED_AT && (t.dtype().is_float() || t.dtype().is_int());
            let Some(t) = self.b.consts[c].tensor().filter(plain) else { return UNKNOWN };
            let join = |(lo, hi): Range, x: f64| (x.min(lo), x.max(hi));
            let nan = (0..t.len()).any(|i| t.get_f64(i).is_nan());
            let all = (0..t.len()).map(|i| t.get_f64(i)).fold((f64::INFINITY, f64::NEG_INFINITY), join);
            return if nan { UNKNOWN } else { all };
        }
        let dtype = self.b.ty(v).dtype;
        let own = match dtype {
            DType::Bool => (0.0, 1.0),
            _ => dtype.int_range().map_or(UNKNOWN, |(lo, hi)| (lo as f64, hi as f64)),
        };
        let Some(node) = self.b.func.def_node(v).filter(|_| depth > 0) else { return own };
        let (op, operands) = (node.op.clone(), node.operands.to_vec());
        let mut of = |i: usize| self.range(operands[i], depth - 1);
        let union = |a: Range, b: Range| (a.0.min(b.0), a.1.max(b.1));
        match op {
            Op::Reshape(_) | Op::Broadcast(_) | Op::Transpose(_) | Op::Slice(_) | Op::Prefix(_) | Op::Gather(_) => {
                of(0)
            }
            Op::Concat(_) => (1..operands.len()).fold(of(0), |all, i| union(all, of(i))),
            Op::Select(_) => union(of(1), of(2)),
            // Integers wrap.
            Op::Cast(_) if dtype.is_float() => of(0),
            Op::Unary(Unary { kind: UnaryKind::Neg }) if dtype.is_float() => (-of(0).1, -of(0).0),
            Op::Binary(Binary { kind }) if dtype.is_float() => sum_or_product(kind, of(0), of(1)),
            _ => own,
        }
    }
}

fn sum_or_product(kind: BinaryKind, (a, b): Range, (c, d): Range) -> Range {
    if [a, b, c, d].iter().any(|x| x.is_infinite()) {
        return UNKNOWN;
    }
    match kind {
        BinaryKind::Add => (a + c, b + d),
        BinaryKind::Sub => (a - d, b - c),
        BinaryKind::Mul => {
            let all = [a * c, a * d, b * c, b * d];
            all.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), &x| (x.min(lo), x.max(hi)))
        }
        _ => UNKNOWN,
    }
}
