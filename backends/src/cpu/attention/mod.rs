//! Attention as one kernel: scores, softmax and weighted sum of a block of queries, without scores in memory.
//!
//! A grid point is a block of query rows of one key-value head of one batch element; its rows are those of all query heads that share the
//! key-value head, head after head. Keys and values are taken in blocks of bounded size, with a running softmax between them (`softmax.rs`), so that
//! scratch does not grow with the sequence. Two ways to read them, chosen by the number of rows when the kernel runs if it is not known before:
//!
//! - *packed*: a block of keys and values is packed into panels once, and register tiles of rows are multiplied with it (`tile.rs`). Where one block
//!   holds them all, neighbouring grid points of the same head share the packing.
//!   `bf16` is multiplied by tile registers where there are some (`amx.rs`); weights are then rounded to `bf16`.
//! - *streamed*: for few rows (decoding), each row reads keys and values where they are.
//!
//! Blocks that the causal mask hides from all rows of a tile are skipped. Storage is `f32`, `f16` or `bf16`; everything else is computed in `f32`.
//! Results are finished by the group's other nodes and may go to `[B, S, H, E]` or `[B, S, H*E]` (`output.rs`).

mod amx;
mod body;
mod output;
mod rows;
mod softmax;
#[cfg(test)]
mod tests;
mod tile;

use crate::emit::Scalar;
use crate::kernel::{GroupCx, Isa, Launch, LaunchBuilder};
use body::{Body, Way};
use output::Output;
use rows::{Rows, float};
use tersor_ir::ops::Attention;
use tersor_ir::{Diagnostic, Dim, Failure, Op};

/// Most query rows of a grid point.
const QUERIES: i64 = 96;
/// Most keys of a block; a multiple of every tile's columns.
const KEYS: i64 = 512;
/// Packed keys and values of a block take about this many bytes at most, unless heads are very wide.
const PACKED_BYTES: i64 = 1 << 18;
/// Rows from which packing pays.
const FEW: i64 = 8;
/// Multiply-adds worth another thread.
const THREAD_WORK: i64 = 1 << 20;

/// The schedule: what is known before the kernel runs.
struct Plan {
    /// Rows of a register tile.
    tile_rows: i64,
    /// Panels of a register tile.
    tile_panels: i64,
    /// Query rows of a grid point.
    queries: i64,
    /// Keys of a block.
    keys: i64,
    /// Columns of queries and keys.
    depth: i64,
    /// Columns of values.
    width: i64,
    scale: f32,
    causal: bool,
    /// Products of packed `bf16` with tile registers.
    tiles: bool,
}

fn round_up(n: i64, to: i64) -> i64 {
    (n + to - 1) / to * to
}

impl Plan {
    fn new(isa: Isa, op: &Attention, tiles: bool, [depth, width]: [i64; 2], rows: &Dim, keys: &Dim) -> Plan {
        let (tile_rows, tile_panels) = match isa {
            _ if tiles => (32, 2),
            Isa::V3 => (6, 1),
            Isa::V4 | Isa::Amx => (12, 2),
        };
        let queries = rows.as_const().map_or(QUERIES, |n| round_up(n.max(1), tile_rows).min(QUERIES));
        let fits = (PACKED_BYTES / 4 / (depth + width).max(1) / 64 * 64).clamp(128, KEYS);
        let keys = keys.as_const().map_or(fits, |n| round_up(n.max(1), 32).min(fits));
        Plan { tile_rows, tile_panels, queries, keys, depth, width, scale: op.scale.0 as f32, causal: op.causal, tiles }
    }
}

/// The kernel of a group whose anchor is an `attention`.
pub fn build(cx: &GroupCx) -> Result<Launch, Diagnostic> {
    let unsupported = |what: String| Err(Diagnostic::error("B0340", what).failure(Failure::Unsupported));
    let node = &cx.f.nodes[cx.group.anchor.expect("a group with an anchor")];
    let Op::Attention(op) = &node.op else { return unsupported(format!("{} is not attention", node.op.mnemonic())) };
    let [q, k, v] = [0, 1, 2].map(|i| cx.ty(node.operands[i]));
    let dtype = q.dtype;
    let Some(elem) = float(dtype) else { return unsupported(format!("attention of {dtype}")) };
    let (Some(depth), Some(width)) = (q.shape[3].as_const(), v.shape[3].as_const()) else {
        return unsupported(format!("attention with heads of unknown width, {q} and {v}"));
    };
    let [b, h, s, _] = [0, 1, 2, 3].map(|i| q.shape[i].clone());
    let (g, t) = (k.shape[1].clone(), k.shape[2].clone());
    let each = h.clone().floor_div(g.clone());
    let rows = each.clone() * s.clone();
    let along = |i: usize| cx.view(node.operands[i]).strides[3] == Dim::from(1);
    let streams = along(1) && along(2);
    let few = rows.as_const().is_some_and(|n| n < FEW) && streams;
    let whole = depth % 32 == 0 && width % tile::PANEL == 0;
    let tiles = cx.isa.tiles() && elem == Scalar::BF16 && whole && along(0) && streams && !few;
    let plan = Plan::new(cx.isa, op, tiles, [depth, width], &rows, &t);

    let out_dtype = cx.ty(cx.group.outputs[0]).dtype;
    let mut lb = LaunchBuilder::new(format!(
        "{dtype}_{out_dtype}_attention_{}x{}__{}",
        plan.tile_rows,
        plan.tile_panels * tile::PANEL,
        cx.isa.suffix()
    ));
    let [queries, keys, values] = [0, 1, 2].map(|i| Rows::new(cx, &mut lb, node.operands[i], elem));
    let mask = node.operands.get(3).map(|&m| Rows::new(cx, &mut lb, m, elem));
    let output = Output::new(cx)?;
    let way = match rows.as_const() {
        _ if few => Way::Streamed,
        None if streams => Way::Either,
        _ => Way::Packed,
    };
    let layout = body::Layout::new(&plan, way);
    let scratch = layout.total;
    let blocks = rows.clone().ceil_div(plan.queries);
    let body = Body {
        rows: lb.extent(&rows),
        blocks: lb.extent(&blocks),
        each_rows: lb.extent(&s),
        each_heads: lb.extent(&each),
        groups: lb.extent(&g),
        total_keys: lb.extent(&t),
        past: lb.extent(&(t.clone() - s.clone())),
        plan: &plan,
        layout,
        queries,
        keys,
        values,
        mask,
        output,
    };
    body.grid(&mut lb, way);
    let point = Dim::from(plan.queries * (depth + width)) * t;
    let grain = Dim::from(THREAD_WORK).floor_div(point + Dim::from(1)).max(1.into());
    Ok(lb.launch(b * g * blocks, scratch, grain))
}
