//! `prune`: fewer channels of convolutions, heads of attention and inner features.
//!
//! Channels that are coupled go together ([`crate::coupling`]); the alternative is the whole region that they run through, at its exit. Which stay is told by scores, and what
//! the others contributed is made good in the weights that read them ([`crate::solve::predict`]). Regions overlap: a residual stream runs around the channels inside its
//! branches. So each group is decided before the next is offered.

use crate::coupling::region::{Changes, Region};
use crate::coupling::relations::Slot;
use crate::coupling::remove::Removal;
use crate::coupling::{Group, Unit, Weight, groups};
use crate::gram::Gram;
use crate::layer::{Layer, WEIGHT, tapped};
use crate::manager::PassCx;
use crate::patches::Tap;
use crate::propose::{Alternative, Editor, Propose, Site};
use crate::sample;
use crate::selector::Selector;
use crate::solve::eliminate::{Reading, eliminate};
use crate::solve::predict::{Inputs, Refit, plain, refit};
use crate::weights::Several;
use std::collections::{BTreeSet, HashMap};
use tersor_ir::diag::Failure;
use tersor_ir::ops::Real;
use tersor_ir::{DType, Diagnostic, Func, FuncId, Module, NodeId, Op, Result, Tensor, ValueId};

tersor_ir::attr_enum! {
    /// What tells which channels stay.
    pub enum Score {
        /// how little is lost without them once what stays makes up for it, one channel after another
        Elimination = "elimination",
        /// what they contribute to what reads them, over calibration data
        Activation = "activation",
        /// the squares of their weights
        Magnitude = "magnitude",
    }
}

tersor_ir::attr_enum! {
    /// How what reads the channels makes up for those that went.
    pub enum Recover {
        /// not at all
        None = "none",
        /// their means are added to its outputs
        Bias = "bias",
        /// they are predicted from those that stay: least squares over calibration data
        Ls = "ls",
    }
}

tersor_ir::attr_enum! {
    /// Which groups.
    pub enum Units {
        /// all
        All = "all",
        /// channels of images
        Channels = "channels",
        /// heads of attention
        Heads = "heads",
        /// inner features between products
        Features = "features",
    }
}

pass! {
    /// Removes output channels of convolutions, heads of attention and inner features of products, with all that is coupled with them; what reads them makes up for it.
    ///
    /// Channels that are added to each other, heads of keys and values with the queries that read them, and channels that are concatenated or flattened go together: they
    /// are one group, and one site, named by the first weight that makes them. Groups are decided one after another. A plan takes or leaves each by itself, so for one only groups whose
    /// parts of the program do not overlap are offered, the smallest parts first: branches, and not the streams that run around them.
    pub struct Prune = "prune": Propose {
        options {
            /// The part of each group's channels that goes; several as 0.3|0.5, an alternative each.
            remove: Several<Real> = Several(vec![Real(0.25)]),
            /// What stays are multiples of so many elements, the nearest to what is asked for.
            multiple: u32 = 8,
            /// What tells which channels stay.
            score: Score = Score::Elimination,
            /// How what reads the channels makes up for those that went.
            recover: Recover = Recover::Ls,
            /// Damping of least squares, times the mean square of an input.
            damp: Real = Real(0.001),
            /// Which groups.
            units: Units = Units::All,
            /// Which sites.
            select: Selector = Selector::all(),
            /// Which sites not.
            exclude: Selector = Selector::none(),
        }
        stats { "sites": "groups offered with fewer channels", "channels": "channels that the smallest alternatives leave out" }
    }
}

/// A group with its site, and its region or why there is none.
struct Candidate {
    site: Site,
    group: Group,
    region: Result<Region, String>,
}

impl Prune {
    fn check(&self) -> Result<()> {
        let wrong = |message: String| Err(Diagnostic::error("S0133", message).failure(Failure::Usage));
        if let Some(r) = self.remove.0.iter().find(|r| !(0.0..1.0).contains(&r.0)) {
            return wrong(format!("prune: remove={:?} is not from 0 up to below 1", r.0));
        }
        if self.multiple == 0 {
            return wrong("prune: `multiple` is at least 1".into());
        }
        if !(self.damp.0 >= 0.0 && self.damp.0.is_finite()) {
            return wrong(format!("prune: damp={:?} is no damping", self.damp.0));
        }
        Ok(())
    }
    /// Whether it looks at calibration data.
    fn calibrated(&self) -> bool {
        self.score != Score::Magnitude || self.recover != Recover::None
    }
    /// The groups of all functions that begin at a weight.
    fn candidates(&self, m: &Module) -> Vec<Candidate> {
        let of = |(func, f): (_, &Func)| {
            let wanted = |g: &Group| {
                let unit = match g.unit {
                    Unit::Channel => Units::Channels,
                    Unit::Head => Units::Heads,
                    Unit::Feature => Units::Features,
                };
                self.units == Units::All || self.units == unit
            };
            let one = |group: Group| {
                let first = group.producers.first()?;
                let mut site = Site::at(m, func, first.node, first.operand);
                let region = match group.reason().filter(|_| group.free().is_empty()) {
                    Some(reason) => Err(format!("none of {} can go: {reason}", count(&group, group.channels.len()))),
                    None => Region::around(f, &group),
                };
                if let Ok(r) = &region {
                    site.value = r.exit;
                }
                site.name = format!("{}.{}s", site.name, noun(&group));
                let seen = !self.calibrated() || tapped(m, &site, first.node);
                let untapped = "it needs a tap, and there is none inside a region or function";
                Some(Candidate { site, group, region: region.and_then(|r| seen.then_some(r).ok_or(untapped.into())) })
            };
            groups(m, func).into_iter().filter(wanted).filter_map(one).collect::<Vec<_>>()
        };
        m.funcs.iter().flat_map(of).collect()
    }
    /// What it needs to know for one group.
    fn taps_of(&self, m: &Module, c: &Candidate) -> Vec<Tap> {
        let (Ok(region), true) = (&c.region, self.calibrated()) else { return vec![] };
        let f = &m.funcs[c.site.func];
        let read = |w: &&Weight| is_layer(f, w) && f.values[w.value].ty.dtype == DType::F32;
        let tap = |w: &Weight| Tap::with_gram(m, c.site.func, w.node);
        let inputs = region.inputs(f).into_iter().filter(|&v| f.values[v].ty.dtype == DType::F32);
        let inputs = inputs.filter(|&v| sample::whole(m, f, v).is_some()).map(Tap::whole);
        c.group.consumers.iter().filter(read).map(tap).chain(inputs).collect()
    }
    /// How soon each channel goes, as far as the largest part asks for; `None` where a reader has no Gram matrix.
    fn order<'a>(&self, group: &Group, readers: &'a [Reader<'a>]) -> Option<Vec<f64>> {
        let grams = readers.iter().map(|r| r.gram).collect::<Option<Vec<_>>>().filter(|g| !g.is_empty())?;
        let (all, most) = (group.channels.len(), self.remove.0.iter().map(|r| r.0).fold(0.0, f64::max));
        // What stays is rounded to a multiple, down as well as up.
        let count = (all as f64 * most).ceil() as usize + self.multiple as usize;
        let reading = |(r, gram): (&'a Reader<'a>, &'a Gram)| {
            let inputs = Inputs { gram, shifts: self.recover != Recover::None };
            Reading { w: &r.layer.w, inputs, channel: &r.channel }
        };
        let readings: Vec<Reading> = readers.iter().zip(grams.iter().copied()).map(reading).collect();
        eliminate(&readings, all, &group.free(), count, self.damp.0)
    }
    /// The channels that go when this part is asked for, of channels with these scores; why none where none does.
    fn gone(&self, group: &Group, part: f64, scores: &[f64]) -> Result<BTreeSet<usize>, String> {
        let all = group.channels.len();
        let each = group.producers.first().map_or(1, |w| positions(group, w).len() / all.max(1)).max(1);
        let step = self.multiple as usize / gcd(self.multiple as usize, each);
        let asked = all as f64 * (1.0 - part);
        let stay = ((asked / step as f64).round() as usize * step).max(step).min(all);
        if stay >= all {
            let (some, whole) = (count(group, (all as f64 * part).floor() as usize), count(group, all));
            return Err(format!("{part} of {whole} is {some}, and what stays are multiples of {step}"));
        }
        let mut order = group.free();
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(a.cmp(&b)));
        let mut gone = BTreeSet::new();
        for c in order {
            if gone.len() == all - stay {
                break;
            }
            gone.insert(c);
            if group.slots.keys().any(|&s| group.kept(s, &gone).is_some_and(|k| k.is_empty())) {
                gone.remove(&c);
            }
        }
        if gone.len() < all - stay {
            let why = group.reason().unwrap_or("an axis would be left without positions");
            let (most, asked) = (gone.len(), all - stay);
            return Err(format!("{most} of {} can go, {asked} are asked for: {why}", count(group, all)));
        }
        Ok(gone)
    }
}

impl Propose for Prune {
    fn taps(&self, m: &Module) -> Vec<Tap> {
        let Ok(main) = m.main() else { return vec![] };
        let wanted =
            |c: &Candidate| c.site.func == main && self.select.matches(&c.site) && !self.exclude.matches(&c.site);
        let all = self.candidates(m);
        let mut taps: Vec<Tap> = all.iter().filter(|c| wanted(c)).flat_map(|c| self.taps_of(m, c)).collect();
        taps.sort_unstable();
        taps.dedup();
        taps
    }

    fn reads(&self, m: &Module, site: &Site) -> Vec<ValueId> {
        let all = self.candidates(m);
        let own = all.iter().find(|c| c.site.name == site.name);
        own.map_or(vec![], |c| self.taps_of(m, c).into_iter().map(|t| t.value).collect())
    }

    fn in_turn(&self) -> bool {
        true
    }

    fn sites(&self, m: &Module, cx: &mut PassCx) -> Result<Vec<Site>> {
        self.check()?;
        let all = self.candidates(m);
        let selected = cx.select(all.iter().map(|c| c.site.clone()).collect(), &self.select, &self.exclude)?;
        let mut found = vec![];
        for (at, Candidate { site, group, region }) in all.into_iter().enumerate() {
            match region {
                _ if !selected.contains(&site) => {}
                Ok(region) => found.push((at, site, group, region)),
                Err(reason) => cx.decline(&site, reason),
            }
        }
        if !cx.in_turn {
            // Alternatives of a plan are taken or left each by itself, so their parts are apart; small parts leave room for more of them.
            found.sort_by_key(|(at, _, _, region)| (region.nodes.len(), *at));
        }
        let mut taken: HashMap<(FuncId, NodeId), String> = HashMap::new();
        let mut out = vec![];
        for (at, site, group, region) in found {
            let other = region.nodes.iter().find_map(|&n| taken.get(&(site.func, n)));
            if let Some(other) = other.filter(|_| !cx.in_turn) {
                cx.decline(&site, overlaps(other));
                continue;
            }
            taken.extend(region.nodes.iter().map(|&n| ((site.func, n), site.name.clone())));
            cx.coupled.insert(site.name.clone(), (group, region));
            out.push((at, site));
        }
        out.sort_by_key(|s| s.0);
        Ok(out.into_iter().map(|s| s.1).collect())
    }

    fn propose(&self, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        let Some((group, region)) = cx.coupled.get(&site.name).cloned() else {
            let message = format!("prune: no group is known at {}", site.name);
            return Err(Diagnostic::error("S0134", message).failure(Failure::Internal));
        };
        let mut readers: Vec<Reader> = vec![];
        for w in group.consumers.iter().filter(|w| is_layer(b.func, w)) {
            let result = b.func.nodes[w.node].results[0];
            if let Ok(layer) = Layer::of(b, &Site { value: result, ..site.clone() }, cx.statistics) {
                readers.extend(Reader::new(*w, &group, layer));
            }
        }
        if self.calibrated() && readers.iter().any(|r| r.gram.is_none() && r.mean.is_none()) {
            cx.decline(site, "calibration saw no finite input of what reads its channels");
            return Ok(vec![]);
        }
        let scores = match self.score {
            Score::Elimination => self.order(&group, &readers).unwrap_or_else(|| contributions(&group, &readers)),
            Score::Activation => contributions(&group, &readers),
            Score::Magnitude => magnitudes(b, &group),
        };
        let mut out: Vec<Alternative> = vec![];
        let (mut reason, mut most) = (String::new(), 0);
        for part in &self.remove.0 {
            cx.check_interrupt()?;
            let gone = match self.gone(&group, part.0, &scores) {
                Ok(gone) => gone,
                Err(why) => {
                    reason = why;
                    continue;
                }
            };
            let r = Removal { group: &group, gone: &gone };
            r.check(b.func)?;
            let mut changes = Changes::default();
            for reader in &readers {
                reader.recover(b, r, self, &mut changes);
            }
            let value = region.without(b, r, &changes)?;
            cx.detail(format!("{}: {} of {} go", site.name, gone.len(), count(&group, group.channels.len())));
            most = most.max(gone.len());
            out.push(Alternative { name: format!("less-{}", part.0), value });
        }
        match out.is_empty() {
            true => cx.decline(site, reason),
            false => {
                cx.count("sites", 1);
                cx.count("channels", most as u64);
            }
        }
        Ok(out)
    }
}

/// Why a plan cannot have a group beside another.
fn overlaps(other: &str) -> String {
    format!(
        "its part of the program overlaps with that of %{other}, and a plan takes or leaves each by itself: exclude %{other}, or prune without a plan, where groups are decided in turn"
    )
}

fn noun(group: &Group) -> &'static str {
    match group.unit {
        Unit::Channel => "channel",
        Unit::Head => "head",
        Unit::Feature => "feature",
    }
}

fn count(group: &Group, n: usize) -> String {
    format!("{n} {}{}", noun(group), if n == 1 { "" } else { "s" })
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Whether a weight is that of a layer: the second operand of a convolution or of a product with a matrix.
fn is_layer(f: &Func, w: &Weight) -> bool {
    let matrix = f.values[w.value].ty.rank() == 2;
    w.operand == WEIGHT
        && match &f.nodes[w.node].op {
            Op::Conv(_) => true,
            Op::MatMul(m) => !m.trans_a && matrix,
            _ => false,
        }
}

/// The channel at each position of a weight's axis.
fn positions<'g>(group: &'g Group, w: &Weight) -> &'g [usize] {
    group.slots.get(&Slot { value: w.value, axis: w.axis }).map_or(&[], |of| of)
}

/// What reads the channels of a group, and what calibration saw of its inputs.
struct Reader<'a> {
    weight: Weight,
    layer: Layer<'a>,
    /// The channel of each column of the layer's weight.
    channel: Vec<usize>,
    gram: Option<&'a Gram>,
    /// The mean of each column's input.
    mean: Option<Vec<f64>>,
}

impl<'a> Reader<'a> {
    /// `None` where the columns are not the group's.
    fn new(weight: Weight, group: &Group, layer: Layer<'a>) -> Option<Reader<'a>> {
        let of = positions(group, &weight);
        let taps = layer.w.cols / of.len().max(1);
        let channel: Vec<usize> = of.iter().flat_map(|&c| std::iter::repeat_n(c, taps)).collect();
        if channel.len() != layer.w.cols {
            return None;
        }
        let gram = layer.gram();
        let seen = layer.inputs.is_some_and(|i| i.count > 0 && i.mean().len() == of.len());
        let mean = (gram.is_some() || seen).then(|| layer.mean());
        Some(Reader { weight, layer, channel, gram, mean })
    }

    /// Adds the reader's weight over what stays, and what is added to its outputs.
    fn recover(&self, b: &Editor, r: Removal, how: &Prune, changes: &mut Changes) {
        let kept: Vec<usize> = (0..self.channel.len()).filter(|&j| !r.gone.contains(&self.channel[j])).collect();
        let w = &self.layer.w;
        let mean = self.mean.as_deref().filter(|_| how.recover != Recover::None);
        let best = match (how.recover, self.gram) {
            (Recover::Ls, Some(gram)) => refit(w, &Inputs { gram, shifts: true }, &kept, how.damp.0),
            _ => None,
        };
        let Refit { w: part, shift } = best.unwrap_or_else(|| plain(w, mean, &kept));
        let mut whole = w.clone();
        for i in 0..w.rows {
            kept.iter().zip(part.row(i)).for_each(|(&j, v)| whole.row_mut(i)[j] = *v);
        }
        let node = self.weight.node;
        changes.weights.insert((node, WEIGHT), r.sliced(self.weight.value, &self.layer.tensor(&whole)));
        if shift.iter().any(|&s| s != 0.0) {
            let value = b.func.nodes[node].results[0];
            let rank = b.ty(value).rank();
            let axis = self.layer.output_axis(rank);
            let rows = r.kept(Slot { value, axis }).unwrap_or_else(|| (0..w.rows).collect());
            let mut shape = vec![1; rank - axis];
            shape[0] = rows.len();
            let shift: Vec<f64> = rows.iter().map(|&i| shift[i]).collect();
            changes.shifts.insert(node, Tensor::from_f64(DType::F32, shape, &shift));
        }
    }
}

/// What each channel contributes to the squared outputs of its readers, `Σ G_jj ‖W_:j‖²` over its columns, each reader's in units of all of them.
fn contributions(group: &Group, readers: &[Reader]) -> Vec<f64> {
    let mut out = vec![0.0; group.channels.len()];
    for r in readers {
        let square = |j: usize| match (r.gram, &r.layer.inputs) {
            (Some(g), _) => g.sum[j * g.dim + j] / g.rows as f64,
            (None, Some(i)) => i.second_moment().get(j * i.absmax.len() / r.channel.len()).copied().unwrap_or(0.0),
            (None, None) => 0.0,
        };
        let columns: Vec<f64> = (0..r.channel.len())
            .map(|j| square(j) * (0..r.layer.w.rows).map(|i| r.layer.w.at(i, j).powi(2)).sum::<f64>())
            .collect();
        let all: f64 = columns.iter().sum();
        for (&c, energy) in r.channel.iter().zip(&columns) {
            out[c] += energy / if all > 0.0 { all } else { 1.0 };
        }
    }
    out
}

/// The squares of each channel's weights, each weight's in units of all of them.
fn magnitudes(b: &Editor, group: &Group) -> Vec<f64> {
    let mut out = vec![0.0; group.channels.len()];
    for w in group.producers.iter().chain(&group.consumers) {
        let Some((_, t)) = b.tensor(w.value) else { continue };
        let (of, values) = (positions(group, w), t.to_f64());
        if of.len() != t.shape()[w.axis] {
            continue;
        }
        let inner: usize = t.shape()[w.axis + 1..].iter().product();
        let all: f64 = values.iter().map(|v| v * v).sum();
        for (at, v) in values.iter().enumerate() {
            out[of[at / inner % of.len()]] += v * v / if all > 0.0 { all } else { 1.0 };
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::Prune;
    use crate::coupling::tests::model;
    use crate::filetest::{difference, run_passes, seeded_inputs};
    use proptest::prelude::*;
    use tersor_ir::interp;
    use tersor_ir::text::{parse, print};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn all_groups_go_in_one_run(seed in 1u64..1 << 40, recover in prop_oneof![Just("none"), Just("bias"), Just("ls")]) {
            let before = model(seed);
            let mut after = before.clone();
            let steps = run_passes(&format!("prune{{remove=0.5, multiple=1, recover={recover}}}"), &mut after).unwrap();
            let decisions = &steps[0].decisions;
            prop_assert!(decisions.iter().all(|d| d.picked.is_some() || d.reason.is_some()));
            let picked = decisions.iter().filter(|d| d.picked.is_some()).count();
            prop_assert_eq!(steps[0].counts[0], ("sites", picked as u64));
            // No group is forgotten because an earlier one has renamed its values.
            prop_assert_eq!(decisions.len(), Prune::default().candidates(&before).len());
            prop_assert!(picked == 0 || after.constant_bytes() < before.constant_bytes());
            prop_assert!(difference(&before, &after).unwrap().is_finite());
        }

        #[test]
        fn nothing_removed_is_the_model_itself(seed in 1u64..1 << 40) {
            let before = model(seed);
            let mut after = before.clone();
            run_passes("prune{remove=0, multiple=1}", &mut after).unwrap();
            after.pipeline.clear();
            prop_assert_eq!(print(&after), print(&before));
        }

        #[test]
        fn over_calibration_data_means_help_and_least_squares_more(
            seed in 1u64..1000,
            (hidden, outer) in (4usize..12, 1usize..6),
            (before, after, stride) in (0u32..3, 0u32..3, 1u32..3),
        ) {
            let extent = (6 + before + after - 3) / stride + 1;
            let text = format!(
                "module @m {{ const @a : f32[{hidden},3,3,3] = rng normal(0, 0.3) seed {seed} const @b : f32[{outer},{hidden},3,3] = rng normal(0, 0.3) seed 7
                 const @one : f32[] = splat 1
                 func @main(%x: f32[2,3,6,6]) -> (%y: f32[2,{outer},{extent},{extent}]) {{
                 %h = conv %x, @a {{strides=[1,1], pads=[1,1,1,1], dilations=[1,1]}} : f32[2,{hidden},6,6] %s = add %h, @one : f32[2,{hidden},6,6] %r = relu %s : f32[2,{hidden},6,6]
                 %y = conv %r, @b {{strides=[{stride},{stride}], pads=[{before},{before},{after},{after}], dilations=[1,1]}} : f32[2,{outer},{extent},{extent}] return %y }} }}"
            );
            let exact = parse(&text, &Default::default()).unwrap();
            // The squared error of all outputs, and the largest of the mean of one channel.
            let off = |recover: &str| {
                let mut m = exact.clone();
                run_passes(&format!("prune{{remove=0.5, multiple=1, score=activation, recover={recover}}}"), &mut m).unwrap();
                assert!(m.constant_bytes() < exact.constant_bytes());
                let (mut square, mut sums) = (0.0, vec![0.0; outer]);
                for seed in 100..108 {
                    let run = |m| interp::run(m, &seeded_inputs(&exact, seed).unwrap()).unwrap().remove(0).to_f64();
                    for (at, (a, b)) in run(&m).iter().zip(run(&exact)).enumerate() {
                        square += (a - b).powi(2);
                        sums[at / (extent * extent) as usize % outer] += (a - b) / f64::from(16 * extent * extent);
                    }
                }
                (square, sums.iter().fold(0f64, |a, s| a.max(s.abs())))
            };
            let (none, bias, ls) = (off("none"), off("bias"), off("ls"));
            prop_assert!(bias.0 <= none.0 * (1.0 + 1e-4) && ls.0 <= bias.0 * (1.0 + 1e-4), "{:?} {:?} {:?}", none, bias, ls);
            prop_assert!(bias.1 < 1e-4 && ls.1 < 1e-4, "{:?} {:?} {:?}", none, bias, ls);
        }
    }

    #[test]
    fn a_stream_and_the_branches_inside_it_go_together() {
        let text = include_str!("../../tests/passes/prune/streams_overlap_branches.tir");
        let mut m = parse(text, &Default::default()).unwrap();
        let steps = run_passes("prune{remove=0.5, multiple=2}", &mut m).unwrap();
        let picked: Vec<&str> =
            steps[0].decisions.iter().filter(|d| d.picked.is_some()).map(|d| d.site.as_str()).collect();
        assert_eq!(picked, ["s.channels", "h.channels", "v.channels"]);
        let extents: Vec<Vec<usize>> =
            m.consts.values().filter(|c| c.name.ends_with(".kept")).map(|c| c.shape()).collect();
        assert!(extents.contains(&vec![4, 3, 3, 3]), "{extents:?}");
    }
}
