use lighterage_device::Isa;

/// Runs `body`, compiled for the instructions of a path. The closure and what it calls must be `#[inline(always)]`: what is called
/// and not inlined is compiled for every machine.
///
/// Wider instructions change no bit of a result: nothing here is reordered or fused by the compiler, and `math` adds up in sixteen lanes on every path.
#[inline(always)]
pub(crate) fn compiled_for(isa: Isa, body: impl FnOnce()) {
    #[cfg(target_arch = "x86_64")]
    match isa {
        // SAFETY: `Workers::new` refuses a path that this machine lacks.
        Isa::Avx512 | Isa::Avx512Bf16 => unsafe { avx512(body) },
        // SAFETY: as above.
        Isa::Avx2 => unsafe { avx2(body) },
        Isa::Portable => body(),
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = isa;
        body();
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512(body: impl FnOnce()) {
    body();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(body: impl FnOnce()) {
    body();
}
