//! The closed set of ops. One op (or family of one shape) is one file: its declaration, shape rule, reference evaluation, work and a
//! sampler of valid instances. Everything else is derived from the declaration: printer, parser, arity and class checks, the key for
//! common sub-expressions and e-graph nodes (`Eq + Hash + Ord`), the reference page, and the property tests at the end of this file.

pub mod attr;
#[macro_use]
mod declare;
pub mod shape;

pub mod activation;
pub mod argsort;
pub mod attention;
pub mod binary;
pub mod bitcast;
pub mod cast;
pub mod choice;
pub mod compare;
pub mod concat;
pub mod cond;
pub mod conv;
pub mod cumsum;
pub mod decode_affine;
pub mod decode_codebook;
pub mod decode_sparse;
pub mod extent;
pub mod gather;
pub mod image;
pub mod iota;
pub mod loops;
pub mod matmul;
pub mod nms;
pub mod norm;
pub mod pad;
pub mod pool;
pub mod prefix;
pub mod quant;
pub mod random;
pub mod recurrence;
pub mod reduce;
pub mod reference;
pub mod reshape;
pub mod rope;
pub mod scatter;
pub mod select;
pub mod sharing;
pub mod slice;
pub mod softmax;
pub mod text;
pub mod transpose;
pub mod unary;

pub use attr::{Attr, Real, Text};
pub use declare::{Arity, Class, Meaning, OpSpec, OperandSpec, Sample, Work};

ops! {
    unary::Unary,
    binary::Binary,
    compare::Compare,
    select::Select,
    cast::Cast,
    bitcast::BitCast,
    reduce::Reduce,
    reduce::ArgReduce,
    cumsum::CumSum,
    argsort::ArgSort,
    softmax::Softmax,
    norm::LayerNorm,
    norm::RmsNorm,
    matmul::MatMul,
    conv::Conv,
    pool::Pool,
    attention::Attention,
    rope::Rope,
    recurrence::Recurrence,
    nms::Nms,
    reshape::Reshape,
    reshape::Broadcast,
    transpose::Transpose,
    slice::Slice,
    prefix::Prefix,
    concat::Concat,
    pad::Pad,
    gather::Gather,
    scatter::Scatter,
    iota::Iota,
    extent::Extent,
    random::Random,
    quant::Quant,
    quant::QuantDynamic,
    text::TextConcat,
    text::TextSplit,
    text::TextNormalize,
    text::TextMatch,
    text::TextFormat,
    text::TextParse,
    image::Image,
    decode_affine::DecodeAffine,
    decode_codebook::DecodeCodebook,
    decode_sparse::DecodeSparse,
    choice::Choice,
    cond::If,
    loops::Loop,
}

impl Op {
    /// Whether it gives tensors from what is stored of them: a constant that it reads stays as it is.
    pub fn decodes(&self) -> bool {
        matches!(self, Op::DecodeAffine(_) | Op::DecodeCodebook(_) | Op::DecodeSparse(_))
    }
    /// Whether it runs code of its own, regions or a function, and not its evaluation.
    pub fn is_control(&self) -> bool {
        matches!(self, Op::If(_) | Op::Loop(_))
    }
    /// The symbol that it binds when it runs.
    pub fn binds(&self) -> Option<&std::sync::Arc<str>> {
        if let Op::Prefix(p) = self { p.extent.as_symbol() } else { None }
    }
}

#[cfg(test)]
mod tests;
