//! The extents table of an artifact: symbols, what binds them, and everything that is over them.

use super::{Interface, name_of, runtime_dtype, runtime_error};
use foldhash::{HashMap, HashSet};
use std::io::{Seek, Write};
use std::sync::Arc;
use tersor_ir::diag::Result;
use tersor_ir::dim::Atom;
use tersor_ir::{Diagnostic, Dim, Failure, Func, Module, Op, Type, ValueId, interp};
use tersor_runtime::ArtifactWriter;
use tersor_runtime::artifact::{Symbol, Value};
use tersor_runtime::program::{ExtentId, ExtentOp, Need};

/// Less than anything that is needed, whatever is added.
const NEVER: i64 = -(1 << 62);

/// The extents table and the symbols in it.
pub(super) struct Table {
    pub(super) interface: Interface,
    pub(super) symbols: HashMap<Arc<str>, u32>,
    /// The constants that are stored as they are, by value.
    pub(super) constants: HashMap<ValueId, u32>,
}

impl Table {
    /// The artifact's constant with the elements of a value.
    pub(super) fn constant<W: Write + Seek>(
        &mut self,
        m: &Module,
        f: &Func,
        v: ValueId,
        writer: &mut ArtifactWriter<W>,
    ) -> Result<u32> {
        if let Some(&c) = self.constants.get(&v) {
            return Ok(c);
        }
        let name = &f.values[v].name;
        let missing = || Diagnostic::error("B0106", format!("the elements of {name} are not there"));
        let t = interp::constant(&m.consts, f, v).ok_or_else(missing)?;
        let c = writer.constant(name, "", t.bytes()).map_err(runtime_error)?;
        self.constants.insert(v, c);
        Ok(c)
    }

    /// Declares the symbols that inputs bind, then those that nodes bind.
    pub(super) fn symbols(&mut self, m: &Module) -> Result<()> {
        let f = &m.funcs[m.main()?];
        for &p in &f.body().params {
            for s in f.values[p].ty.shape.iter().filter_map(Dim::as_symbol) {
                if self.symbols.contains_key(s) {
                    continue;
                }
                let info = m.symbols.get(s).copied().unwrap_or_default();
                let bound = |v: i64| u64::try_from(v).unwrap_or(0);
                self.symbols.insert(s.clone(), self.interface.symbols.len() as u32);
                self.interface.symbols.push(Symbol {
                    name: s.to_string(),
                    min: bound(info.min),
                    max: bound(info.max),
                    hint: bound(info.hint),
                    cap: None,
                });
            }
        }
        self.counted(m, f)
    }

    /// Declares the symbols that nodes of a function, and of those that its loops call, bind. A cap is in the table before what is over the symbol.
    fn counted(&mut self, m: &Module, f: &Func) -> Result<()> {
        for node in f.body().nodes.iter().map(|&n| &f.nodes[n]) {
            match &node.op {
                Op::Prefix(p) => {
                    self.count(&p.extent, &f.values[node.operands[0]].ty.shape[usize::from(p.axis)])?;
                }
                Op::Loop(l) => {
                    self.count(&l.over, &(l.most.clone() - 1.into()))?;
                    if let Some(body) = m.func(&l.body) {
                        self.counted(m, &m.funcs[body])?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn count(&mut self, symbol: &Dim, cap: &Dim) -> Result<()> {
        let cap = self.extent(cap)?;
        let Some(s) = symbol.as_symbol() else { return Ok(()) };
        self.symbols.insert(s.clone(), self.interface.symbols.len() as u32);
        let (min, max, hint) = (0, Symbol::UNBOUNDED, 0);
        self.interface.symbols.push(Symbol { name: s.to_string(), min, max, hint, cap: Some(cap) });
        Ok(())
    }

    pub(super) fn signature(&mut self, f: &Func) -> Result<()> {
        let value = |t: &mut Table, name: &Arc<str>, v: ValueId| -> Result<Value> {
            let ty = &f.values[v].ty;
            let dims = ty.shape.iter().map(|d| t.extent(d)).collect::<Result<_>>()?;
            Ok(Value::new(name.to_string(), runtime_dtype(ty.dtype)?, dims))
        };
        for (name, &v) in f.inputs.iter().zip(&f.body().params) {
            let v = value(self, name, v)?;
            self.interface.inputs.push(v);
        }
        for (name, &v) in f.outputs.iter().zip(&f.body().results) {
            let v = value(self, name, v)?;
            self.interface.outputs.push(v);
        }
        Ok(())
    }

    /// What extents must be, each once.
    pub(super) fn needs(&mut self, m: &Module) -> Result<Vec<Need>> {
        let (mut needs, mut seen) = (vec![], HashSet::default());
        self.needs_of(m, &m.funcs[m.main()?], &[], &mut needs, &mut seen)?;
        Ok(needs)
    }

    /// Those of a function inside of loops with these symbols: where one does not run, nothing is needed, so that a need is looked at where the symbol is bound.
    fn needs_of(
        &mut self,
        m: &Module,
        f: &Func,
        around: &[Dim],
        needs: &mut Vec<Need>,
        seen: &mut HashSet<ExtentId>,
    ) -> Result<()> {
        for node in f.body().nodes.iter().map(|&n| &f.nodes[n]) {
            for need in node.needs(f) {
                let need = around.iter().fold(need, |need, over| need.max(over.clone() + NEVER.into()));
                let extent = self.extent(&need)?;
                if seen.insert(extent) {
                    needs.push(Need { extent, name: name_of(&node.loc, &node.op) });
                }
            }
            if let Op::Loop(l) = &node.op
                && let Some(body) = m.func(&l.body)
            {
                let around = [around, std::slice::from_ref(&l.over)].concat();
                self.needs_of(m, &m.funcs[body], &around, needs, seen)?;
            }
        }
        Ok(())
    }

    /// The entry of an extent.
    pub(super) fn extent(&mut self, d: &Dim) -> Result<ExtentId> {
        let mut sum = self.interface.extents.constant(0);
        for (atoms, c) in d.terms() {
            let mut product = self.interface.extents.constant(c);
            for a in atoms {
                let factor = match a {
                    Atom::Symbol(s) => {
                        let unbound = || {
                            Diagnostic::error("B0105", format!("extent {s} does not follow from any input's shape"))
                                .failure(Failure::Unsupported)
                        };
                        let i = *self.symbols.get(&s).ok_or_else(unbound)?;
                        self.interface.extents.symbol(i)
                    }
                    Atom::FloorDiv(x, y) => self.binary(ExtentOp::FloorDiv, &x, &y)?,
                    Atom::Max(x, y) => self.binary(ExtentOp::Max, &x, &y)?,
                };
                product = self.interface.extents.mul(product, factor);
            }
            sum = self.interface.extents.add(sum, product);
        }
        Ok(sum)
    }

    fn binary(&mut self, op: ExtentOp, x: &Dim, y: &Dim) -> Result<ExtentId> {
        let (x, y) = (self.extent(x)?, self.extent(y)?);
        Ok(self.interface.extents.apply(op, x, y))
    }

    /// Bytes of a dense tensor.
    pub(super) fn bytes(&mut self, ty: &Type) -> Result<ExtentId> {
        let (n, bits) = (ty.elements(), i64::from(ty.dtype.bits()));
        let bytes = if bits >= 8 { n * (bits / 8).into() } else { (n * bits.into()).ceil_div(8) };
        self.extent(&bytes)
    }
}
