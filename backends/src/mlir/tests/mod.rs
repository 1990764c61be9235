//! Compiled kernels against the emulator.

mod code;
mod expressions;
mod gpu;

use super::jit;
use crate::emit::Kernel;
use crate::emit::emulate::{Call, run};
use crate::kernel::Isa;

/// Runs a kernel natively, if this machine can, and in the emulator; buffers must agree to the bit, but for what NaN.
fn agree(kernels: &[Kernel], name: &str, call: &Call) {
    let kernel = kernels.iter().find(|k| k.name == name).unwrap();
    let Ok(jit) = jit::load(kernels, Isa::V3) else { return };
    let (mut native, mut emulated) = (call.clone(), call.clone());
    run(kernel, &mut emulated).unwrap();
    jit.run(name, &mut native).unwrap();
    for i in 0..call.buffers.len() {
        let (n, e) = (native.read::<u32>(i), emulated.read::<u32>(i));
        let nan = |x: u32| f32::from_bits(x).is_nan();
        let differs = n.iter().zip(&e).position(|(&n, &e)| n != e && !(nan(n) && nan(e)));
        if let Some(at) = differs {
            panic!("{name}: word {at} of buffer {i} is {:#x}, emulated {:#x}", n[at], e[at]);
        }
    }
}
