//! Elements of which several share a byte, and encoded tables: rows of constants that are decoded as they are looked up.
//!
//! A `gather` from a `decode` of constants enters the `decode`, so that memory holds codes alone.

use super::Emit;
use super::index::{Coord, Pos};
use crate::emit::{KernelBuilder, Scalar, Ty, Val};
use crate::kernel::GroupCx;
use tersor_ir::types::DTypeClass;
use tersor_ir::{DType, Def, NodeId, Op, ValueId};

/// The decoded constant that a `gather` looks up, where it can be decoded on the way.
pub fn table(cx: &GroupCx, n: NodeId) -> Option<ValueId> {
    let (node, table) = (&cx.f.nodes[n], *cx.f.nodes[n].operands.first()?);
    let Def::Node(decode, _) = cx.f.values[table].def else { return None };
    let decode = &cx.f.nodes[decode];
    let code = *decode.operands.first()?;
    let codes = matches!(decode.op, Op::DecodeAffine(_) | Op::DecodeCodebook(_)) && cx.ty(code).dtype.is_int();
    let constant = codes && cx.f.def_const(code).is_some() && cx.is_constant(table);
    (matches!(node.op, Op::Gather(_)) && constant).then_some(table)
}

impl Emit<'_, '_> {
    /// Elements of fewer than 8 bits, each in a byte of its own; those that are not there are any.
    pub(super) fn packed(&mut self, v: ValueId, dtype: DType, pos: &Pos) -> Val {
        let (cx, lanes) = (self.fused.cx, self.lanes);
        let (ty, view) = (cx.ty(v), cx.view(v));
        let bits = i64::from(dtype.bits());
        let address = pos.address(self.b, &view, &ty.shape, lanes);
        let from = self.b.read(view.root);
        let last = (cx.ty(view.root).elements() * bits.into()).ceil_div(8) - 1.into();
        let last = self.b.extent(&last);
        let mask = self.mask(pos);
        let k: &mut KernelBuilder = self.b;
        let mut index = address.base;
        if let Some(l) = address.lanes {
            index = k.add(l, index);
        }
        if lanes > 1 && address.step != 0 {
            let zero = k.i64(0);
            let run = Coord::Run { start: zero, step: address.step }.vector(k, lanes);
            index = k.add(run, index);
        }
        let of = |k: &mut KernelBuilder, v: i64| k.int(index.ty(), v);
        let (size, eight, seven) = (of(k, bits), of(k, 3), of(k, 7));
        let bit = k.mul(index, size);
        let (byte, shift) = (k.shr(bit, eight), k.and(bit, seven));
        let load = |k: &mut KernelBuilder, at: Val| {
            let v = match mask {
                Some(m) if at.lanes() > 1 => k.gather_mask(from, at, Scalar::I8, m),
                None if at.lanes() > 1 => k.gather(from, at, Scalar::I8),
                Some(m) if m.lanes() == 1 => {
                    let load = |k: &mut KernelBuilder| {
                        let at = k.gep(from, at);
                        vec![k.load(at, Ty::Scalar(Scalar::I8))]
                    };
                    k.if_(m, load, |k| vec![k.zero(Ty::Scalar(Scalar::I8))])[0]
                }
                _ => {
                    let at = k.gep(from, at);
                    k.load(at, Ty::Scalar(Scalar::I8))
                }
            };
            k.zext(v, Scalar::I32)
        };
        let mut word = load(k, byte);
        let ty32 = word.ty();
        if 8 % bits != 0 {
            // A code may go on in the next byte.
            let one = of(k, 1);
            let next = k.add(byte, one);
            let next = k.min(next, last);
            let (high, eight) = (load(k, next), k.int(ty32, 8));
            let high = k.shl(high, eight);
            word = k.or(word, high);
        }
        let shift = k.trunc(shift, Scalar::I32);
        let word = k.shr(word, shift);
        let up = k.int(ty32, 32 - bits);
        let top = k.shl(word, up);
        let code = if dtype.class() == DTypeClass::Int { k.sar(top, up) } else { k.shr(top, up) };
        k.trunc(code, Scalar::I8)
    }
}
