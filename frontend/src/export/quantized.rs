//! Codes: quantization and encoded weights, as `QuantizeLinear` and `DequantizeLinear` where these can say it.

use super::{Exporter, Form, unsupported};
use crate::message::Attr;
use tersor_ir::diag::Result;
use tersor_ir::ops::{DecodeAffine, Quant};
use tersor_ir::{DType, Diagnostic, Dim, NodeId, Tensor, Type, ValueId};

/// The narrowest type of `DequantizeLinear` that holds the codes of a type.
fn container(dtype: DType) -> Option<DType> {
    Some(match dtype {
        DType::I2 | DType::I3 | DType::I4 => DType::I4,
        DType::U2 | DType::U3 | DType::U4 => DType::U4,
        DType::I5 | DType::I6 | DType::I8 => DType::I8,
        DType::U5 | DType::U6 | DType::U8 => DType::U8,
        DType::I16 | DType::U16 | DType::I32 => dtype,
        DType::F8E4M3 | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ => dtype,
        _ => return None,
    })
}

/// The one axis of a tensor of rank `rank` that a parameter that broadcasts to it runs along; `None` for several, `Some(None)` for one number.
fn only_axis(p: &Type, rank: usize) -> Option<Option<usize>> {
    let long = (0..p.rank()).filter(|&i| p.shape[i] != Dim::Const(1));
    match long.collect::<Vec<_>>()[..] {
        [] => Some(None),
        [i] => Some(Some(i + rank - p.rank())),
        _ => None,
    }
}

impl Exporter<'_> {
    fn ty(&self, v: ValueId) -> &Type {
        &self.f.values[v].ty
    }

    /// A parameter as a scalar or a list.
    fn listed(&mut self, p: ValueId, along: Option<usize>, dtype: DType) -> Result<String> {
        let extents: Vec<Dim> = along.map(|_| self.ty(p).elements()).into_iter().collect();
        if let Some(t) = self.tensor(p) {
            let t = widened(&t, dtype);
            let shape = if along.is_some() { vec![t.len()] } else { vec![] };
            let t = t.reshaped(shape).expect("as many elements");
            return self.initializer(&self.f.values[p].name.clone(), &t);
        }
        let name = self.name(p)?;
        self.reshaped(&name, &extents)
    }

    /// Where scale and zero point lie along one axis, or are one number: that axis.
    fn linear(&self, x: ValueId, params: &[ValueId]) -> Option<Option<usize>> {
        let rank = self.ty(x).rank();
        let axes: Option<Vec<_>> = params.iter().map(|&p| only_axis(self.ty(p), rank)).collect();
        let axes = axes?;
        axes.iter().all(|a| *a == axes[0]).then_some(axes[0])
    }

    pub(super) fn quant(&mut self, n: NodeId, op: &Quant) -> Result<()> {
        let operands = self.f.nodes[n].operands.clone();
        let along =
            self.linear(operands[0], &operands[1..]).ok_or_else(|| unsupported("a scale along several axes"))?;
        if container(op.to) != Some(op.to) {
            return Err(unsupported(format!("codes of type {}", op.to)));
        }
        let dtype = self.ty(operands[1]).dtype;
        let mut inputs = vec![self.name(operands[0])?, self.listed(operands[1], along, dtype)?];
        if let Some(&z) = operands.get(2) {
            inputs.push(self.listed(z, along, op.to)?);
        }
        let mut attrs = vec![("output_dtype", Attr::Int(self.element(op.to)? as i64))];
        attrs.extend(along.map(|a| ("axis", Attr::Int(a as i64))));
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let low = op.to.int_range().map_or(0, |r| r.0);
        if !op.narrow || low == 0 {
            return self.last(n, "QuantizeLinear", &inputs, &attrs);
        }
        if op.to.bits() < 8 {
            return Err(unsupported(format!("symmetric codes of type {}", op.to)));
        }
        let codes = self.temp("QuantizeLinear", &inputs, &attrs);
        let low = self.scalar(op.to, (low + 1) as f64)?;
        self.last(n, "Clip", &[&codes, &low], &[])
    }

    pub(super) fn decode_affine(&mut self, n: NodeId, op: &DecodeAffine) -> Result<()> {
        let operands = self.f.nodes[n].operands.clone();
        let (q, scale) = (operands[0], operands[1]);
        let y = self.f.nodes[n].results[0];
        if self.only_nbits(y) || self.only_rows(y) {
            return Ok(());
        }
        if self.options.form == Form::Plain && self.fold(n)? {
            return Ok(());
        }
        let (codes, float) = (self.ty(q).dtype, self.ty(scale).dtype);
        let along = if op.group > 0 { Some(Some(op.axis as usize)) } else { self.linear(q, &operands[1..]) };
        let holds = container(codes)
            .filter(|&c| c == codes || operands.iter().skip(2).chain([&q]).all(|&v| self.tensor(v).is_some()));
        if let (Some(along), Some(dtype), true) = (along, holds, float != DType::F64) {
            let mut inputs = vec![match self.tensor(q).filter(|_| dtype != codes) {
                Some(t) => self.initializer(&self.f.values[q].name.clone(), &widened(&t, dtype))?,
                None => self.name(q)?,
            }];
            for (&p, dtype) in operands[1..].iter().zip([float, dtype]) {
                inputs.push(match self.tensor(p) {
                    Some(t) if op.group > 0 => self.initializer(&self.f.values[p].name.clone(), &widened(&t, dtype))?,
                    _ if op.group > 0 => self.name(p)?,
                    _ => self.listed(p, along, dtype)?,
                });
            }
            let mut attrs: Vec<(&str, Attr)> = along.map(|a| ("axis", Attr::Int(a as i64))).into_iter().collect();
            if op.group > 0 {
                attrs.push(("block_size", Attr::Int(op.group.into())));
            }
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            return self.last(n, "DequantizeLinear", &inputs, &attrs);
        }
        if self.fold(n)? {
            self.stored_decoded(n);
            return Ok(());
        }
        if op.group > 0 {
            return Err(unsupported(format!("codes of type {codes} in groups, computed at run time")));
        }
        let to = || [("to", Attr::Int(crate::message::data_type(float) as i64))];
        let (q, scale) = (self.name(q)?, self.name(scale)?);
        let mut y = self.temp("Cast", &[&q], &to());
        if let Some(&z) = operands.get(2) {
            let z = self.name(z)?;
            let z = self.temp("Cast", &[&z], &to());
            y = self.temp("Sub", &[&y, &z], &[]);
        }
        self.last(n, "Mul", &[&y, &scale], &[])
    }

    /// An encoding of constants that ONNX has no form for.
    pub(super) fn decoded(&mut self, n: NodeId) -> Result<()> {
        if !self.fold(n)? {
            return Err(unsupported("ONNX has no such decoding of values that are computed at run time"));
        }
        self.stored_decoded(n);
        Ok(())
    }

    fn stored_decoded(&mut self, n: NodeId) {
        if self.options.form != Form::Plain {
            let node = &self.f.nodes[n];
            let name = &self.f.values[node.results[0]].name;
            let message = format!("%{name} is stored decoded: ONNX has no form for its {}", node.op.mnemonic());
            self.notes.push(Diagnostic::warning("O0203", message).at_loc(&node.loc));
        }
    }
}

/// Codes in a wider type.
fn widened(t: &Tensor, dtype: DType) -> Tensor {
    if t.dtype() == dtype { t.clone() } else { Tensor::from_i64(dtype, t.shape(), &t.to_i64()) }
}
