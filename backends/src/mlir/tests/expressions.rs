//! Random expressions and the elementary functions, natively and in the emulator.

use super::agree;
use crate::emit::emulate::Call;
use crate::emit::tests::{Random, map_kernel};
use crate::emit::{Kernel, KernelBuilder, Scalar, Val, math};

const LANES: [u32; 4] = [1, 4, 8, 16];

/// Adds random instructions on floats and integers of `n` lanes, and returns a float.
fn expression(k: &mut KernelBuilder, x: Val, random: &mut Random) -> Val {
    let lanes = x.lanes();
    let ints = k.bitcast(x, x.ty().with(Scalar::I32));
    let one = k.float(x.ty(), 1.5);
    let mut floats = vec![x, one];
    let mut integers = vec![ints, k.int(ints.ty(), 0x1234_5678)];
    for _ in 0..24 {
        let [f, g] = [0, 0].map(|_| floats[random.next() as usize % floats.len()]);
        let [i, j] = [0, 0].map(|_| integers[random.next() as usize % integers.len()]);
        let few = k.int(ints.ty(), 31);
        let few = k.and(j, few);
        match random.next() % 26 {
            0 => floats.push(k.add(f, g)),
            1 => floats.push(k.sub(f, g)),
            2 => floats.push(k.mul(f, g)),
            3 => floats.push(k.div(f, g)),
            4 => floats.push(k.min(f, g)),
            5 => floats.push(k.max(f, g)),
            6 => floats.push(k.min_nan(f, g)),
            7 => floats.push(k.max_nan(f, g)),
            8 => floats.push(k.fma(f, g, x)),
            9 => floats.push(k.round_even(f)),
            10 => floats.push(k.floor(f)),
            11 => {
                let size = k.abs(f);
                floats.push(k.sqrt(size));
            }
            12 => floats.push(k.neg(f)),
            13 => {
                let c = k.lt(f, g);
                floats.push(k.select(c, g, f));
                integers.push(k.select(c, i, j));
            }
            14 => {
                let h = k.to_float_type(f, Scalar::BF16);
                floats.push(k.to_float_type(h, Scalar::F32));
            }
            15 => {
                let h = k.to_float_type(f, Scalar::F16);
                floats.push(k.to_float_type(h, Scalar::F32));
            }
            16 => floats.push(k.to_float(i, Scalar::F32)),
            17 => {
                let bounded = math::clamp(k, f, -1e6, 1e6);
                let nan = k.is_nan(f);
                let zero = k.zero(f.ty());
                let bounded = k.select(nan, zero, bounded);
                integers.push(k.to_int(bounded, Scalar::I32));
            }
            18 => integers.push(k.add(i, j)),
            19 => integers.push(k.mul(i, j)),
            20 => integers.push(k.shl(i, few)),
            21 => integers.push(k.sar(i, few)),
            22 => {
                let c = k.ugt(i, j);
                integers.push(k.select(c, j, i));
                integers.push(k.min(i, j));
            }
            23 => {
                let low = k.trunc(i, Scalar::I8);
                let (wide, signed) = (k.zext(low, Scalar::I32), k.sext(low, Scalar::I32));
                integers.push(k.xor(wide, signed));
            }
            24 => integers.push(k.popcount(i)),
            _ if lanes > 1 => {
                let picks: Vec<u32> = (0..lanes).map(|_| random.next() as u32 % (2 * lanes)).collect();
                floats.push(k.shuffle(f, g, &picks));
                let sum = k.reduce_add(f);
                floats.push(k.splat(sum, lanes));
            }
            _ => floats.push(k.ceil(f)),
        }
    }
    let bits = integers.iter().skip(2).copied().fold(ints, |a, b| k.xor(a, b));
    let bits = k.to_float(bits, Scalar::F32);
    let total = floats.iter().skip(2).copied().fold(x, |a, b| k.add(a, b));
    let c = k.is_nan(total);
    k.select(c, bits, total)
}

fn inputs(n: usize, random: &mut Random) -> Vec<f32> {
    let value = |_| match random.next() % 8 {
        0 => f32::from_bits(random.next() as u32),
        1 => [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40][random.next() as usize % 6],
        _ => (random.next() % 20001) as f32 / 500.0 - 20.0,
    };
    (0..n).map(value).collect()
}

fn call(x: &[f32]) -> Call {
    let mut call = Call::new(1);
    call.arg(x);
    call.out::<f32>(x.len());
    call.dim(x.len());
    call
}

#[test]
fn random_expressions_agree() {
    let mut random = Random(0x5eed);
    let build = |i: usize| -> Kernel {
        let mut random = Random(0x9e37_79b9 + i as u64 * 7919);
        map_kernel(&format!("e{i}"), LANES[i % 4], |k, x| expression(k, x, &mut random))
    };
    let kernels: Vec<Kernel> = (0..40).map(build).collect();
    let call = call(&inputs(64, &mut random));
    kernels.iter().for_each(|k| agree(std::slice::from_ref(k), &k.name, &call));
}

#[test]
fn functions_agree() {
    type Function = fn(&mut KernelBuilder, Val) -> Val;
    let functions: [(&str, Function); 11] = [
        ("exp", math::exp),
        ("log", math::log),
        ("tanh", math::tanh),
        ("erf", math::erf),
        ("sigmoid", math::sigmoid),
        ("silu", math::silu),
        ("gelu", math::gelu),
        ("gelu_tanh", math::gelu_tanh),
        ("softplus", math::softplus),
        ("sin", math::sin),
        ("cos", math::cos),
    ];
    let mut random = Random(11);
    let mut kernels: Vec<Kernel> = Vec::new();
    for (name, f) in functions {
        kernels.extend(LANES.map(|lanes| map_kernel(&format!("{name}_{lanes}"), lanes, f)));
    }
    kernels.push(map_kernel("pow", 8, |k, x| {
        let y = k.shuffle(x, x, &[7, 6, 5, 4, 3, 2, 1, 0]);
        math::pow(k, x, y)
    }));
    let call = call(&inputs(512, &mut random));
    let Ok(_) = super::jit::load(&kernels[..1], crate::kernel::Isa::V3) else { return };
    kernels.iter().for_each(|k| agree(std::slice::from_ref(k), &k.name, &call));
}
