//! Kernel families for x86 CPUs.

use crate::kernel::{GroupCx, Launch};
use tersor_ir::diag::Result;
use tersor_ir::{Diagnostic, Failure};

/// Builds the kernel of a group for an instruction set.
pub fn build(cx: &GroupCx) -> Result<Launch> {
    let op = cx.group.anchor.map_or("loop", |n| cx.f.nodes[n].op.mnemonic());
    Err(Diagnostic::error("B0110", format!("no kernel for {op}")).failure(Failure::Unsupported))
}
