//! Functions of strings and encoded images, which no kernel computes.
//!
//! The compiler's evaluator and the runtime call the same ones. A tensor of strings is a tensor of *handles*, `u32` numbers of entries of a [`Strings`] table, so
//! that whatever only moves or compares strings is an ordinary kernel; what looks at characters is a [`Function`]. Numbers are in native byte order.

mod error;
mod image;
mod number;
mod strings;
mod text;

pub use error::{Error, Result};
pub use image::{Image, Pixels};
pub use number::Number;
pub use strings::Strings;

use regex::Regex;

#[cfg(test)]
mod tests;

/// What a function does; a wire type, so that a manifest holds it as it is.
#[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
pub enum Function {
    /// Two strings, one after the other: `x[n], y[n]` to `[n]`.
    #[prost(message, tag = "1")]
    Concat(()),
    /// See [`Split`].
    #[prost(message, tag = "2")]
    Split(Split),
    /// See [`Normalize`].
    #[prost(message, tag = "3")]
    Normalize(Normalize),
    /// Whether the regular expression matches the whole string: `x[n]` to truth values `[n]`.
    #[prost(string, tag = "4")]
    Match(String),
    /// Numbers as text: `x[n]` to `[n]`.
    #[prost(enumeration = "Number", tag = "5")]
    Format(i32),
    /// Text as numbers: `x[n]` to `[n]`.
    #[prost(enumeration = "Number", tag = "6")]
    Parse(i32),
    /// See [`Image`].
    #[prost(message, tag = "7")]
    Image(Image),
}

/// Parts of strings: `x[n]` to `[n, parts]`, filled up with empty strings, and the number of parts as `i64[n]`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Split {
    /// What stands between parts; runs of white space, also at the ends, when it is empty.
    #[prost(string, tag = "1")]
    pub delimiter: String,
    /// After so many splits the rest is one part.
    #[prost(uint32, optional, tag = "2")]
    pub most: Option<u32>,
    /// Parts that there is room for; more are an error.
    #[prost(uint32, tag = "3")]
    pub parts: u32,
}

/// Strings without stop words: `x[n]` to `[n]`, filled up with empty strings, and how many remain as `i64[1]`. Where none does, one empty string counts.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Normalize {
    /// What becomes of the letters that remain.
    #[prost(enumeration = "Case", tag = "1")]
    pub case: i32,
    /// Whether a stop word is one in its own case only.
    #[prost(bool, tag = "2")]
    pub sensitive: bool,
    /// Strings to remove.
    #[prost(string, repeated, tag = "3")]
    pub stopwords: Vec<String>,
}

/// A change of letters, by Unicode's tables and no locale's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Case {
    /// None.
    Keep = 0,
    /// To small letters.
    Lower = 1,
    /// To capital letters.
    Upper = 2,
}

/// A function that was checked, ready to be called.
#[derive(Clone, Debug)]
pub struct Prepared {
    function: Function,
    /// The expression of a match.
    expression: Option<Regex>,
}

/// What an operand's or result's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Handles of strings.
    Text,
    /// Bytes as they are.
    Byte,
    /// Numbers or truth values.
    Number(Number),
}

impl Element {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Element::Text => 4,
            Element::Byte => 1,
            Element::Number(n) => n.size(),
        }
    }
}

impl Function {
    /// Checks what the function is made of.
    pub fn prepare(&self) -> Result<Prepared> {
        let number = |n: i32| match Number::try_from(n) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(format!("element type {n} is unknown"))),
        };
        let mut expression = None;
        match self {
            Function::Concat(()) => {}
            Function::Split(s) => {
                if s.parts == 0 && s.most.is_some() {
                    return Err(Error::new("there is no room for any part"));
                }
            }
            Function::Normalize(n) => {
                Case::try_from(n.case).map_err(|_| Error::new(format!("case {} is unknown", n.case)))?;
            }
            Function::Match(pattern) => expression = Some(text::whole(pattern)?),
            Function::Format(n) | Function::Parse(n) => number(*n)?,
            Function::Image(i) => drop(i.kind()?),
        }
        Ok(Prepared { function: self.clone(), expression })
    }

    /// Elements of the operands and of the results.
    pub fn signature(&self) -> (Vec<Element>, Vec<Element>) {
        use Element::Text;
        let number = |n: i32| Element::Number(Number::try_from(n).unwrap_or(Number::I64));
        let of = |n: Number| Element::Number(n);
        match self {
            Function::Concat(()) => (vec![Text, Text], vec![Text]),
            Function::Split(_) | Function::Normalize(_) => (vec![Text], vec![Text, of(Number::I64)]),
            Function::Match(_) => (vec![Text], vec![of(Number::Bool)]),
            Function::Format(n) => (vec![number(*n)], vec![Text]),
            Function::Parse(n) => (vec![Text], vec![number(*n)]),
            Function::Image(_) => (vec![Element::Byte], vec![Element::Byte, of(Number::I64), of(Number::I64)]),
        }
    }

    /// What it is called in profiles and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Function::Concat(()) => "text.concat",
            Function::Split(_) => "text.split",
            Function::Normalize(_) => "text.normalize",
            Function::Match(_) => "text.match",
            Function::Format(_) => "text.format",
            Function::Parse(_) => "text.parse",
            Function::Image(_) => "image",
        }
    }
}

impl Prepared {
    /// The function.
    pub fn function(&self) -> &Function {
        &self.function
    }

    /// The results' bytes, from the operands' bytes, which are as many and of such elements as [`Function::signature`] says. New strings go into the table.
    pub fn call(&self, operands: &[&[u8]], strings: &mut Strings) -> Result<Vec<Vec<u8>>> {
        let (takes, _) = self.function.signature();
        let whole = |(x, e): (&&[u8], &Element)| x.len().is_multiple_of(e.size());
        if operands.len() != takes.len() || !operands.iter().zip(&takes).all(whole) {
            return Err(Error::new(format!("{} operands that do not fit {}", operands.len(), self.function.name())));
        }
        match (&self.function, &self.expression) {
            (Function::Concat(()), _) => text::concat(operands[0], operands[1], strings),
            (Function::Split(s), _) => text::split(s, operands[0], strings),
            (Function::Normalize(n), _) => text::normalize(n, operands[0], strings),
            (Function::Match(_), Some(e)) => text::matches(e, operands[0], strings),
            (Function::Match(_), None) => Err(Error::new("there is no expression")),
            (Function::Format(n), _) => {
                number::format(Number::try_from(*n).unwrap_or(Number::I64), operands[0], strings)
            }
            (Function::Image(i), _) => image::decode(i, operands[0]),
            (Function::Parse(n), _) => number::parse(Number::try_from(*n).unwrap_or(Number::I64), operands[0], strings),
        }
    }
}
