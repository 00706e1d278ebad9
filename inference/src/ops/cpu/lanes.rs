//! Sixteen 32-bit floats at once, on each instruction set.
//!
//! Kernels over floats are written once, generic over [`Lanes`], and compiled per instruction set
//! inside a function with the target features; everything here is inlined into that.

#![expect(unsafe_code, reason = "SIMD intrinsics behind one interface")]

use half::f16;

use super::InstructionSet;

/// Number of lanes.
pub(super) const LANES: usize = 16;

/// A computation over [`Lanes`].
pub(super) trait Kernel {
    /// Computes it. To be inlined, so that it is compiled with the features of the caller.
    ///
    /// # Safety
    /// The CPU has the instructions of `L`, besides what the kernel itself demands.
    unsafe fn run<L: Lanes>(self);
}

/// Runs a kernel with the given instructions.
///
/// # Safety
/// The CPU has them, and the kernel's own demands are met.
pub(super) unsafe fn dispatch(set: InstructionSet, kernel: impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn avx2(kernel: impl Kernel) {
        // SAFETY: the features are this function's; its caller answers for the rest.
        unsafe { kernel.run::<Avx2>() }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
    fn avx512(kernel: impl Kernel) {
        // SAFETY: as above.
        unsafe { kernel.run::<Avx512>() }
    }
    // SAFETY: the caller's promises.
    unsafe {
        match set {
            InstructionSet::Portable => kernel.run::<Portable>(),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => avx2(kernel),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512Vnni => avx512(kernel),
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("not available here"),
        }
    }
}

/// A register, or a pair, of sixteen floats.
///
/// # Safety
/// All functions need a CPU with the implementation's instructions; those that take pointers need
/// sixteen values there.
pub(super) trait Lanes: Copy {
    /// Query rows that attention can keep in registers at once.
    const ROWS_MAX: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn load_half(from: *const f16) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Rounds to the nearest; what is too large becomes infinite.
    unsafe fn store_half(self, to: *mut f16);
    /// Rounds to the nearest integers. They are within 16 bits.
    unsafe fn store_shorts(self, to: *mut i16);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    /// `self · factor + addend`.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// To the nearest integer.
    unsafe fn round(self) -> Self;
    /// `self · 2ⁿ` for integers −126 to 127 in `exponent`.
    unsafe fn scale_by_power(self, exponent: Self) -> Self;
    unsafe fn sum(self) -> f32;
    unsafe fn largest(self) -> f32;
}

/// `eˣ`, to a relative error of about 2⁻²³. Below −87 it is not 0 but the smallest normal numbers.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub(super) unsafe fn exp<L: Lanes>(x: L) -> L {
    /// ln 2 in two parts; the first has few enough bits for its multiples to be exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    /// Taylor's 1/n! from n = 7 on: enough for |r| ≤ ln 2 / 2.
    const COEFFICIENTS: [f32; 8] = [
        1.0 / 5040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    // SAFETY: the caller's promise.
    unsafe {
        let x = x.max(L::splat(-87.0)).min(L::splat(88.0));
        let power = x.mul(L::splat(std::f32::consts::LOG2_E)).round();
        let rest = power.mul_add(L::splat(-LN_2[0]), x);
        let rest = power.mul_add(L::splat(-LN_2[1]), rest);
        let mut value = L::splat(COEFFICIENTS[0]);
        for coefficient in &COEFFICIENTS[1..] {
            value = value.mul_add(rest, L::splat(*coefficient));
        }
        value.scale_by_power(power)
    }
}

/// Plain Rust, for the compiler to make the best of.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn each(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|lane| f(self.0[lane], other.0[lane])))
    }
}

// SAFETY: the callers of all these promise sixteen values at pointers.
impl Lanes for Portable {
    const ROWS_MAX: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: sixteen values are there, says the caller.
        Self(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_half(from: *const f16) -> Self {
        // SAFETY: as above.
        let halves = unsafe { from.cast::<[f16; LANES]>().read_unaligned() };
        Self(halves.map(f16::to_f32))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_half(self, to: *mut f16) {
        let halves = self.0.map(f16::from_f32);
        // SAFETY: as above.
        unsafe { to.cast::<[f16; LANES]>().write_unaligned(halves) }
    }
    #[inline(always)]
    unsafe fn store_shorts(self, to: *mut i16) {
        let shorts = self.0.map(|value| value.round_ties_even() as i16);
        // SAFETY: as above.
        unsafe { to.cast::<[i16; LANES]>().write_unaligned(shorts) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.each(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.each(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.each(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.each(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.each(other, f32::min)
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.each(other, f32::max)
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(std::array::from_fn(|lane| {
            self.0[lane] * factor.0[lane] + addend.0[lane]
        }))
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(self.0.map(f32::round_ties_even))
    }
    #[inline(always)]
    unsafe fn scale_by_power(self, exponent: Self) -> Self {
        self.each(exponent, |value, exponent| {
            value * f32::from_bits((127 + exponent as i32).cast_unsigned() << 23)
        })
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.0.iter().sum()
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LANES, Lanes, f16};

    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    /// Conversions to 16 bits have no place for the second flag.
    const NEAREST_HALF: i32 = _MM_FROUND_TO_NEAREST_INT;

    /// Two registers of eight.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2([__m256; 2]);

    /// One register.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(__m512);

    macro_rules! by_halves {
        ($($name:ident = $intrinsic:ident),* $(,)?) => {$(
            // SAFETY: the CPU has AVX2, says the caller.
            #[inline(always)]
            unsafe fn $name(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe {
                    Self([
                        $intrinsic(self.0[0], other.0[0]),
                        $intrinsic(self.0[1], other.0[1]),
                    ])
                }
            }
        )*};
    }

    macro_rules! whole {
        ($($name:ident = $intrinsic:ident),* $(,)?) => {$(
            #[inline(always)]
            unsafe fn $name(self, other: Self) -> Self {
                // SAFETY: the CPU has AVX-512, says the caller.
                unsafe { Self($intrinsic(self.0, other.0)) }
            }
        )*};
    }

    // SAFETY: the callers of all these promise the instructions, and sixteen values at pointers.
    impl Lanes for Avx2 {
        const ROWS_MAX: usize = 4;

        by_halves! {
            add = _mm256_add_ps, sub = _mm256_sub_ps, mul = _mm256_mul_ps, div = _mm256_div_ps,
            min = _mm256_min_ps, max = _mm256_max_ps,
        }

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: see above.
            unsafe { Self([_mm256_set1_ps(value); 2]) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: see above.
            unsafe { Self([_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))]) }
        }
        #[inline(always)]
        unsafe fn load_half(from: *const f16) -> Self {
            // SAFETY: see above.
            unsafe {
                let from = from.cast::<__m128i>();
                Self([
                    _mm256_cvtph_ps(_mm_loadu_si128(from)),
                    _mm256_cvtph_ps(_mm_loadu_si128(from.add(1))),
                ])
            }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: see above.
            unsafe {
                _mm256_storeu_ps(to, self.0[0]);
                _mm256_storeu_ps(to.add(8), self.0[1]);
            }
        }
        #[inline(always)]
        unsafe fn store_half(self, to: *mut f16) {
            // SAFETY: see above.
            unsafe {
                let to = to.cast::<__m128i>();
                _mm_storeu_si128(to, _mm256_cvtps_ph::<NEAREST_HALF>(self.0[0]));
                _mm_storeu_si128(to.add(1), _mm256_cvtps_ph::<NEAREST_HALF>(self.0[1]));
            }
        }
        #[inline(always)]
        unsafe fn store_shorts(self, to: *mut i16) {
            // SAFETY: see above.
            unsafe {
                let [low, high] = self.0;
                let packed = _mm256_packs_epi32(_mm256_cvtps_epi32(low), _mm256_cvtps_epi32(high));
                // Packing interleaves the halves' quarters; this puts them in order.
                let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
                _mm256_storeu_si256(to.cast(), ordered);
            }
        }
        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
            // SAFETY: see above.
            unsafe {
                Self([
                    _mm256_fmadd_ps(self.0[0], factor.0[0], addend.0[0]),
                    _mm256_fmadd_ps(self.0[1], factor.0[1], addend.0[1]),
                ])
            }
        }
        #[inline(always)]
        unsafe fn round(self) -> Self {
            // SAFETY: see above.
            unsafe {
                Self([
                    _mm256_round_ps::<NEAREST>(self.0[0]),
                    _mm256_round_ps::<NEAREST>(self.0[1]),
                ])
            }
        }
        #[inline(always)]
        unsafe fn scale_by_power(self, exponent: Self) -> Self {
            // SAFETY: see above.
            unsafe {
                let bias = _mm256_set1_epi32(127);
                let [low, high] = exponent.0;
                let low = _mm256_add_epi32(_mm256_cvtps_epi32(low), bias);
                let high = _mm256_add_epi32(_mm256_cvtps_epi32(high), bias);
                self.mul(Self([
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high)),
                ]))
            }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: see above.
            unsafe {
                let four = _mm256_add_ps(self.0[0], self.0[1]);
                let four = _mm_add_ps(
                    _mm256_castps256_ps128(four),
                    _mm256_extractf128_ps::<1>(four),
                );
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            }
        }
        #[inline(always)]
        unsafe fn largest(self) -> f32 {
            // SAFETY: see above.
            unsafe {
                let four = _mm256_max_ps(self.0[0], self.0[1]);
                let four = _mm_max_ps(
                    _mm256_castps256_ps128(four),
                    _mm256_extractf128_ps::<1>(four),
                );
                let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
            }
        }
    }

    // SAFETY: as above.
    impl Lanes for Avx512 {
        const ROWS_MAX: usize = 8;

        whole! {
            add = _mm512_add_ps, sub = _mm512_sub_ps, mul = _mm512_mul_ps, div = _mm512_div_ps,
            min = _mm512_min_ps, max = _mm512_max_ps, scale_by_power = _mm512_scalef_ps,
        }

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm512_set1_ps(value)) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm512_loadu_ps(from)) }
        }
        #[inline(always)]
        unsafe fn load_half(from: *const f16) -> Self {
            const { assert!(LANES * size_of::<f16>() == size_of::<__m256i>()) }
            // SAFETY: see above.
            unsafe { Self(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn store_half(self, to: *mut f16) {
            // SAFETY: see above.
            unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<NEAREST_HALF>(self.0)) }
        }
        #[inline(always)]
        unsafe fn store_shorts(self, to: *mut i16) {
            // SAFETY: see above.
            unsafe {
                let integers = _mm512_cvtps_epi32(self.0);
                _mm256_storeu_si256(to.cast(), _mm512_cvtsepi32_epi16(integers));
            }
        }
        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm512_fmadd_ps(self.0, factor.0, addend.0)) }
        }
        #[inline(always)]
        unsafe fn round(self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm512_roundscale_ps::<NEAREST>(self.0)) }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: see above.
            unsafe { _mm512_reduce_add_ps(self.0) }
        }
        #[inline(always)]
        unsafe fn largest(self) -> f32 {
            // SAFETY: see above.
            unsafe { _mm512_reduce_max_ps(self.0) }
        }
    }
}
