//! Properties of the strategies, on random tables and on the digest's synthetic ones.

use super::uniform::assignments;
use super::{
    Alternative, Answer, Assignment, Costs, Cx, Dp, Evolve, Fitness, Greedy, Ilp, Point, Problem, Quantity, Row,
    STRATEGIES, State, Strategy, Table, Uniform, front, parse, sweep,
};
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use tersor_ir::constant::SplitMix;
use tersor_ir::{Failure, Result};

/// A table of random costs; sizes are multiples of `grain` where that is given.
fn random(seed: u64, rows: usize, most: usize, grain: Option<f64>) -> Table {
    let mut g = SplitMix(seed);
    let mut row = |r: usize| {
        let n = 1 + g.below(most);
        let full = 100.0 + 900.0 * g.unit();
        let one = |i: usize| {
            let share = if i == 0 { 1.0 } else { 0.1 + 0.9 * g.unit() };
            let size = full * share;
            let size = grain.map_or(size, |unit| (size / unit).ceil() * unit);
            let error = if i == 0 { 0.0 } else { g.unit() * g.unit() / share };
            let costs = Costs { error, latency: g.unit() * 1e-3, size, encoded: size, memory: size, work: size * 8.0 };
            Alternative { name: if i == 0 { "exact".into() } else { format!("a{i}") }, costs }
        };
        Row { sites: vec![format!("s{r}")], alternatives: (0..n).map(one).collect() }
    };
    let rows = (0..rows).map(&mut row).collect();
    Table { rows, fixed: Costs { size: 50.0, latency: 1e-4, ..Costs::default() } }
}

/// All assignments of a small table.
fn all(t: &Table) -> Vec<Assignment> {
    t.rows.iter().fold(vec![vec![]], |out, r| {
        let grow = |a: &Assignment| (0..r.alternatives.len()).map(|i| [&a[..], &[i]].concat()).collect::<Vec<_>>();
        out.iter().flat_map(grow).collect()
    })
}

fn brute(p: &Problem) -> Option<f64> {
    let fitting = all(p.table).into_iter().map(|a| p.table.totals(&a)).filter(|t| p.fits(t));
    fitting.map(|t| t.get(p.minimise)).reduce(f64::min)
}

fn solve(s: &dyn Strategy, p: &Problem) -> Answer {
    let mut f = Sum(p.table);
    let mut cx = Cx { fitness: Some(&mut f), seed: 7, resume: None, progress: &mut |_| Ok(()) };
    s.solve(p, &mut cx).unwrap()
}

fn objective(p: &Problem, a: &Answer) -> f64 {
    p.table.totals(a.assignment()).get(p.minimise)
}

/// Error that is the sum over rows.
struct Sum<'a>(&'a Table);

impl Fitness for Sum<'_> {
    fn error(&mut self, plan: &Assignment, _: usize, _: u64) -> Result<f64> {
        Ok(self.0.totals(plan).error)
    }
}

const DP: Dp = Dp { buckets: 10_000 };

fn short() -> Evolve {
    Evolve { generations: 15, offspring: 8, survivors: vec![3, 1], samples: vec![1, 2] }
}

/// Limits between the least and the exact plan's, and beyond.
fn limits(t: &Table, shares: &[(Quantity, f64)]) -> Vec<(Quantity, f64)> {
    let one = |&(q, share): &(Quantity, f64)| {
        let (low, high) = (t.totals(&t.least(q)).get(q), t.totals(&t.exact()).get(q).max(t.totals(&t.least(q)).get(q)));
        (q, low + (high - low) * share)
    };
    shares.iter().map(one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn dp_and_ilp_are_best_where_nothing_is_rounded(seed in 0u64..1 << 40, rows in 1usize..7, share in 0.0..1.1f64) {
        let t = random(seed, rows, 4, Some(1.0));
        let p = Problem { table: &t, limits: limits(&t, &[(Quantity::Size, share)]), minimise: Quantity::Error };
        let best = brute(&p).unwrap();
        for s in [&DP as &dyn Strategy, &Ilp] {
            let found = solve(s, &p);
            prop_assert!(matches!(found, Answer::Found(_)));
            prop_assert!((objective(&p, &found) - best).abs() <= 1e-9, "{} against {best}", objective(&p, &found));
        }
    }

    #[test]
    fn dp_is_best_up_to_its_buckets(seed in 0u64..1 << 40, rows in 1usize..7, share in 0.0..1.1f64) {
        let t = random(seed, rows, 4, None);
        // Bounds error, minimises size: amounts are no integers.
        let most: f64 = t.rows.iter().map(|r| r.alternatives.iter().map(|a| a.costs.error).fold(0.0, f64::max)).sum();
        let limit = most * share;
        let p = |limit| Problem { table: &t, limits: vec![(Quantity::Error, limit)], minimise: Quantity::Size };
        let found = solve(&DP, &p(limit));
        prop_assert!(p(limit).fits(&t.totals(found.assignment())));
        // As good as the best plan under a limit that is smaller by one bucket for each row.
        let rounded = brute(&p(limit * (1.0 - rows as f64 / 10_000.0))).unwrap();
        prop_assert!(objective(&p(limit), &found) <= rounded + 1e-9);
        // Monotone in the limit.
        let more = solve(&DP, &p(limit * 1.3 + 0.01));
        prop_assert!(objective(&p(limit), &more) <= objective(&p(limit), &found) + 1e-9);
    }

    #[test]
    fn no_strategy_exceeds_a_limit(
        seed in 0u64..1 << 40,
        rows in 1usize..24,
        size in -0.2..1.1f64,
        latency in -0.2..1.2f64,
        both in any::<bool>(),
    ) {
        let t = random(seed, rows, 5, (seed % 2 == 0).then_some(16.0));
        let shares = [(Quantity::Size, size), (Quantity::Latency, latency)];
        let p = Problem { table: &t, limits: limits(&t, &shares[..1 + usize::from(both)]), minimise: Quantity::Error };
        let evo = short();
        let mut strategies: Vec<&dyn Strategy> = vec![&Uniform, &Greedy, &Ilp, &evo];
        if !both {
            strategies.push(&DP);
        }
        let mut found = vec![];
        for s in strategies {
            let a = solve(s, &p);
            match &a {
                Answer::Found(a) => prop_assert!(p.fits(&t.totals(a))),
                Answer::Nothing(a) => prop_assert!(!p.fits(&t.totals(a))),
            }
            prop_assert_eq!(a.assignment().len(), rows);
            found.push(a);
        }
        let (greedy, ilp) = (&found[1], &found[2]);
        // The integer program finds a plan wherever greedy does, and none worse. Greedy's nearest plan, where it finds none, is no measure.
        if let Answer::Found(_) = greedy {
            prop_assert!(matches!(ilp, Answer::Found(_)));
            let (ilp, greedy) = (objective(&p, ilp), objective(&p, greedy));
            prop_assert!(ilp <= greedy + 1e-9, "{} after greedy's {}", ilp, greedy);
        }
        // A limit below the least of all plans is refused with the number.
        prop_assert_eq!(p.check().is_err(), size < 0.0 && p.limits[0].1 < t.totals(&t.least(Quantity::Size)).size * (1.0 - 1e-12) || both && latency < 0.0 && p.limits[1].1 < t.totals(&t.least(Quantity::Latency)).latency * (1.0 - 1e-12));
    }

    #[test]
    fn a_search_is_a_function_of_its_seed_and_goes_on_where_it_stopped(seed in 0u64..1 << 40, rows in 2usize..16) {
        let t = random(seed, rows, 4, Some(64.0));
        let p = Problem { table: &t, limits: limits(&t, &[(Quantity::Size, 0.4)]), minimise: Quantity::Error };
        let run = |resume: Option<State>, generations: usize| {
            let (mut f, mut states) = (Sum(&t), vec![]);
            let mut keep = |s: &State| {
                assert!(p.fits(&t.totals(&s.parent)));
                states.push(s.clone());
                Ok(())
            };
            let mut cx = Cx { fitness: Some(&mut f), seed, resume, progress: &mut keep };
            Evolve { generations, ..short() }.solve(&p, &mut cx).unwrap();
            states
        };
        let whole = run(None, 12);
        prop_assert_eq!(&whole, &run(None, 12));
        let rest = run(Some(State { generations: 5, ..whole[4].clone() }), 12);
        prop_assert_eq!(&whole[5..], &rest[..]);
        // With the same samples always, the error never grows.
        prop_assert!(whole[0].history[0] >= whole[11].error && whole[11].history.windows(2).all(|w| w[1] <= w[0]));
    }
}

/// The digest's separable problem: 40 rows of 5 levels of equal size; the error of a level falls fourfold with each bit and differs between rows.
fn levels(seed: u64) -> Table {
    let mut g = SplitMix(seed);
    let row = |r: usize| {
        let weight = (g.normal() * 1.2).exp() * 0.1;
        let one = |bits: usize| {
            let error = weight * 4f64.powi(2 - bits as i32) * (0.8 + 0.4 * g.unit());
            Alternative {
                name: format!("w{bits}"),
                costs: Costs { error, size: bits as f64 * 1024.0, ..Costs::default() },
            }
        };
        Row { sites: vec![format!("s{r}")], alternatives: (2..=6).rev().map(one).collect() }
    };
    Table { rows: (0..40).map(row).collect(), fixed: Costs::default() }
}

/// Error that grows faster when rows of one block of four are all coarse.
struct Coupled<'a>(&'a Table);

impl Fitness for Coupled<'_> {
    fn error(&mut self, plan: &Assignment, _: usize, _: u64) -> Result<f64> {
        let error = |(r, &i): (usize, &usize)| self.0.rows[r].alternatives[i].costs.error;
        let errors: Vec<f64> = plan.iter().enumerate().map(error).collect();
        Ok(errors
            .chunks(4)
            .map(|c| c.iter().sum::<f64>() + 40.0 * c.iter().map(|e| e.sqrt()).product::<f64>().sqrt())
            .sum())
    }
}

#[test]
fn evolution_is_near_dp_where_errors_add_up_and_beats_it_where_they_do_not() {
    let t = levels(3);
    let p = Problem { table: &t, limits: vec![(Quantity::Size, 40.0 * 3.0 * 1024.0)], minimise: Quantity::Error };
    let evolve = Evolve { generations: 150, offspring: 128, survivors: vec![1], samples: vec![1] };
    let search = |f: &mut dyn Fitness| {
        let mut sizes = vec![];
        let mut keep = |s: &State| {
            sizes.push(t.totals(&s.parent).size);
            Ok(())
        };
        let mut cx = Cx { fitness: Some(f), seed: 1, resume: None, progress: &mut keep };
        let a = evolve.solve(&p, &mut cx).unwrap();
        assert!(sizes.iter().all(|&s| s == p.limits[0].1), "the budget is exact at every generation");
        a
    };
    let (dp, uniform, greedy) = (solve(&DP, &p), solve(&Uniform, &p), solve(&Greedy, &p));
    let separable = search(&mut Sum(&t));
    let of = |a: &Answer| objective(&p, a);
    assert!(of(&dp) <= of(&greedy) && of(&greedy) < 0.6 * of(&uniform));
    assert!(of(&separable) <= 1.15 * of(&dp), "{} against {}", of(&separable), of(&dp));
    let mut f = Coupled(&t);
    let coupled = search(&mut f);
    let mut error = |a: &Answer| f.error(a.assignment(), 0, 0).unwrap();
    let (evo, dp, uniform) = (error(&coupled), error(&dp), error(&uniform));
    assert!(evo < 0.95 * dp && dp < uniform, "evolution {evo}, dp {dp}, uniform {uniform}");
}

#[test]
fn rows_that_choose_together_have_what_all_have() {
    let mut t = random(11, 5, 4, Some(8.0));
    let costs = t.rows[1].alternatives[0].costs + t.rows[3].alternatives[0].costs;
    let (exact, before) = (t.totals(&t.exact()), t.rows[1].alternatives.len().min(t.rows[3].alternatives.len()));
    t.join(&[vec!["s1".into(), "s3".into()]]);
    assert_eq!(t.rows.len(), 4);
    let joined = &t.rows[3];
    assert_eq!((joined.sites.join(" "), joined.alternatives.len()), ("s1 s3".into(), before));
    assert_eq!(joined.alternatives[0].costs, costs);
    assert!((t.totals(&t.exact()) - exact).size.abs() < 1e-9);
    let plan = t.plan(&t.exact());
    assert_eq!((plan.picks.len(), t.assignment(&plan)), (5, Some(t.exact())));
}

#[test]
fn fronts_have_no_dominated_points() {
    let t = levels(5);
    let p = Problem { table: &t, limits: vec![], minimise: Quantity::Error };
    let plans = sweep(&p, Quantity::Size, 9).unwrap();
    let point = |plan: Assignment| Point { costs: t.totals(&plan), plan };
    let mut points: Vec<Point> = plans.into_iter().map(point).collect();
    points.extend(assignments(&p).into_iter().map(point));
    let f = front(points, &[Quantity::Size, Quantity::Error]);
    assert!(f.len() >= 5);
    assert!(f.windows(2).all(|w| w[0].costs.size < w[1].costs.size && w[0].costs.error > w[1].costs.error));
}

#[test]
fn strategies_are_found_by_name() {
    for (name, _) in STRATEGIES {
        assert!(parse(name).is_ok(), "{name}");
    }
    assert!(parse("evo{generations=3, survivors=[2,1], samples=[1,2]}").is_ok());
    for bad in ["best", "dp{buckets=0}", "dp{x=1}", "evo{survivors=8}", "evo{generations", "ilp{3}"] {
        assert_eq!(parse(bad).err().unwrap().failure, Failure::Usage, "{bad}");
    }
    // More limits than it can keep are refused, not ignored.
    let t = random(2, 3, 3, None);
    let p = Problem {
        table: &t,
        limits: limits(&t, &[(Quantity::Size, 0.5), (Quantity::Latency, 0.5)]),
        minimise: Quantity::Error,
    };
    let mut cx = Cx { fitness: None, seed: 0, resume: None, progress: &mut |_| Ok(()) };
    assert_eq!(DP.solve(&p, &mut cx).unwrap_err().code, "S0424");
    assert_eq!(short().solve(&p, &mut cx).unwrap_err().code, "S0425");
}
