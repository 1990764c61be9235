//! The ONNX form of every op.

use super::{Exporter, OPSET_23, OPSET_26, unsupported};
use crate::import::SYMBOL_OF_NODE;
use crate::message::Attr;
use tersor_ir::diag::Result;
use tersor_ir::ops::binary::BinaryKind;
use tersor_ir::ops::compare::CompareKind;
use tersor_ir::ops::image::Pixels;
use tersor_ir::ops::pad::PadMode;
use tersor_ir::ops::pool::PoolKind;
use tersor_ir::ops::reduce::{ArgKind, ReduceKind};
use tersor_ir::ops::scatter::ScatterKind;
use tersor_ir::ops::unary::UnaryKind;
use tersor_ir::ops::{Attention, Conv, Image, LayerNorm, MatMul, Pad, Pool, Prefix, Rope, Slice};
use tersor_ir::{DType, Dim, NodeId, Op, Tensor, Type, ValueId};

fn ints(v: &[i64]) -> Attr {
    Attr::Ints(v.to_vec())
}

fn flag(v: bool) -> Attr {
    Attr::Int(v.into())
}

/// The permutation that takes the channel axis from the last place to the second, or with `back` the other way.
fn channels(rank: usize, back: bool) -> Attr {
    let rank = rank as i64;
    let spatial = if back { 2..rank } else { 1..rank - 1 };
    let (before, after) = if back { (None, Some(1)) } else { (Some(rank - 1), None) };
    Attr::Ints(std::iter::once(0).chain(before).chain(spatial).chain(after).collect())
}

/// Attributes of convolutions of all kinds.
pub(super) fn conv_attrs(op: &Conv) -> Vec<(&'static str, Attr)> {
    vec![
        ("strides", ints(&op.strides)),
        ("pads", ints(&op.pads)),
        ("dilations", ints(&op.dilations)),
        ("group", op.groups.into()),
    ]
}

impl Exporter<'_> {
    /// Writes a node in its ONNX form.
    pub(super) fn op(&mut self, n: NodeId) -> Result<()> {
        if self.inside.contains(&n) {
            return Ok(());
        }
        let node = &self.f.nodes[n];
        match &node.op {
            Op::Recurrence(op) => return self.recurrence(n, op),
            Op::DecodeAffine(op) => return self.decode_affine(n, op),
            Op::DecodeCodebook(_) | Op::DecodeSparse(_) => return self.decoded(n),
            Op::Quant(op) => match self.linears.remove(&n) {
                Some(linear) => return self.rounded_product(n, &linear),
                None => return self.quant(n, op),
            },
            Op::MatMul(op) if self.nbits(n, op)? => return Ok(()),
            Op::QuantDynamic(_) if self.only_rounds(n) => return Ok(()),
            _ => {}
        }
        let names = node.operands.iter().map(|&v| self.name(v)).collect::<Result<Vec<_>>>()?;
        let x: Vec<&str> = names.iter().map(String::as_str).collect();
        let types: Vec<Type> = node.operands.iter().map(|&v| self.f.values[v].ty.clone()).collect();
        match &node.op {
            Op::DecodeAffine(_) | Op::DecodeCodebook(_) | Op::DecodeSparse(_) => Ok(()),
            Op::Quant(_) | Op::Recurrence(_) => Ok(()),
            Op::Unary(op) => self.unary(n, op.kind, &x),
            Op::Binary(op) => self.binary(n, op.kind, &x, types[0].dtype),
            Op::Compare(op) => match op.kind {
                CompareKind::Eq => self.last(n, "Equal", &x, &[]),
                CompareKind::Ne => {
                    let equal = self.temp("Equal", &x, &[]);
                    self.last(n, "Not", &[&equal], &[])
                }
                CompareKind::Lt => self.last(n, "Less", &x, &[]),
                CompareKind::Le => self.last(n, "LessOrEqual", &x, &[]),
                CompareKind::Gt => self.last(n, "Greater", &x, &[]),
                CompareKind::Ge => self.last(n, "GreaterOrEqual", &x, &[]),
            },
            // ONNX Runtime has no `Where` of truth values.
            Op::Select(_) if types[1].dtype == DType::Bool => {
                let first = self.temp("And", &[x[0], x[1]], &[]);
                let not = self.temp("Not", &[x[0]], &[]);
                let second = self.temp("And", &[&not, x[2]], &[]);
                self.last(n, "Or", &[&first, &second], &[])
            }
            Op::Select(_) => self.last(n, "Where", &x, &[]),
            Op::Cast(op) => {
                let mut attrs = vec![("to", Attr::Int(self.element(op.to)? as i64))];
                if op.overflow && op.to.bits() == 8 && op.to.is_float() {
                    attrs.push(("saturate", 0.into()));
                }
                if op.to == DType::F8E8M0 {
                    attrs.push(("round_mode", op.round.name().into()));
                }
                self.last(n, "Cast", &x, &attrs)
            }
            Op::BitCast(op) => {
                self.needs(OPSET_26);
                let to = self.element(op.to)? as i64;
                self.last(n, "BitCast", &x, &[("to", to.into())])
            }
            Op::Reduce(op) => {
                // An empty list would mean all axes.
                if op.axes.is_empty() {
                    return self.last(n, "Identity", &x, &[]);
                }
                let axes = self.numbers(&op.axes.iter().map(|&a| a.into()).collect::<Vec<_>>())?;
                let name = match op.kind {
                    ReduceKind::Sum => "ReduceSum",
                    ReduceKind::Mean => "ReduceMean",
                    ReduceKind::Max => "ReduceMax",
                    ReduceKind::Min => "ReduceMin",
                    ReduceKind::Prod => "ReduceProd",
                };
                self.last(n, name, &[x[0], &axes], &[("keepdims", flag(op.keep))])
            }
            Op::ArgReduce(op) => {
                let name = if op.kind == ArgKind::Max { "ArgMax" } else { "ArgMin" };
                let attrs = [
                    ("axis", i64::from(op.axis).into()),
                    ("keepdims", flag(op.keep)),
                    ("select_last_index", flag(op.last)),
                ];
                self.last(n, name, &x, &attrs)
            }
            Op::CumSum(op) => {
                let axis = self.scalar(DType::I64, op.axis.into())?;
                let attrs = [("exclusive", flag(op.exclusive)), ("reverse", flag(op.reverse))];
                self.last(n, "CumSum", &[x[0], &axis], &attrs)
            }
            Op::ArgSort(op) => {
                let extent = types[0].shape[op.axis as usize].clone();
                let (k, axis) = (self.extents(&[extent])?, i64::from(op.axis));
                let order = [self.fresh("topk"), self.name_result(node.results[0])];
                let attrs = [("axis", axis.into()), ("largest", flag(op.descending)), ("sorted", 1.into())];
                self.emit("TopK", &[x[0], &k], &order, &attrs);
                Ok(())
            }
            Op::Nms(_) => self.last(n, "tersor:Nms", &x, &[]),
            Op::Softmax(op) => {
                let name = if op.log { "LogSoftmax" } else { "Softmax" };
                self.last(n, name, &x, &[("axis", i64::from(op.axis).into())])
            }
            Op::LayerNorm(op) => self.layer_norm(n, op, &x, &types[0]),
            Op::RmsNorm(op) => {
                self.needs(OPSET_23);
                let one = self.scalar(types[0].dtype, 1.0)?;
                let inputs = [x[0], x.get(1).copied().unwrap_or(&one)];
                let attrs = [("axis", i64::from(op.axis).into()), ("epsilon", (op.eps.0 as f32).into())];
                self.last(n, "RMSNormalization", &inputs, &attrs)
            }
            Op::MatMul(op) => self.matmul(n, op, &x, &types),
            Op::Conv(op) => self.conv(n, op, &x, &types),
            Op::Pool(op) => self.pool(n, op, &x, &types[0]),
            Op::Attention(op) => self.attention(n, op, &x, &types),
            Op::Rope(op) => self.rope(n, op, &x, &types[0]),
            Op::Reshape(op) => {
                let shape = self.extents(&op.shape)?;
                self.last(n, "Reshape", &[x[0], &shape], &[("allowzero", 1.into())])
            }
            Op::Broadcast(op) => {
                let shape = self.extents(&op.shape)?;
                self.last(n, "Expand", &[x[0], &shape], &[])
            }
            Op::Transpose(op) => {
                let perm: Vec<i64> = op.perm.iter().map(|&a| a.into()).collect();
                self.last(n, "Transpose", &x, &[("perm", perm.into())])
            }
            Op::Slice(op) => self.slice(n, op, x[0]),
            Op::Prefix(op) => self.prefix(n, op, &x, &types[0]),
            Op::Concat(op) => self.last(n, "Concat", &x, &[("axis", i64::from(op.axis).into())]),
            Op::Pad(op) => self.pad(n, op, x[0], types[0].dtype),
            Op::Gather(op) => {
                let attrs = [("axis", i64::from(op.axis).into())];
                let indices = self.indices(node.operands[1], x[1], types[0].shape[op.axis as usize].as_const())?;
                self.last(n, "Gather", &[x[0], &indices], &attrs)
            }
            Op::Scatter(op) => {
                let indices = self.indices(node.operands[1], x[1], types[0].shape[0].as_const())?;
                let axis = self.numbers(&[1])?;
                let tuples = self.temp("Unsqueeze", &[&indices, &axis], &[]);
                let reduction = match op.kind {
                    ScatterKind::Set => "none",
                    ScatterKind::Add => "add",
                    ScatterKind::Mul => "mul",
                    ScatterKind::Max => "max",
                    ScatterKind::Min => "min",
                };
                self.last(n, "ScatterND", &[x[0], &tuples, x[2]], &[("reduction", reduction.into())])
            }
            Op::Iota(op) => {
                let range = self.iota(&op.len)?;
                let to = self.element(op.dtype)? as i64;
                self.last(n, "Cast", &[&range], &[("to", to.into())])
            }
            Op::Extent(op) => {
                let list = self.dim(&op.of)?;
                let axis = self.numbers(&[0])?;
                self.last(n, "Squeeze", &[&list, &axis], &[])
            }
            Op::QuantDynamic(op) => self.quant_dynamic(n, op.group, x[0], &types[0]),
            Op::TextConcat(_) => self.last(n, "StringConcat", &x, &[]),
            Op::TextMatch(op) => self.last(n, "RegexFullMatch", &x, &[("pattern", op.pattern.0.as_str().into())]),
            Op::TextFormat(_) => {
                let to = self.element(DType::Str)? as i64;
                self.last(n, "Cast", &x, &[("to", to.into())])
            }
            Op::TextParse(op) => {
                let to = self.element(op.to)? as i64;
                self.last(n, "Cast", &x, &[("to", to.into())])
            }
            Op::Image(op) => self.image(n, op, x[0]),
            Op::Random(_) => Err(unsupported("ONNX has no random bits of a counter")),
            Op::TextSplit(_) | Op::TextNormalize(_) => {
                Err(unsupported(format!("ONNX has no {} of fixed extents", node.op.mnemonic())))
            }
            Op::Choice(op) => Err(unsupported(format!("the choice {} is open", op.site))
                .with_help("resolve it: give a plan to `tersor compile --emit tir`, or run passes that decide")),
            Op::Loop(op) => self.repeat(n, op, &x),
            Op::If(_) => {
                let regions = node.regions.clone();
                let branches = ["then_branch", "else_branch"];
                let graphs: Vec<_> = branches
                    .iter()
                    .zip(regions)
                    .map(|(&name, r)| (name, Attr::Graph(self.graph(name, r, false))))
                    .collect();
                let outputs: Vec<String> = node.results.iter().map(|&v| self.name_result(v)).collect();
                self.emit("If", &x, &outputs, &graphs);
                Ok(())
            }
        }
    }

    /// Indices of a type that ONNX takes; stored ones that lie outside the axis as the op reads them.
    fn indices(&mut self, v: ValueId, name: &str, extent: Option<i64>) -> Result<String> {
        let dtype = self.f.values[v].ty.dtype;
        if let (Some(t), Some(n)) = (self.tensor(v), extent.filter(|&n| n > 0))
            && t.to_i64().iter().any(|i| !(-n..n).contains(i))
        {
            let inside = |i: i64| (if i < 0 { i + n } else { i }).clamp(0, n - 1);
            let inside: Vec<i64> = t.to_i64().into_iter().map(inside).collect();
            return self.initializer("indices", &Tensor::from_i64(DType::I64, t.shape(), &inside));
        }
        if matches!(dtype, DType::I32 | DType::I64) {
            return Ok(name.to_string());
        }
        let to = self.element(DType::I64)? as i64;
        Ok(self.temp("Cast", &[name], &[("to", to.into())]))
    }

    fn unary(&mut self, n: NodeId, kind: UnaryKind, x: &[&str]) -> Result<()> {
        let name = match kind {
            UnaryKind::Neg => "Neg",
            UnaryKind::Abs => "Abs",
            UnaryKind::Sign => "Sign",
            UnaryKind::Relu => "Relu",
            UnaryKind::Not => "Not",
            UnaryKind::Exp => "Exp",
            UnaryKind::Log => "Log",
            UnaryKind::Sqrt => "Sqrt",
            UnaryKind::Rsqrt => {
                let root = self.temp("Sqrt", x, &[]);
                return self.last(n, "Reciprocal", &[&root], &[]);
            }
            UnaryKind::Reciprocal => "Reciprocal",
            UnaryKind::Sigmoid => "Sigmoid",
            UnaryKind::Tanh => "Tanh",
            UnaryKind::Erf => "Erf",
            UnaryKind::Gelu => "Gelu",
            UnaryKind::GeluTanh => return self.last(n, "Gelu", x, &[("approximate", "tanh".into())]),
            UnaryKind::Silu => {
                let gate = self.temp("Sigmoid", x, &[]);
                return self.last(n, "Mul", &[x[0], &gate], &[]);
            }
            UnaryKind::Softplus => "Softplus",
            UnaryKind::Sin => "Sin",
            UnaryKind::Cos => "Cos",
            UnaryKind::Floor => "Floor",
            UnaryKind::Ceil => "Ceil",
            UnaryKind::Round => "Round",
        };
        self.last(n, name, x, &[])
    }

    fn binary(&mut self, n: NodeId, kind: BinaryKind, x: &[&str], dtype: DType) -> Result<()> {
        let bitwise = dtype.is_int();
        let name = match kind {
            BinaryKind::Add => "Add",
            BinaryKind::Sub => "Sub",
            BinaryKind::Mul => "Mul",
            BinaryKind::Div => "Div",
            BinaryKind::Pow => "Pow",
            BinaryKind::Max => "Max",
            BinaryKind::Min => "Min",
            BinaryKind::Mod if dtype.is_float() => {
                return Err(unsupported("ONNX has no remainder of floats with the sign of the divisor"));
            }
            BinaryKind::Mod => "Mod",
            BinaryKind::Rem => return self.last(n, "Mod", x, &[("fmod", 1.into())]),
            BinaryKind::And if bitwise => "BitwiseAnd",
            BinaryKind::Or if bitwise => "BitwiseOr",
            BinaryKind::Xor if bitwise => "BitwiseXor",
            BinaryKind::And => "And",
            BinaryKind::Or => "Or",
            BinaryKind::Xor => "Xor",
        };
        self.last(n, name, x, &[])
    }

    /// ONNX has no layer norm without a scale.
    fn layer_norm(&mut self, n: NodeId, op: &LayerNorm, x: &[&str], t: &Type) -> Result<()> {
        let one = self.scalar(t.dtype, 1.0)?;
        let inputs: Vec<&str> = x.iter().copied().chain((x.len() == 1).then_some(one.as_str())).collect();
        let attrs = [("axis", i64::from(op.axis).into()), ("epsilon", (op.eps.0 as f32).into())];
        self.last(n, "LayerNormalization", &inputs, &attrs)
    }

    /// An operand of a product with the type that its sum has.
    fn wide(&mut self, x: &str, wide: bool) -> Result<String> {
        if !wide {
            return Ok(x.to_string());
        }
        let to = self.element(DType::F32)? as i64;
        Ok(self.temp("Cast", &[x], &[("to", to.into())]))
    }

    fn matmul(&mut self, n: NodeId, op: &MatMul, x: &[&str], types: &[Type]) -> Result<()> {
        if (op.trans_a || op.trans_b) && !op.wide && types.iter().all(|t| t.rank() == 2 && t.dtype.is_float()) {
            let attrs = [("transA", flag(op.trans_a)), ("transB", flag(op.trans_b))];
            return self.last(n, "Gemm", x, &attrs);
        }
        let mut sides = vec![];
        for (i, transposed) in [op.trans_a, op.trans_b].into_iter().enumerate() {
            let mut side = self.wide(x[i], op.wide)?;
            if transposed {
                let mut perm: Vec<i64> = (0..types[i].rank() as i64).collect();
                let last = perm.len() - 1;
                perm.swap(last - 1, last);
                side = self.temp("Transpose", &[&side], &[("perm", perm.into())]);
            }
            sides.push(side);
        }
        let codes = types.iter().all(|t| t.dtype.is_int() && t.dtype.bits() == 8);
        self.last(n, if codes { "MatMulInteger" } else { "MatMul" }, &[&sides[0], &sides[1]], &[])
    }

    /// `f` between transpositions, where channels come last.
    fn channels_first(
        &mut self,
        n: NodeId,
        last: bool,
        x: &str,
        rank: usize,
        f: impl FnOnce(&mut Self, &str) -> Result<(&'static str, Vec<String>, Vec<(&'static str, Attr)>)>,
    ) -> Result<()> {
        let first = if last { self.temp("Transpose", &[x], &[("perm", channels(rank, false))]) } else { x.to_string() };
        let (op, inputs, attrs) = f(self, &first)?;
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        if !last {
            return self.last(n, op, &inputs, &attrs);
        }
        let y = self.temp(op, &inputs, &attrs);
        self.last(n, "Transpose", &[&y], &[("perm", channels(rank, true))])
    }

    fn conv(&mut self, n: NodeId, op: &Conv, x: &[&str], types: &[Type]) -> Result<()> {
        let codes = types.iter().all(|t| t.dtype.is_int() && t.dtype.bits() == 8);
        if !codes && !types[0].dtype.is_float() {
            return Err(unsupported(format!("ONNX has no convolution of {}", types[0].dtype)));
        }
        self.channels_first(n, op.channels_last, x[0], types[0].rank(), |e, first| {
            let inputs = vec![e.wide(first, op.wide)?, e.wide(x[1], op.wide)?];
            let attrs = conv_attrs(op);
            Ok((if codes { "ConvInteger" } else { "Conv" }, inputs, attrs))
        })
    }

    fn pool(&mut self, n: NodeId, op: &Pool, x: &[&str], t: &Type) -> Result<()> {
        let max = op.kind == PoolKind::Max;
        if !(t.dtype.is_float() || max && t.dtype.bits() == 8) {
            return Err(unsupported(format!("ONNX has no such pool of {}", t.dtype)));
        }
        self.channels_first(n, op.channels_last, x[0], t.rank(), |_, first| {
            let mut attrs = vec![
                ("kernel_shape", ints(&op.kernel)),
                ("strides", ints(&op.strides)),
                ("pads", ints(&op.pads)),
                ("dilations", ints(&op.dilations)),
            ];
            if !max {
                attrs.push(("count_include_pad", flag(op.count_pad)));
            }
            Ok((if max { "MaxPool" } else { "AveragePool" }, vec![first.to_string()], attrs))
        })
    }

    /// ONNX aligns a causal mask to the first key where there are more keys than queries; a mask of our own says what the op means.
    fn attention(&mut self, n: NodeId, op: &Attention, x: &[&str], types: &[Type]) -> Result<()> {
        self.needs(OPSET_23);
        let (queries, keys) = (types[0].shape[2].clone(), types[1].shape[2].clone());
        let mut inputs: Vec<String> = x.iter().map(|s| s.to_string()).collect();
        let square = queries == keys;
        // ONNX lets masks broadcast; ONNX Runtime wants both of the last axes.
        if let Some(mask) =
            types.get(3).filter(|m| m.rank() < 2 || m.shape[m.rank() - 2..] != [queries.clone(), keys.clone()])
        {
            let mut shape = mask.shape[..mask.rank().saturating_sub(2)].to_vec();
            shape.extend([queries.clone(), keys.clone()]);
            let shape = self.extents(&shape)?;
            inputs[3] = self.temp("Expand", &[&inputs[3], &shape], &[]);
        }
        if op.causal && !square {
            let (rows, columns) = (self.iota(&queries)?, self.iota(&keys)?);
            let ahead = self.dim(&(keys - queries))?;
            let rows = self.temp("Add", &[&rows, &ahead], &[]);
            let rows = self.reshaped(&rows, &[Dim::Const(-1), 1.into()])?;
            let seen = self.temp("LessOrEqual", &[&columns, &rows], &[]);
            match inputs.get(3).cloned() {
                None => inputs.push(seen),
                Some(mask) => {
                    let hidden = self.scalar(types[0].dtype, f64::NEG_INFINITY)?;
                    inputs[3] = self.temp("Where", &[&seen, &mask, &hidden], &[]);
                }
            }
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let mut attrs = vec![("is_causal", flag(op.causal && square))];
        // Attributes have fewer digits than what follows from the width of a head.
        let width = types[0].shape[3].as_const().unwrap_or(0) as f64;
        if op.scale.0 != 1.0 / width.sqrt() {
            attrs.push(("scale", (op.scale.0 as f32).into()));
        }
        self.last(n, "Attention", &inputs, &attrs)
    }

    fn rope(&mut self, n: NodeId, op: &Rope, x: &[&str], t: &Type) -> Result<()> {
        let last = t.rank() as i64 - 1;
        let two: Attr = 2.into();
        let halves = |e: &mut Self, from: &str, axis: i64| {
            let parts = [e.fresh("half"), e.fresh("half")];
            e.emit("Split", &[from], &parts, &[("axis", axis.into()), ("num_outputs", two.clone())]);
            let minus = e.temp("Neg", &[&parts[1]], &[]);
            e.temp("Concat", &[&minus, &parts[0]], &[("axis", axis.into())])
        };
        let turned = if op.interleaved {
            let mut pairs = t.shape.to_vec();
            let width = pairs[last as usize].clone();
            pairs[last as usize] = width.exact_div(&2.into()).ok_or_else(|| unsupported("an odd extent"))?;
            pairs.push(2.into());
            let split = self.reshaped(x[0], &pairs)?;
            let turned = halves(self, &split, last + 1);
            self.reshaped(&turned, &t.shape)?
        } else {
            halves(self, x[0], last)
        };
        let (a, b) = (self.temp("Mul", &[x[0], x[1]], &[]), self.temp("Mul", &[&turned, x[2]], &[]));
        self.last(n, "Add", &[&a, &b], &[])
    }

    fn slice(&mut self, n: NodeId, op: &Slice, x: &str) -> Result<()> {
        if op.len == Dim::Const(1) && op.start.as_symbol().is_some() {
            let at = self.dim(&op.start)?;
            return self.last(n, "Gather", &[x, &at], &[("axis", i64::from(op.axis).into())]);
        }
        let end = op.start.clone() + op.len.clone() * op.step.into();
        // Before the first element is what ONNX would count from the end.
        let end = match end.as_const() {
            Some(e) if e < 0 => Dim::Const(i64::MIN),
            None if op.step < 0 => return Err(unsupported(format!("a step back to {end}"))),
            _ => end,
        };
        let (start, end) = (self.extents(std::slice::from_ref(&op.start))?, self.extents(&[end])?);
        let (axis, step) = (self.numbers(&[op.axis.into()])?, self.numbers(&[op.step])?);
        self.last(n, "Slice", &[x, &start, &end, &axis, &step], &[])
    }

    /// The first of two parts, which must have the whole extent. The node is named after the symbol, so that import names the symbol after it.
    fn prefix(&mut self, n: NodeId, op: &Prefix, x: &[&str], t: &Type) -> Result<()> {
        let axis = op.axis as usize;
        let (count, whole) = (self.reshaped(x[1], &[1.into()])?, self.extents(&t.shape[axis..=axis])?);
        let rest = self.temp("Sub", &[&whole, &count], &[]);
        let sizes = self.temp("Concat", &[&count, &rest], &[("axis", 0.into())]);
        let parts = [self.name_result(self.f.nodes[n].results[0]), self.fresh("rest")];
        let symbol = op.extent.to_string();
        let name = symbol.strip_suffix(SYMBOL_OF_NODE).unwrap_or(&symbol);
        self.emit_as(name, "Split", &[x[0], &sizes], &parts, &[("axis", i64::from(op.axis).into())], &[]);
        Ok(())
    }

    fn pad(&mut self, n: NodeId, op: &Pad, x: &str, dtype: DType) -> Result<()> {
        let pads = self.numbers(&[op.lo.as_slice(), &op.hi].concat())?;
        let mode = match op.mode {
            PadMode::Constant => "constant",
            PadMode::Reflect => "reflect",
            PadMode::Edge => "edge",
            PadMode::Wrap => "wrap",
        };
        let value = self.scalar(dtype, op.value.0)?;
        self.last(n, "Pad", &[x, &pads, &value], &[("mode", mode.into())])
    }

    fn iota(&mut self, len: &Dim) -> Result<String> {
        let (list, axis) = (self.dim(len)?, self.numbers(&[0])?);
        let limit = self.temp("Squeeze", &[&list, &axis], &[]);
        let (zero, one) = (self.scalar(DType::I64, 0.0)?, self.scalar(DType::I64, 1.0)?);
        Ok(self.temp("Range", &[&zero, &limit, &one], &[]))
    }

    /// Symmetric codes of each row; a row of zeros has scale 0, which nothing is divided by.
    /// Groups become an axis of their own on the way.
    fn quant_dynamic(&mut self, n: NodeId, group: u32, x: &str, ty: &Type) -> Result<()> {
        let (rank, dtype) = (ty.rank(), ty.dtype);
        let results: Vec<ValueId> = self.f.nodes[n].results.to_vec();
        let [q, scale] = [results[0], results[1]].map(|v| self.name_result(v));
        let kept = vec![0; rank.saturating_sub(1)];
        let (x, whole) = if group > 0 {
            let shape = self.numbers(&[&kept[..], &[-1, group.into()]].concat())?;
            (self.temp("Reshape", &[x, &shape], &[]), Some(self.numbers(&[&kept[..], &[-1]].concat())?))
        } else {
            (x.to_string(), None)
        };
        let (axis, most) = (self.numbers(&[-1])?, self.scalar(dtype, 127.0)?);
        let magnitudes = self.temp("Abs", &[&x], &[]);
        let largest = self.temp("ReduceMax", &[&magnitudes, &axis], &[("keepdims", 1.into())]);
        let step = self.temp("Div", &[&largest, &most], &[]);
        let (zero, one) = (self.scalar(dtype, 0.0)?, self.scalar(dtype, 1.0)?);
        let empty = self.temp("Equal", &[&step, &zero], &[]);
        let divisor = self.temp("Where", &[&empty, &one, &step], &[]);
        let steps = self.temp("Div", &[&x, &divisor], &[]);
        let rounded = self.temp("Round", &[&steps], &[]);
        let to = self.element(DType::I8)? as i64;
        let codes = self.temp("Cast", &[&rounded], &[("to", to.into())]);
        for (from, to) in [(codes, q), (step, scale)] {
            match &whole {
                Some(shape) => self.emit("Reshape", &[&from, shape], &[to], &[]),
                None => self.emit("Identity", &[&from], &[to], &[]),
            }
        }
        Ok(())
    }

    /// The image as it is, and for its field zeros below and beside it.
    fn image(&mut self, n: NodeId, op: &Image, x: &str) -> Result<()> {
        let [y, rows, columns] = [0, 1, 2].map(|i| self.name_result(self.f.nodes[n].results[i]));
        let format = match op.pixels {
            Pixels::Rgb => "RGB",
            Pixels::Bgr => "BGR",
            Pixels::Gray => "Grayscale",
        };
        let attrs = [("pixel_format", format.into())];
        let image = if op.exact { y.clone() } else { self.fresh("image") };
        self.emit("ImageDecoder", &[x], std::slice::from_ref(&image), &attrs);
        if !op.exact {
            let extent = |e: &mut Self, i: i64| {
                let size = [("start", i.into()), ("end", (i + 1).into())];
                e.temp("Shape", &[&image], &size)
            };
            let own = [0, 1, 2].map(|i| extent(self, i));
            let field = [self.numbers(&[op.height.into()])?, self.numbers(&[op.width.into()])?];
            let zero = || Attr::Tensor(Tensor::from_i64(DType::U8, [1], &[0]));
            let rest = [0, 1].map(|i| self.temp("Sub", &[&field[i], &own[i]], &[]));
            let below = self.temp("Concat", &[&rest[0], &own[1], &own[2]], &[("axis", 0.into())]);
            let below = self.temp("ConstantOfShape", &[&below], &[("value", zero())]);
            let tall = self.temp("Concat", &[&image, &below], &[("axis", 0.into())]);
            let beside = self.temp("Concat", &[&field[0], &rest[1], &own[2]], &[("axis", 0.into())]);
            let beside = self.temp("ConstantOfShape", &[&beside], &[("value", zero())]);
            self.emit("Concat", &[&tall, &beside], &[y], &[("axis", 1.into())]);
        }
        let axis = self.numbers(&[0])?;
        for (i, count) in [(0, rows), (1, columns)] {
            let extent = self.temp("Shape", &[&image], &[("start", i.into()), ("end", (i + 1).into())]);
            self.emit("Squeeze", &[&extent, &axis], &[count], &[]);
        }
        Ok(())
    }
}
