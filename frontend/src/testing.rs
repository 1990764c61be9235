//! ONNX models made in code, for tests of this and other crates. Writes the wire format itself, so that it can also write what no exporter would.

use crate::message::{self, value_info};
pub use crate::message::{Attr, data_type, field, number, tensor};
use tersor_ir::{DType, Tensor, Type};

/// A model in the making.
#[derive(Clone, Debug)]
pub struct Model {
    opset: i64,
    nodes: Vec<Vec<u8>>,
    functions: Vec<u8>,
    initializers: Vec<u8>,
    inputs: Vec<u8>,
    outputs: Vec<u8>,
    extra: Vec<u8>,
}

impl Model {
    /// An empty model of a version of `ai.onnx`.
    pub fn new(opset: i64) -> Model {
        let none = Vec::new;
        Model {
            opset,
            nodes: vec![],
            functions: none(),
            initializers: none(),
            inputs: none(),
            outputs: none(),
            extra: none(),
        }
    }
    /// An input of a type such as `f32[N,3]`.
    pub fn input(mut self, name: &str, ty: &str) -> Model {
        field(&mut self.inputs, 11, &value_info(name, &parse(ty)));
        self
    }
    /// An input that is an optional, a sequence or an optional sequence of tensors of a type.
    pub fn formed(mut self, name: &str, (optional, sequence): (bool, bool), ty: &str) -> Model {
        let wrapped = |number: u64, inner: &[u8]| {
            let (mut boxed, mut out) = (vec![], vec![]);
            field(&mut boxed, 1, inner);
            field(&mut out, number, &boxed);
            out
        };
        let mut ty = message::tensor_type(&parse(ty));
        if sequence {
            ty = wrapped(4, &ty);
        }
        if optional {
            ty = wrapped(9, &ty);
        }
        field(&mut self.inputs, 11, &message::typed(name, &ty));
        self
    }
    /// An input that is a map from one type of elements to another.
    pub fn map(mut self, name: &str, key: DType, of: DType) -> Model {
        let (mut map, mut ty) = (vec![], vec![]);
        number(&mut map, 1, data_type(key));
        field(&mut map, 2, &message::tensor_type(&Type::new(of, [0i64; 0])));
        field(&mut ty, 5, &map);
        field(&mut self.inputs, 11, &message::typed(name, &ty));
        self
    }
    /// An output of a type such as `f32[N,3]`.
    pub fn output(mut self, name: &str, ty: &str) -> Model {
        field(&mut self.outputs, 12, &value_info(name, &parse(ty)));
        self
    }
    /// An output without a declared type.
    pub fn untyped_output(mut self, name: &str) -> Model {
        let mut info = vec![];
        field(&mut info, 1, name.as_bytes());
        field(&mut self.outputs, 12, &info);
        self
    }
    /// A constant with raw data.
    pub fn constant(self, name: &str, t: &Tensor) -> Model {
        let bytes = tensor(name, t);
        self.raw_initializer(&bytes)
    }
    /// An initializer from the bytes of a `TensorProto`.
    pub fn raw_initializer(mut self, tensor: &[u8]) -> Model {
        field(&mut self.initializers, 5, tensor);
        self
    }
    /// A field of the graph, as bytes.
    pub fn graph_field(mut self, number: u64, body: &[u8]) -> Model {
        field(&mut self.extra, number, body);
        self
    }
    /// A node, named after its first output with an `n_` before it.
    pub fn node(mut self, op: &str, inputs: &[&str], outputs: &[&str], attrs: &[(&str, Attr)]) -> Model {
        let name = format!("n_{}", outputs.first().unwrap_or(&""));
        self.nodes.push(message::node(&name, op, inputs, outputs, attrs));
        self
    }
    /// A function `domain:name` of the nodes of `body`, with attributes: those without a value must be given.
    pub fn function(
        mut self,
        name: &str,
        ports: (&[&str], &[&str]),
        attrs: &[(&str, Option<Attr>)],
        body: &Model,
    ) -> Model {
        let (domain, name) = name.rsplit_once(':').unwrap_or(("", name));
        let mut f = vec![];
        field(&mut f, 1, name.as_bytes());
        ports.0.iter().for_each(|i| field(&mut f, 4, i.as_bytes()));
        ports.1.iter().for_each(|o| field(&mut f, 5, o.as_bytes()));
        for (name, default) in attrs {
            match default {
                None => field(&mut f, 6, name.as_bytes()),
                Some(a) => field(&mut f, 11, &message::attribute(name, a)),
            }
        }
        body.nodes.iter().for_each(|n| field(&mut f, 7, n));
        field(&mut f, 9, &message::opset("", body.opset));
        field(&mut f, 10, domain.as_bytes());
        field(&mut self.functions, 25, &f);
        self
    }
    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let graph = self.graph();
        let mut model = vec![];
        number(&mut model, 1, 8);
        field(&mut model, 7, &graph);
        field(&mut model, 8, &message::opset("", self.opset));
        model.extend(&self.functions);
        model
    }
}

impl From<Model> for Attr {
    fn from(m: Model) -> Attr {
        Attr::Graph(m.graph())
    }
}

impl Model {
    fn graph(&self) -> Vec<u8> {
        let mut graph = vec![];
        self.nodes.iter().for_each(|n| field(&mut graph, 1, n));
        field(&mut graph, 2, b"test");
        for part in [&self.initializers, &self.inputs, &self.outputs, &self.extra] {
            graph.extend(part);
        }
        graph
    }
}

fn parse(ty: &str) -> Type {
    tersor_ir::text::parse_type(ty).expect("a type")
}
