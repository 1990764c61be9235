//! `rnn`, `gru`, `lstm`: recurrent layers, one step after another.

use super::activation::{Activation, ActivationKind};
use super::declare::{Meaning, Sample, Work};
use super::shape::*;
use crate::diag::Result;
use crate::dim::{Bindings, Dim};
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

crate::attr_enum! {
    /// What a step does.
    pub enum Cell {
        /// `h' = f(x + R h)` (Elman, 1990)
        Rnn = "rnn",
        /// gated recurrent unit (Cho et al., 2014)
        Gru = "gru",
        /// long short-term memory (Hochreiter and Schmidhuber, 1997)
        Lstm = "lstm",
    }
}

impl Cell {
    /// Sums of a step for each hidden unit.
    pub const fn gates(self) -> usize {
        match self {
            Cell::Rnn => 1,
            Cell::Gru => 3,
            Cell::Lstm => 4,
        }
    }
    /// Vectors that go from step to step.
    pub const fn states(self) -> usize {
        if matches!(self, Cell::Lstm) { 2 } else { 1 }
    }
    /// The activations that are meant where none are given.
    pub const fn usual(self) -> &'static [ActivationKind] {
        use ActivationKind::{Sigmoid, Tanh};
        match self {
            Cell::Rnn => &[Tanh],
            Cell::Gru => &[Sigmoid, Tanh],
            Cell::Lstm => &[Sigmoid, Tanh, Tanh],
        }
    }
}

op! {
    /// A recurrent layer over `T` steps (ONNX `RNN`, `GRU`, `LSTM`), in one direction. `x` is `[T, B, G*H]`: what the input and the biases give to the `G` gates of each step, which an
    /// ordinary product computes for all of them; `weights` is `[G*H, H]` and `state` `[S, B, H]`. With `a = x[t] + weights h`, the products `∘` by element and activations `f`, `g`, `k`:
    ///
    /// - `rnn` (G = 1, S = 1): `h' = f(a)`
    /// - `gru` (G = 3: z, r, n): `z = f(a_z)`, `r = f(a_r)`, `n = g(x_n + weights_n (r ∘ h))`, `h' = (1 - z) ∘ n + z ∘ h`
    /// - `lstm` (G = 4: i, o, f, c; S = 2: h, c): `i = f(a_i + p_i ∘ c)`, `f = f(a_f + p_f ∘ c)`, `c' = f ∘ c + i ∘ g(a_c)`, `o = f(a_o + p_o ∘ c')`, `h' = o ∘ k(c')`
    ///
    /// `parameters` are the peepholes of `lstm`, `[3*H]` (i, o, f), or of `gru` with `reset_after` the bias inside of the reset, `[H]`; or of extent 0. Row `b` has `lengths[b]`
    /// steps, held between 0 and `T`; results of later ones are 0. `y` has the hidden states of all steps, `[T, B, H]`, `last` the states after the last one. States are not rounded
    /// between steps.
    pub struct Recurrence by Cell {
        operands(x: Float, weights: Float, state: Float, parameters: Float(opt), lengths: Int(opt)),
        results(y, last),
        attrs {
            /// From the last step to the first.
            reverse: bool = false,
            /// The activations in order; an empty list means `tanh` and, for the gates of `gru` and `lstm`, `sigmoid`.
            activations: Vec<Activation> = vec![],
            /// What `f` and `g` are applied to is held between `-clip` and `clip`.
            clip: Real = Real(f64::INFINITY),
            /// `gru`: `n = g(x_n + r ∘ (weights_n h + parameters))`.
            reset_after: bool = false,
            /// `lstm`: `f = 1 - i`.
            input_forget: bool = false,
        },
    }
}

use super::Real;

/// `x` held between `low` and `high`; a NaN stays.
pub(super) fn held(x: f64, low: f64, high: f64) -> f64 {
    if x.is_nan() { x } else { x.max(low).min(high) }
}

impl Recurrence {
    /// Its activations, also where they are the usual ones.
    pub fn functions(&self) -> Vec<Activation> {
        match &self.activations[..] {
            [] => self.kind.usual().iter().map(|&k| k.into()).collect(),
            given => given.to_vec(),
        }
    }

    /// Takes the states of a row through one step; `x` is `[G*H]`.
    fn step(&self, x: &[f64], weights: &[f64], p: &[f64], h: &mut Vec<f64>, c: &mut [f64]) {
        let (n, functions) = (h.len(), self.functions());
        let recur = |gate: usize, j: usize, h: &[f64]| -> f64 {
            weights[(gate * n + j) * n..][..n].iter().zip(h).map(|(w, h)| w * h).sum()
        };
        let act = |i: usize, v: f64| functions[i].apply(held(v, -self.clip.0, self.clip.0));
        let all = |gate: usize, j: usize| x[gate * n + j] + recur(gate, j, h);
        let next: Vec<f64> = match self.kind {
            Cell::Rnn => (0..n).map(|j| act(0, all(0, j))).collect(),
            Cell::Gru => {
                let gates = |k: usize| (0..n).map(|j| act(0, all(k, j))).collect::<Vec<f64>>();
                let (z, r) = (gates(0), gates(1));
                let reset: Vec<f64> = r.iter().zip(&*h).map(|(r, h)| r * h).collect();
                let seen = |j: usize| match self.reset_after {
                    true => r[j] * (recur(2, j, h) + p.get(j).copied().unwrap_or(0.0)),
                    false => recur(2, j, &reset),
                };
                (0..n).map(|j| (1.0 - z[j]) * act(1, x[2 * n + j] + seen(j)) + z[j] * h[j]).collect()
            }
            Cell::Lstm => {
                let peep = |k: usize, j: usize, c: f64| p.get(k * n + j).map_or(0.0, |p| p * c);
                let mut unit = |j: usize| {
                    let i = act(0, all(0, j) + peep(0, j, c[j]));
                    let f = if self.input_forget { 1.0 - i } else { act(0, all(2, j) + peep(2, j, c[j])) };
                    c[j] = f * c[j] + i * act(1, all(3, j));
                    act(0, all(1, j) + peep(1, j, c[j])) * functions[2].apply(c[j])
                };
                (0..n).map(&mut unit).collect()
            }
        };
        *h = next;
    }
}

impl Meaning for Recurrence {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        same_dtype(&t[..t.len().min(4)])?;
        let (x, w, s) = (t[0], t[1], t[2]);
        if x.rank() != 3 || w.rank() != 2 || s.rank() != 3 {
            return Err(mismatch("T0390", format!("operands {x}, {w} and {s}, expected three, two and three axes")));
        }
        let (steps, batch, hidden) = (&x.shape[0], &x.shape[1], &w.shape[1]);
        let width = hidden.clone() * self.kind.gates().into();
        let states = [Dim::from(self.kind.states()), batch.clone(), hidden.clone()];
        if x.shape[2] != width || w.shape[0] != width || s.shape[..] != states {
            let (name, gates) = (self.kind.name(), self.kind.gates());
            let message = format!("{x}, {w} and {s} do not fit, {name} has {gates} gates and states {}", show(&states));
            return Err(mismatch("T0391", message));
        }
        if let Some(p) = t.get(3) {
            let own: Dim = match self.kind {
                Cell::Lstm => hidden.clone() * 3.into(),
                Cell::Gru if self.reset_after => hidden.clone(),
                _ => 0.into(),
            };
            if p.rank() != 1 || (p.shape[0] != own && p.shape[0] != Dim::Const(0)) {
                return Err(mismatch("T0392", format!("parameters {p}, expected {own} of them or none")));
            }
        }
        if let Some(l) = t.get(4)
            && l.shape[..] != [batch.clone()]
        {
            return Err(mismatch("T0393", format!("lengths {l}, expected one for each of {batch} rows")));
        }
        let usual = self.kind.usual().len();
        if !self.activations.is_empty() && self.activations.len() != usual {
            return Err(mismatch("T0394", format!("{} activations, expected {usual}", self.activations.len())));
        }
        if self.clip.0.is_nan() || self.clip.0 <= 0.0 {
            return Err(mismatch("T0395", format!("clip is {:?}, expected a positive number", self.clip)));
        }
        if (self.reset_after && self.kind != Cell::Gru) || (self.input_forget && self.kind != Cell::Lstm) {
            return Err(mismatch("T0396", "reset_after is for gru alone, input_forget for lstm alone"));
        }
        Ok(vec![Type::new(x.dtype, [steps, batch, hidden]), s.clone()])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let (steps, batch, width) = (x[0].shape()[0], x[0].shape()[1], x[0].shape()[2]);
        let n = x[1].shape()[1];
        let (given, weights, mut last) = (x[0].to_f64(), x[1].to_f64(), x[2].to_f64());
        let parameters = x.get(3).map(|p| p.to_f64()).unwrap_or_default();
        let lengths = x.get(4).map(|l| l.to_i64());
        let mut y = vec![0.0; steps * batch * n];
        for b in 0..batch {
            let length = lengths.as_ref().map_or(steps, |l| l[b].clamp(0, steps as i64) as usize);
            let mut h = last[b * n..][..n].to_vec();
            let mut c = last[last.len() - (batch - b) * n..][..n].to_vec();
            for s in 0..length {
                let row = (if self.reverse { length - 1 - s } else { s }) * batch + b;
                self.step(&given[row * width..][..width], &weights, &parameters, &mut h, &mut c);
                y[row * n..][..n].copy_from_slice(&h);
            }
            if self.kind == Cell::Lstm {
                last[(batch + b) * n..][..n].copy_from_slice(&c);
            }
            last[b * n..][..n].copy_from_slice(&h);
        }
        let dtype = x[0].dtype();
        Ok(vec![Tensor::from_f64(dtype, [steps, batch, n], &y), Tensor::from_f64(dtype, x[2].shape(), &last)])
    }
    fn work(&self, ins: &[&Type], outs: &[Type]) -> Work {
        Work { madds: ins[0].elements() * ins[1].shape[1].clone(), bytes: Work::traffic(ins, outs) }
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let (kind, dtype) = (g.one_of(Cell::ALL), g.float());
        let (t, b, h) = (g.int(1, 4) as usize, g.int(1, 5) as usize, g.one_of(&[1, 3, 5, 8, 18]));
        let own = |g: &mut Gen| {
            let kind = g.one_of(ActivationKind::ALL);
            Activation::new(kind, &[0.5, 0.25][..kind.parameters().len()]).expect("as many as there are")
        };
        let activations = if g.flip() { vec![] } else { kind.usual().iter().map(|_| own(g)).collect() };
        let op = Recurrence {
            kind,
            reverse: g.flip(),
            activations,
            clip: Real(g.one_of(&[f64::INFINITY, 0.75])),
            reset_after: kind == Cell::Gru && g.flip(),
            input_forget: kind == Cell::Lstm && g.flip(),
        };
        let width = kind.gates() * h;
        let mut types =
            vec![g.ty(dtype, &[t, b, width]), g.ty(dtype, &[width, h]), g.ty(dtype, &[kind.states(), b, h])];
        if g.flip() {
            let own = if kind == Cell::Lstm { 3 * h } else { h * usize::from(op.reset_after) };
            let extent = if g.flip() { own } else { 0 };
            types.push(g.ty(dtype, &[extent]));
            if g.flip() {
                let lengths = g.one_of(&[DType::I32, DType::I64]);
                types.push(g.ty(lengths, &[b]));
            }
        }
        (op, types)
    }
}
