//! Pipelines: as text (`normalize,quantize{acts=dynamic}`), as TOML files, and the presets that ship as such files.

use crate::declare::{Pass, PassSpec};
use crate::suggest::did_you_mean;
use std::io::{ErrorKind, Read};
use std::path::Path;
use tersor_ir::diag::Failure;
use tersor_ir::ops::attr::split_top;
use tersor_ir::{Diagnostic, Loc, Result};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Pipeline files are no larger.
const MAX_BYTES: usize = 1 << 20;

/// Presets by name: the shipped files.
pub const PRESETS: &[(&str, &str)] = &[
    ("lossless", include_str!("../presets/lossless.toml")),
    ("bf16", include_str!("../presets/bf16.toml")),
    ("int8", include_str!("../presets/int8.toml")),
    ("int8-dynamic", include_str!("../presets/int8-dynamic.toml")),
    ("w8", include_str!("../presets/w8.toml")),
    ("int4", include_str!("../presets/int4.toml")),
    ("int4-int8", include_str!("../presets/int4-int8.toml")),
    ("tiny", include_str!("../presets/tiny.toml")),
    ("sparse24-int8", include_str!("../presets/sparse24-int8.toml")),
];

/// Passes in order, and what a file may say beside them. Nothing here is acted on but the passes; the driver does the rest.
#[derive(Default)]
pub struct Pipeline {
    /// The passes.
    pub passes: Vec<Pass>,
    /// `[model] path`.
    pub model: Option<String>,
    /// `[dims]`: extent and bounds, such as `1..16@1`.
    pub dims: Vec<(String, String)>,
    /// `[calibration]`.
    pub calibration: Calibration,
    /// `[budget]`: quantity or metric, and limit, such as `0.5x`; read as `--budget` on the command line is.
    pub budget: Vec<(String, String)>,
    /// `[[target]] name`.
    pub targets: Vec<String>,
}

/// Where calibration data come from.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Calibration {
    /// Path or pattern.
    pub data: Option<String>,
    /// No more samples than this.
    pub samples: Option<u64>,
    /// Seed for choosing among them.
    pub seed: Option<u64>,
}

fn usage(code: &'static str, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error(code, message).failure(Failure::Usage)
}

fn too_large() -> Diagnostic {
    usage("S0012", format!("a pipeline file of more than {MAX_BYTES} bytes"))
}

/// The text of a regular file of so many bytes at most. Of more it is [`ErrorKind::FileTooLarge`], and what is no text [`ErrorKind::InvalidData`].
pub fn read_text(path: &Path, most: usize) -> std::io::Result<String> {
    // Opening a pipe waits for whoever writes it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::new(ErrorKind::InvalidData, "not a regular file"));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(most as u64 + 1).read_to_string(&mut text)?;
    match text.len() > most {
        true => Err(std::io::Error::new(ErrorKind::FileTooLarge, format!("more than {most} bytes"))),
        false => Ok(text),
    }
}

impl Pipeline {
    /// Reads `a{x=1},b`.
    pub fn parse(text: &str) -> Result<Pipeline> {
        let passes: Result<Vec<Pass>> = split_top(text).into_iter().map(Pass::parse).collect();
        let passes = passes?;
        if passes.is_empty() {
            return Err(usage("S0010", "an empty pipeline"));
        }
        Ok(Pipeline { passes, ..Pipeline::default() })
    }
    /// What `-p` says: a preset's name, a `.toml` file's path, or passes.
    pub fn find(text: &str) -> Result<Pipeline> {
        if let Some((_, file)) = PRESETS.iter().find(|(name, _)| *name == text) {
            return Pipeline::parse_toml(file);
        }
        if text.ends_with(".toml") {
            return Pipeline::read(Path::new(text));
        }
        let word = !text.is_empty() && !text.contains(['{', ',']);
        if word && let Err(d) = PassSpec::find(text.trim()) {
            let names = PRESETS.iter().map(|p| p.0).chain(crate::PASSES.iter().map(|s| s.name)).collect::<Vec<_>>();
            let message = format!("there is no preset or pass `{text}`");
            return Err(Diagnostic { message, help: Some(did_you_mean(text, &names)), ..d });
        }
        Pipeline::parse(text)
    }
    /// Reads a pipeline file.
    pub fn read(path: &Path) -> Result<Pipeline> {
        let failed = |e: std::io::Error| match e.kind() {
            ErrorKind::FileTooLarge => too_large(),
            ErrorKind::InvalidData => usage("S0011", format!("cannot read the pipeline: {e}")),
            _ => usage("S0011", format!("cannot read the pipeline: {e}")).failure(Failure::File),
        };
        let text = read_text(path, MAX_BYTES).map_err(failed);
        text.and_then(|t| Pipeline::parse_toml(&t)).map_err(|d| d.in_file(path.display().to_string()))
    }
    /// Reads a pipeline file's text. Unknown sections and keys are errors.
    pub fn parse_toml(text: &str) -> Result<Pipeline> {
        if text.len() > MAX_BYTES {
            return Err(too_large());
        }
        let r = Reader { text };
        let table = DeTable::parse(text)
            .map_err(|e| usage("S0013", e.message().to_string()).at_loc(&r.loc(e.span().map_or(0, |s| s.start))))?;
        r.pipeline(table.get_ref())
    }
    /// The passes as text.
    pub fn text(&self) -> String {
        self.passes.iter().map(|p| p.text.as_str()).collect::<Vec<_>>().join(",")
    }
}

struct Reader<'a> {
    text: &'a str,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl Reader<'_> {
    fn loc(&self, at: usize) -> Loc {
        Loc::in_text(self.text, at)
    }
    fn error(&self, at: usize, message: impl Into<String>) -> Diagnostic {
        usage("S0014", message).at_loc(&self.loc(at))
    }
    fn unknown(&self, at: usize, what: &str, name: &str, known: &[&str]) -> Diagnostic {
        self.error(at, format!("{what} `{name}` is not known")).with_help(did_you_mean(name, known))
    }

    fn pipeline(&self, table: &DeTable) -> Result<Pipeline> {
        const SECTIONS: &[&str] = &["tersor", "model", "dims", "calibration", "budget", "pass", "target"];
        let mut out = Pipeline::default();
        let (mut version, mut method) = (None, None);
        for (key, value) in table {
            let at = key.span().start;
            match key.get_ref().as_ref() {
                "tersor" => version = Some(self.integer(value)?),
                "model" => self.section(value, &["path"], |_, v| {
                    out.model = Some(self.string(v)?);
                    Ok(())
                })?,
                "dims" => self.section(value, &[], |k, v| {
                    out.dims.push((k.into(), self.scalar(v)?));
                    Ok(())
                })?,
                "budget" => self.section(value, &[], |k, v| {
                    out.budget.push((k.into(), self.scalar(v)?));
                    Ok(())
                })?,
                "calibration" => self.section(value, &["data", "samples", "method", "seed"], |k, v| {
                    match k {
                        "data" => out.calibration.data = Some(self.string(v)?),
                        "samples" => out.calibration.samples = Some(self.integer(v)?),
                        "method" => method = Some((v.span().start, self.string(v)?)),
                        _ => out.calibration.seed = Some(self.integer(v)?),
                    }
                    Ok(())
                })?,
                "pass" | "target" => {}
                name => return Err(self.unknown(at, "section or key", name, SECTIONS)),
            }
        }
        match version {
            Some(1) => {}
            Some(v) => return Err(self.error(0, format!("a pipeline of version {v}; this tersor reads version 1"))),
            None => return Err(self.error(0, "a pipeline file starts with `tersor = 1`")),
        }
        let mut used = method.is_none();
        for item in self.tables(table, "pass")? {
            let (pass, took) = self.pass(item, method.as_ref().map(|m| m.1.as_str()))?;
            used |= took;
            out.passes.push(pass);
        }
        if let (false, Some((at, _))) = (used, method) {
            return Err(self.error(at, "no pass takes the calibration's `method`"));
        }
        for item in self.tables(table, "target")? {
            self.section(item, &["name"], |_, v| {
                out.targets.push(self.string(v)?);
                Ok(())
            })?;
        }
        Ok(out)
    }

    /// The elements of `[[name]]`.
    fn tables<'t, 'd>(&self, table: &'t DeTable<'d>, name: &str) -> Result<Vec<&'t Value<'d>>> {
        let Some((key, value)) = table.iter().find(|(k, _)| k.get_ref() == name) else { return Ok(vec![]) };
        match value.get_ref() {
            DeValue::Array(items) => Ok(items.iter().collect()),
            _ => Err(self.error(key.span().start, format!("`{name}` stands in double brackets: [[{name}]]"))),
        }
    }

    /// Calls `f` for each key of a table; keys are of `known`, or any where that is empty.
    fn section(&self, value: &Value, known: &[&str], mut f: impl FnMut(&str, &Value) -> Result<()>) -> Result<()> {
        let DeValue::Table(t) = value.get_ref() else {
            return Err(self.error(value.span().start, "a table was expected here"));
        };
        for (k, v) in t {
            let name = k.get_ref().as_ref();
            if !known.is_empty() && !known.contains(&name) {
                return Err(self.unknown(k.span().start, "key", name, known));
            }
            f(name, v)?;
        }
        Ok(())
    }

    /// A pass, and whether it took the calibration's method.
    fn pass(&self, value: &Value, method: Option<&str>) -> Result<(Pass, bool)> {
        let (mut name, mut options, mut places) = (None, vec![], vec![]);
        self.section(value, &[], |k, v| {
            places.push((format!("`{k}`"), v.span().start));
            if k == "name" {
                name = Some(self.string(v)?);
            } else {
                options.push((k.to_string(), Some(self.option(v)?)));
            }
            Ok(())
        })?;
        let at = value.span().start;
        let name = name.ok_or_else(|| self.error(at, "a pass without `name`"))?;
        let spec = PassSpec::find(&name).map_err(|d| d.at_loc(&self.loc(at)))?;
        let takes = spec.options.iter().any(|o| o.ident == "method");
        if let Some(method) = method.filter(|_| takes && options.iter().all(|o| o.0 != "method")) {
            options.push(("method".into(), Some(method.into())));
        }
        let blamed = |d: Diagnostic| {
            let option = places.iter().find(|(k, _)| d.message.contains(k));
            d.at_loc(&self.loc(option.map_or(at, |p| p.1)))
        };
        Ok((spec.with(&options).map_err(blamed)?, takes))
    }

    /// An option's text; a list of selectors means any of them.
    fn option(&self, v: &Value) -> Result<String> {
        match v.get_ref() {
            DeValue::Array(items) => {
                let items: Result<Vec<String>> = items.iter().map(|i| self.scalar(i)).collect();
                Ok(items?.into_iter().map(|i| format!("({i})")).collect::<Vec<_>>().join(" | "))
            }
            _ => self.scalar(v),
        }
    }
    fn scalar(&self, v: &Value) -> Result<String> {
        match v.get_ref() {
            DeValue::String(s) => Ok(s.to_string()),
            DeValue::Boolean(b) => Ok(b.to_string()),
            DeValue::Integer(i) if i.radix() == 10 => Ok(i.as_str().to_string()),
            DeValue::Float(f) => Ok(f.as_str().to_string()),
            _ => Err(self.error(v.span().start, "a text, a number or a truth value was expected here")),
        }
    }
    fn string(&self, v: &Value) -> Result<String> {
        let text = v.get_ref().as_str().map(str::to_string);
        text.ok_or_else(|| self.error(v.span().start, "a text was expected here"))
    }
    fn integer(&self, v: &Value) -> Result<u64> {
        let n = v.get_ref().as_integer().and_then(|i| u64::from_str_radix(i.as_str(), i.radix()).ok());
        n.ok_or_else(|| self.error(v.span().start, "a non-negative integer was expected here"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_parse() {
        for (name, _) in PRESETS {
            let p = Pipeline::find(name).unwrap_or_else(|d| panic!("{name}: {d}"));
            assert_eq!(Pipeline::parse(&p.text()).unwrap().text(), p.text(), "{name}");
        }
    }

    fn message(text: &str) -> String {
        Pipeline::parse_toml(text).err().expect("wrong").to_string()
    }

    #[test]
    fn wrong_files_are_told_apart_by_line() {
        assert_eq!(
            message("tersor = 1\n[modle]\npath = 'x'\n"),
            "error[S0014]: section or key `modle` is not known\n  in   line 2:2\n  help did you mean `model`?"
        );
        assert_eq!(
            message("tersor = 1\n[[pass]]\nname = 'nromalize'\n"),
            "error[S0001]: there is no pass `nromalize`\n  in   line 2:1\n  help did you mean `normalize`?"
        );
        assert!(message("tersor = 1\n[[pass]]\nname = 'quantize'\nbitz = 4\n").contains("line 4:8"));
        assert!(message("tersor = 2\n").contains("version 2"));
        assert!(message("[[pass]]\nname = 'normalize'\n").contains("tersor = 1"));
        assert!(message("tersor = 1\n[calibration]\nsamples = -3\n").contains("line 3:11"));
        assert!(message("tersor = 1\n[pass]\nname = 'normalize'\n").contains("[[pass]]"));
        assert!(message("tersor = 1\nx = [\n").contains("S0013"));
    }

    #[test]
    fn wrong_texts_are_refused() {
        for (text, code) in [
            ("", "S0010"),
            ("nothing", "S0001"),
            ("normalize{x=1}", "S0002"),
            ("normalize{", "S0005"),
            ("normalize,,", "S0001"),
        ] {
            let d = Pipeline::parse(text).err().unwrap_or_else(|| panic!("{text} parses"));
            assert_eq!((d.code, d.failure), (code, Failure::Usage), "{text}: {d}");
        }
    }
}
