//! Which instructions this process may use: from CPUID and the register state that the system saves, never from a name.

/// The features of a CPU, by LLVM's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features(Vec<&'static str>);

impl Features {
    /// What this CPU and system offer. Asks for AMX tile state, for the whole process, where there is one:
    /// call before starting threads that use tiles.
    pub fn detect() -> Features {
        Features(detect())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains(&name)
    }

    /// The names, sorted.
    pub fn names(&self) -> &[&'static str] {
        &self.0
    }

    /// Those of `wanted` that are missing.
    pub fn missing<'a>(&self, wanted: &'a [String]) -> Vec<&'a str> {
        wanted.iter().map(String::as_str).filter(|w| !self.has(w)).collect()
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Vec<&'static str> {
    use std::arch::x86_64::__cpuid_count;
    // `__cpuid_count` is unsafe in some versions of core::arch and safe in others.
    #[allow(unused_unsafe)]
    // SAFETY: every x86-64 CPU has the instruction.
    let cpuid = |leaf, sub| unsafe { __cpuid_count(leaf, sub) };
    let top = cpuid(0, 0).eax;
    let (one, seven, seven1) =
        (leaf(true, || cpuid(1, 0)), leaf(top >= 7, || cpuid(7, 0)), leaf(top >= 7, || cpuid(7, 1)));
    let extended = leaf(cpuid(0x8000_0000, 0).eax >= 0x8000_0001, || cpuid(0x8000_0001, 0));
    let amx1 = leaf(top >= 0x1e, || cpuid(0x1e, 1));
    // XCR0 says which registers the system saves when it switches threads.
    let xcr0 = if one[2] >> 27 & 1 == 1 { xcr0() } else { 0 };
    let ymm = xcr0 & 0x6 == 0x6;
    let zmm = ymm && xcr0 & 0xe0 == 0xe0;
    let tiles = xcr0 & 0x6_0000 == 0x6_0000 && seven[3] >> 24 & 1 == 1 && request_tiles();
    let table: [(&'static str, u32, u32, bool); 45] = [
        ("amx-bf16", seven[3], 22, tiles),
        ("amx-fp16", seven1[0], 21, tiles),
        ("amx-fp8", amx1[0], 4, tiles),
        ("amx-int8", seven[3], 25, tiles),
        ("amx-tile", seven[3], 24, tiles),
        ("avx", one[2], 28, ymm),
        ("avx2", seven[1], 5, ymm),
        ("avx512bf16", seven1[0], 5, zmm),
        ("avx512bitalg", seven[2], 12, zmm),
        ("avx512bw", seven[1], 30, zmm),
        ("avx512cd", seven[1], 28, zmm),
        ("avx512dq", seven[1], 17, zmm),
        ("avx512f", seven[1], 16, zmm),
        ("avx512fp16", seven[3], 23, zmm),
        ("avx512ifma", seven[1], 21, zmm),
        ("avx512vbmi", seven[2], 1, zmm),
        ("avx512vbmi2", seven[2], 6, zmm),
        ("avx512vl", seven[1], 31, zmm),
        ("avx512vnni", seven[2], 11, zmm),
        ("avx512vpopcntdq", seven[2], 14, zmm),
        ("avxifma", seven1[0], 23, ymm),
        ("avxneconvert", seven1[3], 5, ymm),
        ("avxvnni", seven1[0], 4, ymm),
        ("avxvnniint8", seven1[3], 4, ymm),
        ("bmi", seven[1], 3, true),
        ("bmi2", seven[1], 8, true),
        ("cmov", one[3], 15, true),
        ("cx16", one[2], 13, true),
        ("cx8", one[3], 8, true),
        ("f16c", one[2], 29, ymm),
        ("fma", one[2], 12, ymm),
        ("fxsr", one[3], 24, true),
        ("gfni", seven[2], 8, true),
        ("lzcnt", extended[2], 5, true),
        ("mmx", one[3], 23, true),
        ("movbe", one[2], 22, true),
        ("popcnt", one[2], 23, true),
        ("sahf", extended[2], 0, true),
        ("sse", one[3], 25, true),
        ("sse2", one[3], 26, true),
        ("sse3", one[2], 0, true),
        ("sse4.1", one[2], 19, true),
        ("sse4.2", one[2], 20, true),
        ("ssse3", one[2], 9, true),
        ("xsave", one[2], 26, true),
    ];
    table.into_iter().filter(|&(_, word, bit, saved)| saved && word >> bit & 1 == 1).map(|(name, ..)| name).collect()
}

#[cfg(target_arch = "x86_64")]
fn leaf(present: bool, read: impl Fn() -> std::arch::x86_64::CpuidResult) -> [u32; 4] {
    if !present {
        return [0; 4];
    }
    let r = read();
    [r.eax, r.ebx, r.ecx, r.edx]
}

#[cfg(target_arch = "x86_64")]
fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller has seen OSXSAVE, which allows the instruction.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Linux saves tile registers only for processes that asked; without that the first tile instruction is fatal.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn request_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XTILEDATA: libc::c_long = 18;
    // SAFETY: a request that takes two numbers and changes no memory.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0 }
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn request_tiles() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_standard_library() {
        let f = Features::detect();
        for (name, std) in [
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("bmi2", is_x86_feature_detected!("bmi2")),
            ("lzcnt", is_x86_feature_detected!("lzcnt")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ] {
            assert_eq!(f.has(name), std, "{name}");
        }
        assert!(f.names().is_sorted());
        assert_eq!(f.missing(&["no-such-feature".into()]), ["no-such-feature"]);
    }
}
