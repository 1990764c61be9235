//! Parameters of the function, and the symbols that their dynamic extents become.

use super::node::{formed, value};
use super::{DimBinding, Form, Given, Importer, MAP, Meaning, SYMBOL_OF_NODE, clean};
use crate::proto::{self, Extent, GraphProto, Kind};
use crate::tensor;
use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use tersor_ir::diag::Result;
use tersor_ir::dim::SymbolInfo;
use tersor_ir::{Diagnostic, Dim, Failure, Tensor, Type, ValueId};

/// Most elements of a sequence that is an input.
const MAX_LENGTH: usize = 4096;

impl Importer<'_> {
    pub(super) fn inputs(&mut self, g: &GraphProto) {
        let dims = &self.options.dims;
        for (name, binding) in dims {
            let DimBinding::Multiple(_, of) = binding else { continue };
            if let Some(DimBinding::Multiple(..)) = dims.get(of) {
                let d =
                    Diagnostic::error("O0025", format!("extent {name} is a multiple of {of}, which is one as well"));
                self.errors.push(d.failure(Failure::Usage));
                self.broken.extend(g.input.iter().map(|i| i.name.clone()));
                return;
            }
        }
        for i in &g.input {
            // Before IR version 4 initializers had to be inputs as well; they are constants.
            if self.scope.contains_key(&i.name) {
                continue;
            }
            match self.parameter(i) {
                Ok(m) => drop(self.scope.insert(i.name.clone(), m)),
                Err(d) => {
                    self.errors.push(d);
                    self.broken.insert(i.name.clone());
                }
            }
        }
        let all: HashSet<&str> =
            self.named.iter().map(String::as_str).chain(g.input.iter().map(|i| i.name.as_str())).collect();
        for name in self.options.shapes.keys().filter(|n| !all.contains(n.as_str())) {
            let d = Diagnostic::error(
                "O0024",
                format!("a shape is given for \"{}\", which is not an input", name.escape_debug()),
            );
            let names: Vec<&str> = self.b.func.inputs.iter().map(|n| &**n).collect();
            self.errors.push(d.failure(Failure::Usage).with_help(format!("inputs are {}", names.join(", "))));
        }
        for name in self.options.values.keys().filter(|n| !all.contains(n.as_str())) {
            let message = format!("a value is given for \"{}\", which is not an input", name.escape_debug());
            self.errors.push(Diagnostic::error("O0024", message).failure(Failure::Usage));
        }
        let plain = |i: &&proto::ValueInfoProto| proto::tensors(i).is_none_or(|t| !t.0.optional && !t.0.sequence);
        for name in self.options.lengths.keys() {
            if g.input.iter().find(|i| i.name == *name).is_none_or(|i| plain(&i)) {
                let what = format!(
                    "a length is given for \"{}\", which is not a sequence or optional input",
                    name.escape_debug()
                );
                self.errors.push(Diagnostic::error("O0024", what).failure(Failure::Usage));
            }
        }
        for name in self.options.dims.keys().filter(|n| !self.symbols.contains_key(n.as_str())) {
            let used = g.input.iter().filter_map(proto::tensor_type).filter_map(|t| t.1).flatten();
            if !used.into_iter().any(|e| matches!(e, Extent::Param(p) if symbol_name(&p) == *name || p == *name))
                && !name.contains('.')
            {
                let d = Diagnostic::error("O0025", format!("no input has a dynamic extent named {name}"));
                let all: Vec<&str> = self.symbols.keys().map(|n| &**n).collect();
                self.errors
                    .push(d.failure(Failure::Usage).with_help(format!("dynamic extents are {}", all.join(", "))));
            }
        }
    }

    /// What an input stands for; a sequence is as many parameters as it has elements.
    fn parameter(&mut self, i: &proto::ValueInfoProto) -> Result<Meaning> {
        let bad = |what: &str| Diagnostic::error("O0023", format!("input \"{}\" {what}", i.name.escape_debug()));
        let (kind, number, dims) = proto::tensors(i).ok_or_else(|| {
            bad("is neither a tensor, nor a map of scalars, nor a sequence or an optional of tensors")
                .failure(Failure::Unsupported)
        })?;
        if let Some(keys) = kind.keys {
            if kind.sequence || kind.optional {
                return Err(bad("is a sequence or an optional of maps").failure(Failure::Unsupported));
            }
            let entries = || Some(vec![Extent::Param(format!("{}.entries", i.name))]);
            let [key, value] = MAP.map(|part| format!("{}.{part}", i.name));
            let parts = [self.tensor(&key, keys, entries())?, self.tensor(&value, number, entries())?];
            return Ok(formed(Form::Map(Box::new(parts))));
        }
        if kind == Kind::default() {
            return self.tensor(&i.name, number, dims);
        }
        let Some(&length) = self.options.lengths.get(&i.name) else {
            let what = "is a sequence or optional; how many elements it has must be known when the model is compiled";
            let help =
                format!("say so with --length {0}=3, or --length {0}=none for an optional without an element", i.name);
            return Err(bad(what).failure(Failure::Unsupported).with_help(help));
        };
        match length {
            None if kind.optional => Ok(formed(Form::Nothing)),
            Some(1) if !kind.sequence => self.tensor(&i.name, number, dims),
            Some(n) if kind.sequence && n <= MAX_LENGTH => {
                // What they have a name for may differ from one element to the next.
                let own = |e: &Extent| match e {
                    Extent::Value(n) => Extent::Value(*n),
                    _ => Extent::Unknown,
                };
                let dims = |_| dims.as_ref().map(|d| d.iter().map(own).collect());
                let element = |j| self.tensor(&format!("{}.{j}", i.name), number, dims(j));
                Ok(formed(Form::Sequence(Rc::new((0..n).map(element).collect::<Result<_>>()?))))
            }
            _ => {
                let given = length.map_or("none".into(), |n| n.to_string());
                let what = format!(
                    "cannot have the length {given}; sequences have up to {MAX_LENGTH} elements, optionals 1 or none"
                );
                Err(bad(&what).failure(Failure::Usage))
            }
        }
    }

    /// A parameter, or the constant that is given for it.
    fn tensor(&mut self, name: &str, number: i32, dims: Option<Vec<Extent>>) -> Result<Meaning> {
        self.named.push(name.into());
        let ty = self.input_type(name, number, dims)?;
        if let Some(given) = self.options.values.get(name) {
            return self.given(name, &ty, given);
        }
        let body = self.b.func.body_id();
        let v = self.b.func.add_param(body, &clean(name), ty);
        self.b.func.inputs.push(name.into());
        Ok(value(v))
    }

    /// The constant of an input whose value is given; its elements must have the declared type and number.
    fn given(&mut self, name: &str, ty: &Type, given: &Given) -> Result<Meaning> {
        let fits = |(d, &n): (&Dim, &usize)| d.as_const().is_none_or(|d| d == n as i64);
        let bad = |what: String| {
            let message = format!("input \"{}\" is {ty}, the value given for it {what}", name.escape_debug());
            Diagnostic::error("O0023", message).failure(Failure::Usage)
        };
        let t = match given {
            // One element is a scalar as well.
            Given::Tensor(t) => match ty.static_shape().filter(|s| s.iter().product::<usize>() == 1 && t.len() == 1) {
                Some(shape) => t.reshaped(shape).unwrap_or_else(|| t.clone()),
                None => t.clone(),
            },
            Given::Numbers(elements) => {
                let shape = match (ty.static_shape(), ty.rank()) {
                    (Some(shape), _) => shape,
                    (None, 1) => vec![elements.len()],
                    (None, _) => return Err(bad("has no shape".into()).with_help("give its shape with --shape")),
                };
                if shape.iter().product::<usize>() != elements.len() {
                    return Err(bad(format!("has {} elements", elements.len())));
                }
                let t = Tensor::from_f64(ty.dtype, shape, elements);
                if let Some(v) = elements.iter().zip(t.to_f64()).find(|(v, t)| ty.dtype.is_int() && **v != *t) {
                    return Err(bad(format!("has the element {}", v.0)));
                }
                t
            }
        };
        if t.dtype() != ty.dtype || t.shape().len() != ty.rank() || !ty.shape.iter().zip(t.shape()).all(fits) {
            return Err(bad(format!("is {}", t.ty())));
        }
        Ok(self.constant(&clean(name), &t))
    }

    /// The names of the inputs that a value is computed from.
    pub(super) fn inputs_behind(&self, v: ValueId) -> BTreeSet<String> {
        let f = &self.b.func;
        if self.is_inside() {
            return BTreeSet::new();
        }
        let params = &f.body().params;
        let (mut open, mut seen, mut names) = (vec![v], HashSet::new(), BTreeSet::new());
        while let Some(v) = open.pop() {
            if !seen.insert(v) {
                continue;
            }
            if let Some(n) = f.def_node(v) {
                open.extend(&n.operands);
            } else if let Some(i) = params.iter().position(|p| *p == v) {
                names.insert(f.inputs[i].to_string());
            }
        }
        names
    }

    fn input_type(&mut self, name: &str, number: i32, dims: Option<Vec<Extent>>) -> Result<Type> {
        let bad = |what: &str| Diagnostic::error("O0023", format!("input \"{}\" {what}", name.escape_debug()));
        let dtype = tensor::dtype(number).ok_or_else(|| {
            bad(&format!("has element type {number}, which is not supported")).failure(Failure::Unsupported)
        })?;
        let given = self.options.shapes.get(name);
        let dims = match (given, dims) {
            // A list of one number is a scalar as well.
            (Some(shape), Some(dims)) if dims.is_empty() && *shape == [1] => dims,
            (Some(shape), Some(dims)) if shape.len() != dims.len() => {
                return Err(bad(&format!("has {} axes, the given shape has {}", dims.len(), shape.len())));
            }
            (Some(shape), _) => shape.iter().map(|&n| Extent::Value(n)).collect(),
            (None, Some(dims)) => dims,
            (None, None) => return Err(bad("has no declared rank").with_help("give its shape with --shape")),
        };
        let most = self.options.limits.rank;
        if dims.len() > most {
            return Err(bad(&format!("has a rank above {most}")));
        }
        let mut shape = vec![];
        for (axis, d) in dims.into_iter().enumerate() {
            shape.push(match d {
                Extent::Value(n) if n < 0 => return Err(bad(&format!("has extent {n}"))),
                Extent::Value(n) => Dim::Const(n),
                Extent::Param(p) => self.param(&p),
                // No name in a file has a zero.
                Extent::Unknown => self.named(format!("{}.{axis}", symbol_name(name)), &format!("\0{name}.{axis}")),
            });
        }
        super::extents::check(&shape)?;
        Ok(Type::new(dtype, shape))
    }

    /// Whether an extent is one that the data decide.
    pub(super) fn is_bound(&self, d: &Dim) -> bool {
        let mut bound = false;
        d.symbols(&mut |s| bound |= !self.order.contains(s));
        bound
    }

    /// A new symbol for an extent that the data decide, up to `cap`; it is named after the node.
    pub(super) fn bound_symbol(&mut self, cap: &Dim) -> Result<Dim> {
        self.new_symbol(&self.b.name.clone(), SYMBOL_OF_NODE, cap)
    }

    /// A new symbol that is named after something and ends in `suffix`, up to `cap`.
    pub(super) fn new_symbol(&mut self, stem: &str, suffix: &str, cap: &Dim) -> Result<Dim> {
        let base = format!("{}{suffix}", symbol_name(stem));
        let mut name: Arc<str> = base.as_str().into();
        for i in 2.. {
            if !self.symbols.contains_key(&name) {
                break;
            }
            name = format!("{base}{i}").into();
        }
        if self.options.dims.contains_key(&*name) {
            let d = Diagnostic::error("O0025", format!("extent {name} is decided by the data, --dim cannot"));
            return Err(d.failure(Failure::Usage));
        }
        let hints = self.symbols.iter().map(|(s, i)| (s.clone(), i.hint)).collect();
        let most = |d: Option<i64>| d.unwrap_or(SymbolInfo::default().max).max(0);
        let max = most(cap.as_const());
        let info = SymbolInfo { min: 0, max, hint: most(cap.eval(&hints)).min(max) };
        self.symbols.insert(name.clone(), info);
        Ok(Dim::symbol(name))
    }

    /// The symbol of a name in the file; names that only differ in what symbols cannot contain get symbols of their own.
    fn param(&mut self, param: &str) -> Dim {
        self.named(symbol_name(param), param)
    }

    /// The symbol `base`, or one called alike where that stands for something else than `param`.
    fn named(&mut self, base: String, param: &str) -> Dim {
        let mut name: Arc<str> = base.as_str().into();
        for n in 2.. {
            if self.params.entry(name.clone()).or_insert_with(|| param.into()) == param {
                break;
            }
            name = format!("{base}_{n}").into();
        }
        self.symbol(&name)
    }

    fn symbol(&mut self, name: &str) -> Dim {
        let given = self.options.dims.get(name);
        match given {
            Some(DimBinding::Fixed(n)) => return Dim::Const(*n),
            Some(DimBinding::Multiple(factor, other)) => return self.symbol(other) * Dim::Const(*factor),
            _ => {}
        }
        if let Some(d) = self.rounds.aliases.get(name) {
            return d.clone();
        }
        // Bounds given for a symbol hold for the one that replaces it.
        let same = |(s, d): (&Arc<str>, &Dim)| {
            d.as_symbol().is_some_and(|d| **d == *name).then(|| self.options.dims.get(&**s)).flatten()
        };
        let info = match given.or_else(|| self.rounds.aliases.iter().find_map(same)) {
            Some(DimBinding::Range(info)) => *info,
            _ => SymbolInfo::default(),
        };
        let name: Arc<str> = name.into();
        if self.symbols.insert(name.clone(), info).is_none() {
            self.order.push(name.clone());
        }
        Dim::symbol(name)
    }
}

/// A symbol's name as text allows it.
fn symbol_name(param: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    let mut s: String = param.chars().take(64).map(|c| if fits(c) { c } else { '_' }).collect();
    if s.is_empty() || s.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        s.insert(0, 'd');
    }
    s
}
