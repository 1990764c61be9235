//! Kernel families for x86 CPUs.

mod argsort;
pub mod attention;
pub mod conv;
pub mod depthwise;
pub mod element;
pub mod encoded;
pub mod expr;
pub mod gemm;
pub mod loops;
pub mod micro;
mod nest;
mod nms;
pub mod pack;
mod packed;
mod pool;
mod recurrence;
mod reduce;
mod rows;
mod scatter;
mod small;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transpose;
mod wide;

use crate::kernel::{GroupCx, Launch};
use tersor_ir::diag::Result;
use tersor_ir::{Diagnostic, Failure, Op};

/// Builds the kernel of a group for an instruction set.
pub fn build(cx: &GroupCx) -> Result<Launch> {
    let node = cx.group.anchor.map(|n| &cx.f.nodes[n]);
    let anchor = cx.group.anchor.unwrap_or(cx.group.nodes[0]);
    match node.map(|n| &n.op) {
        Some(Op::Attention(_)) => attention::build(cx),
        Some(Op::Conv(_)) if depthwise::fits(cx) => depthwise::build(cx),
        Some(Op::Conv(_)) => conv::build(cx),
        Some(Op::MatMul(_)) => gemm::build(cx),
        None => loops::build(cx),
        Some(Op::Pool(p)) => pool::build(cx, anchor, p),
        Some(Op::Scatter(s)) => scatter::build(cx, anchor, s),
        Some(Op::ArgSort(s)) => argsort::build(cx, anchor, s),
        Some(Op::Nms(_)) => nms::build(cx, anchor),
        Some(Op::Recurrence(r)) => recurrence::build(cx, anchor, r),
        Some(Op::Softmax(_) | Op::LayerNorm(_) | Op::RmsNorm(_) | Op::QuantDynamic(_)) => rows::build(cx, anchor),
        Some(Op::Reduce(_) | Op::ArgReduce(_) | Op::CumSum(_)) => reduce::build(cx, anchor),
        other => {
            let op = other.map_or("loop", |op| op.mnemonic());
            Err(Diagnostic::error("B0110", format!("no kernel for {op}")).failure(Failure::Unsupported))
        }
    }
}
