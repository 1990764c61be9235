//! Text to module.

use super::cursor::Cursor;
use crate::constant::{ConstData, Constant, Distribution, Rng};
use crate::diag::{Diagnostic, Result};
use crate::dim::{Dim, SymbolInfo};
use crate::module::{Func, Module, RegionId, ValueId};
use crate::ops::choice::Choice;
use crate::ops::{Op, OpKind};
use crate::store::ConstStore;
use crate::string;
use crate::tensor::Tensor;
use crate::types::{DType, Type};
use std::collections::HashMap;

/// Regions nest no deeper.
const MAX_DEPTH: usize = 64;

/// Reads an extent.
pub fn parse_dim(text: &str) -> Result<Dim, String> {
    let mut c = Cursor::new(text);
    let d = c.dim(0).map_err(|d| d.message)?;
    if c.at_end() { Ok(d) } else { Err(format!("an extent, not `{text}`")) }
}

/// Reads a type.
pub fn parse_type(text: &str) -> Result<Type, String> {
    let mut c = Cursor::new(text);
    let t = c.ty().map_err(|d| d.message)?;
    if c.at_end() { Ok(t) } else { Err(format!("a type, not `{text}`")) }
}

/// Reads a module. Constants given by hash are looked up in `store`; those it lacks become [`ConstData::Missing`].
///
/// The first syntax error ends the reading; type errors of ops are collected, each at its line.
pub fn parse(text: &str, store: &ConstStore) -> Result<Module, Vec<Diagnostic>> {
    let mut p = Parser { c: Cursor::new(text), store, errors: vec![], consts: HashMap::new() };
    for line in text.lines() {
        let Some(pass) = line.strip_prefix("// pipeline: ") else { break };
        p.errors.extend(pass.trim().is_empty().then(|| Diagnostic::error("P0003", "an empty pipeline comment")));
    }
    let pipeline = text.lines().map_while(|l| l.strip_prefix("// pipeline: ")).map(str::to_string).collect();
    match p.module() {
        Ok(mut m) if p.errors.is_empty() => {
            m.pipeline = pipeline;
            Ok(m)
        }
        Ok(_) => Err(p.errors),
        Err(d) => {
            p.errors.push(d);
            Err(p.errors)
        }
    }
}

struct Parser<'a> {
    c: Cursor<'a>,
    store: &'a ConstStore,
    errors: Vec<Diagnostic>,
    consts: HashMap<String, crate::constant::ConstId>,
}

type Scope = HashMap<String, ValueId>;

impl Parser<'_> {
    fn module(&mut self) -> Result<Module> {
        self.c.expect("module")?;
        self.c.expect("@")?;
        let mut m = Module::new(self.c.name()?);
        self.c.expect("{")?;
        while !self.c.eat("}") {
            if self.c.eat("symbol") {
                self.symbol(&mut m)?;
            } else if self.c.eat("const") {
                self.constant(&mut m)?;
            } else if self.c.eat("func") {
                self.func(&mut m)?;
            } else {
                return Err(self.c.error("`symbol`, `const`, `func` or `}`"));
            }
        }
        if !self.c.at_end() {
            return Err(self.c.error("the end"));
        }
        Ok(m)
    }

    fn symbol(&mut self, m: &mut Module) -> Result<()> {
        self.c.skip_space();
        let name = self.c.name()?;
        let min = self.c.integer()?;
        self.c.expect("..")?;
        let max = self.c.integer()?;
        self.c.expect("hint")?;
        let hint = self.c.integer()?;
        m.symbols.insert(name.into(), SymbolInfo { min, max, hint });
        Ok(())
    }

    fn constant(&mut self, m: &mut Module) -> Result<()> {
        let loc = self.c.loc();
        self.c.expect("@")?;
        let name = self.c.name()?;
        self.c.expect(":")?;
        let ty = self.c.ty()?;
        let Some(n) = ty.static_elements().filter(|&n| ty.dtype.bytes(n).is_some()) else {
            return Err(Diagnostic::error("P0004", format!("constant @{name} needs constant extents")).at_loc(&loc));
        };
        self.c.expect("=")?;
        let data = if self.c.eat("splat") {
            ConstData::Splat(self.element(ty.dtype)?)
        } else if ty.dtype != DType::Str && self.c.eat("rng") {
            ConstData::Rng(self.rng()?)
        } else if self.c.eat("blake3:") {
            let hash = self.c.take_while(|c| c.is_ascii_hexdigit()).to_string();
            let shape = ty.static_shape().expect("checked above");
            let found = self.store.find(&hash).and_then(|b| string::from_stored(ty.dtype, shape, b));
            found.map_or(ConstData::Missing(hash), |t| ConstData::Bytes(t.blob().clone()))
        } else {
            self.c.expect("[")?;
            let part = ty.dtype.part().unwrap_or(ty.dtype);
            let (mut count, mut floats, mut ints) = (0, vec![], vec![]);
            while !self.c.eat("]") {
                if count > 0 {
                    self.c.expect(",")?;
                }
                let one = self.element(ty.dtype)?.parts();
                if part.is_float() {
                    floats.extend(one.to_f64())
                } else {
                    ints.extend(one.to_i64())
                }
                count += 1;
            }
            if count != n {
                return Err(Diagnostic::error("P0005", format!("{count} elements for {ty}")).at_loc(&loc));
            }
            let parts = if part.is_float() {
                Tensor::from_f64(part, [floats.len()], &floats)
            } else {
                Tensor::from_i64(part, [ints.len()], &ints)
            };
            ConstData::Bytes(parts.blob().clone())
        };
        if self.consts.contains_key(&name) {
            return Err(Diagnostic::error("P0006", format!("@{name} is defined twice")).at_loc(&loc));
        }
        let id = m.consts.push(Constant::new(name.as_str(), ty, data, loc));
        self.consts.insert(name, id);
        Ok(())
    }

    fn element(&mut self, dtype: DType) -> Result<Tensor> {
        if dtype == DType::Str {
            self.c.skip_space();
            return string::tensor(vec![], &[self.c.quoted()?]);
        }
        if let Some(part) = dtype.part() {
            self.c.expect("(")?;
            let real = self.element(part)?;
            self.c.expect(",")?;
            let imaginary = self.element(part)?;
            self.c.expect(")")?;
            let bytes = [real.bytes(), imaginary.bytes()].concat();
            return Ok(Tensor::from_blob(dtype, vec![], bytes.into()).expect("two parts"));
        }
        let text = self.c.number()?;
        let parsed = if dtype.is_float() {
            text.parse().ok().map(|v| Tensor::scalar(dtype, v))
        } else {
            text.parse().ok().map(|v| Tensor::from_i64(dtype, [], &[v]))
        };
        parsed.ok_or_else(|| self.c.error(&format!("an element of {dtype} before")))
    }

    fn rng(&mut self) -> Result<Rng> {
        let kind = self.c.word()?;
        self.c.expect("(")?;
        let a = self.c.number()?.parse().unwrap_or(0.0);
        self.c.expect(",")?;
        let b = self.c.number()?.parse().unwrap_or(0.0);
        self.c.expect(")")?;
        self.c.expect("seed")?;
        let seed = self.c.integer()?;
        let dist = match kind {
            "normal" => Distribution::Normal(a, b),
            "uniform" => Distribution::Uniform(a, b),
            _ => return Err(self.c.error("`normal` or `uniform` before")),
        };
        Ok(Rng { dist, seed })
    }

    fn func(&mut self, m: &mut Module) -> Result<()> {
        let loc = self.c.loc();
        self.c.expect("@")?;
        let name = self.c.name()?;
        if m.func(&name).is_some() {
            return Err(Diagnostic::error("P0006", format!("@{name} is defined twice")).at_loc(&loc));
        }
        let mut f = Func::new(name);
        let body = f.body_id();
        let mut scope = Scope::new();
        self.c.expect("(")?;
        while !self.c.eat(")") {
            if !f.inputs.is_empty() {
                self.c.expect(",")?;
            }
            let loc = self.c.loc();
            let outside = if self.c.peek("%") {
                None
            } else {
                let n = self.c.name()?;
                self.c.expect("as")?;
                Some(n)
            };
            self.c.expect("%")?;
            let name = self.c.name()?;
            self.c.expect(":")?;
            let ty = self.c.ty()?;
            declare_symbols(m, &ty);
            let v = f.add_param(body, &name, ty);
            define(&mut scope, name.clone(), v).map_err(|d| d.at_loc(&loc))?;
            f.inputs.push(outside.unwrap_or(name).into());
        }
        self.c.expect("->")?;
        self.c.expect("(")?;
        let mut declared = vec![];
        while !self.c.eat(")") {
            if !declared.is_empty() {
                self.c.expect(",")?;
            }
            self.c.expect("%")?;
            f.outputs.push(self.c.name()?.into());
            self.c.expect(":")?;
            declared.push(self.c.ty()?);
        }
        self.c.expect("{")?;
        let errors = self.errors.len();
        let end = self.region(m, &mut f, body, scope, 0)?;
        let results: Vec<&Type> = f.body().results.iter().map(|&v| &f.values[v].ty).collect();
        if self.errors.len() == errors && !results.iter().copied().eq(declared.iter()) {
            let text = |t: &[&Type]| t.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(", ");
            let message = format!(
                "@{} returns ({}), declared ({})",
                f.name,
                text(&results),
                text(&declared.iter().collect::<Vec<_>>())
            );
            self.errors.push(Diagnostic::error("P0007", message).at_loc(&end));
        }
        m.funcs.push(f);
        Ok(())
    }

    /// Nodes up to `return … }`. Returns where the `return` stands.
    fn region(
        &mut self,
        m: &mut Module,
        f: &mut Func,
        region: RegionId,
        mut scope: Scope,
        depth: usize,
    ) -> Result<crate::loc::Loc> {
        if depth > MAX_DEPTH {
            return Err(self.c.error("regions nested less deeply"));
        }
        loop {
            let loc = self.c.loc();
            if self.c.eat("return") {
                let results = self.operands(m, f, &scope, "}")?;
                f.regions[region].results = results;
                self.c.expect("}")?;
                return Ok(loc);
            }
            self.node(m, f, region, &mut scope, depth).map_err(|d| d.at_loc(&loc))?;
        }
    }

    fn node(&mut self, m: &mut Module, f: &mut Func, region: RegionId, scope: &mut Scope, depth: usize) -> Result<()> {
        let loc = self.c.loc();
        let mut results = vec![];
        loop {
            self.c.expect("%")?;
            results.push(self.c.name()?);
            if !self.c.eat(",") {
                break;
            }
        }
        self.c.expect("=")?;
        let mnemonic = self.c.word()?.to_string();
        let (op, operands) =
            if mnemonic == "choice" { self.choice(m, f, scope)? } else { self.plain_op(m, f, scope, &mnemonic)? };
        self.c.expect(":")?;
        let mut types = vec![self.c.ty()?];
        while self.c.eat(",") {
            types.push(self.c.ty()?);
        }
        let n = match f.add_node(region, op, &operands, &results[0], loc.clone()) {
            Ok(n) => n,
            Err(d) => {
                // Go on with the declared types, to find further errors.
                self.errors.push(d);
                for (name, ty) in results.into_iter().zip(types) {
                    let v = f.add_param(region, &name, ty);
                    define(scope, name, v)?;
                }
                return Ok(());
            }
        };
        if let Some(symbol) = f.nodes[n].op.binds() {
            m.symbol(symbol, SymbolInfo::default());
        }
        let values = f.nodes[n].results.clone();
        let inferred: Vec<Type> = values.iter().map(|&v| f.values[v].ty.clone()).collect();
        if results.len() != values.len() {
            return Err(Diagnostic::error(
                "P0008",
                format!("{mnemonic} has {} results, {} are named", values.len(), results.len()),
            ));
        }
        if inferred != types {
            let text = inferred.iter().map(Type::to_string).collect::<Vec<_>>().join(", ");
            self.errors.push(Diagnostic::error("P0009", format!("{mnemonic}: the result is {text}")).at_loc(&loc));
        }
        for (name, v) in results.into_iter().zip(values) {
            f.rename(v, &name);
            define(scope, name, v)?;
        }
        let mut first = true;
        while self.c.eat(if first { "{" } else { "else {" }) {
            first = false;
            let inner = f.regions.push(Default::default());
            f.nodes[n].regions.push(inner);
            self.region(m, f, inner, scope.clone(), depth + 1)?;
        }
        Ok(())
    }

    fn choice(&mut self, m: &Module, f: &mut Func, scope: &Scope) -> Result<(Op, Vec<ValueId>)> {
        self.c.expect("@")?;
        let site = self.c.name()?;
        self.c.expect("{")?;
        let (mut names, mut operands) = (vec![], vec![]);
        while !self.c.eat("}") {
            if !names.is_empty() {
                self.c.expect(",")?;
                self.c.skip_space();
            }
            names.push(self.c.name()?);
            self.c.expect(":")?;
            operands.push(self.operand(m, f, scope)?);
        }
        Ok((Choice { site, names }.into(), operands))
    }

    fn plain_op(&mut self, m: &Module, f: &mut Func, scope: &Scope, mnemonic: &str) -> Result<(Op, Vec<ValueId>)> {
        let operands = self.operands(m, f, scope, "{")?;
        let mut attrs = vec![];
        if self.c.eat("{") {
            while !self.c.eat("}") {
                if !attrs.is_empty() {
                    self.c.expect(",")?;
                }
                let name = self.c.word()?.to_string();
                let value = if self.c.eat("=") { self.c.raw_value().to_string() } else { "true".into() };
                attrs.push((name, value));
            }
        }
        let op = match OpKind::parse(mnemonic, &mut attrs) {
            None => {
                let all: Vec<&str> = OpKind::ALL.iter().flat_map(|k| k.spec().mnemonics).copied().collect();
                return Err(Diagnostic::error("P0010", format!("there is no op `{mnemonic}`"))
                    .with_help(format!("ops are {}", all.join(" "))));
            }
            Some(Err(e)) => return Err(Diagnostic::error("P0011", format!("{mnemonic}: {e}"))),
            Some(Ok(op)) => op,
        };
        if let Some((name, _)) = attrs.first() {
            return Err(Diagnostic::error("P0012", format!("{mnemonic} has no attribute `{name}`")));
        }
        Ok((op, operands))
    }

    /// Operands separated by commas; none when `end` or `:` comes at once.
    fn operands(&mut self, m: &Module, f: &mut Func, scope: &Scope, end: &str) -> Result<Vec<ValueId>> {
        let mut out = vec![];
        if self.c.peek(end) || self.c.peek(":") {
            return Ok(out);
        }
        loop {
            out.push(self.operand(m, f, scope)?);
            if !self.c.eat(",") {
                return Ok(out);
            }
        }
    }

    fn operand(&mut self, m: &Module, f: &mut Func, scope: &Scope) -> Result<ValueId> {
        let loc = self.c.loc();
        if self.c.eat("@") {
            let name = self.c.name()?;
            let id = self.consts.get(&name).copied();
            let id =
                id.ok_or_else(|| Diagnostic::error("P0013", format!("there is no constant @{name}")).at_loc(&loc))?;
            return Ok(f.const_value(&m.consts, id));
        }
        self.c.expect("%")?;
        let name = self.c.name()?;
        scope
            .get(&name)
            .copied()
            .ok_or_else(|| Diagnostic::error("P0013", format!("%{name} is not defined before")).at_loc(&loc))
    }
}

fn define(scope: &mut Scope, name: String, v: ValueId) -> Result<()> {
    match scope.insert(name.clone(), v) {
        Some(_) => Err(Diagnostic::error("P0006", format!("%{name} is defined twice"))),
        None => Ok(()),
    }
}

/// Symbols of parameter types that have no `symbol` line get the widest bounds.
fn declare_symbols(m: &mut Module, ty: &Type) {
    for d in &ty.shape {
        d.symbols(&mut |s| m.symbol(s, SymbolInfo::default()));
    }
}
