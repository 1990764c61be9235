//! `--config FILE`: options from a file, for those that the command line leaves out.
//!
//! A TOML file whose keys are the long names of options. Keys at the top are for every command that has them, those in a table named after a command for
//! that one alone. They become arguments right behind the command's name, so that they are read and checked as if they had been typed there.

use super::shared::usage;
use crate::driver::{Result, read_text};
use clap::{Arg, ArgAction, Command};
use std::ffi::OsString;
use std::path::Path;
use tersor_ir::{Diagnostic, Loc};
use tersor_passes::suggest::did_you_mean;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The arguments with those of the file that they name, and remarks on keys without effect.
pub fn expand(arguments: Vec<OsString>, all: &Command) -> Result<(Vec<OsString>, Vec<Diagnostic>)> {
    let command = arguments.get(1).and_then(|name| all.find_subcommand(name));
    let (Some(command), Some(file)) = (command, named(&arguments)) else { return Ok((arguments, vec![])) };
    let shown = Path::new(&file).display().to_string();
    let text = read_text(Path::new(&file))?;
    let wrong = |e: toml::de::Error| {
        let at = e.span().map_or(0, |s| s.start);
        vec![usage(e.message().to_string()).at_loc(&Loc::in_text(&text, at)).in_file(&*shown)]
    };
    let table = DeTable::parse(&text).map_err(wrong)?;
    let file = File { text: &text, arguments: &arguments, command, all };
    let (added, notes) = file.added(table.get_ref()).map_err(|d| vec![d.in_file(&*shown)])?;
    let mut out = arguments.clone();
    out.splice(2..2, added);
    Ok((out, notes.into_iter().map(|d| d.in_file(&*shown)).collect()))
}

/// The value of `--config`.
fn named(arguments: &[OsString]) -> Option<OsString> {
    let mut rest = arguments.iter().take_while(|a| *a != "--");
    while let Some(a) = rest.next() {
        if a == "--config" {
            return rest.next().cloned();
        }
        if let Some(file) = a.to_str().and_then(|a| a.strip_prefix("--config=")) {
            return Some(file.into());
        }
    }
    None
}

type Value<'a> = Spanned<DeValue<'a>>;

struct File<'a> {
    text: &'a str,
    arguments: &'a [OsString],
    command: &'a Command,
    all: &'a Command,
}

impl File<'_> {
    /// What the file adds to the arguments, and remarks on keys without effect.
    fn added(&self, table: &DeTable) -> tersor_ir::Result<(Vec<OsString>, Vec<Diagnostic>)> {
        let (mut out, mut notes) = (vec![], vec![]);
        for (key, value) in table {
            let (name, at) = (key.get_ref().as_ref(), key.span().start);
            match (value.get_ref(), self.all.find_subcommand(name)) {
                (DeValue::Table(own), Some(of)) => {
                    for (key, value) in own {
                        let option = option(of, key.get_ref());
                        let option = option.ok_or_else(|| self.unknown(key.span().start, key.get_ref(), &[of]))?;
                        if of.get_name() == self.command.get_name() && !given(option, self.arguments) {
                            out.extend(self.written(option, value)?);
                        }
                    }
                }
                _ => match option(self.command, name) {
                    // What a command's own table says goes before what stands at the top.
                    Some(o) if given(o, self.arguments) || self.own(table, name) => {}
                    Some(o) => out.extend(self.written(o, value)?),
                    None if self.all.get_subcommands().any(|c| option(c, name).is_some()) => {
                        let message = format!("{name} has no effect on `{}`", self.command.get_name());
                        notes.push(self.at(at, Diagnostic::note("C0004", message)));
                    }
                    None => return Err(self.unknown(at, name, &self.all.get_subcommands().collect::<Vec<_>>())),
                },
            }
        }
        Ok((out, notes))
    }

    fn at(&self, place: usize, d: Diagnostic) -> Diagnostic {
        d.at_loc(&Loc::in_text(self.text, place))
    }

    fn own(&self, table: &DeTable, key: &str) -> bool {
        let own = table.get(self.command.get_name()).and_then(|v| v.get_ref().as_table());
        own.is_some_and(|t| t.contains_key(key))
    }

    fn unknown(&self, at: usize, key: &str, commands: &[&Command]) -> Diagnostic {
        if key == "config" {
            return self.at(at, usage("a configuration includes no other"));
        }
        let known: Vec<&str> = commands.iter().flat_map(|c| c.get_arguments()).filter_map(Arg::get_long).collect();
        self.at(at, usage(format!("there is no option --{key}")).with_help(did_you_mean(key, &known)))
    }

    /// An option and its value as arguments.
    fn written(&self, option: &Arg, value: &Value) -> tersor_ir::Result<Vec<OsString>> {
        let name = option.get_long().unwrap_or_default();
        let wrong = |what: &str| {
            let found = self.text.get(value.span()).unwrap_or_default();
            Err(self.at(value.span().start, usage(format!("{name} is {found}, not {what}"))))
        };
        let one = |text: String| OsString::from(format!("--{name}={text}"));
        let flags = |n: usize| vec![OsString::from(format!("--{name}")); n];
        let bare = option.get_num_args().is_some_and(|n| n.min_values() == 0);
        Ok(match (option.get_action(), value.get_ref()) {
            (ArgAction::Count, DeValue::Integer(n)) => match n.as_str().parse() {
                Ok(n @ 0..=9) => flags(n),
                _ => return wrong("a small number"),
            },
            (ArgAction::Count, _) => return wrong("a small number"),
            (ArgAction::SetTrue, DeValue::Boolean(on)) => flags(usize::from(*on)),
            (ArgAction::SetTrue, _) => return wrong("true or false"),
            (_, DeValue::Boolean(on)) if bare => flags(usize::from(*on)),
            (ArgAction::Append, DeValue::Array(items)) => match items.iter().map(scalar).collect::<Option<Vec<_>>>() {
                Some(items) => items.into_iter().map(one).collect(),
                None => return wrong("a list of texts"),
            },
            _ => match scalar(value) {
                Some(text) => vec![one(text)],
                None => return wrong("a text or a number"),
            },
        })
    }
}

fn option<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|a| a.get_long() == Some(key) && key != "config")
}

/// Whether the command line has the option.
fn given(option: &Arg, arguments: &[OsString]) -> bool {
    let long = format!("--{}", option.get_long().unwrap_or_default());
    let has = |a: &str| {
        let short = || Some(a.strip_prefix('-')?.chars().next()? == option.get_short()?);
        a == long || a.strip_prefix(&long).is_some_and(|rest| rest.starts_with('=')) || short().unwrap_or(false)
    };
    arguments.iter().take_while(|a| *a != "--").filter_map(|a| a.to_str()).any(has)
}

fn scalar(v: &Value) -> Option<String> {
    match v.get_ref() {
        DeValue::String(s) => Some(s.to_string()),
        DeValue::Integer(n) => Some(n.as_str().to_string()),
        DeValue::Float(n) => Some(n.as_str().to_string()),
        _ => None,
    }
}
