//! The only file that names onnx-protobuf: its message structs, and accessors over them.

pub use onnx_protobuf::attribute_proto::AttributeType as AttributeKind;
pub use onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto,
};
use onnx_protobuf::{tensor_proto, tensor_shape_proto, type_proto};
use protobuf::Message;
use tersor_ir::Diagnostic;

/// Decodes a model whose tensors' raw data were replaced by numbers.
pub fn decode(skeleton: &[u8]) -> Result<ModelProto, Diagnostic> {
    ModelProto::parse_from_bytes(skeleton)
        .map_err(|e| Diagnostic::error("O0002", format!("not a readable ONNX file: {e}")))
}

/// Decodes one tensor whose raw data were replaced by a number.
pub fn decode_tensor(skeleton: &[u8]) -> Result<TensorProto, Diagnostic> {
    TensorProto::parse_from_bytes(skeleton)
        .map_err(|e| Diagnostic::error("O0002", format!("not a readable tensor: {e}")))
}

/// An initializer of a graph.
#[derive(Copy, Clone)]
pub enum Initializer<'a> {
    /// All elements.
    Dense(&'a TensorProto),
    /// Those that are not zero.
    Sparse(&'a SparseTensorProto),
}

impl<'a> Initializer<'a> {
    /// The name, which is that of the values where it is sparse.
    pub fn name(self) -> &'a str {
        match self {
            Initializer::Dense(t) => &t.name,
            Initializer::Sparse(t) => t.values.as_ref().map_or("", |v| &v.name),
        }
    }
}

/// The initializers of a graph.
pub fn initializers(g: &GraphProto) -> impl Iterator<Item = Initializer<'_>> {
    g.initializer.iter().map(Initializer::Dense).chain(g.sparse_initializer.iter().map(Initializer::Sparse))
}

/// The number that stands for a tensor's raw data, if it has any.
pub fn raw_index(t: &TensorProto) -> Option<usize> {
    Some(u64::from_le_bytes(t.raw_data.as_slice().try_into().ok()?) as usize)
}

/// Whether the tensor's bytes are in another file.
pub fn is_external(t: &TensorProto) -> bool {
    t.data_location.enum_value() == Ok(tensor_proto::DataLocation::EXTERNAL)
}

/// The type that an attribute says it has; `None` when it says nothing.
pub fn attribute_kind(a: &AttributeProto) -> Option<AttributeKind> {
    a.type_.enum_value().ok().filter(|k| *k != AttributeKind::UNDEFINED)
}

/// A declared extent.
pub enum Extent {
    /// A number.
    Value(i64),
    /// A name.
    Param(String),
    /// Nothing.
    Unknown,
}

/// What a declared value is made of.
#[derive(Copy, Clone, PartialEq, Eq, Default, Debug)]
pub struct Kind {
    /// It may be without an element.
    pub optional: bool,
    /// It is a list, not one.
    pub sequence: bool,
    /// The element type number of the keys, where it is a map or a list of maps.
    pub keys: Option<i32>,
}

/// What a declared value is, and its tensors' element type number and extents; no extents when the rank is not declared. The tensors of a map are its values,
/// which the import takes for scalars. `None` for what has no tensors, for sequences of sequences of them, and for maps of maps or sequences.
pub fn tensors(v: &ValueInfoProto) -> Option<(Kind, i32, Option<Vec<Extent>>)> {
    let (mut kind, mut ty) = (Kind::default(), v.type_.as_ref()?);
    let t = loop {
        ty = match ty.value.as_ref()? {
            type_proto::Value::TensorType(t) => break t,
            type_proto::Value::OptionalType(o) if kind == Kind::default() => {
                kind.optional = true;
                o.elem_type.as_ref()?
            }
            type_proto::Value::SequenceType(s) if !kind.sequence && kind.keys.is_none() => {
                kind.sequence = true;
                s.elem_type.as_ref()?
            }
            type_proto::Value::MapType(m) if kind.keys.is_none() => {
                kind.keys = Some(m.key_type);
                m.value_type.as_ref()?
            }
            _ => return None,
        };
    };
    let dims = t.shape.as_ref().map(|s| {
        let one = |d: &tensor_shape_proto::Dimension| match &d.value {
            // Exporters write -1 and `?` for what they do not know, and the latter for several extents that differ.
            Some(tensor_shape_proto::dimension::Value::DimValue(n)) if *n != -1 => Extent::Value(*n),
            Some(tensor_shape_proto::dimension::Value::DimParam(p)) if p.contains(char::is_alphanumeric) => {
                Extent::Param(p.clone())
            }
            _ => Extent::Unknown,
        };
        s.dim.iter().map(one).collect()
    });
    Some((kind, t.elem_type, dims))
}

/// Element type number and extents of a declared tensor; no extents when the rank is not declared.
pub fn tensor_type(v: &ValueInfoProto) -> Option<(i32, Option<Vec<Extent>>)> {
    tensors(v).filter(|t| t.0 == Kind::default()).map(|t| (t.1, t.2))
}
