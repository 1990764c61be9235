//! Runs plans of one family of programs on data, cheaply.
//!
//! Alternatives that differ from the exact op in its weight alone share one program: their weights are decoded and packed once, and a plan is run by pointing the
//! program at them. A program is made anew only for picks that change more than weights.

use super::evaluator;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tersor_ir::plan::{Plan, resolve};
use tersor_ir::target::Prepared;
use tersor_ir::{Module, Result, Tensor};
use tersor_passes::family::{Site, sites};

/// Programs that are kept.
const KEPT: usize = 4;

/// A family made ready.
pub struct Plans {
    family: Module,
    sites: Vec<Site>,
    threads: usize,
    stop: Arc<AtomicBool>,
    programs: Vec<(Plan, Program)>,
    #[cfg(feature = "mlir")]
    weights: Option<swap::Weights>,
    /// Programs made so far.
    pub compiled: usize,
}

enum Program {
    Plain(Box<dyn Prepared>),
    #[cfg(feature = "mlir")]
    Swapping(swap::Swapping),
}

impl Plans {
    /// Makes a module with choices ready; runs end once `stop` is raised.
    pub fn new(family: Module, threads: usize, stop: &Arc<AtomicBool>) -> Result<Plans> {
        let sites = sites(&family);
        Ok(Plans {
            #[cfg(feature = "mlir")]
            weights: swap::Weights::new(&family, &sites)?,
            family,
            sites,
            threads: threads.max(1),
            stop: Arc::clone(stop),
            programs: vec![],
            compiled: 0,
        })
    }
    /// The sites, in program order.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }
    /// The module with its choices.
    pub fn family(&self) -> &Module {
        &self.family
    }
    /// Which alternative a plan has at a site.
    fn pick(&self, site: usize, plan: &Plan) -> usize {
        let s = &self.sites[site];
        plan.picks.get(&s.name).and_then(|p| s.alternatives.iter().position(|a| a == p)).unwrap_or(0)
    }
    /// Whether a pick is a matter of the weight alone.
    fn swaps(&self, site: usize, pick: usize) -> bool {
        #[cfg(feature = "mlir")]
        if let Some(w) = &self.weights {
            return w.has(site, pick);
        }
        let _ = (site, pick);
        false
    }
    /// Calls `each` with the position of a batch and the outputs that a plan gives for it; what it returns comes in the order of the batches. Batches run on all
    /// threads, each on one.
    pub fn run<T: Send>(
        &mut self,
        plan: &Plan,
        batches: &[&[Tensor]],
        each: &(dyn Fn(usize, Vec<Tensor>) -> Result<T> + Sync),
    ) -> Result<Vec<T>> {
        let at = self.program(plan)?;
        #[cfg(feature = "mlir")]
        let picks: Vec<usize> = (0..self.sites.len()).map(|i| self.pick(i, plan)).collect();
        match &mut self.programs[at].1 {
            Program::Plain(p) => batches.iter().enumerate().map(|(i, b)| each(i, p.run(b)?)).collect(),
            #[cfg(feature = "mlir")]
            Program::Swapping(s) => s.run(self.weights.as_ref(), &picks, batches, each),
        }
    }
    /// The position of a program that can run the plan.
    fn program(&mut self, plan: &Plan) -> Result<usize> {
        loop {
            let fixed = |i: &usize| {
                let pick = self.pick(*i, plan);
                pick != 0 && !self.swaps(*i, pick)
            };
            let named = |i: usize| (self.sites[i].name.clone(), self.sites[i].alternatives[self.pick(i, plan)].clone());
            let key = Plan { picks: (0..self.sites.len()).filter(fixed).map(named).collect() };
            if let Some(at) = self.programs.iter().position(|p| p.0 == key) {
                return Ok(at);
            }
            self.compiled += 1;
            #[cfg(feature = "mlir")]
            if let Some(w) = &mut self.weights {
                let made = w.program(&self.family, &self.sites, &key, self.threads, &self.stop)?;
                let Some(made) = made else { continue };
                self.keep(key, Program::Swapping(made));
                continue;
            }
            let mut m = self.family.clone();
            resolve(&mut m, &key).map_err(|mut e| e.swap_remove(0))?;
            let made = evaluator(self.threads, &self.stop).prepare(&m)?;
            self.keep(key, Program::Plain(made));
        }
    }
    fn keep(&mut self, key: Plan, program: Program) {
        if self.programs.len() == KEPT {
            self.programs.remove(0);
        }
        self.programs.push((key, program));
    }
}

#[cfg(feature = "mlir")]
mod swap {
    use crate::driver::{Compiler, from_runtime, runtime_error, to_runtime};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use tersor_backends::kernel::Isa;
    use tersor_backends::{lower, target};
    use tersor_ir::constant::{ConstData, Distribution, Rng};
    use tersor_ir::plan::{Plan, resolve};
    use tersor_ir::{DType, Module, Result, Tensor};
    use tersor_passes::family::{Site, own_weights, with_weight};
    use tersor_runtime::Session;
    use tersor_runtime::memory::Aligned;

    /// Packed weights of all alternatives that are one.
    pub struct Weights {
        isa: Isa,
        /// By site and alternative.
        packed: Vec<Vec<Option<Arc<Aligned>>>>,
    }

    /// Sessions whose weights are exchanged, of one thread each.
    pub struct Swapping {
        sessions: Vec<(Session, Vec<Option<usize>>)>,
        /// The constant that is a site's weight.
        constants: Vec<Option<u32>>,
    }

    /// A site's weight as the kernels of its exact op read it; `None` where they read more than one constant, or there is no kernel.
    fn pack(m: &Module, site: &Site, weight: &Tensor, isa: Isa) -> Option<Vec<u8>> {
        let mut m = m.clone();
        with_weight(&mut m, site, weight);
        let mut constants = lower::packed(&site.program(&m, 0).ok()?, isa).ok()?;
        let one = constants.pop()?;
        constants.is_empty().then_some(one.1)
    }

    /// What stands in a program for a weight that will be given: numbers that no other constant has.
    fn placeholder(i: usize) -> Rng {
        Rng { dist: Distribution::Normal(0.0, 1.0), seed: 0x5173 + i as u64 }
    }

    impl Weights {
        pub fn new(m: &Module, sites: &[Site]) -> Result<Option<Weights>> {
            let Ok(machines) = target::parse("native") else { return Ok(None) };
            let Some(isa) = machines.first().map(|m| m.isa) else { return Ok(None) };
            let mut packed = vec![];
            for s in sites {
                let one = |a: usize| {
                    let bytes = pack(m, s, &s.weight(m, a)?, isa)?;
                    Aligned::copy_of(&bytes).ok().map(Arc::new)
                };
                packed.push((0..s.alternatives.len()).map(one).collect::<Vec<_>>());
            }
            // Without the exact weight there is nothing to exchange.
            packed.iter_mut().filter(|p| p[0].is_none()).for_each(|p| p.fill(None));
            Ok(Some(Weights { isa, packed }))
        }
        pub fn has(&self, site: usize, alternative: usize) -> bool {
            self.packed[site][alternative].is_some()
        }
        /// A program in which these picks stand and all other weights can be exchanged. `None` when a site turns out to have none of its own, which is noted.
        pub fn program(
            &mut self,
            m: &Module,
            sites: &[Site],
            picks: &Plan,
            threads: usize,
            stop: &Arc<AtomicBool>,
        ) -> Result<Option<Swapping>> {
            let open = |i: &usize| self.has(*i, 0) && !picks.picks.contains_key(&sites[*i].name);
            let open: Vec<usize> = (0..sites.len()).filter(open).collect();
            let mut program = m.clone();
            let listed: Vec<&Site> = open.iter().map(|&i| &sites[i]).collect();
            own_weights(&mut program, &listed, |at| ConstData::Rng(placeholder(open[at])));
            resolve(&mut program, picks).map_err(|mut e| e.swap_remove(0))?;
            let model = Compiler { threads, stop: Arc::clone(stop) }.model(&program)?;
            let manifest = model.manifest();
            let mut constants = vec![None; sites.len()];
            for &i in &open {
                let weight = placeholder(i).tensor(DType::F32, &sites[i].weight_shape(m).unwrap_or_default());
                let hash = pack(m, &sites[i], &weight, self.isa).map(|b| blake3::hash(&b).as_bytes().to_vec());
                constants[i] = manifest.constants.iter().position(|c| Some(&c.hash) == hash.as_ref()).map(|k| k as u32);
                if constants[i].is_none() {
                    self.packed[i].fill(None);
                    return Ok(None);
                }
            }
            let session = |_| (model.session(1).stop_on(stop), vec![None; constants.len()]);
            Ok(Some(Swapping { sessions: (0..threads).map(session).collect(), constants }))
        }
    }

    impl Swapping {
        /// As [`super::Plans::run`].
        pub fn run<T: Send>(
            &mut self,
            weights: Option<&Weights>,
            picks: &[usize],
            batches: &[&[Tensor]],
            each: &(dyn Fn(usize, Vec<Tensor>) -> Result<T> + Sync),
        ) -> Result<Vec<T>> {
            let (next, constants) = (AtomicUsize::new(0), &self.constants);
            let work = |(session, now): &mut (Session, Vec<Option<usize>>)| -> Result<Vec<(usize, T)>> {
                for (i, &pick) in picks.iter().enumerate() {
                    if let (Some(k), true, Some(w)) = (constants[i], now[i] != Some(pick), weights) {
                        session.replace(k, w.packed[i][pick].clone()).map_err(runtime_error)?;
                        now[i] = Some(pick);
                    }
                }
                let mut done = vec![];
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(batch) = batches.get(at) else { return Ok(done) };
                    let inputs = batch.iter().map(to_runtime).collect::<Result<Vec<_>>>()?;
                    let views: Vec<_> = inputs.iter().map(|t| t.view()).collect();
                    let mut outputs = session.prepare(&views).map_err(runtime_error)?;
                    session.run_into(&views, &mut outputs).map_err(runtime_error)?;
                    done.push((at, each(at, outputs.into_iter().map(from_runtime).collect::<Result<_>>()?)?));
                }
            };
            let most = self.sessions.len().min(batches.len());
            let mut all = std::thread::scope(|scope| {
                let started: Vec<_> = self.sessions[..most].iter_mut().map(|s| scope.spawn(|| work(s))).collect();
                let join =
                    |t: std::thread::ScopedJoinHandle<_>| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p));
                started.into_iter().map(join).collect::<Result<Vec<Vec<(usize, T)>>>>()
            })?
            .into_iter()
            .flatten()
            .collect::<Vec<_>>();
            all.sort_unstable_by_key(|r| r.0);
            Ok(all.into_iter().map(|r| r.1).collect())
        }
    }
}
