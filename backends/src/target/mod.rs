//! What code is made for: descriptions of machines, and their names on the command line.
//!
//! A description is data; what a CPU has is asked of the CPU itself, never concluded from its name.

mod x86;

pub use x86::MACHINES;

use crate::kernel::Isa;
use tersor_ir::dim::Bindings;
use tersor_ir::ops::Op;
use tersor_ir::target::{Encoding, Roofline, Target};
use tersor_ir::{Diagnostic, Failure, Type};
use tersor_runtime::cpu::Features;

/// One kind of machine: what it can run, and what its kernels reach on one core.
#[derive(Clone, PartialEq, Debug)]
pub struct Machine {
    /// The instruction set, which names the machine.
    pub isa: Isa,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// Groups of CPU features that it must have, by LLVM's names.
    pub features: &'static [&'static [&'static str]],
    /// Multiply-adds a second of `f32` products.
    pub madds_f32: f64,
    /// Of 16-bit floats.
    pub madds_f16: f64,
    /// Of bytes.
    pub madds_i8: f64,
    /// Elementwise steps a second.
    pub elementwise: f64,
    /// Codes that are decoded a second, on the way to a product.
    pub decodes: f64,
    /// Sums of products of codes that are scaled a second; 0 where codes do not meet codes.
    pub sums: f64,
    /// Bytes a second from memory.
    pub bandwidth: f64,
    /// Bytes of the data caches, nearest first; the last is shared.
    pub caches: [usize; 3],
    /// Seconds to start a kernel.
    pub launch: f64,
}

impl Machine {
    /// The description of an instruction set.
    pub fn of(isa: Isa) -> &'static Machine {
        MACHINES.iter().find(|m| m.isa == isa).expect("every instruction set is described")
    }
    /// The features that it needs and a CPU lacks.
    pub fn missing(&self, cpu: &Features) -> Vec<&'static str> {
        self.features.iter().copied().flatten().copied().filter(|f| !cpu.has(f)).collect()
    }
    /// The rates alone.
    pub fn roofline(&self) -> Roofline {
        Roofline {
            name: self.isa.name().into(),
            madds: [self.madds_f32, self.madds_f16, self.madds_i8],
            elementwise: self.elementwise,
            decodes: self.decodes,
            sums: self.sums,
            bandwidth: self.bandwidth,
            launch: self.launch,
        }
    }
}

impl Target for Machine {
    fn name(&self) -> &str {
        self.isa.name()
    }
    fn seconds(&self, op: &Op, ins: &[&Type], outs: &[Type], hints: &Bindings) -> f64 {
        self.roofline().seconds(op, ins, outs, hints)
    }
    fn encoded(
        &self,
        op: &Op,
        ins: &[&Type],
        outs: &[Type],
        encodings: (Option<Encoding>, Encoding),
        hints: &Bindings,
    ) -> f64 {
        self.roofline().encoded(op, ins, outs, encodings, hints)
    }
}

/// The most capable machine that a CPU with these features is.
pub fn detect(cpu: &Features) -> Option<&'static Machine> {
    MACHINES.iter().find(|m| m.missing(cpu).is_empty())
}

/// The machines that a list such as `x86-64-v3,amx` names, each once, the most capable first. `native` is what this CPU is, `x86-64` all of them.
pub fn parse(text: &str) -> Result<Vec<&'static Machine>, Diagnostic> {
    let mut named = vec![];
    for name in text.split(',').map(str::trim) {
        match name {
            "native" => {
                let cpu = Features::detect();
                named.push(detect(&cpu).ok_or_else(|| not_native(&cpu))?);
            }
            "x86-64" => named.extend(&MACHINES),
            _ => {
                let known = MACHINES.iter().find(|m| m.isa.name() == name || m.aliases.contains(&name));
                named.push(known.ok_or_else(|| unknown(name))?);
            }
        }
    }
    Ok(MACHINES.iter().filter(|m| named.contains(m)).collect())
}

fn not_native(cpu: &Features) -> Diagnostic {
    let least = MACHINES.last().expect("some machine");
    let missing = least.missing(cpu).join(", ");
    Diagnostic::error("B0131", format!("this CPU is none of the targets: {} needs {missing}", least.isa.name()))
        .failure(Failure::Target)
        .with_help("name the target that the program is for with `--target`")
}

fn unknown(name: &str) -> Diagnostic {
    let known = MACHINES.iter().flat_map(|m| [m.isa.name()].into_iter().chain(m.aliases.iter().copied()));
    let known: Vec<&str> = known.chain(["x86-64", "native"]).collect();
    let d = Diagnostic::error("B0130", format!("unknown target `{name}`")).failure(Failure::Target);
    let d = if name.starts_with("sm_") { d.with_note("there is no runtime for GPUs yet") } else { d };
    d.with_help(format!("targets are {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tersor_ir::DType;
    use tersor_ir::ops::MatMul;

    fn names(text: &str) -> Vec<&'static str> {
        parse(text).unwrap().into_iter().map(|m| m.isa.name()).collect()
    }

    #[test]
    fn names_are_understood() {
        assert_eq!(names("x86-64-v3"), ["x86-64-v3"]);
        assert_eq!(names("avx2, x86-64+amx,x86-64-v3"), ["x86-64+amx", "x86-64-v3"]);
        assert_eq!(names("x86-64"), ["x86-64+amx", "x86-64-v4+vnni", "x86-64-v3"]);
        for isa in Isa::ALL {
            assert_eq!(names(isa.name()), [isa.name()]);
            assert_eq!(Machine::of(isa).isa, isa);
        }
    }

    #[test]
    fn unknown_names_list_the_known() {
        for text in ["sm_80", "x86-64-v3,,", "x86-64-v9"] {
            let d = parse(text).unwrap_err();
            assert_eq!(d.failure, Failure::Target);
            assert!(d.help.unwrap().contains("x86-64-v4+vnni"));
        }
    }

    #[test]
    fn native_is_the_best_that_is_complete() {
        let cpu = Features::detect();
        match (detect(&cpu), parse("native")) {
            (Some(machine), Ok(found)) => {
                assert_eq!(found, [machine]);
                let better = MACHINES.iter().take_while(|m| *m != machine);
                assert!(better.into_iter().all(|m| !m.missing(&cpu).is_empty()));
            }
            (None, Err(d)) => assert_eq!(d.failure, Failure::Target),
            other => panic!("{other:?}"),
        }
        assert_eq!(detect(&Features::default()), None);
    }

    #[test]
    fn narrow_products_cost_less() {
        let shape = |d| Type::new(d, [1024, 1024]);
        let cost = |isa, d, y| {
            let op = Op::from(MatMul { trans_a: false, trans_b: false, wide: false });
            Machine::of(isa).seconds(&op, &[&shape(d), &shape(d)], &[shape(y)], &Bindings::new())
        };
        for isa in Isa::ALL {
            assert!(cost(isa, DType::I8, DType::I32) < cost(isa, DType::F32, DType::F32));
        }
        assert!(cost(Isa::Amx, DType::BF16, DType::BF16) < cost(Isa::V3, DType::BF16, DType::BF16) / 5.0);
    }
    fn product(isa: Isa, rows: usize, encodings: Option<(Option<Encoding>, Encoding)>) -> f64 {
        let op = Op::from(MatMul { trans_a: false, trans_b: false, wide: false });
        let [x, w, y] = [[rows, 2048], [2048, 2048], [rows, 2048]].map(|s| Type::new(DType::F32, s));
        let machine = Machine::of(isa);
        match encodings {
            Some(e) => machine.encoded(&op, &[&x, &w], &[y], e, &Bindings::new()),
            None => machine.seconds(&op, &[&x, &w], &[y], &Bindings::new()),
        }
    }

    /// Weights of which a part is stored are read faster, and multiplied slower: they pay where memory is what a product waits for.
    #[test]
    fn a_part_of_a_weight_pays_for_few_rows() {
        let part = |stored: f64| {
            let bytes = 2048.0 * 2048.0 * (4.0 * stored + 0.125);
            (None, Encoding { bytes, bits: 32, uniform: false, group: 0, stored })
        };
        for stored in [0.5, 0.25, 0.1] {
            assert!(product(Isa::Amx, 1, Some(part(stored))) < product(Isa::Amx, 1, None));
            assert!(product(Isa::Amx, 128, Some(part(stored))) > product(Isa::Amx, 128, None));
        }
        assert!(product(Isa::Amx, 1, Some(part(0.95))) > product(Isa::Amx, 1, None));
    }

    /// Codes times codes pay on machines that multiply them, the more the longer their groups are.
    #[test]
    fn codes_of_both_sides_cost_less_where_integers_multiply() {
        let codes = |group: u32| {
            let bytes = 2048.0 * 2048.0 * (0.5 + 2.0 / f64::from(group));
            let weight = Encoding { bytes, bits: 4, uniform: true, group, stored: 1.0 };
            (Encoding { bytes: 0.0, bits: 8, uniform: true, group, stored: 1.0 }, weight)
        };
        for rows in [1, 32, 512] {
            let (x, w) = codes(32);
            for isa in [Isa::V4, Isa::Amx] {
                assert!(product(isa, rows, Some((Some(x), w))) < product(isa, rows, Some((None, w))));
            }
            assert_eq!(product(Isa::V3, rows, Some((Some(x), w))), product(Isa::V3, rows, Some((None, w))));
            let (far, wide) = codes(128);
            assert!(product(Isa::Amx, rows, Some((Some(far), wide))) < product(Isa::Amx, rows, Some((Some(x), w))));
        }
    }
}
