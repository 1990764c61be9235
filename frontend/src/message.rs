//! ONNX messages in protobuf's wire format: what the export writes, and the models of tests.

use tersor_ir::{DType, Tensor, Type, string};

/// An attribute's value.
#[derive(Clone, Debug)]
pub enum Attr {
    /// A number.
    Int(i64),
    /// A float.
    Float(f32),
    /// Text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Numbers.
    Ints(Vec<i64>),
    /// Floats.
    Floats(Vec<f32>),
    /// A tensor.
    Tensor(Tensor),
    /// A `GraphProto`.
    Graph(Vec<u8>),
    /// In a function: that attribute of the call.
    Of(String),
}

macro_rules! attr_from {
    ($($ty:ty => $variant:ident),* $(,)?) => {
        $(impl From<$ty> for Attr {
            fn from(v: $ty) -> Attr {
                Attr::$variant(v.into())
            }
        })*
    };
}
attr_from! { i64 => Int, f32 => Float, &str => Text, Vec<String> => Texts, Vec<i64> => Ints, &[i64] => Ints, Vec<f32> => Floats, Tensor => Tensor }
impl<const N: usize> From<[i64; N]> for Attr {
    fn from(v: [i64; N]) -> Attr {
        Attr::Ints(v.into())
    }
}

fn varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Appends a length-delimited field.
pub fn field(out: &mut Vec<u8>, number: u64, body: &[u8]) {
    varint(out, number << 3 | 2);
    varint(out, body.len() as u64);
    out.extend_from_slice(body);
}

/// Appends an integer field.
pub fn number(out: &mut Vec<u8>, number: u64, v: u64) {
    varint(out, number << 3);
    varint(out, v);
}

/// The number of an element type in `TensorProto.DataType`, if ONNX has it.
pub fn element(dtype: DType) -> Option<u64> {
    (0..64).find(|&n| crate::tensor::dtype(n) == Some(dtype)).map(|n| n as u64)
}

/// The number of an element type that ONNX has.
pub fn data_type(dtype: DType) -> u64 {
    element(dtype).expect("a dtype that ONNX has")
}

/// A `TensorProto`, with raw data unless it is one of strings.
pub fn tensor(name: &str, t: &Tensor) -> Vec<u8> {
    let mut out = vec![];
    t.shape().iter().for_each(|&d| number(&mut out, 1, d as u64));
    number(&mut out, 2, data_type(t.dtype()));
    field(&mut out, 8, name.as_bytes());
    match t.dtype() {
        DType::Str => string::strings(t).iter().for_each(|s| field(&mut out, 6, s.as_bytes())),
        _ => field(&mut out, 9, t.bytes()),
    }
    out
}

/// A `TensorProto` whose elements are in a file beside the model, from `offset` on.
pub fn external_tensor(name: &str, t: &Tensor, file: &str, offset: usize) -> Vec<u8> {
    let mut out = vec![];
    t.shape().iter().for_each(|&d| number(&mut out, 1, d as u64));
    number(&mut out, 2, data_type(t.dtype()));
    field(&mut out, 8, name.as_bytes());
    for (key, value) in [("location", file), ("offset", &offset.to_string()), ("length", &t.bytes().len().to_string())]
    {
        let mut entry = vec![];
        field(&mut entry, 1, key.as_bytes());
        field(&mut entry, 2, value.as_bytes());
        field(&mut out, 13, &entry);
    }
    number(&mut out, 14, 1);
    out
}

/// A `ValueInfoProto`; an extent that is no number is written as its text, `_` as unknown.
pub fn value_info(name: &str, ty: &Type) -> Vec<u8> {
    typed(name, &tensor_type(ty))
}

/// A `ValueInfoProto` of an encoded type.
pub fn typed(name: &str, ty: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    field(&mut out, 1, name.as_bytes());
    field(&mut out, 2, ty);
    out
}

/// A `TypeProto` of tensors.
pub fn tensor_type(ty: &Type) -> Vec<u8> {
    let (mut shape, mut t, mut out) = (vec![], vec![], vec![]);
    for d in &ty.shape {
        let mut dim = vec![];
        match d.as_const() {
            Some(c) => number(&mut dim, 1, c as u64),
            None if d.to_string() == "_" => {}
            None => field(&mut dim, 2, d.to_string().as_bytes()),
        }
        field(&mut shape, 1, &dim);
    }
    number(&mut t, 1, data_type(ty.dtype));
    field(&mut t, 2, &shape);
    field(&mut out, 1, &t);
    out
}

/// A `NodeProto`; an operator of another domain than `ai.onnx` is `domain:Operator`.
pub fn node<S: AsRef<str>>(name: &str, op: &str, inputs: &[S], outputs: &[S], attrs: &[(&str, Attr)]) -> Vec<u8> {
    let mut n = vec![];
    inputs.iter().for_each(|i| field(&mut n, 1, i.as_ref().as_bytes()));
    outputs.iter().for_each(|o| field(&mut n, 2, o.as_ref().as_bytes()));
    field(&mut n, 3, name.as_bytes());
    let (domain, op) = op.rsplit_once(':').unwrap_or(("", op));
    field(&mut n, 4, op.as_bytes());
    attrs.iter().for_each(|(name, a)| field(&mut n, 5, &attribute(name, a)));
    field(&mut n, 7, domain.as_bytes());
    n
}

/// An `OperatorSetIdProto`.
pub fn opset(domain: &str, version: i64) -> Vec<u8> {
    let mut out = vec![];
    if !domain.is_empty() {
        field(&mut out, 1, domain.as_bytes());
    }
    number(&mut out, 2, version as u64);
    out
}

/// A `StringStringEntryProto`.
pub fn entry(key: &str, value: &str) -> Vec<u8> {
    let mut out = vec![];
    field(&mut out, 1, key.as_bytes());
    field(&mut out, 2, value.as_bytes());
    out
}

/// An `AttributeProto`.
pub fn attribute(name: &str, a: &Attr) -> Vec<u8> {
    let mut out = vec![];
    field(&mut out, 1, name.as_bytes());
    let kind = match a {
        Attr::Float(v) => {
            varint(&mut out, 2 << 3 | 5);
            out.extend(v.to_le_bytes());
            1
        }
        Attr::Int(v) => {
            number(&mut out, 3, *v as u64);
            2
        }
        Attr::Text(v) => {
            field(&mut out, 4, v.as_bytes());
            3
        }
        Attr::Tensor(t) => {
            field(&mut out, 5, &tensor("", t));
            4
        }
        Attr::Graph(g) => {
            field(&mut out, 6, g);
            5
        }
        Attr::Floats(v) => {
            for f in v {
                varint(&mut out, 7 << 3 | 5);
                out.extend(f.to_le_bytes());
            }
            6
        }
        Attr::Ints(v) => {
            v.iter().for_each(|&i| number(&mut out, 8, i as u64));
            7
        }
        Attr::Of(name) => {
            field(&mut out, 21, name.as_bytes());
            return out;
        }
        Attr::Texts(v) => {
            v.iter().for_each(|t| field(&mut out, 9, t.as_bytes()));
            8
        }
    };
    number(&mut out, 20, kind);
    out
}
