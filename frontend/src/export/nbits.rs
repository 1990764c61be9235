//! Products with encoded weights as `MatMulNBits` of ONNX Runtime: codes of 2, 4 or 8 bits in blocks along the depth, one scale and zero point for each block.
//! Rows that are rounded to codes of 8 bits in the same blocks are what the operator's accuracy level 4 makes of its operand.

use super::{Exporter, Form};
use crate::message::Attr;
use crate::nbits::{CODED_ROWS, COLUMNS, rounds_rows};
use tersor_ir::diag::Result;
use tersor_ir::ops::{DecodeAffine, MatMul};
use tersor_ir::{DType, Def, NodeId, Op, Tensor, ValueId};

/// The least block that ONNX Runtime takes; blocks are powers of two.
const LEAST_BLOCK: u32 = 16;

/// Codes, scales and zero points as the operator stores them.
struct Packed {
    bits: usize,
    /// `[N, blocks, bytes of a block]`.
    codes: Tensor,
    /// `[N, blocks]`.
    scales: Tensor,
    /// `[N, bytes of a row]`; none where all are the middle of the range.
    zeros: Option<Tensor>,
}

/// The bits in which codes of a type are stored, and what makes them unsigned.
fn stored(dtype: DType) -> Option<(usize, i64)> {
    let (low, high) = dtype.int_range()?;
    let bits = [2, 4, 8].into_iter().find(|&b| high - low < 1i128 << b)?;
    Some((bits, if low < 0 { 1 << (bits - 1) } else { 0 }))
}

impl Exporter<'_> {
    /// The decoding of the weights of a product that has this form.
    fn encoded(&self, n: NodeId, op: &MatMul) -> Option<(NodeId, DecodeAffine)> {
        let (x, w) = (self.f.nodes[n].operands[0], self.f.nodes[n].operands[1]);
        let Def::Node(d, _) = self.f.values[w].def else { return None };
        let Op::DecodeAffine(decode) = &self.f.nodes[d].op else { return None };
        let (ty, float) = (&self.f.values[w].ty, self.f.values[x].ty.dtype);
        let along = u8::from(op.trans_b) == decode.axis && ty.rank() == 2;
        let block = decode.group >= LEAST_BLOCK && decode.group.is_power_of_two();
        let operands = &self.f.nodes[d].operands;
        let codes = stored(self.f.values[operands[0]].ty.dtype).is_some();
        let there = operands.iter().all(|&v| self.tensor(v).is_some());
        let floats = float == ty.dtype && matches!(float, DType::F32 | DType::F16 | DType::BF16);
        let fits =
            along && block && codes && there && floats && !op.trans_a && !op.wide && self.options.form == Form::NBits;
        fits.then(|| (d, decode.clone()))
    }

    /// Whether all that reads a decoded weight is a product of this form, so that the weight itself is not needed.
    pub(super) fn only_nbits(&self, w: ValueId) -> bool {
        if self.options.form != Form::NBits || self.f.regions.values().any(|r| r.results.contains(&w)) {
            return false;
        }
        let product = |(n, node): (NodeId, &tersor_ir::Node)| match &node.op {
            Op::MatMul(op) => node.operands[0] != w && self.encoded(n, op).is_some(),
            _ => false,
        };
        let mut readers = self.f.nodes.iter().filter(|(_, n)| n.operands.contains(&w)).peekable();
        readers.peek().is_some() && readers.all(product)
    }

    /// What is rounded to codes in the weight's blocks and back to make the rows `v`, where the operator does that.
    fn rounded(&self, v: ValueId, weight: NodeId, block: u32) -> Option<ValueId> {
        let (bits, _) = stored(self.f.values[self.f.nodes[weight].operands[0]].ty.dtype)?;
        if !rounds_rows(self.f.values[v].ty.dtype, bits, block as usize) {
            return None;
        }
        let Def::Node(d, _) = self.f.values[v].def else { return None };
        let (Op::DecodeAffine(decode), &[q, s]) = (&self.f.nodes[d].op, &self.f.nodes[d].operands[..]) else {
            return None;
        };
        let (Def::Node(n, 0), Def::Node(other, 1)) = (self.f.values[q].def, self.f.values[s].def) else { return None };
        let Op::QuantDynamic(quant) = &self.f.nodes[n].op else { return None };
        let last = usize::from(decode.axis) + 1 == self.f.values[v].ty.rank();
        (n == other && last && decode.group == block && quant.group == block).then(|| self.f.nodes[n].operands[0])
    }

    /// Whether all that reads a value is products that round its source themselves.
    pub(super) fn only_rows(&self, v: ValueId) -> bool {
        let result = self.f.regions.values().any(|r| r.results.contains(&v));
        let product = |(n, node): (NodeId, &tersor_ir::Node)| match &node.op {
            Op::MatMul(op) if node.operands[0] == v && node.operands[1] != v => {
                self.encoded(n, op).is_some_and(|(w, d)| self.rounded(v, w, d.group).is_some())
            }
            _ => false,
        };
        let mut readers = self.f.nodes.iter().filter(|(_, n)| n.operands.contains(&v)).peekable();
        !result && readers.peek().is_some() && readers.all(product)
    }

    /// Whether nothing needs the results of a node but what such products leave out.
    pub(super) fn only_rounds(&self, n: NodeId) -> bool {
        let results = &self.f.nodes[n].results;
        let outside = self.f.regions.values().any(|r| results.iter().any(|v| r.results.contains(v)));
        let mut readers = self.f.nodes.values().filter(|r| r.operands.iter().any(|v| results.contains(v))).peekable();
        let decode = |r: &tersor_ir::Node| matches!(r.op, Op::DecodeAffine(_)) && self.only_rows(r.results[0]);
        !outside && readers.peek().is_some() && readers.all(decode)
    }

    /// Writes a product in this form, if it has it.
    pub(super) fn nbits(&mut self, n: NodeId, op: &MatMul) -> Result<bool> {
        let Some((d, decode)) = self.encoded(n, op) else { return Ok(false) };
        let (x, w) = (self.f.nodes[n].operands[0], self.f.nodes[n].operands[1]);
        let operands = self.f.nodes[d].operands.clone();
        let params: Vec<Tensor> = operands.iter().filter_map(|&v| self.tensor(v)).collect();
        let packed = pack(&params, op.trans_b, decode.group as usize);
        let base = self.f.values[operands[0]].name.to_string();
        let rounded = self.rounded(x, d, decode.group);
        let mut inputs = vec![self.name(rounded.unwrap_or(x))?, self.initializer(&base, &packed.codes)?];
        inputs.push(self.initializer(&format!("{base}.scale"), &packed.scales)?);
        if let Some(zeros) = &packed.zeros {
            inputs.push(self.initializer(&format!("{base}.zero"), zeros)?);
        }
        let shape = self.f.values[w].ty.static_shape().unwrap_or_default();
        let (k, columns) = if op.trans_b { (shape[1], shape[0]) } else { (shape[0], shape[1]) };
        let mut attrs: Vec<(&str, Attr)> =
            [("K", k), ("N", columns), ("bits", packed.bits), ("block_size", decode.group as usize)]
                .map(|(name, v)| (name, Attr::Int(v as i64)))
                .into();
        attrs.extend(rounded.map(|_| ("accuracy_level", Attr::Int(CODED_ROWS))));
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let name = self.name_result(self.f.nodes[n].results[0]);
        let hint = if op.trans_b { vec![] } else { vec![COLUMNS] };
        self.emit_as(&format!("MatMulNBits:{name}"), "com.microsoft:MatMulNBits", &inputs, &[name], &attrs, &hint);
        Ok(true)
    }
}

/// `params` are codes, scales and perhaps zero points; `[K, N]`, or `[N, K]` with `rows`.
fn pack(params: &[Tensor], rows: bool, block: usize) -> Packed {
    let (codes, scales) = (&params[0], &params[1]);
    let shape = codes.shape();
    let (k, n) = if rows { (shape[1], shape[0]) } else { (shape[0], shape[1]) };
    let blocks = k.div_ceil(block);
    let (bits, shift) = stored(codes.dtype()).expect("looked at before");
    let at = |column: usize, i: usize, depth: usize| if rows { column * depth + i } else { i * n + column };
    let per_byte = 8 / bits;
    let zero = |column: usize, i: usize| params.get(2).map_or(0, |z| z.get_i64(at(column, i, blocks))) + shift;
    let unsigned = |t: &Tensor, i: usize| t.get_i64(i) + shift;
    let byte = |items: &dyn Fn(usize) -> i64| {
        (0..per_byte).fold(0u8, |b, i| b | ((items(i) as u64 & ((1 << bits) - 1)) << (i * bits)) as u8)
    };
    let mut bytes = vec![];
    for column in 0..n {
        for first in (0..blocks * block).step_by(per_byte) {
            // What fills the last block up is the zero point.
            let one = |i: usize| match first + i {
                i if i < k => unsigned(codes, at(column, i, k)),
                i => zero(column, i / block),
            };
            bytes.push(byte(&one));
        }
    }
    let list: Vec<usize> = (0..n * blocks).map(|i| at(i / blocks, i % blocks, blocks)).collect();
    // Signed codes without zero points are unsigned ones whose zero point is the middle, which the operator implies.
    let implied = params.len() < 3 && shift > 0;
    let row = (blocks * bits).div_ceil(8);
    let zeros = || {
        let one = |i: usize| {
            byte(&|j| {
                let b = i % row * per_byte + j;
                if b < blocks { zero(i / row, b) } else { 0 }
            })
        };
        bytes_of([n, row].into(), (0..n * row).map(one).collect())
    };
    Packed {
        bits,
        codes: bytes_of(vec![n, blocks, block / per_byte], bytes),
        scales: scales.gathered(vec![n, blocks], &list),
        zeros: (!implied).then(zeros),
    }
}

fn bytes_of(shape: Vec<usize>, bytes: Vec<u8>) -> Tensor {
    Tensor::from_blob(DType::U8, shape, bytes.into()).expect("as many bytes")
}
