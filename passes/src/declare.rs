//! The `pass!` macro, and what it derives from a declaration: options that parse and print with their defaults left out, counters, documentation.

use crate::manager::PassCx;
use crate::patches::Tap;
use crate::propose::Propose;
use crate::suggest::did_you_mean;
use tersor_ir::ops::attr::split_top;
use tersor_ir::{Diagnostic, Module, Result, diag::Failure};

/// A pass that changes the module and is exact.
pub trait Rewrite {
    /// Values of `@main` whose statistics it needs, and which of them with a Gram matrix; empty when it needs none.
    fn taps(&self, _: &Module) -> Vec<Tap> {
        vec![]
    }
    /// Rewrites the module in place. What it gives equals what it got on every input, under every plan.
    fn run(&self, m: &mut Module, cx: &mut PassCx) -> Result<()>;
}

/// What a pass does with a module.
pub enum Kind {
    /// Exact, changes the module.
    Rewrite(Box<dyn Rewrite>),
    /// Compresses: offers alternatives at sites.
    Propose(Box<dyn Propose>),
}

/// What options make: a pass, and for each option its text where it is not the default.
pub type Made = (Kind, Vec<Option<String>>);

/// A declared option.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct OptionSpec {
    /// Name, with `_` where text has `-`.
    pub ident: &'static str,
    /// What it does.
    pub doc: &'static [&'static str],
}

impl OptionSpec {
    /// Name in text.
    pub fn name(&self) -> String {
        self.ident.replace('_', "-")
    }
}

/// A declared pass.
#[derive(Copy, Clone, Debug)]
pub struct PassSpec {
    /// Name in pipelines.
    pub name: &'static str,
    /// What it does; the first line is the summary.
    pub doc: &'static [&'static str],
    /// `Rewrite` or `Propose`.
    pub kind: &'static str,
    /// Options.
    pub options: &'static [OptionSpec],
    /// Counters: name and meaning.
    pub stats: &'static [(&'static str, &'static str)],
    /// Every option's default as text.
    pub defaults: fn() -> Vec<String>,
    /// A pass from options as text, in the order of `options`; `None` means the default. The error names the option.
    #[doc(hidden)]
    pub make: fn(&[Option<String>]) -> Result<Made, String>,
}

/// A pass with its options.
pub struct Pass {
    /// The declaration.
    pub spec: &'static PassSpec,
    /// The pass as pipeline text, options that have their default left out.
    pub text: String,
    /// What it does.
    pub kind: Kind,
}

fn usage(code: &'static str, message: String) -> Diagnostic {
    Diagnostic::error(code, message).failure(Failure::Usage)
}

impl PassSpec {
    /// The pass of that name.
    pub fn find(name: &str) -> Result<&'static PassSpec> {
        crate::PASSES.iter().copied().find(|s| s.name == name).ok_or_else(|| {
            let names: Vec<&str> = crate::PASSES.iter().map(|s| s.name).collect();
            usage("S0001", format!("there is no pass `{name}`")).with_help(did_you_mean(name, &names))
        })
    }
    /// A pass with these options. A bare word (without a value) is a flag, or the value of the first option.
    pub fn with(&'static self, options: &[(String, Option<String>)]) -> Result<Pass> {
        let mut values: Vec<Option<String>> = vec![None; self.options.len()];
        for (name, value) in options {
            let named = self.options.iter().position(|o| o.name() == *name);
            let (at, value) = match (named, value) {
                (Some(at), value) => (at, value.clone().unwrap_or_else(|| "true".into())),
                (None, None) if !self.options.is_empty() => (0, name.clone()),
                _ => {
                    let names: Vec<String> = self.options.iter().map(OptionSpec::name).collect();
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    return Err(usage("S0002", format!("pass `{}` has no option `{name}`", self.name))
                        .with_help(did_you_mean(name, &names)));
                }
            };
            if values[at].replace(value).is_some() {
                let name = self.options[at].name();
                return Err(usage("S0003", format!("pass `{}`: option `{name}` is given twice", self.name)));
            }
        }
        let (kind, printed) =
            (self.make)(&values).map_err(|e| usage("S0004", format!("pass `{}`: option {e}", self.name)))?;
        let shown = self.options.iter().zip(printed).filter_map(|(o, v)| {
            let (name, v) = (o.name(), v?);
            Some(if v == "true" { name } else { format!("{name}={v}") })
        });
        let shown = shown.collect::<Vec<_>>().join(", ");
        let text = if shown.is_empty() { self.name.to_string() } else { format!("{}{{{shown}}}", self.name) };
        Ok(Pass { spec: self, text, kind })
    }
}

impl Pass {
    /// Values whose statistics it needs.
    pub fn taps(&self, m: &Module) -> Vec<Tap> {
        match &self.kind {
            Kind::Rewrite(p) => p.taps(m),
            Kind::Propose(p) => p.taps(m),
        }
    }
    /// Whether it amends what the pass before it offers.
    pub fn amends(&self) -> bool {
        matches!(&self.kind, Kind::Propose(p) if p.amends())
    }
    /// Reads `name` or `name{option=value, flag}`.
    pub fn parse(text: &str) -> Result<Pass> {
        let text = text.trim();
        let (name, inner) = match text.split_once('{') {
            None => (text, ""),
            Some((name, rest)) => (
                name.trim_end(),
                rest.strip_suffix('}')
                    .ok_or_else(|| usage("S0005", format!("`{text}`: expected `}}` at the end of the options")))?,
            ),
        };
        let options: Vec<_> = split_top(inner)
            .into_iter()
            .filter(|o| !o.is_empty())
            .map(|o| match o.split_once('=') {
                Some((n, v)) => (n.trim().to_string(), Some(v.trim().to_string())),
                None => (o.to_string(), None),
            })
            .collect();
        PassSpec::find(name)?.with(&options)
    }
}

/// Declares a pass; see `quantize.rs`.
macro_rules! pass {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident = $text:literal : $kind:ident {
            options { $($(#[doc = $odoc:literal])* $option:ident : $ty:ty = $default:expr),* $(,)? }
            stats { $($stat:literal : $sdoc:literal),* $(,)? }
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug)]
        pub struct $name {
            $($(#[doc = $odoc])* pub $option: $ty,)*
        }
        impl Default for $name {
            fn default() -> Self {
                Self { $($option: $default),* }
            }
        }
        impl $name {
            /// The declaration.
            pub const SPEC: $crate::declare::PassSpec = $crate::declare::PassSpec {
                name: $text,
                doc: &[$($doc),*],
                kind: stringify!($kind),
                options: &[$($crate::declare::OptionSpec { ident: stringify!($option), doc: &[$($odoc),*] }),*],
                stats: &[$(($stat, $sdoc)),*],
                defaults: || {
                    #[allow(unused)]
                    let pass = $name::default();
                    vec![$(tersor_ir::ops::Attr::print(&pass.$option)),*]
                },
                make: |values| {
                    #[allow(unused_mut)]
                    let mut pass = $name::default();
                    let mut values = values.iter();
                    let mut printed = vec![];
                    $(match values.next() {
                        Some(Some(text)) => {
                            pass.$option = <$ty as tersor_ir::ops::Attr>::parse(text)
                                .map_err(|e| format!("`{}` must be {e}", stringify!($option).replace('_', "-")))?;
                            let text = tersor_ir::ops::Attr::print(&pass.$option);
                            printed.push((text != tersor_ir::ops::Attr::print(&$name::default().$option)).then_some(text));
                        }
                        _ => printed.push(None),
                    })*
                    let _ = &mut values;
                    Ok(($crate::declare::Kind::$kind(Box::new(pass)), std::mem::take(&mut printed)))
                },
            };
        }
    };
}
