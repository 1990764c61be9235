//! Selectors: which sites a pass applies to, as `cli.md` has them.
//!
//! `name:/regex/` and `name:text` (a part of the name) look at the site's and the ONNX node's name, `op:MatMul` at the op (by its name here or in ONNX, in any case),
//! `shape:>=1024x1024` at the weight's extents; `!`, `&`, `|` and parentheses combine them, `all` and `none` are what they say.

use crate::propose::Site;
use regex::Regex;
use tersor_ir::ops::Attr;

/// A parsed selector; prints as it was written.
#[derive(Clone, Debug)]
pub struct Selector {
    text: String,
    expr: Expr,
}

#[derive(Clone, Debug)]
enum Expr {
    Const(bool),
    NamePart(String),
    NameRegex(Regex),
    Op(String),
    Shape(Compare, Vec<usize>),
    Not(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
}

#[derive(Copy, Clone, Debug)]
enum Compare {
    Equal,
    AtLeast,
    AtMost,
}

/// Parentheses and negations nest no deeper.
const MAX_DEPTH: usize = 32;

impl Selector {
    /// Every site.
    pub fn all() -> Selector {
        Selector { text: "all".into(), expr: Expr::Const(true) }
    }
    /// No site.
    pub fn none() -> Selector {
        Selector { text: "none".into(), expr: Expr::Const(false) }
    }
    /// Whether it says `none`.
    pub fn is_none(&self) -> bool {
        matches!(self.expr, Expr::Const(false))
    }
    /// Whether the site is selected.
    pub fn matches(&self, site: &Site) -> bool {
        self.expr.matches(site)
    }
}

impl Expr {
    fn matches(&self, s: &Site) -> bool {
        let names = || std::iter::once(s.name.as_str()).chain(s.node.as_deref());
        match self {
            Expr::Const(b) => *b,
            Expr::NamePart(part) => names().any(|n| n.contains(part.as_str())),
            Expr::NameRegex(r) => names().any(|n| r.is_match(n)),
            Expr::Op(op) => s.ops.iter().any(|o| o.eq_ignore_ascii_case(op)),
            Expr::Shape(how, shape) => {
                let fits = |(a, b): (&usize, &usize)| match how {
                    Compare::Equal => a == b,
                    Compare::AtLeast => a >= b,
                    Compare::AtMost => a <= b,
                };
                s.weight.len() == shape.len() && s.weight.iter().zip(shape).all(fits)
            }
            Expr::Not(e) => !e.matches(s),
            Expr::And(a, b) => a.matches(s) && b.matches(s),
            Expr::Or(a, b) => a.matches(s) || b.matches(s),
        }
    }
}

impl Attr for Selector {
    fn print(&self) -> String {
        if self.text.contains([',', '{', '}', '[', ']']) { format!("\"{}\"", self.text) } else { self.text.clone() }
    }
    fn parse(text: &str) -> Result<Selector, String> {
        let text = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text).trim();
        if text.len() > 4096 || text.contains('"') {
            return Err("a selector of at most 4096 characters without quotes".into());
        }
        let mut p = Parser { rest: text };
        let expr = p.or(0)?;
        if !p.rest.trim().is_empty() {
            return Err(format!("a selector; `{}` is left over", p.rest.trim()));
        }
        Ok(Selector { text: text.into(), expr })
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn eat(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }
    fn or(&mut self, depth: usize) -> Result<Expr, String> {
        let mut e = self.and(depth)?;
        while self.eat("|") {
            e = Expr::Or(Box::new(e), Box::new(self.and(depth)?));
        }
        Ok(e)
    }
    fn and(&mut self, depth: usize) -> Result<Expr, String> {
        let mut e = self.one(depth)?;
        while self.eat("&") {
            e = Expr::And(Box::new(e), Box::new(self.one(depth)?));
        }
        Ok(e)
    }
    fn one(&mut self, depth: usize) -> Result<Expr, String> {
        if depth > MAX_DEPTH {
            return Err("a selector nested less deeply".into());
        }
        if self.eat("!") {
            return Ok(Expr::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.eat("(") {
            let e = self.or(depth + 1)?;
            return if self.eat(")") { Ok(e) } else { Err("a selector with its parentheses closed".into()) };
        }
        if self.eat("name:/") {
            let slash = |(i, _): &(usize, &str)| !self.rest[..*i].ends_with('\\');
            let end = self.rest.match_indices('/').find(slash).map(|(i, _)| i);
            let end = end.ok_or("a selector; a regular expression ends in `/`, and `\\/` stands for a slash in it")?;
            let (pattern, rest) = self.rest.split_at(end);
            self.rest = &rest[1..];
            let regex = regex::RegexBuilder::new(&pattern.replace("\\/", "/")).size_limit(1 << 20).build();
            return regex.map(Expr::NameRegex).map_err(|e| format!("a selector; `{pattern}`: {e}"));
        }
        let kind = ["name:", "op:", "shape:"].into_iter().find(|k| self.eat(k));
        let word = self.word();
        match (kind, word.as_str()) {
            (Some("name:"), w) if !w.is_empty() => Ok(Expr::NamePart(word)),
            (Some("op:"), w) if !w.is_empty() => Ok(Expr::Op(word)),
            (Some("shape:"), w) => shape(w),
            (None, "all") => Ok(Expr::Const(true)),
            (None, "none") => Ok(Expr::Const(false)),
            _ => Err(format!("a selector (name:/regex/, op:MatMul, shape:>=1024x1024, all, !, &, |), not `{word}`")),
        }
    }
    /// Up to a blank or an operator.
    fn word(&mut self) -> String {
        let end = self.rest.find([' ', '&', '|', ')', '(']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.into()
    }
}

fn shape(text: &str) -> Result<Expr, String> {
    let (how, extents) = match text.strip_prefix(">=").map(|r| (Compare::AtLeast, r)) {
        Some(x) => x,
        None => match text.strip_prefix("<=") {
            Some(r) => (Compare::AtMost, r),
            None => (Compare::Equal, text),
        },
    };
    let extents: Result<Vec<usize>, _> = extents.split('x').map(str::parse).collect();
    extents.map(|e| Expr::Shape(how, e)).map_err(|_| format!("a selector; `{text}` is no shape such as >=1024x1024"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(text: &str) -> bool {
        let site = Site {
            func: tersor_ir::EntityId::new(0),
            value: tersor_ir::EntityId::new(0),
            name: "layers.3.attn.q".into(),
            node: Some("/layers.3/attn/q/MatMul".into()),
            ops: vec!["matmul".into(), "Gemm".into()],
            weight: vec![1024, 512],
        };
        Selector::parse(text).unwrap().matches(&site)
    }

    #[test]
    fn selectors_select() {
        for yes in [
            "all",
            "name:/layers\\.\\d+\\.attn/",
            "name:attn",
            "op:MatMul",
            "op:gemm & shape:>=1024x512",
            "!op:conv",
            "none | (name:mlp | op:matmul)",
            "shape:1024x512",
            "name:/^\\/layers/ & all",
        ] {
            assert!(matches(yes), "{yes}");
        }
        for no in ["none", "name:/mlp/", "op:conv", "shape:>=1024x1024", "shape:>=1024", "!all", "op:matmul & !name:q"]
        {
            assert!(!matches(no), "{no}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let deep = "!".repeat(100) + "all";
        for bad in
            ["", "name:", "name:/(/", "name:/a", "op:", "shape:axb", "(all", "all all", "foo", "sens:top10%", &deep]
        {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
    }
}
