//! Rates of compiled products and convolutions, beside the machine's multiply-add peak measured in turn with them.
//!
//! `cargo bench -p tersor-backends -- [part of a name]`

use tersor_backends::cpu;
use tersor_backends::emit::emulate::{Buffer, Call};
use tersor_backends::emit::{Kernel, KernelBuilder, Scalar};
use tersor_backends::kernel::{Group, GroupCx, Isa, Launch, Operand};
use tersor_backends::mlir::jit::{self, Jit};
use tersor_ir::module::Builder;
use tersor_ir::ops::{Conv, DecodeAffine, DecodeSparse, MatMul};
use tersor_ir::testing::Gen;
use tersor_ir::{Bindings, DType, Def, Func, Module, Op, Tensor, Type};

const ROUNDS: usize = 15;

/// A compiled launch with its operands.
struct Bench {
    name: String,
    jit: Jit,
    kernel: String,
    call: Call,
    scratch: Buffer,
    /// Operations of one call, two for each multiply-add.
    operations: f64,
}

impl Bench {
    /// Operations in a nanosecond of processor time, over calls that take a few milliseconds.
    fn rate(&mut self) -> f64 {
        let entry = self.jit.entry(&self.kernel).expect("a kernel of that name");
        let starts: Vec<*mut u8> = self.call.buffers.iter_mut().map(|b| b.bytes_mut().as_mut_ptr()).collect();
        let scratch = self.scratch.bytes_mut().as_mut_ptr();
        let (start, mut calls, mut spent) = (processor_time(), 0, 0.0);
        while spent < 2e6 {
            // SAFETY: operands, extents and scratch are as the launch asks, in buffers that live as long.
            unsafe { entry(starts.as_ptr(), self.call.dims.as_ptr(), scratch, 0, self.call.range.1) };
            calls += 1;
            spent = processor_time() - start;
        }
        self.operations * f64::from(calls) / spent
    }
}

/// Nanoseconds that this thread has run: others on the machine count less than by the clock on the wall.
fn processor_time() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a place for the result.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 * 1e9 + t.tv_nsec as f64
}

fn compile(kernel: &Kernel, isa: Isa) -> Jit {
    jit::load(std::slice::from_ref(kernel), isa).unwrap_or_else(|e| panic!("{e}"))
}

/// Independent multiply-adds in registers.
fn peak(isa: Isa) -> Bench {
    const ROUNDS: i64 = 200_000;
    let mut k = KernelBuilder::new("peak");
    let (sums, lanes) = if isa.wide() { (24, 16) } else { (12, 8) };
    let y = k.arg_mut("y");
    let v = Scalar::F32.x(lanes);
    let (a, zero) = (k.load(y, v), k.zero(v));
    let (low, high, one) = (k.i64(0), k.i64(ROUNDS), k.i64(1));
    let out = k.for_(low, high, one, &vec![zero; sums], |k, _, acc| acc.iter().map(|&c| k.fma(a, a, c)).collect());
    let sum = out.into_iter().reduce(|x, y| k.add(x, y)).expect("sums");
    k.store(sum, y);
    let kernel = k.finish();
    let mut call = Call::new(1);
    call.buffers.push(Buffer::zeroed(64));
    call.args.push(0);
    let scratch = Buffer::zeroed(0);
    let operations = (ROUNDS * sums as i64 * i64::from(lanes) * 2) as f64;
    Bench { name: "peak".into(), jit: compile(&kernel, isa), kernel: kernel.name, call, scratch, operations }
}

/// How a weight is stored.
#[derive(Copy, Clone)]
enum Stored {
    Elements,
    /// Integer codes of a type, so many of which share a scale along K.
    Codes(DType, u32),
    /// The same, for rows of codes of 8 bits in the same groups.
    BothCodes(DType, u32),
    /// A part of its elements, in percent, in runs of so many along K.
    Part(i64, usize),
}

fn bench(name: String, op: Op, types: [Type; 2], isa: Isa) -> Bench {
    stored(name, op, types, Stored::Elements, isa)
}

fn stored(name: String, op: Op, types: [Type; 2], how: Stored, isa: Isa) -> Bench {
    let codes = match how {
        Stored::Codes(d, group) | Stored::BothCodes(d, group) => Some((d, group)),
        _ => None,
    };
    let (mut m, mut f, mut g) = (Module::new("m"), Func::new("main"), Gen::new(1));
    let body = f.body_id();
    let x = match how {
        Stored::BothCodes(..) => types[0].with_dtype(DType::I8),
        _ => types[0].clone(),
    };
    let mut x = f.add_param(body, "x", x);
    let row_scales = if let Stored::BothCodes(_, group) = how {
        let mut ty = types[0].clone();
        ty.shape[1] = ty.shape[1].clone().ceil_div(group.into());
        Some(f.add_param(body, "s", ty))
    } else {
        None
    };
    let weights = g.tensor(&codes.map_or(types[1].clone(), |(d, _)| types[1].with_dtype(d)));
    let scales = codes.map(|(_, group)| {
        let mut ty = types[1].clone();
        ty.shape[0] = if group == 0 { 1.into() } else { ty.shape[0].clone().ceil_div(group.into()) };
        let values = g.tensor(&ty).to_f64();
        Tensor::from_f64(
            DType::F32,
            ty.static_shape().expect("static"),
            &Tensor::from_f64(DType::F16, [values.len()], &values).to_f64(),
        )
    });
    let mut b = Builder::new(&mut m.consts, &mut f);
    let mut w = b.constant("w", &weights);
    if let (Some(scales), Some((_, group))) = (scales, codes) {
        let s = b.constant("s", &scales);
        w = b.op(DecodeAffine { axis: 0, group }, &[w, s]).unwrap();
    }
    if let Stored::Part(percent, run) = how {
        let runs: Vec<bool> = (0..weights.len().div_ceil(run)).map(|_| g.int(0, 99) < percent).collect();
        let keep: Vec<bool> = (0..weights.len()).map(|i| runs[i / run]).collect();
        let (values, mask) = DecodeSparse::encode(&weights, &keep, run);
        let (values, mask) = (b.constant("v", &values), b.constant("m", &mask));
        w = b.op(DecodeSparse { shape: types[1].shape.to_vec(), run: run as u32 }, &[values, mask]).unwrap();
    }
    let mut inputs = vec![x, w];
    if let (Some(s), Some((_, group))) = (row_scales, codes) {
        x = b.op(DecodeAffine { axis: 1, group }, &[x, s]).unwrap();
        inputs.push(s);
    }
    let y = b.op(op, &[x, w]).unwrap();
    f.body_mut().results = vec![y];
    let maker = |v| if let Def::Node(n, _) = f.values[v].def { Some(n) } else { None };
    let anchor = maker(y).expect("a node's result");
    let nodes = maker(x).into_iter().chain([anchor]).collect();
    let group = Group { anchor: Some(anchor), nodes, inputs, outputs: vec![y] };
    let views = Default::default();
    let cx = GroupCx::new(&m, &f, &group, isa, &views);
    let launch = cpu::build(&cx).unwrap_or_else(|d| panic!("{d}"));
    let Launch { kernel, args, grid, scratch, .. } = launch;
    let mut call = Call::new(grid.eval(&Bindings::new()).expect("static"));
    let scratch = Buffer::zeroed(scratch.eval(&Bindings::new()).expect("static") as usize);
    for arg in &args {
        let buffer = match arg {
            Operand::Packed { data, .. } => Buffer::from_slice(data.bytes()),
            Operand::Read(v) => Buffer::from_slice(g.tensor(&f.values[*v].ty).bytes()),
            Operand::Write(v) => {
                let ty = &f.values[*v].ty;
                let n = ty.static_shape().expect("static").iter().product::<usize>();
                Buffer::zeroed(n * ty.dtype.bits() as usize / 8)
            }
        };
        call.buffers.push(buffer);
        call.args.push(call.buffers.len() - 1);
    }
    let node = &f.nodes[anchor];
    let work = node
        .op
        .work(&[f.values[x].ty.clone(), f.values[w].ty.clone()].iter().collect::<Vec<_>>(), &[f.values[y].ty.clone()]);
    let operations = 2.0 * work.madds.eval(&Bindings::new()).expect("static") as f64;
    Bench { name, jit: compile(&kernel, isa), kernel: kernel.name, call, scratch, operations }
}

fn product(m: usize, n: usize, k: usize, (a, b): (DType, DType), isa: Isa) -> Bench {
    let op = MatMul { trans_a: false, trans_b: false, wide: false };
    bench(format!("gemm {a} {b} {m}x{n}x{k}"), op.into(), [Type::new(a, [m, k]), Type::new(b, [k, n])], isa)
}

/// A square image of `size` pixels a side, padded so that a window of stride 1 keeps its size.
fn conv(size: usize, c: usize, o: usize, taps: usize, stride: i64, (a, b): (DType, DType), isa: Isa) -> Bench {
    let pads = vec![(taps as i64 - 1) / 2; 4];
    let op =
        Conv { strides: vec![stride; 2], pads, dilations: vec![1; 2], groups: 1, channels_last: true, wide: false };
    let types = [Type::new(a, [1, size, size, c]), Type::new(b, [o, c, taps, taps])];
    bench(format!("conv {a} {b} {size}x{size}x{c} to {o}, {taps}x{taps}/{stride}"), op.into(), types, isa)
}

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with("--")).unwrap_or_default();
    let Some(isa) = jit::host() else { return println!("no instruction set that kernels are compiled for") };
    let (float, bytes, half) = ((DType::F32, DType::F32), (DType::U8, DType::I8), (DType::BF16, DType::BF16));
    let mut list: Vec<Bench> = vec![];
    for types in [float, bytes, (DType::I8, DType::I8), half] {
        for (m, n, k) in [
            (128, 384, 384),
            (128, 1536, 384),
            (512, 512, 512),
            (1024, 1024, 1024),
            (32, 768, 3072),
            (1, 2048, 2048),
            (1, 4096, 4096),
            (4, 2048, 2048),
        ] {
            if format!("gemm {} {} {m}x{n}x{k}", types.0, types.1).contains(&filter) {
                list.push(product(m, n, k, types, isa));
            }
        }
    }
    for (d, group) in [
        (DType::I8, 0),
        (DType::I8, 32),
        (DType::I4, 0),
        (DType::I4, 32),
        (DType::I4, 128),
        (DType::U3, 64),
        (DType::I2, 64),
    ] {
        for (m, n, k) in [(1, 2048, 2048), (1, 4096, 4096), (4, 2048, 2048), (128, 1536, 384)] {
            let op = MatMul { trans_a: false, trans_b: false, wide: false };
            let types = [Type::new(DType::F32, [m, k]), Type::new(DType::F32, [k, n])];
            let how = Stored::Codes(d, group);
            let name = format!("gemm f32 {d}g{group} {m}x{n}x{k}");
            if name.contains(&filter) {
                list.push(stored(name, op.into(), types, how, isa));
            }
        }
    }
    for (d, group) in [(DType::I4, 32), (DType::I4, 64), (DType::I4, 128), (DType::U3, 64), (DType::I8, 64)] {
        for m in [1, 4, 16, 32, 128, 512] {
            let (n, k) = (4096, 4096);
            let op = MatMul { trans_a: false, trans_b: false, wide: false };
            let types = [Type::new(DType::F32, [m, k]), Type::new(DType::F32, [k, n])];
            let name = format!("gemm i8g{group} {d}g{group} {m}x{n}x{k}");
            if name.contains(&filter) {
                list.push(stored(name, op.into(), types, Stored::BothCodes(d, group), isa));
            }
        }
    }
    // Whether a part pays: beside it, the same product with all elements.
    for m in [1, 16, 128] {
        for size in [1024, 2048, 4096] {
            for (percent, run) in [(100, 1), (50, 1), (30, 1), (20, 1), (10, 1), (50, 4), (20, 8)] {
                let op = MatMul { trans_a: false, trans_b: true, wide: false };
                let types = [Type::new(DType::F32, [m, size]), Type::new(DType::F32, [size, size])];
                let name = format!("sparse f32 {percent} % run {run} {m}x{size}x{size}");
                if name.contains(&filter) {
                    list.push(stored(name, op.into(), types, Stored::Part(percent, run), isa));
                }
            }
        }
    }
    for types in [float, bytes] {
        for (size, c, o, taps, stride) in
            [(56, 64, 64, 3, 1), (28, 128, 128, 3, 1), (56, 64, 256, 1, 1), (14, 256, 512, 1, 2), (224, 3, 64, 7, 2)]
        {
            list.push(conv(size, c, o, taps, stride, types, isa));
        }
    }
    list.retain(|b| b.name.contains(&filter));
    let mut peak = peak(isa);
    println!("{}: best rates in operations a nanosecond, and of the best f32 peak", isa.name());
    for b in &mut list {
        let rates: Vec<(f64, f64)> = (0..ROUNDS).map(|_| (peak.rate(), b.rate())).collect();
        let best = rates.iter().fold((0.0, 0.0), |best, r| (f64::max(best.0, r.0), f64::max(best.1, r.1)));
        let time = b.operations / best.1 / 1e6;
        println!("{:45} {:8.1} of {:6.1}: {:6.1} %, {time:.3} ms", b.name, best.1, best.0, 100.0 * best.1 / best.0);
    }
}
