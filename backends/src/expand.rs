//! Ops without a kernel for what they work on, as ops that have one: attention of `f64` as products around a softmax, convolutions by weights that are
//! computed as products with [`windows`], scatters of elements that share bytes as scatters of bytes, very many parts joined as some at a time.
//!
//! Exact. The nodes of the expansion take the op's place.

use crate::windows;
use tersor_ir::diag::Result;
use tersor_ir::module::{Builder, FuncId};
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::ops::{Attention, Binary, Cast, Compare, Extent, Iota, MatMul, Reshape, Select, Softmax};
use tersor_ir::types::DTypeClass;
use tersor_ir::{DType, Dim, Module, NodeId, Op, ValueId};

/// Most parts that one kernel joins: it has code for each.
const JOINED: usize = 128;

/// Expands what a function has of such ops.
pub fn expand(m: &mut Module, id: FuncId) -> Result<()> {
    let Module { consts, funcs, .. } = m;
    let f = &mut funcs[id];
    let without = |n: &NodeId| {
        let node = &f.nodes[*n];
        let dtype = |i: usize| f.values[node.operands[i]].ty.dtype;
        match &node.op {
            Op::Attention(_) => dtype(0) == DType::F64,
            Op::Conv(op) => windows::fits(f, op, node.operands[1]),
            Op::Scatter(_) => dtype(0).is_packed(),
            Op::Concat(_) => node.operands.len() > JOINED,
            _ => false,
        }
    };
    let found: Vec<NodeId> = f.body().nodes.iter().copied().filter(without).collect();
    for n in found {
        let (node, before) = (f.nodes[n].clone(), f.body().nodes.len());
        let name = f.values[node.results[0]].name.to_string();
        let mut b = Builder { loc: node.loc.clone(), name, ..Builder::new(consts, f) };
        let y = match &node.op {
            Op::Attention(op) => attention(&mut b, op, &node.operands)?,
            Op::Conv(op) => windows::product(&mut b, op, node.operands[0], node.operands[1])?,
            op @ Op::Concat(_) => joined(&mut b, op, &node.operands)?,
            op => bytewise(&mut b, op, &node.operands)?,
        };
        f.replace_uses(node.results[0], y);
        let nodes = &mut f.body_mut().nodes;
        let made = nodes.split_off(before);
        if let Some(at) = nodes.iter().position(|&other| other == n) {
            nodes.splice(at..=at, made);
        }
    }
    Ok(())
}

/// Parts joined in turns.
fn joined(b: &mut Builder, op: &Op, operands: &[ValueId]) -> Result<ValueId> {
    let mut parts = operands.to_vec();
    while parts.len() > JOINED {
        parts = parts.chunks(JOINED).map(|some| b.op(op.clone(), some)).collect::<Result<_>>()?;
    }
    b.op(op.clone(), &parts)
}

/// A scatter of elements that each have a byte, or more.
fn bytewise(b: &mut Builder, op: &Op, operands: &[ValueId]) -> Result<ValueId> {
    let dtype = b.ty(operands[0]).dtype;
    let wide = match dtype.class() {
        DTypeClass::Float => DType::F32,
        DTypeClass::Int => DType::I8,
        DTypeClass::UInt | DTypeClass::Bool | DTypeClass::Text | DTypeClass::Complex => DType::U8,
    };
    let x = b.op(Cast::to(wide), &[operands[0]])?;
    let updates = b.op(Cast::to(wide), &[operands[2]])?;
    let y = b.op(op.clone(), &[x, operands[1], updates])?;
    b.op(Cast::to(dtype), &[y])
}

/// Query heads that share keys are rows of one product.
fn attention(b: &mut Builder, op: &Attention, operands: &[ValueId]) -> Result<ValueId> {
    let (q, k, v) = (operands[0], operands[1], operands[2]);
    let (qs, ks, width) = (b.ty(q).shape.clone(), b.ty(k).shape.clone(), b.ty(v).shape[3].clone());
    let dtype = b.ty(q).dtype;
    let (rows, keys) = (qs[2].clone(), ks[2].clone());
    let each = if qs[1] == ks[1] { Dim::from(1) } else { qs[1].clone().floor_div(ks[1].clone()) };
    let shared = |last: &Dim| vec![qs[0].clone(), ks[1].clone(), each.clone() * rows.clone(), last.clone()];
    let split = |last: &Dim| vec![qs[0].clone(), qs[1].clone(), rows.clone(), last.clone()];
    let reshape = |b: &mut Builder, x: ValueId, shape: Vec<Dim>| match b.ty(x).shape[..] == shape[..] {
        true => Ok(x),
        false => b.op(Reshape { shape }, &[x]),
    };
    let q = reshape(b, q, shared(&qs[3]))?;
    let scores = b.op(MatMul { trans_a: false, trans_b: true, wide: false }, &[q, k])?;
    let scores = reshape(b, scores, split(&keys))?;
    let scale = b.scalar(dtype, op.scale.0);
    let mut scores = b.op(Binary { kind: BinaryKind::Mul }, &[scores, scale])?;
    if let Some(&mask) = operands.get(3) {
        scores = b.op(Binary { kind: BinaryKind::Add }, &[scores, mask])?;
    }
    if op.causal {
        let row = b.op(Iota { len: rows.clone(), dtype: DType::I64 }, &[])?;
        let row = b.op(Reshape { shape: vec![rows.clone(), 1.into()] }, &[row])?;
        let past = b.op(Extent { of: keys.clone() - rows.clone() }, &[])?;
        let row = b.op(Binary { kind: BinaryKind::Add }, &[row, past])?;
        let key = b.op(Iota { len: keys.clone(), dtype: DType::I64 }, &[])?;
        let seen = b.op(Compare { kind: CompareKind::Ge }, &[row, key])?;
        let hidden = b.scalar(dtype, f64::NEG_INFINITY);
        scores = b.op(Select {}, &[seen, scores, hidden])?;
    }
    let weights = b.op(Softmax { axis: 3, log: false }, &[scores])?;
    let weights = reshape(b, weights, shared(&keys))?;
    let y = b.op(MatMul { trans_a: false, trans_b: false, wide: false }, &[weights, v])?;
    reshape(b, y, split(&width))
}

#[cfg(test)]
mod tests {
    use super::expand;
    use crate::cpu::build;
    use crate::cpu::testing::{check, one_op, parse, random_inputs};
    use crate::fuse::fuse;
    use crate::kernel::Isa;
    use tersor_ir::testing::{Gen, max_abs};
    use tersor_ir::{Bindings, DType, OpKind, interp};

    #[test]
    fn attention_of_f64_means_the_same_and_has_kernels() {
        let mut found = 0;
        for seed in 0..200 {
            let (op, types) = OpKind::Attention.sample(&mut Gen::new(seed));
            let types: Vec<_> = types.iter().map(|t| t.with_dtype(DType::F64)).collect();
            let old = one_op(op, &types);
            let mut new = old.clone();
            let main = new.main().unwrap();
            expand(&mut new, main).unwrap();
            assert!(tersor_ir::verify::verify(&new).is_empty());
            let inputs = random_inputs(&new, &Bindings::new(), seed);
            let (a, b) = (interp::run(&old, &inputs).unwrap(), interp::run(&new, &inputs).unwrap());
            assert!(max_abs(&a[0], &b[0]) < 1e-12, "{}", tersor_ir::text::print(&new));
            if seed % 10 == 0 {
                check(&new, &fuse(&new.funcs[new.main().unwrap()]), Isa::V3, build, &inputs, 1e-12);
                found += 1;
            }
        }
        assert_eq!(found, 20);
    }

    #[test]
    fn scatters_of_elements_that_share_bytes_have_kernels() {
        for dtype in ["i4", "u2", "i3", "f4e2m1"] {
            let text = "module @m {
  func @main(%x: i4[5,3], %i: i64[2], %u: i4[2,3]) -> (%y: i4[5,3]) {
    %y = scatter %x, %i, %u : i4[5,3]
    return %y
  }
}";
            let old = parse(&text.replace("i4", dtype));
            let mut new = old.clone();
            let main = new.main().unwrap();
            expand(&mut new, main).unwrap();
            let inputs = random_inputs(&new, &Bindings::new(), 3);
            assert_eq!(interp::run(&old, &inputs).unwrap(), interp::run(&new, &inputs).unwrap());
            check(&new, &fuse(&new.funcs[new.main().unwrap()]), Isa::V3, build, &inputs, 0.0);
        }
    }
}
