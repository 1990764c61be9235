//! The `decode` behind a weight, and where the weight's elements lie in it.

use crate::kernel::GroupCx;
use std::borrow::Cow;
use tersor_ir::ops::binary::{Binary, BinaryKind};
use tersor_ir::ops::sharing::Sharing;
use tersor_ir::{Bindings, DType, Def, Op, Tensor, ValueId, interp};

/// A decoded weight in parts.
pub struct Source {
    /// Integer codes or numbers of table entries; floats where these are stored as they are, which only a sparse weight's are.
    pub codes: Tensor,
    /// Which of them are stored, where a part is.
    pub keep: Option<Vec<bool>>,
    /// What codes stand for, where they are numbers of entries.
    pub table: Option<Vec<f64>>,
    pub scale: Option<Param>,
    pub zero: Option<Param>,
    /// What every element is multiplied by besides.
    pub factor: f64,
    /// Positions of the weight's elements among the codes, where their order differs.
    order: Option<Vec<i64>>,
}

/// A parameter that codes share.
pub struct Param {
    pub values: Vec<f64>,
    /// The position of each code's value.
    at: Vec<usize>,
}

impl Param {
    fn new(t: &Tensor, sharing: Sharing, codes: &Tensor) -> Param {
        Param { values: t.to_f64(), at: sharing.positions(codes.shape(), t.shape()) }
    }
    /// The value of code number `i`.
    pub fn of(&self, i: usize) -> f64 {
        self.values[self.at[i]]
    }
}

/// The values of a type of at most 8 bits, by code.
fn entries(d: DType) -> Vec<f64> {
    let n = 1 << d.bits();
    let codes: Vec<u8> = match d.bits() {
        4 => (0..n / 2).map(|i| (2 * i) as u8 | ((2 * i + 1) as u8) << 4).collect(),
        _ => (0..n).map(|i| i as u8).collect(),
    };
    Tensor::from_blob(d, vec![n], codes.into()).expect("a code for each entry").to_f64()
}

impl Source {
    /// Follows moves of elements up to a `decode` of constants.
    pub fn of(cx: &GroupCx, w: ValueId) -> Option<Source> {
        let Def::Node(n, _) = cx.f.values[w].def else { return None };
        let node = &cx.f.nodes[n];
        let constant =
            |i: usize| node.operands.get(i).map(|&v| interp::constant(&cx.m.consts, cx.f, v)).unwrap_or(None);
        let all = |from: usize| node.operands.len() <= from || constant(from).is_some();
        match &node.op {
            Op::Transpose(_) | Op::Reshape(_) | Op::Slice(_) => {
                let mut inner = Source::of(cx, node.operands[0])?;
                let shape = cx.ty(node.operands[0]).static_shape()?;
                let count = shape.iter().product::<usize>() as i64;
                let before: Cow<[i64]> = inner.order.as_deref().map_or_else(|| (0..count).collect(), Cow::Borrowed);
                let before = Tensor::from_i64(DType::I64, shape, &before);
                inner.order = Some(node.op.eval(&[&before], &Bindings::new()).ok()?[0].to_i64());
                Some(inner)
            }
            Op::DecodeSparse(_) => {
                let (codes, keep) = (interp::constant(&cx.m.consts, cx.f, w)?, kept(cx, w));
                let float = matches!(codes.dtype(), DType::F32 | DType::F16 | DType::BF16);
                (float && keep.is_some()).then_some(Source {
                    codes,
                    keep,
                    table: None,
                    scale: None,
                    zero: None,
                    factor: 1.0,
                    order: None,
                })
            }
            Op::DecodeAffine(d) if all(2) => {
                let keep = kept(cx, node.operands[0]);
                let (codes, (scale, factor)) = (constant(0)?, scale(cx, node.operands[1])?);
                let zero = constant(2).map(|z| Param::new(&z, d.sharing(), &codes));
                let table = codes.dtype().is_float().then(|| entries(codes.dtype()));
                if table.is_some() && zero.is_some() {
                    return None;
                }
                let scale = Some(Param::new(&scale, d.sharing(), &codes));
                let codes = if table.is_some() { bits(&codes)? } else { codes };
                (codes.dtype().bits() <= 8).then_some(Source { codes, keep, table, scale, zero, factor, order: None })
            }
            Op::DecodeCodebook(d) if all(2) => {
                let (codes, table) = (constant(0)?, constant(1)?);
                let (scale, factor) = match node.operands.get(2) {
                    Some(&s) => {
                        let (scale, factor) = scale(cx, s)?;
                        (Some(Param::new(&scale, d.sharing(), &codes)), factor)
                    }
                    None => (None, 1.0),
                };
                Some(Source { codes, keep: None, table: Some(table.to_f64()), scale, zero: None, factor, order: None })
            }
            _ => None,
        }
    }

    /// The position among the codes of the weight's element `i`.
    pub fn position(&self, i: usize) -> usize {
        self.order.as_ref().map_or(i, |o| o[i] as usize)
    }
}

/// Which elements of a `decode.sparse` of constants are stored.
fn kept(cx: &GroupCx, v: ValueId) -> Option<Vec<bool>> {
    let Def::Node(n, _) = cx.f.values[v].def else { return None };
    let (node, shape) = (&cx.f.nodes[n], cx.ty(v).static_shape()?);
    let Op::DecodeSparse(_) = node.op else { return None };
    let mask = interp::constant(&cx.m.consts, cx.f, node.operands[1])?;
    let count = shape.iter().product::<usize>();
    let ones = Tensor::from_i64(DType::I8, [count], &vec![1; count]);
    let bits = node.op.eval(&[&ones, &mask], &Bindings::new()).ok()?;
    Some(bits[0].to_i64().iter().map(|&b| b == 1).collect())
}

/// The elements of a float type of at most 8 bits as unsigned integers.
fn bits(t: &Tensor) -> Option<Tensor> {
    let d = if t.dtype().bits() == 4 { DType::U4 } else { DType::U8 };
    Tensor::from_blob(d, t.shape().to_vec(), t.blob().clone())
}

/// A scale without a factor that all its elements share.
fn scale(cx: &GroupCx, v: ValueId) -> Option<(Tensor, f64)> {
    if let Def::Node(n, _) = cx.f.values[v].def
        && let Op::Binary(Binary { kind: BinaryKind::Mul }) = cx.f.nodes[n].op
    {
        for (x, one) in [(0, 1), (1, 0)].map(|(i, j)| (cx.f.nodes[n].operands[i], cx.f.nodes[n].operands[j])) {
            if cx.ty(one).static_elements() == Some(1) && cx.ty(x).shape == cx.ty(v).shape {
                let factor = interp::constant(&cx.m.consts, cx.f, one)?.get_f64(0);
                let (scale, more) = scale(cx, x)?;
                return Some((scale, factor * more));
            }
        }
    }
    Some((interp::constant(&cx.m.consts, cx.f, v)?, 1.0))
}
