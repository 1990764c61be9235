//! Activations of recurrent layers (ONNX `RNN`, `GRU`, `LSTM`), with their parameters.

use super::attr::{Attr, Real, split_top};
use super::unary::UnaryKind;

crate::attr_enum! {
    /// What a recurrent layer applies to its gates and states.
    pub enum ActivationKind {
        /// hyperbolic tangent
        Tanh = "tanh",
        /// `1 / (1 + e^-x)`
        Sigmoid = "sigmoid",
        /// `max(x, 0)`
        Relu = "relu",
        /// `log(1 + e^x)`
        Softplus = "softplus",
        /// `x / (1 + |x|)`
        Softsign = "softsign",
        /// `alpha x + beta`
        Affine = "affine",
        /// `alpha tanh(beta x)`
        ScaledTanh = "scaledtanh",
        /// `alpha x + beta`, held between 0 and 1
        HardSigmoid = "hardsigmoid",
        /// `x`, or `alpha x` where that is not positive
        LeakyRelu = "leakyrelu",
        /// `x`, or 0 where that is not above `alpha`
        ThresholdedRelu = "thresholdedrelu",
        /// `x`, or `alpha (e^x - 1)` where that is not positive
        Elu = "elu",
    }
}

impl ActivationKind {
    /// The parameters that ONNX takes where none are given: `alpha`, then `beta`; empty for kinds without.
    pub fn parameters(self) -> &'static [f64] {
        use ActivationKind::*;
        match self {
            Tanh | Sigmoid | Relu | Softplus | Softsign => &[],
            Affine => &[1.0, 0.0],
            ScaledTanh => &[1.0, 1.0],
            HardSigmoid => &[0.2, 0.5],
            LeakyRelu => &[0.01],
            ThresholdedRelu | Elu => &[1.0],
        }
    }
}

/// An activation with values of its parameters; printed as `tanh` or `affine(2.0,0.5)`.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Activation {
    /// Which.
    pub kind: ActivationKind,
    /// First parameter, 0 for kinds without.
    pub alpha: Real,
    /// Second parameter, 0 for kinds without.
    pub beta: Real,
}

impl Activation {
    /// With parameters in order; those that are left out have their usual values, and more than there are is none.
    pub fn new(kind: ActivationKind, given: &[f64]) -> Option<Activation> {
        let usual = kind.parameters();
        let one = |i: usize| Real(given.get(i).or(usual.get(i)).copied().unwrap_or(0.0));
        (given.len() <= usual.len()).then(|| Activation { kind, alpha: one(0), beta: one(1) })
    }
    /// The values of its parameters, in order.
    pub fn parameters(&self) -> Vec<f64> {
        [self.alpha.0, self.beta.0][..self.kind.parameters().len()].to_vec()
    }
    /// The function in f64.
    pub fn apply(&self, x: f64) -> f64 {
        use ActivationKind::*;
        let (alpha, beta) = (self.alpha.0, self.beta.0);
        match self.kind {
            Tanh => x.tanh(),
            Sigmoid => UnaryKind::Sigmoid.apply(x),
            Relu => UnaryKind::Relu.apply(x),
            Softplus => UnaryKind::Softplus.apply(x),
            Softsign => x / (1.0 + x.abs()),
            Affine => alpha * x + beta,
            ScaledTanh => alpha * (beta * x).tanh(),
            HardSigmoid => super::recurrence::held(alpha * x + beta, 0.0, 1.0),
            LeakyRelu if x > 0.0 => x,
            LeakyRelu => alpha * x,
            ThresholdedRelu if x > alpha => x,
            ThresholdedRelu => 0.0,
            Elu if x > 0.0 => x,
            Elu => alpha * x.exp_m1(),
        }
    }
}

impl From<ActivationKind> for Activation {
    fn from(kind: ActivationKind) -> Activation {
        let one = |i: usize| Real(kind.parameters().get(i).copied().unwrap_or(0.0));
        Activation { kind, alpha: one(0), beta: one(1) }
    }
}

impl Attr for Activation {
    fn print(&self) -> String {
        let values: Vec<String> = self.parameters().into_iter().map(|v| Real(v).print()).collect();
        if values.is_empty() { self.kind.print() } else { format!("{}({})", self.kind.name(), values.join(",")) }
    }
    fn parse(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once('(').unwrap_or((text, ")"));
        let kind = ActivationKind::parse(name.trim())?;
        let inner = rest.strip_suffix(')').ok_or_else(|| format!("`)` after the parameters of `{name}`"))?;
        let given = split_top(inner).into_iter().map(|t| Real::parse(t).map(|r| r.0)).collect::<Result<Vec<_>, _>>()?;
        let most = kind.parameters().len();
        Activation::new(kind, &given).ok_or_else(|| format!("at most {most} parameters of {name}, not {}", given.len()))
    }
}
