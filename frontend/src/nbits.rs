//! What import and export both know of `MatMulNBits` of ONNX Runtime.

use tersor_ir::DType;

/// The accuracy level at which rows are codes of 8 bits: symmetric ones, with a scale for each block.
pub const CODED_ROWS: i64 = 4;

/// Key and value of a node's metadata where the module has the weight as `[K, N]`: a hint that changes no number.
pub const COLUMNS: (&str, &str) = ("tersor.weight", "KN");

/// Whether ONNX Runtime heeds [`CODED_ROWS`] for rows of a type beside weights of so many bits in such blocks; they are exact where not.
pub fn rounds_rows(rows: DType, bits: usize, block: usize) -> bool {
    let blocks: &[usize] = if bits == 2 { &[32, 64, 128] } else { &[16, 32, 64, 128, 256] };
    rows == DType::F32 && blocks.contains(&block)
}
