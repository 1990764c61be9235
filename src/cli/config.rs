//! `--config FILE`: options from a file, for those that the command line leaves out.
//!
//! A TOML file whose keys are the long names of options. Keys at the top are for every command that has them, those in a table named after a command for
//! that one alone. They become arguments right behind the command's name, so that they are read and checked as if they had been typed there.

use super::shared::usage;
use crate::driver::Result;
use clap::{Arg, ArgAction, Command};
use std::ffi::OsString;
use std::path::Path;
use tersor_ir::{Diagnostic, Failure};
use tersor_passes::suggest::did_you_mean;
use toml::{Table, Value};

/// The arguments with those of the file that they name, and remarks on keys without effect.
pub fn expand(arguments: Vec<OsString>, all: &Command) -> Result<(Vec<OsString>, Vec<Diagnostic>)> {
    let command = arguments.get(1).and_then(|name| all.find_subcommand(name));
    let (Some(command), Some(file)) = (command, named(&arguments)) else { return Ok((arguments, vec![])) };
    let failed = |e: std::io::Error| vec![crate::driver::file_error(Path::new(&file), "read", &e)];
    let shown = Path::new(&file).display().to_string();
    let text = std::fs::read_to_string(&file).map_err(failed)?;
    let table: Table =
        text.parse().map_err(|e: toml::de::Error| vec![usage(e.message().to_string()).in_file(&*shown)])?;
    let mut notes = vec![];
    let added = added(&table, &arguments, command, all, &mut notes).map_err(|d| vec![d.in_file(&*shown)])?;
    let mut out = arguments;
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

fn added(
    table: &Table,
    arguments: &[OsString],
    command: &Command,
    all: &Command,
    notes: &mut Vec<Diagnostic>,
) -> tersor_ir::Result<Vec<OsString>> {
    let mut out = vec![];
    for (key, value) in table {
        match (value, all.find_subcommand(key)) {
            (Value::Table(own), Some(of)) => {
                for (key, value) in own {
                    let option = option(of, key).ok_or_else(|| unknown(key, &[of]))?;
                    if of.get_name() == command.get_name() && !given(option, arguments) {
                        out.extend(written(option, value)?);
                    }
                }
            }
            _ => match option(command, key) {
                // What a command's own table says goes before what stands at the top.
                Some(o) if given(o, arguments) || own(table, command, key) => {}
                Some(o) => out.extend(written(o, value)?),
                None if all.get_subcommands().any(|c| option(c, key).is_some()) => {
                    let message = format!("{key} has no effect on `{}`", command.get_name());
                    notes.push(Diagnostic::note("C0004", message));
                }
                None => return Err(unknown(key, &all.get_subcommands().collect::<Vec<_>>())),
            },
        }
    }
    Ok(out)
}

fn own(table: &Table, command: &Command, key: &str) -> bool {
    table.get(command.get_name()).and_then(Value::as_table).is_some_and(|t| t.contains_key(key))
}

fn option<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|a| a.get_long() == Some(key) && key != "config")
}

fn unknown(key: &str, commands: &[&Command]) -> Diagnostic {
    let known: Vec<&str> = commands.iter().flat_map(|c| c.get_arguments()).filter_map(Arg::get_long).collect();
    usage(format!("there is no option --{key}")).with_help(did_you_mean(key, &known))
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

/// An option and its value as arguments.
fn written(option: &Arg, value: &Value) -> tersor_ir::Result<Vec<OsString>> {
    let name = option.get_long().unwrap_or_default();
    let wrong = |what: &str| Err(usage(format!("{name} is {value}, not {what}")).failure(Failure::Usage));
    let one = |text: String| OsString::from(format!("--{name}={text}"));
    let flag = || OsString::from(format!("--{name}"));
    let bare = option.get_num_args().is_some_and(|n| n.min_values() == 0);
    Ok(match (option.get_action(), value) {
        (ArgAction::Count, Value::Integer(n @ 0..=9)) => vec![flag(); *n as usize],
        (ArgAction::Count, _) => return wrong("a small number"),
        (ArgAction::SetTrue, Value::Boolean(on)) => {
            if *on {
                vec![flag()]
            } else {
                vec![]
            }
        }
        (ArgAction::SetTrue, _) => return wrong("true or false"),
        (_, Value::Boolean(on)) if bare => {
            if *on {
                vec![flag()]
            } else {
                vec![]
            }
        }
        (ArgAction::Append, Value::Array(items)) => match items.iter().map(scalar).collect::<Option<Vec<_>>>() {
            Some(items) => items.into_iter().map(one).collect(),
            None => return wrong("a list of texts"),
        },
        (_, v) => match scalar(v) {
            Some(text) => vec![one(text)],
            None => return wrong("a text or a number"),
        },
    })
}

fn scalar(v: &Value) -> Option<String> {
    match v {
        Value::String(s) => Some(s.clone()),
        Value::Integer(_) | Value::Float(_) => Some(v.to_string()),
        _ => None,
    }
}
