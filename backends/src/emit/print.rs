//! Kernels as MLIR text, in the dialects `func`, `scf`, `arith`, `vector` and `llvm`.
//!
//! A CPU kernel is two functions: the entry with the ABI of `ARCHITECTURE.md`, which loads pointers and extents, and an internal body
//! whose pointers are `noalias`. A GPU kernel is one. The text is a function of the kernel alone.

use super::intrinsic::Intrinsic;
use super::op::{Bin, Block, Cmp, Constant, Convert, Flavor, Inst, Kernel, MemoryKind, Op, Un};
use super::types::{Scalar, Ty, Val};
use foldhash::HashMap;
use std::collections::BTreeSet;
use std::fmt::Write;

/// A module of all `kernels`, whose names must differ.
pub fn module(kernels: &[Kernel]) -> String {
    named(kernels, |i| kernels[i].name.clone())
}

/// [`module`] with other names, by position.
pub fn named(kernels: &[Kernel], name: impl Fn(usize) -> String) -> String {
    let mut out = String::from("module {\n");
    for (i, kernel) in kernels.iter().enumerate() {
        Printer::new(kernel).kernel(&name(i), &mut out);
    }
    out.push_str("}\n");
    out
}

/// One instruction without its regions, as messages name it.
pub fn instruction(kernel: &Kernel, inst: &Inst) -> String {
    let printer = Printer::new(kernel);
    let mut out = String::new();
    match &inst.op {
        Op::For | Op::If => {
            let word = if matches!(inst.op, Op::For) { "scf.for" } else { "scf.if" };
            let _ = write!(out, "{word} {}", printer.list(&inst.args));
        }
        _ => printer.inst(inst, 0, &mut out),
    }
    out.trim().replace('\n', "; ")
}

struct Printer<'k> {
    kernel: &'k Kernel,
    /// Values that have a name of their own.
    names: HashMap<u32, String>,
}

/// Floats print in decimal where that reads back to the same bits.
fn literal(elem: Scalar, bits: u64) -> String {
    let decimal = |text: String| match text.split_once('e') {
        Some((m, e)) if !m.contains('.') => format!("{m}.0e{e}"),
        _ => text,
    };
    match elem {
        Scalar::I1 => (bits != 0).to_string(),
        Scalar::I8 => (bits as i8).to_string(),
        Scalar::I16 => (bits as i16).to_string(),
        Scalar::I32 => (bits as i32).to_string(),
        Scalar::I64 => (bits as i64).to_string(),
        Scalar::F32 => {
            let value = f32::from_bits(bits as u32);
            let text = decimal(format!("{value:e}"));
            let back = text.parse::<f64>().map(|x| (x as f32).to_bits());
            if value.is_finite() && back == Ok(bits as u32) { text } else { format!("0x{bits:08X}") }
        }
        Scalar::F64 => {
            let value = f64::from_bits(bits);
            if value.is_finite() { decimal(format!("{value:e}")) } else { format!("0x{bits:016X}") }
        }
        Scalar::F16 | Scalar::BF16 => format!("0x{bits:04X}"),
    }
}

fn types(vals: &[Val]) -> String {
    vals.iter().map(|v| v.ty.to_string()).collect::<Vec<_>>().join(", ")
}

impl<'k> Printer<'k> {
    fn new(kernel: &'k Kernel) -> Self {
        let mut names = HashMap::default();
        let clean = |s: &str| s.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', "_");
        for arg in &kernel.args {
            names.insert(arg.val.id, format!("{}_p", clean(&arg.name)));
        }
        for (name, val) in &kernel.dims {
            names.insert(val.id, format!("{}_n", clean(name)));
        }
        for (val, name) in [(kernel.scratch, "scratch"), (kernel.begin, "begin"), (kernel.end, "end")] {
            names.insert(val.id, name.into());
        }
        Self { kernel, names }
    }

    fn name(&self, val: Val) -> String {
        match self.names.get(&val.id) {
            Some(name) => format!("%{name}"),
            None => format!("%v{}", val.id),
        }
    }

    fn list(&self, vals: &[Val]) -> String {
        vals.iter().map(|&v| self.name(v)).collect::<Vec<_>>().join(", ")
    }

    fn kernel(&self, name: &str, out: &mut String) {
        let kernel = self.kernel;
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "kernel name `{name}`");
        self.tables(name, out);
        match kernel.flavor {
            Flavor::Cpu => {
                self.entry(name, out);
                let params = self.params(true);
                let attributes = "llvm.linkage = #llvm.linkage<internal>, no_inline, passthrough = [\"nounwind\"]";
                let _ = writeln!(out, "  func.func @{name}__body({params}) attributes {{{attributes}}} {{");
            }
            Flavor::Gpu => {
                let params = self.params(false);
                let _ = writeln!(out, "  llvm.func @{name}({params}) attributes {{nvvm.kernel}} {{");
            }
        }
        self.prelude(name, out);
        self.block(&kernel.body, 2, out);
        out.push_str(if kernel.flavor == Flavor::Gpu { "    llvm.return\n  }\n" } else { "    return\n  }\n" });
    }

    /// Global memory: tables of constants and shared memory.
    fn tables(&self, name: &str, out: &mut String) {
        for (i, memory) in self.kernel.memory.iter().enumerate() {
            let symbol = format!("{name}__m{i}");
            let align = memory.align;
            let _ = match &memory.kind {
                MemoryKind::Table(bytes) => {
                    let text: String = bytes.iter().map(|b| format!("\\{b:02X}")).collect();
                    writeln!(
                        out,
                        "  llvm.mlir.global internal constant @{symbol}(\"{text}\") {{alignment = {align} : i64}} : \
                         !llvm.array<{} x i8>",
                        bytes.len()
                    )
                }
                MemoryKind::Shared(bytes) => writeln!(
                    out,
                    "  llvm.mlir.global internal @{symbol}() {{addr_space = 3 : i32, alignment = {align} : i64}} : \
                     !llvm.array<{bytes} x i8>"
                ),
                MemoryKind::Stack(_) => Ok(()),
            };
        }
    }

    fn params(&self, cpu: bool) -> String {
        let kernel = self.kernel;
        let mut params = Vec::new();
        for arg in &kernel.args {
            let mut attributes = Vec::new();
            if !arg.aliased {
                attributes.push("llvm.noalias");
            }
            if !arg.writable {
                attributes.push("llvm.readonly");
            }
            let attributes =
                if attributes.is_empty() { String::new() } else { format!(" {{{}}}", attributes.join(", ")) };
            params.push(format!("{}: !llvm.ptr{attributes}", self.name(arg.val)));
        }
        params.extend(kernel.dims.iter().map(|(_, v)| format!("{}: i64", self.name(*v))));
        if cpu {
            params.push("%scratch: !llvm.ptr {llvm.noalias}, %begin: i64, %end: i64".into());
        }
        params.join(", ")
    }

    /// The ABI function: loads what the body takes as parameters.
    fn entry(&self, name: &str, out: &mut String) {
        let (mut call, mut types) = (Vec::new(), Vec::new());
        let _ = writeln!(
            out,
            "  func.func @{name}(%args: !llvm.ptr, %dims: !llvm.ptr, %scratch: !llvm.ptr, %begin: i64, %end: i64) \
             attributes {{passthrough = [\"nounwind\"]}} {{"
        );
        let mut fetch = |from: &str, index: usize, val: Val| {
            let (n, ty) = (self.name(val), val.ty);
            let _ =
                writeln!(out, "    {n}_at = llvm.getelementptr %{from}[{}] : (!llvm.ptr) -> !llvm.ptr, i8", index * 8);
            let _ = writeln!(out, "    {n} = llvm.load {n}_at {{alignment = 8 : i64}} : !llvm.ptr -> {ty}");
            call.push(n);
            types.push(ty.to_string());
        };
        for (i, arg) in self.kernel.args.iter().enumerate() {
            fetch("args", i, arg.val);
        }
        for (i, (_, val)) in self.kernel.dims.iter().enumerate() {
            fetch("dims", i, *val);
        }
        call.push("%scratch, %begin, %end".into());
        types.push("!llvm.ptr, i64, i64".into());
        let (call, types) = (call.join(", "), types.join(", "));
        let _ = writeln!(out, "    func.call @{name}__body({call}) : ({types}) -> ()\n    return\n  }}");
    }

    /// Constants and the kernel's own memory, at the head of the body.
    fn prelude(&self, name: &str, out: &mut String) {
        for (i, memory) in self.kernel.memory.iter().enumerate() {
            let (n, align) = (self.name(memory.val), memory.align);
            let _ = match memory.kind {
                MemoryKind::Stack(bytes) => writeln!(
                    out,
                    "    {n}_size = arith.constant {bytes} : i64\n    \
                     {n} = llvm.alloca {n}_size x i8 {{alignment = {align} : i64}} : (i64) -> !llvm.ptr"
                ),
                _ => writeln!(out, "    {n} = llvm.mlir.addressof @{name}__m{i} : {}", memory.val.ty),
            };
        }
        let mut shapes = BTreeSet::new();
        self.kernel.visit(&mut |inst| {
            if let Op::Intrinsic(intrinsic) = inst.op {
                shapes.extend(tile_shape(intrinsic));
            }
        });
        for n in shapes {
            let _ = writeln!(out, "    %tile{n} = arith.constant {n} : i16");
        }
        for constant in &self.kernel.constants {
            self.constant(constant, out);
        }
    }

    fn constant(&self, constant: &Constant, out: &mut String) {
        let ty = constant.val.ty;
        let lanes: Vec<String> = constant.bits.iter().map(|&b| literal(ty.elem(), b)).collect();
        let value = match ty {
            Ty::Scalar(Scalar::I1) => lanes[0].clone(),
            Ty::Scalar(_) => format!("{} : {ty}", lanes[0]),
            _ if lanes.len() == 1 => format!("dense<{}> : {ty}", lanes[0]),
            _ => format!("dense<[{}]> : {ty}", lanes.join(", ")),
        };
        let _ = writeln!(out, "    {} = arith.constant {value}", self.name(constant.val));
    }

    fn block(&self, block: &Block, depth: usize, out: &mut String) {
        for inst in &block.insts {
            self.inst(inst, depth, out);
        }
    }

    fn yields(&self, block: &Block, depth: usize, out: &mut String) {
        if !block.yields.is_empty() {
            let pad = "  ".repeat(depth);
            let _ = writeln!(out, "{pad}scf.yield {} : {}", self.list(&block.yields), types(&block.yields));
        }
    }

    fn inst(&self, inst: &Inst, depth: usize, out: &mut String) {
        let pad = "  ".repeat(depth);
        let result = match inst.results.first() {
            None => String::new(),
            Some(&first) if inst.results.len() == 1 => format!("{} = ", self.name(first)),
            Some(_) if matches!(inst.op, Op::Intrinsic(_)) => format!("{}s = ", self.name(inst.results[0])),
            Some(_) => format!("{} = ", self.list(&inst.results)),
        };
        let ty = inst.results.first().or(inst.args.first()).map_or(Ty::I1, |v| v.ty);
        let arg = |i: usize| self.name(inst.args[i]);
        let from = |i: usize| inst.args[i].ty;
        let all = self.list(&inst.args);
        let _ = match &inst.op {
            Op::Load { align, pinned } => {
                let volatile = if *pinned { "volatile " } else { "" };
                writeln!(
                    out,
                    "{pad}{result}llvm.load {volatile}{all} {{alignment = {align} : i64}} : {} -> {ty}",
                    from(0)
                )
            }
            Op::Store { align } => {
                writeln!(out, "{pad}llvm.store {all} {{alignment = {align} : i64}} : {}, {}", from(0), from(1))
            }
            Op::MaskedLoad { align } => writeln!(
                out,
                "{pad}{result}llvm.intr.masked.load {all} {{alignment = {align} : i32}} : ({}) -> {ty}",
                types(&inst.args)
            ),
            Op::MaskedStore { align } => writeln!(
                out,
                "{pad}llvm.intr.masked.store {}, {}, {} {{alignment = {align} : i32}} : {}, {} into {}",
                arg(0),
                arg(1),
                arg(2),
                from(0),
                from(2),
                from(1)
            ),
            Op::Gather => {
                let (n, lanes, elem) = (self.name(inst.results[0]), ty.lanes(), ty.elem());
                let pointers = format!("vector<{lanes}x!llvm.ptr>");
                let _ = writeln!(
                    out,
                    "{pad}{n}_at = llvm.getelementptr {}[{}] : (!llvm.ptr, {}) -> {pointers}, i8",
                    arg(0),
                    arg(1),
                    from(1)
                );
                writeln!(
                    out,
                    "{pad}{result}llvm.intr.masked.gather {n}_at, {}, {} {{alignment = {} : i32}} : ({pointers}, {}, {ty}) -> {ty}",
                    arg(2),
                    arg(3),
                    elem.bytes(),
                    from(2)
                )
            }
            Op::Prefetch { write, locality } => writeln!(
                out,
                "{pad}\"llvm.intr.prefetch\"({all}) <{{cache = 1 : i32, hint = {locality} : i32, rw = {} : i32}}> : ({}) -> ()",
                i32::from(*write),
                from(0)
            ),
            Op::Gep => {
                writeln!(out, "{pad}{result}llvm.getelementptr {}[{}] : ({ty}, i64) -> {ty}, i8", arg(0), arg(1))
            }
            Op::Splat => writeln!(out, "{pad}{result}vector.broadcast {all} : {} to {ty}", from(0)),
            Op::Extract(lane) => writeln!(out, "{pad}{result}vector.extract {all}[{lane}] : {ty} from {}", from(0)),
            Op::Insert(lane) => writeln!(out, "{pad}{result}vector.insert {all} [{lane}] : {} into {ty}", from(0)),
            Op::Shuffle(lanes) => {
                writeln!(out, "{pad}{result}vector.shuffle {all} {lanes:?} : {}, {}", from(0), from(1))
            }
            Op::Bitcast => writeln!(out, "{pad}{result}llvm.bitcast {all} : {} to {ty}", from(0)),
            Op::Bin(bin @ (Bin::Min | Bin::Max)) => {
                let n = self.name(inst.results[0]);
                let predicate = if *bin == Bin::Min { "olt" } else { "ogt" };
                let cond = ty.with(Scalar::I1);
                let _ = writeln!(out, "{pad}{n}_c = arith.cmpf {predicate}, {all} : {ty}");
                writeln!(out, "{pad}{result}arith.select {n}_c, {all} : {cond}, {ty}")
            }
            Op::Bin(bin) => writeln!(out, "{pad}{result}{} {all} : {ty}", bin_name(*bin, ty.is_float())),
            Op::Un(Un::Neg) => writeln!(out, "{pad}{result}arith.negf {all} : {ty}"),
            Op::Un(un) => writeln!(out, "{pad}{result}llvm.intr.{}({all}) : ({ty}) -> {ty}", un_name(*un)),
            Op::Fma => writeln!(out, "{pad}{result}llvm.intr.fma({all}) : ({ty}, {ty}, {ty}) -> {ty}"),
            Op::Cmp(cmp) => {
                let float = from(0).is_float();
                let kind = if float { "cmpf" } else { "cmpi" };
                writeln!(out, "{pad}{result}arith.{kind} {}, {all} : {}", cmp_name(*cmp, float), from(0))
            }
            Op::Select if matches!(from(0), Ty::Vec(..)) => {
                writeln!(out, "{pad}{result}arith.select {all} : {}, {ty}", from(0))
            }
            Op::Select => writeln!(out, "{pad}{result}arith.select {all} : {ty}"),
            Op::Convert(convert) => {
                writeln!(out, "{pad}{result}arith.{} {all} : {} to {ty}", convert_name(*convert), from(0))
            }
            Op::For => self.for_(inst, &result, depth, out),
            Op::If => {
                let types =
                    if inst.results.is_empty() { String::new() } else { format!(" -> ({})", types(&inst.results)) };
                let _ = writeln!(out, "{pad}{result}scf.if {all}{types} {{");
                self.block(&inst.regions[0], depth + 1, out);
                self.yields(&inst.regions[0], depth + 1, out);
                if !inst.regions[1].insts.is_empty() || !inst.results.is_empty() {
                    let _ = writeln!(out, "{pad}}} else {{");
                    self.block(&inst.regions[1], depth + 1, out);
                    self.yields(&inst.regions[1], depth + 1, out);
                }
                writeln!(out, "{pad}}}")
            }
            Op::Intrinsic(intrinsic) => self.intrinsic(*intrinsic, inst, &pad, &result, out),
        };
    }

    fn for_(&self, inst: &Inst, result: &str, depth: usize, out: &mut String) -> std::fmt::Result {
        let pad = "  ".repeat(depth);
        let body = &inst.regions[0];
        let (i, carried) = (self.name(body.params[0]), &body.params[1..]);
        let [lo, hi, step] = [0, 1, 2].map(|i| self.name(inst.args[i]));
        let _ = write!(out, "{pad}{result}scf.for {i} = {lo} to {hi} step {step}");
        if !carried.is_empty() {
            let pairs: Vec<String> = carried
                .iter()
                .zip(&inst.args[3..])
                .map(|(&p, &v)| format!("{} = {}", self.name(p), self.name(v)))
                .collect();
            let _ = write!(out, " iter_args({}) -> ({})", pairs.join(", "), types(carried));
        }
        let _ = writeln!(out, " : i64 {{");
        self.block(body, depth + 1, out);
        self.yields(body, depth + 1, out);
        writeln!(out, "{pad}}}")
    }

    /// Tile shapes and other numbers become operands; several results come as a struct.
    fn intrinsic(
        &self,
        intrinsic: Intrinsic,
        inst: &Inst,
        pad: &str,
        result: &str,
        out: &mut String,
    ) -> std::fmt::Result {
        let shape = tile_shape(intrinsic);
        let mut args: Vec<String> = shape.iter().map(|n| format!("%tile{n}")).collect();
        let mut given: Vec<String> = shape.iter().map(|_| "i16".into()).collect();
        args.extend(inst.args.iter().map(|&v| self.name(v)));
        given.extend(inst.args.iter().map(|v| v.ty.to_string()));
        let (args, given) = (args.join(", "), given.join(", "));
        if let Intrinsic::CpAsyncWait(groups) = intrinsic {
            return writeln!(out, "{pad}nvvm.cp.async.wait.group {groups}");
        }
        if intrinsic == Intrinsic::Barrier {
            return writeln!(out, "{pad}nvvm.barrier");
        }
        if intrinsic == Intrinsic::CpAsync {
            let [to, from, bytes] = [0, 1, 2].map(|i| self.name(inst.args[i]));
            // The address of what is copied is the operand's name with that of the place it goes to, which is unique.
            let global = format!("{from}_to_{}", to.trim_start_matches('%'));
            writeln!(out, "{pad}{global} = llvm.addrspacecast {from} : !llvm.ptr to !llvm.ptr<1>")?;
            return writeln!(
                out,
                "{pad}nvvm.cp.async.shared.global {to}, {global}, 16, cache = cg, {bytes} : !llvm.ptr<3>, !llvm.ptr<1>, i32"
            );
        }
        let returns = match &inst.results[..] {
            [] => " -> ()".into(),
            [one] => format!(" -> {}", one.ty),
            many => format!(" -> !llvm.struct<({})>", types(many)),
        };
        writeln!(out, "{pad}{result}llvm.call_intrinsic \"{}\"({args}) : ({given}){returns}", intrinsic.llvm())?;
        if inst.results.len() > 1 {
            let all = types(&inst.results);
            let whole = self.name(inst.results[0]);
            for (i, &val) in inst.results.iter().enumerate() {
                writeln!(out, "{pad}{} = llvm.extractvalue {whole}s[{i}] : !llvm.struct<({all})>", self.name(val))?;
            }
        }
        Ok(())
    }
}

/// The i16 operands that come before the others.
fn tile_shape(intrinsic: Intrinsic) -> Vec<u16> {
    match intrinsic {
        Intrinsic::TileZero { rows, row_bytes }
        | Intrinsic::TileLoad { rows, row_bytes }
        | Intrinsic::TileStore { rows, row_bytes } => vec![rows, row_bytes],
        Intrinsic::TileDot { rows, row_bytes, depth_bytes, .. } => vec![rows, row_bytes, depth_bytes],
        _ => Vec::new(),
    }
}

fn bin_name(bin: Bin, float: bool) -> &'static str {
    match (bin, float) {
        (Bin::Add, false) => "arith.addi",
        (Bin::Sub, false) => "arith.subi",
        (Bin::Mul, false) => "arith.muli",
        (Bin::Add, true) => "arith.addf",
        (Bin::Sub, true) => "arith.subf",
        (Bin::Mul, true) => "arith.mulf",
        (Bin::Div, _) => "arith.divf",
        (Bin::DivS, _) => "arith.divsi",
        (Bin::DivU, _) => "arith.divui",
        (Bin::RemS, _) => "arith.remsi",
        (Bin::RemU, _) => "arith.remui",
        (Bin::Min | Bin::MinNan, _) => "arith.minimumf",
        (Bin::Max | Bin::MaxNan, _) => "arith.maximumf",
        (Bin::MinS, _) => "arith.minsi",
        (Bin::MaxS, _) => "arith.maxsi",
        (Bin::MinU, _) => "arith.minui",
        (Bin::MaxU, _) => "arith.maxui",
        (Bin::And, _) => "arith.andi",
        (Bin::Or, _) => "arith.ori",
        (Bin::Xor, _) => "arith.xori",
        (Bin::Shl, _) => "arith.shli",
        (Bin::ShrU, _) => "arith.shrui",
        (Bin::ShrS, _) => "arith.shrsi",
    }
}

fn un_name(un: Un) -> &'static str {
    match un {
        Un::Neg => "fneg",
        Un::Abs => "fabs",
        Un::Sqrt => "sqrt",
        Un::Floor => "floor",
        Un::Ceil => "ceil",
        Un::RoundEven => "roundeven",
        Un::Popcount => "ctpop",
    }
}

fn cmp_name(cmp: Cmp, float: bool) -> &'static str {
    match (cmp, float) {
        (Cmp::Eq, true) => "oeq",
        (Cmp::Ne, true) => "une",
        (Cmp::Lt, true) => "olt",
        (Cmp::Le, true) => "ole",
        (Cmp::Gt, true) => "ogt",
        (Cmp::Ge, true) => "oge",
        (Cmp::Nan, _) => "uno",
        (Cmp::Eq, false) => "eq",
        (Cmp::Ne, false) => "ne",
        (Cmp::Lt, false) => "slt",
        (Cmp::Le, false) => "sle",
        (Cmp::Gt, false) => "sgt",
        (Cmp::Ge, false) => "sge",
        (Cmp::ULt, _) => "ult",
        (Cmp::ULe, _) => "ule",
        (Cmp::UGt, _) => "ugt",
        (Cmp::UGe, _) => "uge",
    }
}

fn convert_name(convert: Convert) -> &'static str {
    match convert {
        Convert::SignExtend => "extsi",
        Convert::ZeroExtend => "extui",
        Convert::Truncate => "trunci",
        Convert::Extend => "extf",
        Convert::Round => "truncf",
        Convert::SignedToFloat => "sitofp",
        Convert::UnsignedToFloat => "uitofp",
        Convert::FloatToSigned => "fptosi",
        Convert::FloatToUnsigned => "fptoui",
    }
}
