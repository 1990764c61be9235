//! Functions of one element.

use super::declare::{Meaning, Sample};
use crate::diag::Result;
use crate::dim::Bindings;
use crate::tensor::Tensor;
use crate::testing::Gen;
use crate::types::{DType, Type};

crate::attr_enum! {
    /// Functions of one element; `not` is for `bool`, all but `neg abs sign relu not` for floats only.
    pub enum UnaryKind {
        /// `-x`
        Neg = "neg",
        /// `|x|`
        Abs = "abs",
        /// -1, 0 or 1
        Sign = "sign",
        /// `max(x, 0)`
        Relu = "relu",
        /// logical not
        Not = "not",
        /// `e^x`
        Exp = "exp",
        /// natural logarithm
        Log = "log",
        /// square root
        Sqrt = "sqrt",
        /// `1 / sqrt(x)`
        Rsqrt = "rsqrt",
        /// `1 / x`
        Reciprocal = "reciprocal",
        /// `1 / (1 + e^-x)`
        Sigmoid = "sigmoid",
        /// hyperbolic tangent
        Tanh = "tanh",
        /// error function
        Erf = "erf",
        /// `x Φ(x)` (Hendrycks and Gimpel, 2016)
        Gelu = "gelu",
        /// the tanh approximation of `gelu`
        GeluTanh = "gelu.tanh",
        /// `x sigmoid(x)`
        Silu = "silu",
        /// `log(1 + e^x)`
        Softplus = "softplus",
        /// sine
        Sin = "sin",
        /// cosine
        Cos = "cos",
        /// round down
        Floor = "floor",
        /// round up
        Ceil = "ceil",
        /// round to nearest, ties to even
        Round = "round",
    }
}

op! {
    /// Applies a function to each element.
    pub struct Unary by UnaryKind {
        operands(x: Any),
        results(y),
        attrs {},
    }
}

impl UnaryKind {
    /// Whether the kind is defined for `dtype`.
    pub fn accepts(self, dtype: DType) -> bool {
        use UnaryKind::*;
        match self {
            Not => dtype == DType::Bool,
            Neg | Abs | Sign | Relu => super::Class::Num.accepts(dtype),
            _ => super::Class::Float.accepts(dtype),
        }
    }
    /// The function in f64.
    pub fn apply(self, x: f64) -> f64 {
        use UnaryKind::*;
        match self {
            Neg => -x,
            Abs => x.abs(),
            Sign => {
                if x == 0.0 || x.is_nan() {
                    x
                } else {
                    x.signum()
                }
            }
            Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Not => f64::from(x == 0.0),
            Exp => x.exp(),
            Log => x.ln(),
            Sqrt => x.sqrt(),
            Rsqrt => 1.0 / x.sqrt(),
            Reciprocal => 1.0 / x,
            Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Tanh => x.tanh(),
            Erf => erf(x),
            Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
            GeluTanh => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
            Silu => x / (1.0 + (-x).exp()),
            Softplus => {
                if x > 30.0 {
                    x
                } else {
                    x.exp().ln_1p()
                }
            }
            Sin => x.sin(),
            Cos => x.cos(),
            Floor => x.floor(),
            Ceil => x.ceil(),
            Round => x.round_ties_even(),
        }
    }
}

/// The error function to 1e-15: its Maclaurin series near 0, the continued fraction of erfc (Abramowitz and Stegun 7.1.14) beyond.
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    if x.is_nan() {
        return x;
    }
    let y = if a < 2.5 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while f64::abs(term) > 1e-17 * f64::abs(sum) {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
            if term == 0.0 {
                break;
            }
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else if a < 6.0 {
        let f = (1..=60).rev().fold(0.0, |f, k| f64::from(k) / 2.0 / (a + f));
        1.0 - (-a * a).exp() / (a + f) / std::f64::consts::PI.sqrt()
    } else {
        1.0
    };
    y.copysign(x)
}

impl Meaning for Unary {
    fn infer(&self, t: &[&Type]) -> Result<Vec<Type>> {
        if !self.kind.accepts(t[0].dtype) {
            return Err(super::shape::mismatch("T0210", format!("not defined for {}", t[0].dtype)));
        }
        Ok(vec![t[0].clone()])
    }
    fn eval(&self, x: &[&Tensor], _: &Bindings) -> Result<Vec<Tensor>> {
        let x = x[0];
        if x.dtype().is_int() {
            let f = |v: i64| match self.kind {
                UnaryKind::Neg => v.wrapping_neg(),
                UnaryKind::Abs => v.wrapping_abs(),
                UnaryKind::Sign => v.signum(),
                _ => v.max(0),
            };
            let f = |v| if x.dtype() == DType::U64 && self.kind != UnaryKind::Neg { v } else { f(v) };
            return Ok(vec![Tensor::from_i64(
                x.dtype(),
                x.shape(),
                &x.to_i64().into_iter().map(f).collect::<Vec<_>>(),
            )]);
        }
        let y: Vec<f64> = x.to_f64().into_iter().map(|v| self.kind.apply(v)).collect();
        Ok(vec![Tensor::from_f64(x.dtype(), x.shape(), &y)])
    }
    fn sample(g: &mut Gen) -> Sample<Self> {
        let kind = g.one_of(UnaryKind::ALL);
        let dtype = *DType::ALL.iter().find(|&&d| kind.accepts(d)).unwrap_or(&DType::F32);
        let dtype = if kind.accepts(DType::F32) { g.one_of(&[dtype, DType::F32]) } else { dtype };
        let rank = g.int(0, 4) as usize;
        let shape = g.shape(rank);
        (Unary { kind }, vec![g.ty(dtype, &shape)])
    }
}

#[cfg(test)]
mod tests {
    use super::erf;

    #[test]
    fn erf_matches_tabulated_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, y) in
            [(0.5, 0.5204998778130465), (1.0, 0.8427007929497149), (2.0, 0.9953222650189527), (3.0, 0.9999779095030014)]
        {
            assert!((erf(x) - y).abs() < 1e-14, "{x}: {}", erf(x));
            assert!((erf(-x) + y).abs() < 1e-14);
        }
    }
}
