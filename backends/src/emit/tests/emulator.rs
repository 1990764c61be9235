//! The emulator against plain Rust, and its checks.

use crate::emit::emulate::{Call, run};
use crate::emit::{Dot, Intrinsic, KernelBuilder, Scalar, Ty, Val};
use half::{bf16, f16};

/// A small generator of repeatable numbers.
pub(crate) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

/// Runs a kernel that writes `out` bytes from `inputs`.
fn run_once(inputs: &[Vec<u8>], out: usize, body: impl FnOnce(&mut KernelBuilder, &[Val], Val)) -> Vec<u8> {
    let mut k = KernelBuilder::new("once");
    let args: Vec<Val> = (0..inputs.len()).map(|i| k.arg(&format!("x{i}"))).collect();
    let result = k.arg_mut("y");
    body(&mut k, &args, result);
    let mut call = Call::new(1);
    inputs.iter().for_each(|x| _ = call.arg(x));
    let y = call.out::<u8>(out);
    run(&k.finish(), &mut call).unwrap();
    call.read(y)
}

#[test]
fn tiles_multiply() {
    let mut random = Random(7);
    let (a, b) = (random.bytes(16 * 64), random.bytes(16 * 64));
    for (dot, a_signed, b_signed) in
        [(Dot::SS, true, true), (Dot::SU, true, false), (Dot::US, false, true), (Dot::UU, false, false)]
    {
        let (rows, row_bytes, depth_bytes) = (5, 48, 32);
        let got = run_once(&[a.clone(), b.clone()], 16 * 64, |k, x, y| {
            let stride = k.i64(64);
            let acc = k.tile_zero(rows, row_bytes);
            let (p, q) =
                (k.tile_load(x[0], stride, rows, depth_bytes), k.tile_load(x[1], stride, depth_bytes / 4, row_bytes));
            let op = Intrinsic::TileDot { dot, rows, row_bytes, depth_bytes };
            let acc = k.intrinsic(op, &[acc, p, q]);
            let acc = k.intrinsic(op, &[acc, p, q]);
            k.tile_store(acc, y, stride, rows, row_bytes);
        });
        let int = |x: u8, signed: bool| if signed { i32::from(x as i8) } else { i32::from(x) };
        for m in 0..16 {
            for n in 0..16 {
                let sum: i32 = (0..depth_bytes as usize)
                    .map(|k| int(a[m * 64 + k], a_signed) * int(b[k / 4 * 64 + n * 4 + k % 4], b_signed))
                    .sum();
                let want = if m < rows as usize && n < row_bytes as usize / 4 { 2 * sum } else { 0 };
                assert_eq!(i32::from_le_bytes(got[m * 64 + n * 4..][..4].try_into().unwrap()), want, "{dot:?} {m} {n}");
            }
        }
    }
}

#[test]
fn bf16_tiles_multiply() {
    let value = |i: usize| bf16::from_f32((i * 37 % 101) as f32 / 16.0 - 3.0);
    let bytes: Vec<u8> = (0..512).flat_map(|i| value(i).to_le_bytes()).collect();
    let op = Intrinsic::TileDot { dot: Dot::Bf16, rows: 16, row_bytes: 64, depth_bytes: 64 };
    let got = run_once(&[bytes.clone(), bytes], 1024, |k, x, y| {
        let stride = k.i64(64);
        let acc = k.tile_zero(16, 64);
        let (p, q) = (k.tile_load(x[0], stride, 16, 64), k.tile_load(x[1], stride, 16, 64));
        let acc = k.intrinsic(op, &[acc, p, q]);
        k.tile_store(acc, y, stride, 16, 64);
    });
    for m in 0..16 {
        for n in 0..16 {
            let want: f32 =
                (0..32).map(|k| value(m * 32 + k).to_f32() * value(k / 2 * 32 + n * 2 + k % 2).to_f32()).sum();
            assert_eq!(f32::from_le_bytes(got[m * 64 + n * 4..][..4].try_into().unwrap()), want, "{m} {n}");
        }
    }
}

#[test]
fn byte_products_accumulate() {
    let mut random = Random(3);
    let inputs = [random.bytes(64), random.bytes(64), random.bytes(64)];
    let got = run_once(&inputs, 64, |k, x, y| {
        let acc = k.load(x[0], Scalar::I32.x(16));
        let (a, b) = (k.load(x[1], Scalar::I8.x(64)), k.load(x[2], Scalar::I8.x(64)));
        let r = k.intrinsic(Intrinsic::Vpdpbusd512, &[acc, a, b]);
        k.store(r, y);
    });
    let saturated = run_once(&inputs, 32, |k, x, y| {
        let (a, b) = (k.load(x[1], Scalar::I8.x(32)), k.load(x[2], Scalar::I8.x(32)));
        let r = k.intrinsic(Intrinsic::Vpmaddubsw256, &[a, b]);
        k.store(r, y);
    });
    let product = |j: usize| i32::from(inputs[1][j]) * i32::from(inputs[2][j] as i8);
    for i in 0..16 {
        let at = |v: &[u8]| i32::from_le_bytes(v[4 * i..][..4].try_into().unwrap());
        let want = at(&inputs[0]).wrapping_add((4 * i..4 * i + 4).map(product).sum());
        assert_eq!(at(&got), want);
        let pair = (product(2 * i) + product(2 * i + 1)).clamp(-32768, 32767);
        assert_eq!(i32::from(i16::from_le_bytes(saturated[2 * i..][..2].try_into().unwrap())), pair);
    }
}

#[test]
fn half_floats_round_to_even() {
    let x: Vec<f32> =
        [1.0f32, 1.003_906_3, 1.011_718_8, -0.0, f32::INFINITY, f32::NAN, 3.4e38, 1e-40, 65504.0, 6e-8].into();
    let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    for (elem, n) in [(Scalar::BF16, x.len()), (Scalar::F16, x.len())] {
        let got = run_once(std::slice::from_ref(&bytes), 2 * n, |k, p, y| {
            let v = k.load(p[0], Scalar::F32.x(n as u32));
            let h = k.to_float_type(v, elem);
            let back = k.to_float_type(h, Scalar::F32);
            let again = k.to_float_type(back, elem);
            k.store(again, y);
        });
        for (x, h) in x.iter().zip(got.chunks(2)) {
            let h = u16::from_le_bytes([h[0], h[1]]);
            match elem {
                Scalar::BF16 => assert_eq!(h, bf16::from_f32(*x).to_bits(), "{x}"),
                _ => assert_eq!(h, f16::from_f32(*x).to_bits(), "{x}"),
            }
        }
    }
}

#[test]
fn loops_carry_and_branches_choose() {
    let mut k = KernelBuilder::new("fib");
    let (y, n) = (k.arg_mut("y"), k.dim("n"));
    let (zero, one) = (k.i64(0), k.i64(1));
    let pair = k.for_(zero, n, one, &[zero, one], |k, i, v| {
        let two = k.i64(2);
        let (rest, sum) = (k.urem(i, two), k.add(v[0], v[1]));
        let even = k.eq(rest, zero);
        k.if_(even, |_| vec![v[1], sum], |_| vec![v[1], sum])
    });
    k.store(pair[0], y);
    let mut call = Call::new(1);
    let y = call.out::<i64>(1);
    call.dim(20);
    run(&k.finish(), &mut call).unwrap();
    assert_eq!(call.read::<i64>(y), [6765]);
}

/// The message of the fault that the body ends in; `y` has 64 bytes.
fn fault(body: impl FnOnce(&mut KernelBuilder, Val, Val)) -> String {
    let mut k = KernelBuilder::new("faulty");
    let (x, y) = (k.arg("x"), k.arg_mut("y"));
    body(&mut k, x, y);
    let mut call = Call::new(1);
    call.arg(&[0u8; 64]);
    call.out::<u8>(64);
    run(&k.finish(), &mut call).unwrap_err().to_string()
}

#[test]
fn wrong_accesses_are_named() {
    let past = fault(|k, x, _| {
        let p = k.offset(x, 40);
        k.load(p, Scalar::F32.x(8));
    });
    assert_eq!(
        past,
        "kernel `faulty`: 32 bytes at offset 40 of `x`, which has 64, at `%v7 = llvm.load %v6 \
         {alignment = 4 : i64} : !llvm.ptr -> vector<8xf32>`"
    );
    let skew = fault(|k, _, y| {
        let (p, v) = (k.offset(y, 4), k.zero(Scalar::F32.x(4)));
        k.store_aligned(v, p, 16);
    });
    assert!(skew.contains("offset 4 of `y` is not a multiple of 16, at `llvm.store"), "{skew}");
    let constant = fault(|k, x, _| {
        let v = k.zero(Ty::F32);
        k.store(v, x);
    });
    assert!(constant.contains("`x` is read only"), "{constant}");
}

#[test]
fn tails_touch_nothing_else() {
    let mut k = KernelBuilder::new("tail");
    let (x, y, n) = (k.arg("x"), k.arg_mut("y"), k.dim("n"));
    let v = k.load_first(x, Scalar::F32.x(8), n);
    let one = k.f32(1.0);
    let v = k.add(v, one);
    k.store_first(v, y, n);
    let kernel = k.finish();
    for n in 0..=8 {
        let mut call = Call::new(1);
        call.arg(&vec![1f32; n]);
        let y = call.out::<f32>(n);
        call.dim(n);
        run(&kernel, &mut call).unwrap();
        assert_eq!(call.read::<f32>(y), vec![2f32; n]);
    }
}
