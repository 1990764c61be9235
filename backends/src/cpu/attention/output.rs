//! Where attention's results go, and what becomes of them.

use super::tile::PANEL;
use crate::cpu::expr::{Fused, Point, Row};
use crate::emit::Val;
use crate::kernel::{GroupCx, LaunchBuilder};
use tersor_ir::{Diagnostic, Failure, Op, ValueId};

/// How results lie.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Lie {
    /// `[B, H, S, E]`.
    Heads,
    /// `[B, S, H, E]`.
    Rows,
    /// `[B, S, H*E]`.
    Merged,
}

/// The index space in which a group finishes attention's results.
pub struct Output<'a> {
    fused: Fused<'a>,
    /// The results in that space.
    value: ValueId,
    lie: Lie,
    /// Columns of a head.
    width: i64,
    /// Lanes of a vector that never crosses heads.
    lanes: i64,
}

impl<'a> Output<'a> {
    /// Follows the transpose and the reshape that the kernel makes itself.
    pub fn new(cx: &'a GroupCx<'a>) -> Result<Output<'a>, Diagnostic> {
        let anchor = cx.group.anchor.expect("a group with an anchor");
        let (mut value, mut lie) = (cx.f.nodes[anchor].results[0], Lie::Heads);
        let [b, h, s, e] = [0, 1, 2, 3].map(|i| cx.ty(value).shape[i].clone());
        let width = e.as_const().unwrap_or(0);
        let merged = [b, s, h * e];
        for &n in &cx.group.nodes {
            let node = &cx.f.nodes[n];
            let next = match &node.op {
                Op::Transpose(t) if node.operands[0] == value => {
                    (lie == Lie::Heads && t.perm == [0, 2, 1, 3]).then_some(Lie::Rows)
                }
                Op::Reshape(r) if node.operands[0] == value => {
                    (lie == Lie::Rows && r.shape == merged).then_some(Lie::Merged)
                }
                _ => continue,
            };
            lie = next.ok_or_else(|| {
                let message = format!("attention does not write through this {}", node.op.mnemonic());
                Diagnostic::error("B0341", message).failure(Failure::Internal)
            })?;
            value = node.results[0];
        }
        let lanes = if lie == Lie::Merged { 1 << width.trailing_zeros().min(4) } else { PANEL };
        Ok(Output { fused: Fused::new(cx, value)?, value, lie, width, lanes })
    }

    /// Finishes and stores sixteen columns from `column` on, or as many as there are, of the row `[batch, head, position]`.
    pub fn store(&self, k: &mut LaunchBuilder, [batch, head, position]: [Val; 3], column: i64, y: Val) {
        let left = (self.width - column).min(PANEL);
        for first in (0..left).step_by(self.lanes as usize) {
            let mut col = k.i64(column + first);
            let row = match self.lie {
                Lie::Heads => vec![batch, head, position],
                Lie::Rows => vec![batch, position, head],
                Lie::Merged => {
                    let width = k.i64(self.width);
                    let start = k.mul(head, width);
                    col = k.add(start, col);
                    vec![batch, position]
                }
            };
            let y = k.slice(y, first as u32, self.lanes as u32);
            let mut point = Point::new(Row::Index(row), col, self.lanes as u32);
            if left - first < self.lanes {
                point = point.first(k.i64(left - first));
            }
            self.fused.store_outputs(k, &[(self.value, y)], &point);
        }
    }
}
