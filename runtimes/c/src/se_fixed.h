/* The numeric rules of the core, all in one place. docs/numerics.md explains each of them.
 *
 * Integers are two's complement and `>>` of a negative value is arithmetic; both are checked at
 * compile time below and hold on every compiler this core is meant for. */
#ifndef SE_FIXED_H
#define SE_FIXED_H

#include <stdint.h>
#if defined(__ARM_FEATURE_SAT) && !defined(__aarch64__)
#include <arm_acle.h>
#endif

typedef char se_assert_arithmetic_shift[(-1 >> 1) == -1 ? 1 : -1];

#define SE_Q31_ONE INT32_MAX           /* +1.0; se_rdm(a, SE_Q31_ONE) == a for |a| <= 2^30 */
#define SE_OLA_FRACTION 12             /* fraction bits of the overlap-add accumulator */
#define SE_OLA_MAX ((1 << 30) - 1)     /* it saturates here, 18 dB above int16 full scale */
#define SE_LOG_ONE (1 << 24)           /* log2 values are Q24 */

static inline int32_t se_sra(int32_t v, int n) { return v >> n; }

static inline int32_t se_min(int32_t a, int32_t b) { return a < b ? a : b; }
static inline int32_t se_max(int32_t a, int32_t b) { return a > b ? a : b; }
static inline int32_t se_clamp(int32_t v, int32_t lo, int32_t hi) { return se_min(se_max(v, lo), hi); }

/* Before a short loop: in-order cores spend a third of it on counting. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__arm__)
#define SE_UNROLL _Pragma("GCC unroll 8")
#else
#define SE_UNROLL
#endif

/* Saturate to 16 and to 31 bits: one instruction on ARM. */
#if defined(__ARM_FEATURE_SAT) && !defined(__aarch64__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion" /* inside the compiler's own macro */
static inline int32_t se_sat16(int32_t v) { return __ssat(v, 16); }
static inline int32_t se_sat31(int32_t v) { return __ssat(v, 31); }
#pragma GCC diagnostic pop
#else
static inline int32_t se_sat16(int32_t v) { return se_clamp(v, INT16_MIN, INT16_MAX); }
static inline int32_t se_sat31(int32_t v) { return se_clamp(v, -(1 << 30), (1 << 30) - 1); }
#endif

/* Additions that may wrap in lanes nobody reads; plain `+` would be undefined there. */
static inline int32_t se_add(int32_t a, int32_t b) { return (int32_t)((uint32_t)a + (uint32_t)b); }
static inline int32_t se_sub(int32_t a, int32_t b) { return (int32_t)((uint32_t)a - (uint32_t)b); }
static inline int32_t se_shl(int32_t v, int n) { return (int32_t)((uint32_t)v << n); }

/* |v| as unsigned, right for INT32_MIN too. */
static inline uint32_t se_abs(int32_t v) { return v < 0 ? 0u - (uint32_t)v : (uint32_t)v; }

/* rdm(a, w) = (a*w + 2^30) >> 31, any int32 a. */
static inline int32_t se_rdm_any(int32_t a, int32_t w) {
    return (int32_t)(((int64_t)a * w + (1 << 30)) >> 31);
}

/* The same for |a| < 2^30; one instruction on cores with SMMULR. */
static inline int32_t se_rdm(int32_t a, int32_t w) {
#if defined(__GNUC__) && defined(__ARM_FEATURE_DSP) && !defined(__aarch64__)
    int32_t r;
    __asm__("smmulr %0, %1, %2" : "=r"(r) : "r"(se_shl(a, 1)), "r"(w));
    return r;
#else
    return se_rdm_any(a, w);
#endif
}

/* Rounding right shift, half up, 0 <= s <= 31. */
static inline int32_t se_rsh(int32_t v, int s) { return s == 0 ? v : (se_sra(v, s - 1) + 1) >> 1; }

/* Bits needed for v: 0 for 0, else floor(log2 v) + 1. */
static inline int se_bitlen32(uint32_t v) {
#if defined(__GNUC__)
    return v == 0 ? 0 : 32 - __builtin_clz(v);
#else
    int n = 0;
    for (int step = 16; step > 0; step >>= 1) {
        if (v >> step) {
            v >>= step;
            n += step;
        }
    }
    return n + (int)v;
#endif
}

static inline int se_bitlen64(uint64_t v) {
    const uint32_t high = (uint32_t)(v >> 32);
    return high ? 32 + se_bitlen32(high) : se_bitlen32((uint32_t)v);
}

#endif
