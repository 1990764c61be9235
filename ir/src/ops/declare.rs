//! The macros that derive an op from its declaration, and the trait that gives it meaning.

use crate::diag::{Diagnostic, Result};
use crate::dim::{Bindings, Dim};
use crate::small::SmallFloat;
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// Element types that an operand accepts.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Class {
    /// Any element type.
    Any,
    /// `f64 f32 f16 bf16`.
    Float,
    /// Integers of at least 8 bits.
    Int,
    /// Floats or integers of at least 8 bits.
    Num,
    /// Integer codes of any width, and storage floats.
    Code,
    /// `bool`.
    Bool,
    /// Any element type but `str` and complex numbers.
    Plain,
    /// `str`.
    Text,
}

impl Class {
    /// Whether values of `dtype` may stand here.
    pub fn accepts(self, dtype: DType) -> bool {
        let float = matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16);
        let int = dtype.is_int() && dtype.bits() >= 8;
        match self {
            Class::Any => true,
            Class::Float => float,
            Class::Int => int,
            Class::Num => float || int,
            Class::Code => dtype.is_int() || SmallFloat::of(dtype).is_some(),
            Class::Bool => dtype == DType::Bool,
            Class::Plain => dtype != DType::Str && dtype.part().is_none(),
            Class::Text => dtype == DType::Str,
        }
    }
}

/// How often an operand stands.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Arity {
    /// Once.
    One,
    /// Once or, at the end of the list, not at all.
    Optional,
    /// One or more times; the last of the list.
    Many,
}

/// A declared operand.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct OperandSpec {
    /// Name, for messages.
    pub name: &'static str,
    /// Accepted element types.
    pub class: Class,
    /// How often.
    pub arity: Arity,
}

/// A declared op, for documentation and checks.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct OpSpec {
    /// Mnemonics: one, or one for each kind of a family.
    pub mnemonics: &'static [&'static str],
    /// Contract, from the doc comment.
    pub doc: &'static [&'static str],
    /// Operands.
    pub operands: &'static [OperandSpec],
    /// Names of the results.
    pub results: &'static [&'static str],
    /// Attributes: name, doc, default as text.
    pub attrs: &'static [(&'static str, &'static [&'static str], Option<&'static str>)],
}

impl OpSpec {
    /// Checks number and element types of operands.
    pub fn check(&self, types: &[&Type]) -> Result<()> {
        let least = self.operands.iter().filter(|o| o.arity != Arity::Optional).count();
        let most = if self.operands.iter().any(|o| o.arity == Arity::Many) { usize::MAX } else { self.operands.len() };
        if types.len() < least || types.len() > most {
            let expected = if least == most { least.to_string() } else { format!("at least {least}") };
            return Err(Diagnostic::error("T0101", format!("{} operands, expected {expected}", types.len())));
        }
        for (i, t) in types.iter().enumerate() {
            let spec = &self.operands[i.min(self.operands.len() - 1)];
            if !spec.class.accepts(t.dtype) {
                let message = format!("operand {i} ({}) is {}, expected {:?}", spec.name, t.dtype, spec.class);
                return Err(Diagnostic::error("T0102", message));
            }
        }
        Ok(())
    }
}

/// What one execution costs, before any kernel is chosen.
#[derive(Clone, PartialEq, Debug)]
pub struct Work {
    /// Multiply-adds (or one for each element of elementwise work).
    pub madds: Dim,
    /// Bytes read and written, each operand and result once.
    pub bytes: Dim,
}

impl Work {
    /// Bytes of all operands and results.
    pub fn traffic(ins: &[&Type], outs: &[Type]) -> Dim {
        ins.iter().copied().chain(outs).fold(Dim::from(0), |a, t| {
            let bits = t.dtype.bits() as i64;
            a + if bits >= 8 { t.elements() * (bits / 8).into() } else { (t.elements() * bits.into()).floor_div(8) }
        })
    }
    /// One step for each element of the first result, all operands and results moved once.
    pub fn elementwise(ins: &[&Type], outs: &[Type]) -> Work {
        Work { madds: outs.first().map_or(Dim::from(0), Type::elements), bytes: Work::traffic(ins, outs) }
    }
    /// No arithmetic: data that only changes its shape or place.
    pub fn movement(ins: &[&Type], outs: &[Type]) -> Work {
        Work { madds: Dim::from(0), bytes: Work::traffic(ins, outs) }
    }
}

/// A random valid instance of an op: itself and the types of its operands.
pub type Sample<T> = (T, Vec<Type>);

/// Shape rule, reference evaluation and work of one op.
pub trait Meaning: Sized {
    /// Result types from operand types; every mismatch is named.
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>>;
    /// The oracle: plain loops in f64 (or i64 for integers), rounded once at the end. Only called with operands of inferred types; symbols are bound in `env`.
    fn eval(&self, x: &[&Tensor], env: &Bindings) -> Result<Vec<Tensor>>;
    /// Cost of one execution.
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        Work::elementwise(ins, outs)
    }
    /// What must not be negative, once symbols have values, where results have elements; [`Meaning::infer`] refuses it for numbers.
    fn needs(&self, _ins: &[&Type]) -> Vec<Dim> {
        vec![]
    }
    /// A valid instance with small extents, for property tests.
    fn sample(g: &mut crate::testing::Gen) -> Sample<Self>;
}

/// Declares an op; see `decode_affine.rs` for a whole one, `unary.rs` for a family.
///
/// A family has a `kind` attribute of an [`crate::attr_enum`] type, whose names are its mnemonics.
macro_rules! op {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident = $mnemonic:literal {
            $($body:tt)*
        }
    ) => {
        op!(@impl [$($doc)*] $name [] [&[$mnemonic]] [|_: &$name| $mnemonic] $($body)*);
    };
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident by $kind:ident {
            $($body:tt)*
        }
    ) => {
        op!(@impl [$($doc)*] $name [$kind] [{
            const NAMES: [&str; $kind::ALL.len()] = {
                let mut names = [""; $kind::ALL.len()];
                let mut i = 0;
                while i < names.len() {
                    names[i] = $kind::ALL[i].name();
                    i += 1;
                }
                names
            };
            &NAMES
        }] [|op: &$name| op.kind.name()] $($body)*);
    };
    (
        @impl [$($doc:literal)*] $name:ident [$($kind:ident)?] [$mnemonics:expr] [$mnemonic:expr]
        operands($($operand:ident : $class:ident $(($arity:ident))?),* $(,)?),
        results($($result:ident),* $(,)?),
        attrs { $($(#[doc = $adoc:literal])* $attr:ident : $aty:ty $(= $default:expr)?),* $(,)? } $(,)?
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $name {
            $(
                /// Which of the family.
                pub kind: $kind,
            )?
            $($(#[doc = $adoc])* pub $attr: $aty,)*
        }
        impl $name {
            /// The declaration.
            pub const SPEC: $crate::ops::declare::OpSpec = $crate::ops::declare::OpSpec {
                mnemonics: $mnemonics,
                doc: &[$($doc),*],
                operands: &[$($crate::ops::declare::OperandSpec {
                    name: stringify!($operand),
                    class: $crate::ops::declare::Class::$class,
                    arity: op!(@arity $($arity)?),
                }),*],
                results: &[$(stringify!($result)),*],
                attrs: &[$((stringify!($attr), &[$($adoc),*], op!(@default_text $($default)?))),*],
            };
            /// Name in `.tir`.
            pub fn mnemonic(&self) -> &'static str {
                ($mnemonic)(self)
            }
            /// Attributes as text, without those that have their default.
            pub(crate) fn print_attrs(&self) -> Vec<(&'static str, String)> {
                #[allow(unused_mut)]
                let mut out: Vec<(&'static str, String)> = vec![];
                $(if !(op!(@is_default self.$attr, $aty $(, $default)?)) {
                    out.push((stringify!($attr), $crate::ops::attr::Attr::print(&self.$attr)));
                })*
                out
            }
            /// Calls `f` with every symbol in the attributes.
            pub(crate) fn symbols(&self, f: &mut dyn FnMut(&std::sync::Arc<str>)) {
                let _ = &f;
                $($crate::ops::attr::Attr::symbols(&self.$attr, f);)*
            }
            /// From a mnemonic of this op and its attributes as text, which are taken out of `attrs`.
            pub(crate) fn from_attrs(mnemonic: &str, attrs: &mut Vec<(String, String)>) -> Result<$name, String> {
                #[allow(unused)]
                let mut take = |name: &str| attrs.iter().position(|(n, _)| n == name).map(|i| attrs.remove(i).1);
                let _ = mnemonic;
                Ok($name {
                    $(kind: <$kind as $crate::ops::attr::Attr>::parse(mnemonic)?,)?
                    $($attr: match take(stringify!($attr)) {
                        Some(text) => <$aty as $crate::ops::attr::Attr>::parse(&text)
                            .map_err(|e| format!("attribute `{}` must be {e}", stringify!($attr)))?,
                        None => op!(@default $attr $(, $default)?),
                    },)*
                })
            }
        }
    };
    (@arity) => { $crate::ops::declare::Arity::One };
    (@arity opt) => { $crate::ops::declare::Arity::Optional };
    (@arity many) => { $crate::ops::declare::Arity::Many };
    (@default_text) => { None };
    (@default_text $default:expr) => { Some(stringify!($default)) };
    (@is_default $value:expr, $ty:ty) => { false };
    (@is_default $value:expr, $ty:ty, $default:expr) => { $value == { let d: $ty = $default; d } };
    (@default $attr:ident) => { return Err(format!("attribute `{}` is required", stringify!($attr))) };
    (@default $attr:ident, $default:expr) => { $default };
}

/// The list of all ops; yields the `Op` and `OpKind` enumerations and dispatch.
macro_rules! ops {
    ($($module:ident::$name:ident),* $(,)?) => {
        $(pub use $module::$name;)*
        /// An op with its attributes.
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[allow(missing_docs)]
        pub enum Op { $($name($name)),* }
        /// An op without its attributes.
        #[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[allow(missing_docs)]
        pub enum OpKind { $($name),* }
        $(impl From<$name> for Op {
            fn from(op: $name) -> Op { Op::$name(op) }
        })*
        impl OpKind {
            /// Every op.
            pub const ALL: &'static [OpKind] = &[$(OpKind::$name),*];
            /// The declaration.
            pub fn spec(self) -> &'static OpSpec {
                match self { $(OpKind::$name => &$name::SPEC),* }
            }
            /// The op with that mnemonic, and attributes read from text. Attributes it does not know stay in `attrs`.
            pub fn parse(mnemonic: &str, attrs: &mut Vec<(String, String)>) -> Option<Result<Op, String>> {
                $(if $name::SPEC.mnemonics.contains(&mnemonic) {
                    return Some($name::from_attrs(mnemonic, attrs).map(Op::from));
                })*
                None
            }
            /// A random valid instance.
            pub fn sample(self, g: &mut crate::testing::Gen) -> Sample<Op> {
                match self { $(OpKind::$name => { let (op, t) = $name::sample(g); (op.into(), t) }),* }
            }
        }
        impl Op {
            /// Which op.
            pub fn kind(&self) -> OpKind {
                match self { $(Op::$name(_) => OpKind::$name),* }
            }
            /// The declaration.
            pub fn spec(&self) -> &'static OpSpec {
                self.kind().spec()
            }
            /// Name in `.tir`.
            pub fn mnemonic(&self) -> &'static str {
                match self { $(Op::$name(op) => op.mnemonic()),* }
            }
            /// Attributes as text, without those that have their default.
            pub fn print_attrs(&self) -> Vec<(&'static str, String)> {
                match self { $(Op::$name(op) => op.print_attrs()),* }
            }
            /// Calls `f` with every symbol in the attributes.
            pub fn symbols(&self, f: &mut dyn FnMut(&std::sync::Arc<str>)) {
                match self { $(Op::$name(op) => op.symbols(f)),* }
            }
            /// Result types; checks number and classes of the operands first.
            pub fn infer(&self, t: &[&crate::types::Type]) -> crate::diag::Result<Vec<crate::types::Type>> {
                let named = |mut d: crate::diag::Diagnostic| { d.message = format!("{}: {}", self.mnemonic(), d.message); d };
                self.spec().check(t).map_err(named)?;
                match self { $(Op::$name(op) => op.infer(t)),* }.map_err(named)
            }
            /// Reference evaluation.
            pub fn eval(&self, x: &[&crate::tensor::Tensor], env: &crate::dim::Bindings) -> crate::diag::Result<Vec<crate::tensor::Tensor>> {
                match self { $(Op::$name(op) => op.eval(x, env)),* }
            }
            /// Cost of one execution.
            pub fn work(&self, ins: &[&crate::types::Type], outs: &[crate::types::Type]) -> Work {
                match self { $(Op::$name(op) => op.work(ins, outs)),* }
            }
            /// What must not be negative, once symbols have values, where results have elements.
            pub fn needs(&self, ins: &[&crate::types::Type]) -> Vec<crate::dim::Dim> {
                match self { $(Op::$name(op) => op.needs(ins)),* }
            }
        }
    };
}
