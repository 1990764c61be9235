//! `permute`: channels in an order of which patterns such as 2:4 keep more (Pool and Yu, "Channel Permutations for N:M Sparsity", 2021).
//!
//! Channels that are coupled ([`crate::coupling`]) change places together, so nothing runs that did not run before. The order is found by climbing: channels change places
//! with others while that raises the sum of the scores that the pattern keeps.

use crate::coupling::order::{Order, alike};
use crate::coupling::relations::Slot;
use crate::coupling::{Group, Weight, groups};
use crate::declare::Rewrite;
use crate::layer::candidates;
use crate::manager::PassCx;
use crate::patches::Tap;
use crate::propose::Site;
use crate::selector::Selector;
use crate::solve::mask::Pattern;
use std::collections::HashSet;
use tersor_ir::constant::SplitMix;
use tersor_ir::diag::Failure;
use tersor_ir::{Diagnostic, Func, Module, NodeId, Result};

tersor_ir::attr_enum! {
    /// How elements are scored.
    pub enum Score {
        /// by their magnitude
        Magnitude = "magnitude",
        /// by magnitude times the norm of their input
        Wanda = "wanda",
    }
}

pass! {
    /// Orders channels so that a pattern such as 2:4 keeps more of the weights that read them: exact, and nothing is added to the program.
    ///
    /// Stands before `sparsify`. Channels change places together with all that is coupled with them, those of a residual stream and inner features alike; those of inputs
    /// and outputs, and the elements of heads of attention, stay where they are.
    pub struct Permute = "permute": Rewrite {
        options {
            /// What will be kept: so many of so many neighbours along the sum.
            pattern: Pattern = Pattern::Of { keep: 2, of: 4 },
            /// What tells how much an element matters.
            score: Score = Score::Wanda,
            /// Which products and convolutions the order is for.
            select: Selector = Selector::all(),
            /// Which not.
            exclude: Selector = Selector::none(),
        }
        stats { "groups": "groups of channels in another order", "channels": "channels that have moved" }
    }
}

/// Rounds of climbing, at most; partners that a channel tries in one.
const ROUNDS: usize = 40;
const PARTNERS: usize = 16;

/// A round that gains less than this part of what is kept is the last.
const LEAST: f64 = 2e-4;

/// The scores of a weight that reads channels, and which of them the pattern keeps.
struct Reader {
    /// Scores of each column, along the sum, over all rows.
    columns: Vec<Vec<f32>>,
    /// The columns of each channel.
    of: Vec<Vec<usize>>,
    /// Place of each column: its channel, and which of that channel's columns it is.
    place: Vec<(usize, usize)>,
    /// What is kept of each run of neighbours.
    kept: Vec<f64>,
    keep: usize,
    width: usize,
}

impl Reader {
    /// `norms` are those of the input's channels.
    fn new(
        m: &Module,
        group: &Group,
        w: &Weight,
        norms: Option<&[f64]>,
        (keep, width): (usize, usize),
    ) -> Option<Reader> {
        let f = &m.funcs[group.func];
        let t = m.consts[f.def_const(w.value)?].tensor()?;
        let (shape, values) = (t.shape(), t.to_f32());
        let channels = group.slots.get(&Slot { value: w.value, axis: w.axis })?;
        let inner: usize = shape[w.axis + 1..].iter().product();
        // Beside the summed axis a convolution's weight has outputs before it and taps behind it; a product's has outputs alone.
        let taps = if shape.len() > 2 { inner } else { 1 };
        let (outer, beside) = (shape[..w.axis].iter().product::<usize>(), inner / taps);
        let column = |at: usize| {
            let (k, tap) = (at / taps, at % taps);
            let scale = norms.map_or(1.0, |n| n[k]) as f32;
            let one = |o: usize, b: usize| values[(o * shape[w.axis] + k) * inner + b * taps + tap].abs() * scale;
            (0..outer).flat_map(|o| (0..beside).map(move |b| (o, b))).map(|(o, b)| one(o, b)).collect()
        };
        let (mut of, mut place) = (vec![vec![]; group.channels.len()], vec![]);
        for at in 0..channels.len() * taps {
            let channel = channels[at / taps];
            place.push((channel, of[channel].len()));
            of[channel].push(at);
        }
        let columns: Vec<Vec<f32>> = (0..place.len()).map(column).collect();
        let mut out = Reader { columns, of, place, kept: vec![], keep, width };
        let order = Order::natural(group);
        out.kept = (0..out.place.len().div_ceil(width)).map(|run| out.run(&order, run)).collect();
        Some(out)
    }
    /// What the pattern keeps of a run under an order.
    fn run(&self, order: &Order, run: usize) -> f64 {
        let places = &self.place[run * self.width..((run + 1) * self.width).min(self.place.len())];
        let columns: Vec<&[f32]> =
            places.iter().map(|&(c, nth)| &self.columns[self.of[order.at(c)][nth]][..]).collect();
        largest(&columns, self.keep)
    }
    /// The sum of all scores.
    fn whole(&self) -> f64 {
        self.columns.iter().flatten().copied().map(f64::from).sum()
    }
    /// The runs that have columns of one of these channels.
    fn runs(&self, channels: [usize; 2]) -> Vec<usize> {
        let columns = channels.iter().flat_map(|&c| &self.of[c]);
        let mut out: Vec<usize> = columns.map(|at| at / self.width).collect();
        out.sort_unstable();
        out.dedup();
        out
    }
}

/// The sum over all rows of the `keep` largest of a row.
fn largest(columns: &[&[f32]], keep: usize) -> f64 {
    let rows = columns.first().map_or(0, |c| c.len());
    if let (2, [a, b, c, d]) = (keep, columns) {
        let of = |i: usize| {
            let (one, other) = (a[i].max(b[i]), c[i].max(d[i]));
            let rest = a[i].min(b[i]).max(c[i].min(d[i]));
            one.max(other) + one.min(other).max(rest)
        };
        return (0..rows).map(of).map(f64::from).sum();
    }
    let mut row = vec![0.0; columns.len()];
    let mut sum = 0.0;
    for i in 0..rows {
        row.iter_mut().zip(columns).for_each(|(r, c)| *r = c[i]);
        row.sort_unstable_by(|a, b| b.total_cmp(a));
        sum += row[..keep.min(row.len())].iter().copied().map(f64::from).sum::<f64>();
    }
    sum
}

/// The sum of what the readers' runs keep.
fn total(readers: &[Reader]) -> f64 {
    readers.iter().flat_map(|r| &r.kept).sum()
}

/// What a run of a reader keeps after a move.
struct Kept {
    reader: usize,
    run: usize,
    sum: f64,
}

/// What changes when two channels change what comes to their places.
fn after_swap(order: &mut Order, [a, b]: [usize; 2], readers: &[Reader]) -> Vec<Kept> {
    order.swap(a, b);
    let of = |(reader, r): (usize, &Reader)| {
        let kept = |run| Kept { reader, run, sum: r.run(order, run) };
        r.runs([a, b]).into_iter().map(kept).collect::<Vec<_>>()
    };
    let kept = readers.iter().enumerate().flat_map(of).collect();
    order.swap(a, b);
    kept
}

/// Climbs from the natural order to one of which the pattern keeps more.
fn climb<'g>(group: &'g Group, readers: &mut [Reader], cx: &PassCx) -> Result<Order<'g>> {
    let mut order = Order::natural(group);
    let kinds = alike(group);
    let mut random = SplitMix(1);
    for _ in 0..ROUNDS {
        let before = total(readers);
        for (kind, &a) in kinds.iter().flat_map(|kind| kind.iter().map(move |a| (kind, a))) {
            cx.check_interrupt()?;
            let (mut most, mut best) = (before * 1e-9, None);
            for _ in 0..PARTNERS.min(kind.len() - 1) {
                let b = kind[random.below(kind.len())];
                let kept = after_swap(&mut order, [a, b], readers);
                let gain: f64 = kept.iter().map(|k| k.sum - readers[k.reader].kept[k.run]).sum();
                if gain > most {
                    (most, best) = (gain, Some((b, kept)));
                }
            }
            if let Some((b, kept)) = best {
                order.swap(a, b);
                kept.into_iter().for_each(|k| readers[k.reader].kept[k.run] = k.sum);
            }
        }
        if total(readers) - before < LEAST * before {
            break;
        }
    }
    Ok(order)
}

impl Permute {
    /// What a pattern keeps, of how many neighbours.
    fn kept(&self) -> Result<(usize, usize)> {
        match self.pattern {
            Pattern::Of { keep, of } if keep < of => Ok((keep, of)),
            _ => {
                let message = format!("permute: no order of channels changes what {} keeps", self.pattern);
                let d = Diagnostic::error("S0136", message).failure(Failure::Usage);
                Err(d.with_help("give a pattern of neighbours, such as 2:4"))
            }
        }
    }
    /// The nodes of the layers that are selected.
    fn layers(&self, m: &Module) -> HashSet<NodeId> {
        let (Ok(main), all) = (m.main(), candidates(m)) else { return HashSet::new() };
        let wanted = |(s, _): &(Site, NodeId)| s.func == main && self.select.matches(s) && !self.exclude.matches(s);
        all.into_iter().filter(wanted).map(|c| c.1).collect()
    }
    /// Groups of channels that may change places, with the selected layers that read them.
    fn groups(&self, m: &Module) -> Vec<(Group, Vec<Weight>)> {
        let (Ok(main), layers) = (m.main(), self.layers(m)) else { return vec![] };
        let read = |group: Group| {
            let readers = group.consumers.iter().filter(|w| layers.contains(&w.node)).copied().collect::<Vec<_>>();
            (!readers.is_empty() && !alike(&group).is_empty()).then_some((group, readers))
        };
        groups(m, main).into_iter().filter_map(read).collect()
    }
    /// The norms of the input's channels, as far as a score heeds them; `None` where calibration has not seen it.
    fn norms(&self, f: &Func, w: &Weight, cx: &PassCx) -> Option<Option<Vec<f64>>> {
        if self.score == Score::Magnitude {
            return Some(None);
        }
        let input = &f.values[f.nodes[w.node].operands[0]].name;
        let moments = cx.statistics?.get(input)?.second_moment();
        let fits = f.values[w.value].ty.shape[w.axis] == (moments.len() as i64).into();
        fits.then(|| Some(moments.into_iter().map(f64::sqrt).collect()))
    }
}

impl Rewrite for Permute {
    fn taps(&self, m: &Module) -> Vec<Tap> {
        let (Ok(main), Score::Wanda) = (m.main(), self.score) else { return vec![] };
        let read = |w: &Weight| Tap::of(m.funcs[main].nodes[w.node].operands[0]);
        let mut taps: Vec<Tap> = self.groups(m).iter().flat_map(|g| g.1.iter().map(read).collect::<Vec<_>>()).collect();
        taps.sort_unstable();
        taps.dedup();
        taps
    }
    fn run(&self, m: &mut Module, cx: &mut PassCx) -> Result<()> {
        let kept = self.kept()?;
        cx.select(candidates(m).into_iter().map(|c| c.0).collect(), &self.select, &self.exclude)?;
        let mut changed = false;
        for (group, weights) in self.groups(m) {
            let f = &m.funcs[group.func];
            let reader = |w: &Weight| Reader::new(m, &group, w, self.norms(f, w, cx)?.as_deref(), kept);
            let mut readers: Vec<Reader> = weights.iter().filter_map(reader).collect();
            let (all, before) = (readers.iter().map(Reader::whole).sum::<f64>(), total(&readers));
            let order = climb(&group, &mut readers, cx)?;
            if order.moved() == 0 {
                continue;
            }
            let share = |kept: f64| 100.0 * kept / all;
            let (was, is) = (share(before), share(total(&readers)));
            cx.detail(format!("{}: {} keeps {is:.2} % of the scores, {was:.2} % before", group.name, self.pattern));
            order.apply(m)?;
            // What calibration has seen of these values is in the new order too.
            let f = &m.funcs[group.func];
            let values: HashSet<_> = group.slots.keys().map(|s| s.value).collect();
            for value in values.into_iter().filter(|&v| f.def_const(v).is_none()) {
                let axes = (0..f.values[value].ty.rank()).map(|axis| order.positions(Slot { value, axis }));
                let name = f.values[value].name.to_string();
                cx.narrowed.push((name.clone(), name, axes.collect()));
            }
            cx.count("groups", 1);
            cx.count("channels", order.moved() as u64);
            changed = true;
        }
        if !changed {
            let message = format!("{} changed nothing", cx.pass());
            let d = Diagnostic::warning("S0105", message);
            cx.remark(d.with_note(format!("no order of channels was found of which {} keeps more", self.pattern)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::coupling::tests::model;
    use crate::filetest::{difference, run_passes};
    use proptest::prelude::*;
    use tersor_ir::testing::rel_l2;
    use tersor_ir::text::parse;
    use tersor_ir::{Module, interp};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn programs_stay_what_they_are(seed in 1u64..1 << 40, pattern in prop_oneof![Just("2:4"), Just("1:3"), Just("4:8")]) {
            let before = model(seed);
            let mut after = before.clone();
            run_passes(&format!("permute{{pattern={pattern}, score=magnitude}}"), &mut after).unwrap();
            prop_assert_eq!(before.constant_bytes(), after.constant_bytes());
            prop_assert!(difference(&before, &after).unwrap() < 1e-4);
        }

        #[test]
        fn patterns_cost_less_and_calibration_keeps_step(seed in 1u64..1000, inner in 4usize..12) {
            let hidden = 4 * inner;
            let text = format!(
                "module @m {{ const @a : f32[24,{hidden}] = rng normal(0, 1) seed {seed} const @b : f32[{hidden},20] = rng normal(0, 1) seed 7
                 const @c : f32[{hidden}] = rng normal(0, 2) seed 8
                 func @main(%x: f32[9,24]) -> (%y: f32[9,20]) {{
                 %h = matmul %x, @a : f32[9,{hidden}] %s = mul %h, @c : f32[9,{hidden}] %r = relu %s : f32[9,{hidden}]
                 %y = matmul %r, @b : f32[9,20] return %y }} }}"
            );
            let exact = parse(&text, &Default::default()).unwrap();
            let off = |pipeline: &str| {
                let mut m = exact.clone();
                run_passes(pipeline, &mut m).unwrap();
                let mut off = 0.0;
                for seed in 100..108 {
                    let run = |m: &Module| interp::run(m, &crate::filetest::seeded_inputs(&exact, seed).unwrap()).unwrap().remove(0);
                    off += rel_l2(&run(&m), &run(&exact));
                }
                off
            };
            let sparse = "sparsify{method=wanda, pattern=2:4, select=name:y}";
            let (plain, ordered) = (off(sparse), off(&format!("permute, {sparse}")));
            prop_assert!(ordered < plain, "{} {}", ordered, plain);
            // Static ranges come from statistics that were gathered before channels moved.
            let scaled = "smooth, quantize{acts=static}";
            let (plain, ordered) = (off(scaled), off(&format!("permute, {scaled}")));
            prop_assert!(ordered < 1.3 * plain, "{} {}", ordered, plain);
        }
    }
}
