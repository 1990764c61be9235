//! Ops that look at the characters of strings. No kernel computes them: the runtime calls the same [`Function`]s as the evaluator.

use super::Op;
use super::attr::Text;
use super::declare::{Meaning, Sample};
use super::shape::mismatch;
use crate::blob::Blob;
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
use crate::string;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};
use tersor_host::{Case, Function, Normalize, Number, Split};

crate::attr_enum! {
    /// What becomes of letters, by Unicode's tables and no locale's.
    pub enum Letters {
        /// they stay
        Keep = "keep",
        /// small letters
        Lower = "lower",
        /// capital letters
        Upper = "upper",
    }
}

op! {
    /// Strings of `a`, each with that of `b` at its end (ONNX `StringConcat`); both have one shape.
    pub struct TextConcat = "text.concat" {
        operands(a: Text, b: Text),
        results(y),
        attrs {},
    }
}

op! {
    /// Parts of strings along a new last axis, filled up with empty strings, and how many parts each string has (ONNX `StringSplit`). A string of more than `parts` parts
    /// is an error of the run.
    pub struct TextSplit = "text.split" {
        operands(x: Text),
        results(y, count),
        attrs {
            /// What stands between parts; runs of white space, also at the ends, when it is empty.
            delimiter: Text = Text::default(),
            /// After so many splits the rest is one part.
            most: Option<u32> = None,
            /// Extent of the new axis.
            parts: u32,
        },
    }
}

op! {
    /// Strings `[N]` without stop words, filled up with empty strings to `N`, and how many remain, `[1]` (ONNX `StringNormalizer`). Where none remains, one empty string
    /// counts.
    pub struct TextNormalize = "text.normalize" {
        operands(x: Text),
        results(y, count),
        attrs {
            /// What becomes of the letters of the strings that remain.
            letters: Letters = Letters::Keep,
            /// Whether a stop word is one in its own case only.
            sensitive: bool = false,
            /// Strings to remove.
            stopwords: Vec<Text> = vec![],
        },
    }
}

op! {
    /// Whether a regular expression of RE2's syntax matches the whole string (ONNX `RegexFullMatch`).
    pub struct TextMatch = "text.match" {
        operands(x: Text),
        results(y),
        attrs {
            /// The expression.
            pattern: Text,
        },
    }
}

op! {
    /// Numbers as text: integers of 64 bits, truth values as `True` and `False`, floats with the fewest digits that read back to the same number.
    pub struct TextFormat = "text.format" {
        operands(x: Plain),
        results(y),
        attrs {},
    }
}

op! {
    /// Text as numbers; what is no number is an error of the run.
    pub struct TextParse = "text.parse" {
        operands(x: Text),
        results(y),
        attrs {
            /// The type of the numbers.
            to: DType,
        },
    }
}

/// The numbers that are written and read.
const NUMBERS: [(DType, Number); 7] = [
    (DType::I64, Number::I64),
    (DType::U64, Number::U64),
    (DType::F64, Number::F64),
    (DType::F32, Number::F32),
    (DType::F16, Number::F16),
    (DType::BF16, Number::Bf16),
    (DType::Bool, Number::Bool),
];

fn number(dtype: DType) -> Result<Number> {
    let found = NUMBERS.iter().find(|n| n.0 == dtype);
    found.map(|n| n.1).ok_or_else(|| mismatch("T0382", format!("{dtype} is not written as text; cast it before")))
}

impl Op {
    /// The function of strings or images that an op on operands of these element types is, if it is one.
    pub fn function(&self, operands: &[DType]) -> Result<Option<Function>> {
        Ok(Some(match self {
            Op::TextConcat(_) => Function::Concat(()),
            Op::TextSplit(s) => {
                Function::Split(Split { delimiter: s.delimiter.0.clone(), most: s.most, parts: s.parts })
            }
            Op::TextNormalize(n) => {
                let case = match n.letters {
                    Letters::Keep => Case::Keep,
                    Letters::Lower => Case::Lower,
                    Letters::Upper => Case::Upper,
                };
                let stopwords = n.stopwords.iter().map(|s| s.0.clone()).collect();
                Function::Normalize(Normalize { case: case as i32, sensitive: n.sensitive, stopwords })
            }
            Op::TextMatch(m) => Function::Match(m.pattern.0.clone()),
            Op::TextFormat(_) => Function::Format(number(operands[0])? as i32),
            Op::TextParse(p) => Function::Parse(number(p.to)? as i32),
            Op::Image(i) => i.function(),
            _ => return Ok(None),
        }))
    }
}

/// Calls the function of an op on operands whose types were inferred.
pub(super) fn eval(op: impl Into<Op>, x: &[&Tensor], shapes: &[(DType, Vec<usize>)]) -> Result<Vec<Tensor>> {
    let dtypes: Vec<DType> = x.iter().map(|t| t.dtype()).collect();
    let f = op.into().function(&dtypes)?.expect("a function of strings");
    let y = string::call(&f, x)?;
    let of = |(bytes, (dtype, shape)): (Vec<u8>, &(DType, Vec<usize>))| {
        Tensor::from_blob(*dtype, shape.clone(), Blob::from(bytes)).expect("as many elements as inferred")
    };
    Ok(y.into_iter().zip(shapes).map(of).collect())
}

/// Checks what a function is made of, so that a pattern that is none is found before a run.
fn checked(op: impl Into<Op>, t: &[&Type]) -> Result<()> {
    let dtypes: Vec<DType> = t.iter().map(|t| t.dtype).collect();
    match op.into().function(&dtypes)? {
        Some(f) => f.prepare().map(drop).map_err(|e| mismatch("T0383", e.to_string())),
        None => Ok(()),
    }
}

fn words(g: &mut Gen) -> Type {
    let rank = g.int(0, 3) as usize;
    let shape = g.shape(rank);
    g.ty(DType::Str, &shape)
}

impl Meaning for TextConcat {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        if t[0].shape != t[1].shape {
            return Err(mismatch("T0384", format!("operands are {} and {}, expected one shape", t[0], t[1])));
        }
        Ok(vec![t[0].clone()])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        eval(self.clone(), x, &[(DType::Str, x[0].shape().to_vec())])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let t = words(g);
        (TextConcat {}, vec![t.clone(), t])
    }
}

impl Meaning for TextSplit {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        checked(self.clone(), t)?;
        let counts = t[0].with_dtype(DType::I64);
        Ok(vec![Type::new(DType::Str, t[0].shape.iter().cloned().chain([Dim::from(i64::from(self.parts))])), counts])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let shape = x[0].shape().to_vec();
        let parts = [&shape[..], &[self.parts as usize]].concat();
        eval(self.clone(), x, &[(DType::Str, parts), (DType::I64, shape)])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let delimiter = Text(g.one_of(&["", "a", "\"", "\\,}"]).into());
        (TextSplit { delimiter, most: g.one_of(&[None, Some(1)]), parts: g.int(2, 4) as u32 }, vec![words(g)])
    }
}

impl Meaning for TextNormalize {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        if t[0].rank() != 1 {
            return Err(mismatch("T0385", format!("operand is {}, expected one axis", t[0])));
        }
        Ok(vec![t[0].clone(), Type::new(DType::I64, [1i64])])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        eval(self.clone(), x, &[(DType::Str, x[0].shape().to_vec()), (DType::I64, vec![1])])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let stopwords = if g.flip() { vec![Text("b".into()), Text("é".into())] } else { vec![] };
        let n = g.int(0, 6) as usize;
        let letters = g.one_of(Letters::ALL);
        (TextNormalize { letters, sensitive: g.flip(), stopwords }, vec![g.ty(DType::Str, &[n])])
    }
}

impl Meaning for TextMatch {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        checked(self.clone(), t)?;
        Ok(vec![t[0].with_dtype(DType::Bool)])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        eval(self.clone(), x, &[(DType::Bool, x[0].shape().to_vec())])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let pattern = Text(g.one_of(&["", "a|é", r"\w", "[^\"}]+"]).into());
        (TextMatch { pattern }, vec![words(g)])
    }
}

impl Meaning for TextFormat {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        checked(self.clone(), t)?;
        Ok(vec![t[0].with_dtype(DType::Str)])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        eval(self.clone(), x, &[(DType::Str, x[0].shape().to_vec())])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (dtype, t) = (g.one_of(&NUMBERS).0, words(g));
        (TextFormat {}, vec![t.with_dtype(dtype)])
    }
}

impl Meaning for TextParse {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        checked(self.clone(), t)?;
        Ok(vec![t[0].with_dtype(self.to)])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        eval(self.clone(), x, &[(self.to, x[0].shape().to_vec())])
    }
    /// Of no elements: the strings of random tensors are no numbers.
    fn sample(g: &mut Gen) -> Sample<Self> {
        (TextParse { to: g.one_of(&NUMBERS).0 }, vec![g.ty(DType::Str, &[0])])
    }
}
