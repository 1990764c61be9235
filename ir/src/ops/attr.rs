//! Attribute values and their text.

use crate::dim::Dim;
use crate::types::DType;
use std::fmt;
use std::sync::Arc;

/// A value that an op's attribute can have: printed and parsed in `.tir`, compared and hashed by content.
pub trait Attr: Sized {
    /// Text inside `{name=…}`.
    fn print(&self) -> String;
    /// Reads what [`Attr::print`] wrote; the error says what was expected.
    fn parse(text: &str) -> Result<Self, String>;
    /// Calls `f` with every symbol in it.
    fn symbols(&self, _: &mut dyn FnMut(&Arc<str>)) {}
}

/// A float attribute, compared by its bits.
#[derive(Copy, Clone)]
pub struct Real(pub f64);

impl PartialEq for Real {
    fn eq(&self, other: &Real) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}
impl Eq for Real {}
impl std::hash::Hash for Real {
    fn hash<H: std::hash::Hasher>(&self, h: &mut H) {
        self.0.to_bits().hash(h);
    }
}
impl PartialOrd for Real {
    fn partial_cmp(&self, other: &Real) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Real {
    fn cmp(&self, other: &Real) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}
impl fmt::Debug for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
impl Attr for Real {
    fn print(&self) -> String {
        format!("{:?}", self.0)
    }
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map(Real).map_err(|_| format!("a number, not `{text}`"))
    }
}

macro_rules! attr_from_str {
    ($($ty:ty, $what:literal;)*) => {$(
        impl Attr for $ty {
            fn print(&self) -> String {
                self.to_string()
            }
            fn parse(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| format!(concat!($what, ", not `{}`"), text))
            }
        }
    )*};
}
attr_from_str! { bool, "true or false"; u8, "an integer in 0..256"; u32, "a non-negative integer"; u64, "a non-negative integer"; i64, "an integer"; }

impl Attr for DType {
    fn print(&self) -> String {
        self.name().into()
    }
    fn parse(text: &str) -> Result<Self, String> {
        DType::from_name(text).ok_or_else(|| format!("an element type, not `{text}`"))
    }
}
impl Attr for Dim {
    fn print(&self) -> String {
        self.to_string()
    }
    fn parse(text: &str) -> Result<Self, String> {
        crate::text::parse_dim(text)
    }
    fn symbols(&self, f: &mut dyn FnMut(&Arc<str>)) {
        Dim::symbols(self, f);
    }
}
impl Attr for crate::types::Type {
    fn print(&self) -> String {
        self.to_string()
    }
    fn parse(text: &str) -> Result<Self, String> {
        crate::text::parse_type(text)
    }
    fn symbols(&self, f: &mut dyn FnMut(&Arc<str>)) {
        self.shape.iter().for_each(|d| d.symbols(f));
    }
}
impl Attr for String {
    fn print(&self) -> String {
        format!("@{}", crate::text::quote_name(self))
    }
    fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix('@').ok_or_else(|| format!("a name after `@`, not `{text}`"))?;
        crate::text::unquote_name(name)
    }
}
/// A text attribute.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Text(pub String);

impl Attr for Text {
    fn print(&self) -> String {
        crate::text::quote(&self.0)
    }
    fn parse(text: &str) -> Result<Self, String> {
        crate::text::unquote(text).map(Text)
    }
}
impl<T: Attr> Attr for Option<T> {
    fn print(&self) -> String {
        self.as_ref().map_or("none".into(), Attr::print)
    }
    fn parse(text: &str) -> Result<Self, String> {
        if text == "none" { Ok(None) } else { T::parse(text).map(Some) }
    }
}
impl<T: Attr> Attr for Vec<T> {
    fn print(&self) -> String {
        format!("[{}]", self.iter().map(Attr::print).collect::<Vec<_>>().join(","))
    }
    fn parse(text: &str) -> Result<Self, String> {
        let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        let inner = inner.ok_or_else(|| format!("a list in brackets, not `{text}`"))?;
        split_top(inner).into_iter().map(T::parse).collect()
    }
    fn symbols(&self, f: &mut dyn FnMut(&Arc<str>)) {
        self.iter().for_each(|x| x.symbols(f));
    }
}

/// Splits at commas outside brackets, braces, parentheses and quotes; trims; nothing for an empty text.
pub fn split_top(text: &str) -> Vec<&str> {
    let (mut depth, mut quoted, mut start, mut out) = (0i32, false, 0, vec![]);
    for (i, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '[' | '(' | '{' if !quoted => depth += 1,
            ']' | ')' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                out.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    if !text.trim().is_empty() {
        out.push(text[start..].trim());
    }
    out
}

/// Declares an enumeration of kinds with their `.tir` names.
#[macro_export]
macro_rules! attr_enum {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vm:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum $name { $($(#[$vm])* $variant),* }
        impl $name {
            /// Every kind.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];
            /// Name in `.tir`.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text),* }
            }
        }
        impl $crate::ops::attr::Attr for $name {
            fn print(&self) -> String {
                self.name().into()
            }
            fn parse(text: &str) -> Result<Self, String> {
                $name::ALL.iter().copied().find(|k| k.name() == text).ok_or_else(|| {
                    format!("one of {}, not `{text}`", [$($text),*].join(", "))
                })
            }
        }
    };
}
