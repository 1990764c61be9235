//! x86-64 machines with AVX2, AVX-512 or AMX, as one core of a recent server offers them.

use super::Machine;
use crate::kernel::Isa;

const AVX2: &[&str] = &["avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "popcnt", "sse4.2"];
const AVX512: &[&str] = &["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl", "avx512vnni"];
const AMX: &[&str] = &["amx-bf16", "amx-int8", "amx-tile", "avx512bf16"];

/// The machines, the most capable first.
pub const MACHINES: [Machine; 3] = [
    Machine {
        isa: Isa::Amx,
        aliases: &["amx"],
        features: &[AVX2, AVX512, AMX],
        madds_f32: 90e9,
        madds_f16: 600e9,
        madds_i8: 1200e9,
        elementwise: 10e9,
        decodes: 45e9,
        sums: 15e9,
        bandwidth: 20e9,
        caches: [48 << 10, 2 << 20, 32 << 20],
        launch: 3e-7,
    },
    Machine {
        isa: Isa::V4,
        aliases: &["avx512+vnni"],
        features: &[AVX2, AVX512],
        madds_f32: 90e9,
        madds_f16: 80e9,
        madds_i8: 360e9,
        elementwise: 10e9,
        decodes: 45e9,
        sums: 15e9,
        bandwidth: 20e9,
        caches: [32 << 10, 1 << 20, 32 << 20],
        launch: 3e-7,
    },
    Machine {
        isa: Isa::V3,
        aliases: &["avx2"],
        features: &[AVX2],
        madds_f32: 50e9,
        madds_f16: 45e9,
        madds_i8: 90e9,
        elementwise: 5e9,
        decodes: 15e9,
        sums: 0.0,
        bandwidth: 20e9,
        caches: [32 << 10, 512 << 10, 16 << 20],
        launch: 3e-7,
    },
];
