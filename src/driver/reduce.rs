//! Shrinks a module that fails to a small one that fails in the same way, and finds the passes that it takes: delta debugging (Zeller and Hildebrandt, 2002) with cuts that
//! data flow suggests.
//!
//! A candidate counts when it verifies, is smaller, and fails as the first module did. What failing is, an [`Oracle`] says.

use super::{Limits, OptimizeOptions, Result, Watch, compare, evaluator, optimize};
use tersor_ir::constant::{ConstData, Constant, Distribution, Rng};
use tersor_ir::{Def, Diagnostic, EntityId, Func, Module, NodeId, ValueId, interp};
use tersor_passes::calibrate::with_taps;
use tersor_passes::filetest::seeded_inputs;
use tersor_passes::pipeline::Pipeline;

/// Says how a module fails under passes; `None` where it does not.
pub type Oracle<'a> = dyn FnMut(&Module, &[String]) -> Result<Option<String>> + 'a;

/// What is left.
#[derive(Clone, Debug)]
pub struct Reduced {
    /// The module.
    pub module: Module,
    /// The passes that it takes to fail; the last is where it shows.
    pub passes: Vec<String>,
    /// How it fails.
    pub failure: String,
    /// Candidates that were tried.
    pub tried: usize,
}

/// Constants of fewer elements stay as they are.
const FEW: usize = 16;

/// Shrinks a module and its passes as long as they fail as they do now; `None` where they do not.
pub fn reduce(module: Module, passes: Vec<String>, oracle: &mut Oracle, watch: &Watch) -> Result<Option<Reduced>> {
    let Some(failure) = oracle(&module, &passes)? else { return Ok(None) };
    let mut r = Run { best: Reduced { module, passes, failure, tried: 1 }, oracle, watch };
    r.shorten()?;
    while r.outputs()? | r.starts()? | r.nodes()? | r.contents()? {}
    // A smaller module may need fewer passes.
    r.shorten()?;
    Ok(Some(r.best))
}

struct Run<'a, 'o, 'w> {
    best: Reduced,
    oracle: &'a mut Oracle<'o>,
    watch: &'a Watch<'w>,
}

/// What makes a module small: nodes, results, bytes that it stores, extents that it is tried with.
fn size(m: &Module) -> Option<(usize, usize, usize, i64)> {
    let f = &m.funcs[m.main().ok()?];
    let stored = |c: &Constant| if matches!(c.data(), ConstData::Bytes(_)) { c.byte_len() } else { 0 };
    let bytes = f.live_constants().into_iter().map(|c| stored(&m.consts[c])).sum();
    let extents = m.symbols.values().map(|s| s.hint).fold(0i64, i64::saturating_add);
    Some((f.live_nodes().len(), f.body().results.len(), bytes, extents))
}

impl Run<'_, '_, '_> {
    fn fails(&mut self, m: &Module, passes: &[String]) -> Result<bool> {
        self.watch.check().map_err(|d| vec![d])?;
        self.best.tried += 1;
        Ok((self.oracle)(m, passes)?.as_ref() == Some(&self.best.failure))
    }
    /// Takes a candidate if it is one.
    fn take(&mut self, m: Option<Module>) -> Result<bool> {
        let Some(m) = m.filter(|m| size(m) < size(&self.best.module) && tersor_ir::verify::verify(m).is_empty()) else {
            return Ok(false);
        };
        let passes = self.best.passes.clone();
        let better = self.fails(&m, &passes)?;
        if better {
            self.best.module = m;
            let nodes = size(&self.best.module).map_or(0, |s| s.0);
            self.watch.detail(1, format!("{nodes} nodes after {} candidates", self.best.tried));
        }
        Ok(better)
    }
    /// The shortest start of the pipeline that fails, and of that the passes that it takes.
    fn shorten(&mut self) -> Result<()> {
        let m = self.best.module.clone();
        for n in 0..self.best.passes.len() {
            let start = self.best.passes[..n].to_vec();
            if self.fails(&m, &start)? {
                self.best.passes.truncate(n);
                break;
            }
        }
        for i in (0..self.best.passes.len().saturating_sub(1)).rev() {
            let mut fewer = self.best.passes.clone();
            fewer.remove(i);
            if self.fails(&m, &fewer)? {
                self.best.passes = fewer;
            }
        }
        Ok(())
    }
    fn func(&self) -> Result<&Func> {
        let m = &self.best.module;
        Ok(&m.funcs[m.main().map_err(|d| vec![d])?])
    }
    /// One result in place of many, and the earliest: large steps first.
    fn outputs(&mut self) -> Result<bool> {
        let mut any = false;
        for v in self.func()?.body().results.clone() {
            let only = with_taps(&self.best.module, &[v]).ok();
            if self.take(only)? {
                any = true;
                break;
            }
        }
        let mut step = self.func()?.body().nodes.len() / 2;
        while step > 0 {
            let f = self.func()?;
            let at = f.body().nodes.len().checked_sub(1 + step);
            let value = at.and_then(|i| f.nodes[f.body().nodes[i]].results.first().copied());
            let cut = value.and_then(|v| with_taps(&self.best.module, &[v]).ok());
            if self.take(cut)? {
                any = true;
            } else {
                step /= 2;
            }
        }
        Ok(any)
    }
    /// What the first nodes make becomes input: large steps first.
    fn starts(&mut self) -> Result<bool> {
        let (mut any, mut step) = (false, self.func()?.body().nodes.len() / 2);
        while step > 0 {
            let first: Vec<NodeId> = self.func()?.body().nodes.iter().take(step).copied().collect();
            if self.take(given(&self.best.module, &first))? {
                any = true;
            } else {
                step /= 2;
            }
        }
        Ok(any)
    }
    /// Single nodes: their results become inputs, or an operand takes their place.
    fn nodes(&mut self) -> Result<bool> {
        let mut any = false;
        for n in self.func()?.body().nodes.clone().into_iter().rev() {
            if !self.func()?.body().nodes.contains(&n) {
                continue;
            }
            let node = self.func()?.nodes[n].clone();
            for v in node.operands {
                let through = passed(&self.best.module, n, v);
                if self.take(through)? {
                    any = true;
                    break;
                }
            }
            if self.func()?.body().nodes.contains(&n) {
                let without = given(&self.best.module, &[n]);
                any |= self.take(without)?;
            }
        }
        Ok(any)
    }
    /// Weights become random numbers of their magnitude, extents the least that are allowed.
    fn contents(&mut self) -> Result<bool> {
        let mut any = false;
        for c in self.func()?.live_constants() {
            let mut m = self.best.module.clone();
            let constant = &mut m.consts[c];
            let (ConstData::Bytes(_), Some(t)) = (constant.data(), constant.tensor()) else { continue };
            if t.len() < FEW || !t.dtype().is_float() || t.dtype().bits() < 16 {
                continue;
            }
            let x = t.to_f64();
            let rms = (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64).sqrt();
            if rms.is_finite() {
                let data = ConstData::Rng(Rng { dist: Distribution::Normal(0.0, rms), seed: 1 });
                *constant = Constant::new(constant.name.to_string(), constant.ty.clone(), data, constant.loc.clone());
                any |= self.take(Some(m))?;
            }
        }
        for name in self.best.module.symbols.keys().cloned().collect::<Vec<_>>() {
            for extent in [1, 2, 3] {
                let mut m = self.best.module.clone();
                if let Some(s) = m.symbols.get_mut(&name)
                    && extent < s.hint
                {
                    s.hint = extent.max(s.min);
                    if self.take(Some(m))? {
                        any = true;
                        break;
                    }
                }
            }
        }
        Ok(any)
    }
}

/// The module with the results of these nodes as inputs, as far as others read them.
fn given(m: &Module, nodes: &[NodeId]) -> Option<Module> {
    let mut m = m.clone();
    let main = m.main().ok()?;
    let f = &mut m.funcs[main];
    let body = f.body_id();
    f.body_mut().nodes.retain(|n| !nodes.contains(n));
    let uses = f.use_counts();
    for v in nodes.iter().flat_map(|&n| f.nodes[n].results.to_vec()).collect::<Vec<_>>() {
        if uses[v.index()] > 0 {
            let (name, ty) = (f.values[v].name.to_string(), f.values[v].ty.clone());
            let p = f.add_param(body, &name, ty);
            f.inputs.push(f.values[p].name.clone());
            f.replace_uses(v, p);
        }
    }
    Some(tidied(m))
}

/// The module with a node's operand in place of its result.
fn passed(m: &Module, n: NodeId, operand: ValueId) -> Option<Module> {
    let mut m = m.clone();
    let main = m.main().ok()?;
    let f = &mut m.funcs[main];
    let result = *f.nodes[n].results.first()?;
    let fits = f.nodes[n].results.len() == 1 && f.values[result].ty == f.values[operand].ty;
    if !fits || f.def_const(operand).is_some() {
        return None;
    }
    f.replace_uses(result, operand);
    Some(tidied(m))
}

/// Without what is dead: nodes, then inputs, then symbols.
fn tidied(mut m: Module) -> Module {
    let Ok(main) = m.main() else { return m };
    let f = &mut m.funcs[main];
    f.remove_dead();
    let used = f.use_counts();
    let body = f.body_id();
    let names = std::mem::take(&mut f.inputs);
    let params = std::mem::take(&mut f.body_mut().params);
    let kept = params.into_iter().zip(names).filter(|(v, _)| used[v.index()] > 0);
    for (i, (v, name)) in kept.collect::<Vec<_>>().into_iter().enumerate() {
        f.values[v].def = Def::Param(body, i as u32);
        f.body_mut().params.push(v);
        f.inputs.push(name);
    }
    m
}

/// How a module fails: the passes, the code made of what they leave, or what either gives on random inputs of the symbols' typical extents.
pub fn failure(
    m: &Module,
    passes: &[String],
    options: &OptimizeOptions,
    limits: &Limits,
    seed: u64,
    watch: &Watch,
) -> Result<Option<String>> {
    let one = |d: Diagnostic| vec![d];
    let of = |stage: &str, e: &[Diagnostic]| Some(format!("{stage} {}", e.first().map_or("", |d| d.code)));
    let inputs = seeded_inputs(m, seed).map_err(one)?;
    let exact = match interp::run(m, &inputs) {
        Ok(y) => y,
        Err(d) => return Ok(of("the reference ends with", &[d])),
    };
    let mut after = m.clone();
    if !passes.is_empty() {
        let pipeline = Pipeline::find(&passes.join(",")).map_err(one)?;
        after = match optimize(after, &pipeline, options, watch) {
            Ok(done) => done.module,
            Err(e) => return Ok(of("passes end with", &e)),
        };
    }
    let differ = |x: &[tersor_ir::Tensor], y: &[tersor_ir::Tensor]| {
        x.iter().zip(y).any(|(x, y)| compare("", x, y, limits).map_or(true, |c| c.over(limits).is_some()))
    };
    let expected = match interp::run(&after, &inputs) {
        Ok(y) if differ(&y, &exact) => return Ok(Some("passes change the results".into())),
        Ok(y) => y,
        Err(d) => return Ok(of("the reference ends after passes with", &[d])),
    };
    let found = evaluator(1, watch.stop()).prepare(&after).and_then(|mut p| p.run(&inputs));
    match found {
        Ok(y) if differ(&y, &expected) => Ok(Some("compiled code gives other results".into())),
        Ok(_) => Ok(None),
        Err(d) => Ok(of("compilation ends with", &[d])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tersor_ir::Op;

    const TEXT: &str = "module @m {
      symbol N 1..64 hint 16
      const @w : f32[24,24] = rng normal(0, 1) seed 1
      func @main(%x: f32[N,24], %unused: f32[N]) -> (%y: f32[N,24], %z: f32[N,24]) {
        %a = matmul %x, @w : f32[N,24]
        %b = relu %a : f32[N,24]
        %c = sigmoid %b : f32[N,24]
        %d = softmax %c {axis=1} : f32[N,24]
        %e = relu %d : f32[N,24]
        %y = matmul %e, @w : f32[N,24]
        %z = sigmoid %x : f32[N,24]
        return %y, %z } }";

    fn parsed() -> Module {
        tersor_ir::text::parse(TEXT, &Default::default()).unwrap()
    }

    #[test]
    fn one_node_is_left_of_a_module_that_fails_by_it() {
        let has = |m: &Module| {
            let f = &m.funcs[m.main().unwrap()];
            f.live_nodes().iter().any(|&n| matches!(f.nodes[n].op, Op::Softmax(_)))
        };
        let passes: Vec<String> = ["normalize", "saturate", "merge", "normalize"].map(String::from).to_vec();
        let mut oracle = |m: &Module, p: &[String]| {
            assert!(tersor_ir::verify::verify(m).is_empty());
            Ok((has(m) && p.iter().any(|p| p == "saturate")).then(|| "softmax".to_string()))
        };
        let r = reduce(parsed(), passes, &mut oracle, &Watch::default()).unwrap().unwrap();
        assert_eq!(r.passes, ["saturate"]);
        let f = &r.module.funcs[r.module.main().unwrap()];
        assert_eq!((f.live_nodes().len(), f.inputs.len(), f.outputs.len()), (1, 1, 1));
        assert_eq!(r.module.symbols["N"].hint, 1);
    }

    #[test]
    fn what_does_not_fail_is_left_alone() {
        assert!(reduce(parsed(), vec![], &mut |_, _| Ok(None), &Watch::default()).unwrap().is_none());
        let isa = crate::driver::targets(Some("x86-64-v3")).unwrap()[0].isa;
        let options = OptimizeOptions { isa, samples: None, run: Default::default() };
        let limits = Limits { rtol: 1e-3, atol: 1e-4, max: vec![] };
        let passes = ["normalize".to_string()];
        let sound = failure(&parsed(), &passes, &options, &limits, 1, &Watch::default()).unwrap();
        assert_eq!(sound, None);
        let lossy = ["quantize{acts=none, bits=2, skip-small=false}".to_string()];
        let wrong = failure(&parsed(), &lossy, &options, &limits, 1, &Watch::default()).unwrap();
        assert_eq!(wrong.as_deref(), Some("passes change the results"));
    }
}
