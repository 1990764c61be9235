//! What methods have in common that replace the weight of a layer: sites, statistics, reasons. A method is a [`WeightMethod`] in a file of its own.

use crate::gram::Gram;
use crate::layer::{Layer, candidates, inputs, tapped, too_small};
use crate::manager::PassCx;
use crate::patches::Tap;
use crate::propose::{Alternative, Editor, Propose, Site};
use crate::selector::Selector;
use crate::solve::Grid;
use crate::solve::grid::ScaleType;
use tersor_ir::diag::Failure;
use tersor_ir::ops::Attr;
use tersor_ir::{DType, Diagnostic, Module, NodeId, Op, Result};

/// What a method has to know of a layer's inputs.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// Means of its channels.
    Means,
    /// Their Gram matrix.
    Gram,
}

/// A method that offers other weights for a layer. Implementing this makes a [`Propose`].
pub trait WeightMethod {
    /// Which sites, and which not.
    fn selectors(&self) -> (&Selector, &Selector);
    /// Ops that it may apply to, in the order of the program.
    fn candidates(&self, m: &Module) -> Vec<(Site, NodeId)> {
        candidates(m)
    }
    /// Whether it offers its own form of every alternative that stands at a site, see [`Propose::amends`].
    fn amends(&self) -> bool {
        false
    }
    /// What it needs.
    fn needs(&self) -> Needs {
        Needs::Nothing
    }
    /// Fails where options contradict each other.
    fn check(&self) -> Result<()> {
        Ok(())
    }
    /// Alternatives for a layer; none where a reason was given to [`PassCx::decline`].
    fn offer(&self, layer: &Layer, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>>;
}

/// Why a layer gets no alternative.
fn refuse(method: &dyn WeightMethod, m: &Module, site: &Site, n: NodeId) -> Option<String> {
    let op = &m.funcs[site.func].nodes[n].op;
    let small = too_small(op, &site.weight);
    if small.is_some() || method.needs() == Needs::Nothing {
        return small;
    }
    if !tapped(m, site, n) {
        return Some("it needs a tap, and there is none inside a region or function".into());
    }
    match op {
        Op::MatMul(op) if op.trans_a => Some("the channels of a transposed operand have no tap".into()),
        Op::Conv(c) if c.groups > 1 => Some(format!("{} groups of channels have a problem each", c.groups)),
        _ => None,
    }
}

impl<T: WeightMethod> Propose for T {
    fn taps(&self, m: &Module) -> Vec<Tap> {
        let (Ok(main), (select, exclude)) = (m.main(), self.selectors()) else { return vec![] };
        if self.needs() == Needs::Nothing {
            return vec![];
        }
        let wanted =
            |s: &Site, n| s.func == main && select.matches(s) && !exclude.matches(s) && refuse(self, m, s, n).is_none();
        let tap = |n: NodeId| match self.needs() {
            Needs::Gram => Tap::with_gram(m, main, n),
            _ => Tap::of(m.funcs[main].nodes[n].operands[0]),
        };
        inputs(self.candidates(m), wanted, tap)
    }

    fn amends(&self) -> bool {
        WeightMethod::amends(self)
    }

    fn sites(&self, m: &Module, cx: &mut PassCx) -> Result<Vec<Site>> {
        self.check()?;
        let (all, (select, exclude)) = (self.candidates(m), self.selectors());
        let selected = cx.select(all.iter().map(|c| c.0.clone()).collect(), select, exclude)?;
        let mut out = vec![];
        for (site, n) in all.into_iter().filter(|(s, _)| selected.contains(s)) {
            match refuse(self, m, &site, n) {
                Some(reason) => cx.decline(&site, reason),
                None => out.push(site),
            }
        }
        Ok(out)
    }

    fn propose(&self, site: &Site, b: &mut Editor, cx: &mut PassCx) -> Result<Vec<Alternative>> {
        match Layer::of(b, site, cx.statistics) {
            Ok(layer) if self.needs() == Needs::Nothing || layer.inputs.is_some_and(|i| i.count > 0) => {
                self.offer(&layer, site, b, cx)
            }
            Ok(_) => {
                cx.decline(site, "calibration saw no finite input");
                Ok(vec![])
            }
            Err(reason) => {
                cx.decline(site, reason);
                Ok(vec![])
            }
        }
    }
}

/// The Gram matrix of what a layer sums over; `None`, and the reason told, where there is none that fits.
pub fn gram_of<'a>(layer: &Layer<'a>, site: &Site, cx: &mut PassCx) -> Option<&'a Gram> {
    let gram = layer.gram();
    if gram.is_none() {
        cx.decline(site, "calibration gathered no Gram matrix of the input");
    }
    gram
}

/// One value or more, `2|3|4`: an alternative for each.
#[derive(Clone, PartialEq, Debug)]
pub struct Several<T>(pub Vec<T>);

impl<T: Attr> Attr for Several<T> {
    fn print(&self) -> String {
        self.0.iter().map(Attr::print).collect::<Vec<_>>().join("|")
    }
    fn parse(text: &str) -> Result<Self, String> {
        text.split('|').map(|t| T::parse(t.trim())).collect::<Result<Vec<T>, String>>().map(Several)
    }
}

/// The grids of options; fails for widths that codes do not have.
pub fn grids(pass: &str, bits: &Several<u8>, group: u32, sym: bool, scales: DType) -> Result<Vec<Grid>> {
    let wrong = |message: String| Diagnostic::error("S0112", format!("{pass}: {message}")).failure(Failure::Usage);
    let scales = match scales {
        DType::F32 => ScaleType::F32,
        DType::F16 => ScaleType::F16,
        d => return Err(wrong(format!("scales of {d}; f32 and f16 are known"))),
    };
    let one = |&bits: &u8| match bits {
        2..=6 | 8 => Ok(Grid { bits: bits.into(), group: group as usize, symmetric: sym, scales }),
        b => Err(wrong(format!("codes of {b} bits; 2, 3, 4, 5, 6 and 8 are known"))),
    };
    bits.0.iter().map(one).collect()
}
