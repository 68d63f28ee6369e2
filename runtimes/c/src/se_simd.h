/* One vector type and its operations, four spellings: AVX2 (8 lanes), SSE4.1 (4), NEON (4) and
 * plain C (1). Every operation gives the same bits in every spelling. A kernel file defines
 * SE_ISA_AVX2, SE_ISA_SSE41 or SE_ISA_NEON, or nothing, before including this header.
 *
 *   vi                       VL lanes of int32
 *   vt                       a Q31 factor, prepared for vi_rdm
 *   vi_rdm(a, w)             (a*w + 2^30) >> 31, |a| < 2^30
 *   vi_rdm_any(a, w)         the same for any a
 *   vi_rshv(v, s)            rounding right shift, lane by lane, 0 <= s <= 31
 *   vi_bitlen(v)             bits of a value >= 0
 *   vi_window(x, w, e)       (x*w + 2^(30-e)) >> (31-e), 1 <= e <= 30
 *   vi_muls(a, m, h, s)      (a*m + h) >> s of unsigned 32-bit a, m; the result fits in 32 bits
 */
#ifndef SE_SIMD_H
#define SE_SIMD_H

#include "se_fixed.h"

#if defined(SE_ISA_AVX2)
#include <immintrin.h>
#define VL 8
typedef __m256i vi;
typedef struct { __m256i even, odd; } vt;

static inline vi vi_load(const int32_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }
static inline void vi_store(int32_t *p, vi v) { _mm256_storeu_si256((__m256i *)(void *)p, v); }
static inline vi vi_set(int32_t x) { return _mm256_set1_epi32(x); }
static inline vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
static inline vi vi_sub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
static inline vi vi_mul(vi a, vi b) { return _mm256_mullo_epi32(a, b); }
static inline vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
static inline vi vi_andnot(vi mask, vi b) { return _mm256_andnot_si256(mask, b); }
static inline vi vi_or(vi a, vi b) { return _mm256_or_si256(a, b); }
static inline vi vi_min(vi a, vi b) { return _mm256_min_epi32(a, b); }
static inline vi vi_max(vi a, vi b) { return _mm256_max_epi32(a, b); }
static inline vi vi_abs(vi a) { return _mm256_abs_epi32(a); }
static inline vi vi_eq(vi a, vi b) { return _mm256_cmpeq_epi32(a, b); }
static inline vi vi_select(vi mask, vi a, vi b) { return _mm256_blendv_epi8(b, a, mask); }
static inline vi vi_sra(vi v, int n) { return _mm256_sra_epi32(v, _mm_cvtsi32_si128(n)); }
static inline vi vi_srl(vi v, int n) { return _mm256_srl_epi32(v, _mm_cvtsi32_si128(n)); }
static inline vi vi_sll(vi v, int n) { return _mm256_sll_epi32(v, _mm_cvtsi32_si128(n)); }
static inline vi vi_sllv(vi v, vi s) { return _mm256_sllv_epi32(v, s); }
static inline vi vi_srlv(vi v, vi s) { return _mm256_srlv_epi32(v, s); }
static inline vi vi_gather(const int32_t *t, vi i) { return _mm256_i32gather_epi32((const int *)t, i, 4); }
static inline vi vi_rev(vi v) { return _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0)); }

static inline vi vi_rshv(vi v, vi s) {
    const vi zero = _mm256_setzero_si256(), one = vi_set(1);
    const vi t = _mm256_srav_epi32(v, vi_max(vi_sub(s, one), zero));
    return vi_select(vi_eq(s, zero), v, _mm256_srai_epi32(vi_add(t, one), 1));
}
static inline vi vi_bitlen(vi v) {
    /* clearing the bit below the leading one keeps the conversion from rounding up */
    const vi lead = vi_andnot(_mm256_srli_epi32(v, 1), v);
    const vi bits = _mm256_castps_si256(_mm256_cvtepi32_ps(lead));
    return vi_max(vi_sub(_mm256_srli_epi32(bits, 23), vi_set(126)), _mm256_setzero_si256());
}

static inline vt vt_load(const int32_t *p) {
    vt t;
    t.even = vi_load(p);
    t.odd = vi_load(p + 1); /* lanes 1, 3, 5, 7 moved down */
    return t;
}
static inline vt vt_pair(const int32_t *p) { /* neighbours are equal: no move needed */
    vt t;
    t.even = vi_load(p);
    t.odd = t.even;
    return t;
}
static inline vt vt_set(int32_t w) {
    vt t;
    t.even = vi_set(w);
    t.odd = t.even;
    return t;
}
static inline vt vt_of(vi w) {
    vt t;
    t.even = w;
    t.odd = _mm256_srli_epi64(w, 32);
    return t;
}
static inline vi vi_rdm(vi a, vt w) {
    const __m256i half = _mm256_set1_epi64x(1LL << 31);
    const vi a2 = _mm256_add_epi32(a, a); /* the product's high word is then the result */
    const vi even = _mm256_add_epi64(_mm256_mul_epi32(a2, w.even), half);
    const vi odd = _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(a2, 32), w.odd), half);
    return _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
}
static inline vi vi_rdm_any(vi a, vt w) {
    const __m256i half = _mm256_set1_epi64x(1LL << 30);
    const vi even = _mm256_add_epi64(_mm256_mul_epi32(a, w.even), half);
    const vi odd = _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(a, 32), w.odd), half);
    return _mm256_blend_epi32(_mm256_srli_epi64(even, 31), _mm256_slli_epi64(odd, 1), 0xAA);
}
static inline vi vi_window(vi x, vi w, int e) {
    const __m256i half = _mm256_set1_epi64x(1LL << (30 - e));
    const vi even = _mm256_add_epi64(_mm256_mul_epi32(x, w), half);
    const vi odd = _mm256_add_epi64(
        _mm256_mul_epi32(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(w, 32)), half);
    return _mm256_blend_epi32(_mm256_srl_epi64(even, _mm_cvtsi32_si128(31 - e)),
                              _mm256_sll_epi64(odd, _mm_cvtsi32_si128(1 + e)), 0xAA);
}
static inline vi vi_muls(vi a, uint32_t m, uint64_t h, int s) {
    const __m256i mm = _mm256_set1_epi64x((long long)m), hh = _mm256_set1_epi64x((long long)h);
    const __m128i n = _mm_cvtsi32_si128(s);
    const vi even = _mm256_srl_epi64(_mm256_add_epi64(_mm256_mul_epu32(a, mm), hh), n);
    const vi odd = _mm256_srl_epi64(
        _mm256_add_epi64(_mm256_mul_epu32(_mm256_srli_epi64(a, 32), mm), hh), n);
    return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}
static inline void vi_load_pairs(const int16_t *x, vi *even, vi *odd) {
    const vi v = _mm256_loadu_si256((const __m256i *)(const void *)x);
    *even = _mm256_srai_epi32(_mm256_slli_epi32(v, 16), 16);
    *odd = _mm256_srai_epi32(v, 16);
}
static inline void vi_unzip(vi first, vi second, vi *even, vi *odd) {
    const __m256 a = _mm256_castsi256_ps(first), b = _mm256_castsi256_ps(second);
    *even = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88)), 0xD8);
    *odd = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xDD)), 0xD8);
}
static inline void vi_zip(vi a, vi b, vi *first, vi *second) {
    const vi lo = _mm256_unpacklo_epi32(a, b), hi = _mm256_unpackhi_epi32(a, b);
    *first = _mm256_permute2x128_si256(lo, hi, 0x20);
    *second = _mm256_permute2x128_si256(lo, hi, 0x31);
}
static inline void vi_store4(int32_t *y, vi a, vi b, vi c, vi d) {
    const vi ab0 = _mm256_unpacklo_epi32(a, b), ab1 = _mm256_unpackhi_epi32(a, b);
    const vi cd0 = _mm256_unpacklo_epi32(c, d), cd1 = _mm256_unpackhi_epi32(c, d);
    const vi r0 = _mm256_unpacklo_epi64(ab0, cd0), r1 = _mm256_unpackhi_epi64(ab0, cd0);
    const vi r2 = _mm256_unpacklo_epi64(ab1, cd1), r3 = _mm256_unpackhi_epi64(ab1, cd1);
    vi_store(y, _mm256_permute2x128_si256(r0, r1, 0x20));
    vi_store(y + 8, _mm256_permute2x128_si256(r2, r3, 0x20));
    vi_store(y + 16, _mm256_permute2x128_si256(r0, r1, 0x31));
    vi_store(y + 24, _mm256_permute2x128_si256(r2, r3, 0x31));
}
static inline void vi_store_halves(int32_t *low, int32_t *high, vi v) {
    _mm_storeu_si128((__m128i *)(void *)low, _mm256_castsi256_si128(v));
    _mm_storeu_si128((__m128i *)(void *)high, _mm256_extracti128_si256(v, 1));
}

#elif defined(SE_ISA_SSE41)
#include <smmintrin.h>
#define VL 4
typedef __m128i vi;
typedef struct { __m128i even, odd; } vt;

static inline vi vi_load(const int32_t *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }
static inline void vi_store(int32_t *p, vi v) { _mm_storeu_si128((__m128i *)(void *)p, v); }
static inline vi vi_set(int32_t x) { return _mm_set1_epi32(x); }
static inline vi vi_add(vi a, vi b) { return _mm_add_epi32(a, b); }
static inline vi vi_sub(vi a, vi b) { return _mm_sub_epi32(a, b); }
static inline vi vi_mul(vi a, vi b) { return _mm_mullo_epi32(a, b); }
static inline vi vi_and(vi a, vi b) { return _mm_and_si128(a, b); }
static inline vi vi_andnot(vi mask, vi b) { return _mm_andnot_si128(mask, b); }
static inline vi vi_or(vi a, vi b) { return _mm_or_si128(a, b); }
static inline vi vi_min(vi a, vi b) { return _mm_min_epi32(a, b); }
static inline vi vi_max(vi a, vi b) { return _mm_max_epi32(a, b); }
static inline vi vi_abs(vi a) { return _mm_abs_epi32(a); }
static inline vi vi_eq(vi a, vi b) { return _mm_cmpeq_epi32(a, b); }
static inline vi vi_select(vi mask, vi a, vi b) { return _mm_blendv_epi8(b, a, mask); }
static inline vi vi_sra(vi v, int n) { return _mm_sra_epi32(v, _mm_cvtsi32_si128(n)); }
static inline vi vi_srl(vi v, int n) { return _mm_srl_epi32(v, _mm_cvtsi32_si128(n)); }
static inline vi vi_sll(vi v, int n) { return _mm_sll_epi32(v, _mm_cvtsi32_si128(n)); }
static inline vi vi_rev(vi v) { return _mm_shuffle_epi32(v, 0x1B); }

/* SSE has no shifts by lane and no gather: through memory. */
#define SE_LANES(expression)                                        \
    int32_t a[4], b[4];                                             \
    vi_store(a, v);                                                 \
    vi_store(b, s);                                                 \
    for (int i = 0; i < 4; i++) a[i] = (expression);                \
    return vi_load(a)
static inline vi vi_sllv(vi v, vi s) { SE_LANES(se_shl(a[i], b[i])); }
static inline vi vi_srlv(vi v, vi s) { SE_LANES((int32_t)((uint32_t)a[i] >> b[i])); }
static inline vi vi_rshv(vi v, vi s) { SE_LANES(se_rsh(a[i], b[i])); }
#undef SE_LANES
static inline vi vi_gather(const int32_t *t, vi i) {
    return _mm_setr_epi32(t[_mm_extract_epi32(i, 0)], t[_mm_extract_epi32(i, 1)],
                          t[_mm_extract_epi32(i, 2)], t[_mm_extract_epi32(i, 3)]);
}
static inline vi vi_bitlen(vi v) {
    const vi lead = vi_andnot(_mm_srli_epi32(v, 1), v);
    const vi bits = _mm_castps_si128(_mm_cvtepi32_ps(lead));
    return vi_max(vi_sub(_mm_srli_epi32(bits, 23), vi_set(126)), _mm_setzero_si128());
}
static inline vt vt_load(const int32_t *p) {
    vt t;
    t.even = vi_load(p);
    t.odd = vi_load(p + 1);
    return t;
}
static inline vt vt_set(int32_t w) {
    vt t;
    t.even = vi_set(w);
    t.odd = t.even;
    return t;
}
static inline vt vt_of(vi w) {
    vt t;
    t.even = w;
    t.odd = _mm_srli_epi64(w, 32);
    return t;
}
static inline vi vi_rdm(vi a, vt w) {
    const __m128i half = _mm_set1_epi64x(1LL << 31);
    const vi a2 = _mm_add_epi32(a, a);
    const vi even = _mm_add_epi64(_mm_mul_epi32(a2, w.even), half);
    const vi odd = _mm_add_epi64(_mm_mul_epi32(_mm_srli_epi64(a2, 32), w.odd), half);
    return _mm_blend_epi16(_mm_srli_epi64(even, 32), odd, 0xCC);
}
static inline vi vi_rdm_any(vi a, vt w) {
    const __m128i half = _mm_set1_epi64x(1LL << 30);
    const vi even = _mm_add_epi64(_mm_mul_epi32(a, w.even), half);
    const vi odd = _mm_add_epi64(_mm_mul_epi32(_mm_srli_epi64(a, 32), w.odd), half);
    return _mm_blend_epi16(_mm_srli_epi64(even, 31), _mm_slli_epi64(odd, 1), 0xCC);
}
static inline vi vi_window(vi x, vi w, int e) {
    const __m128i half = _mm_set1_epi64x(1LL << (30 - e));
    const vi even = _mm_add_epi64(_mm_mul_epi32(x, w), half);
    const vi odd =
        _mm_add_epi64(_mm_mul_epi32(_mm_srli_epi64(x, 32), _mm_srli_epi64(w, 32)), half);
    return _mm_blend_epi16(_mm_srl_epi64(even, _mm_cvtsi32_si128(31 - e)),
                           _mm_sll_epi64(odd, _mm_cvtsi32_si128(1 + e)), 0xCC);
}
static inline vi vi_muls(vi a, uint32_t m, uint64_t h, int s) {
    const __m128i mm = _mm_set1_epi64x((long long)m), hh = _mm_set1_epi64x((long long)h);
    const __m128i n = _mm_cvtsi32_si128(s);
    const vi even = _mm_srl_epi64(_mm_add_epi64(_mm_mul_epu32(a, mm), hh), n);
    const vi odd = _mm_srl_epi64(_mm_add_epi64(_mm_mul_epu32(_mm_srli_epi64(a, 32), mm), hh), n);
    return _mm_blend_epi16(even, _mm_slli_epi64(odd, 32), 0xCC);
}
static inline void vi_load_pairs(const int16_t *x, vi *even, vi *odd) {
    const vi v = _mm_loadu_si128((const __m128i *)(const void *)x);
    *even = _mm_srai_epi32(_mm_slli_epi32(v, 16), 16);
    *odd = _mm_srai_epi32(v, 16);
}
static inline void vi_unzip(vi first, vi second, vi *even, vi *odd) {
    const __m128 a = _mm_castsi128_ps(first), b = _mm_castsi128_ps(second);
    *even = _mm_castps_si128(_mm_shuffle_ps(a, b, 0x88));
    *odd = _mm_castps_si128(_mm_shuffle_ps(a, b, 0xDD));
}
static inline void vi_zip(vi a, vi b, vi *first, vi *second) {
    *first = _mm_unpacklo_epi32(a, b);
    *second = _mm_unpackhi_epi32(a, b);
}
static inline void vi_store4(int32_t *y, vi a, vi b, vi c, vi d) {
    const vi ab0 = _mm_unpacklo_epi32(a, b), ab1 = _mm_unpackhi_epi32(a, b);
    const vi cd0 = _mm_unpacklo_epi32(c, d), cd1 = _mm_unpackhi_epi32(c, d);
    vi_store(y, _mm_unpacklo_epi64(ab0, cd0));
    vi_store(y + 4, _mm_unpackhi_epi64(ab0, cd0));
    vi_store(y + 8, _mm_unpacklo_epi64(ab1, cd1));
    vi_store(y + 12, _mm_unpackhi_epi64(ab1, cd1));
}

#elif defined(SE_ISA_NEON)
#include <arm_neon.h>
#define VL 4
typedef int32x4_t vi;
typedef int32x4_t vt;

static inline vi vi_load(const int32_t *p) { return vld1q_s32(p); }
static inline void vi_store(int32_t *p, vi v) { vst1q_s32(p, v); }
static inline vi vi_set(int32_t x) { return vdupq_n_s32(x); }
static inline vi vi_add(vi a, vi b) { return vaddq_s32(a, b); }
static inline vi vi_sub(vi a, vi b) { return vsubq_s32(a, b); }
static inline vi vi_mul(vi a, vi b) { return vmulq_s32(a, b); }
static inline vi vi_and(vi a, vi b) { return vandq_s32(a, b); }
static inline vi vi_andnot(vi mask, vi b) { return vbicq_s32(b, mask); }
static inline vi vi_or(vi a, vi b) { return vorrq_s32(a, b); }
static inline vi vi_min(vi a, vi b) { return vminq_s32(a, b); }
static inline vi vi_max(vi a, vi b) { return vmaxq_s32(a, b); }
static inline vi vi_abs(vi a) { return vabsq_s32(a); }
static inline vi vi_eq(vi a, vi b) { return vreinterpretq_s32_u32(vceqq_s32(a, b)); }
static inline vi vi_select(vi mask, vi a, vi b) { return vbslq_s32(vreinterpretq_u32_s32(mask), a, b); }
static inline vi vi_sra(vi v, int n) { return vshlq_s32(v, vdupq_n_s32(-n)); }
static inline vi vi_srl(vi v, int n) {
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(v), vdupq_n_s32(-n)));
}
static inline vi vi_sll(vi v, int n) { return vshlq_s32(v, vdupq_n_s32(n)); }
static inline vi vi_sllv(vi v, vi s) { return vshlq_s32(v, s); }
static inline vi vi_srlv(vi v, vi s) {
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(v), vnegq_s32(s)));
}
static inline vi vi_rshv(vi v, vi s) { return vrshlq_s32(v, vnegq_s32(s)); }
static inline vi vi_bitlen(vi v) { return vsubq_s32(vdupq_n_s32(32), vclzq_s32(v)); }
static inline vi vi_rev(vi v) {
    const vi swapped = vrev64q_s32(v);
    return vcombine_s32(vget_high_s32(swapped), vget_low_s32(swapped));
}
static inline vi vi_gather(const int32_t *t, vi i) {
    vi r = vdupq_n_s32(t[vgetq_lane_s32(i, 0)]);
    r = vsetq_lane_s32(t[vgetq_lane_s32(i, 1)], r, 1);
    r = vsetq_lane_s32(t[vgetq_lane_s32(i, 2)], r, 2);
    return vsetq_lane_s32(t[vgetq_lane_s32(i, 3)], r, 3);
}
static inline vt vt_load(const int32_t *p) { return vld1q_s32(p); }
static inline vt vt_set(int32_t w) { return vdupq_n_s32(w); }
static inline vt vt_of(vi w) { return w; }
static inline vi vi_rdm(vi a, vt w) { return vqrdmulhq_s32(a, w); }
static inline vi vi_rdm_any(vi a, vt w) { return vqrdmulhq_s32(a, w); }
static inline vi vi_window(vi x, vi w, int e) {
    const int64x2_t n = vdupq_n_s64(e - 31);
    const int64x2_t lo = vrshlq_s64(vmull_s32(vget_low_s32(x), vget_low_s32(w)), n);
    const int64x2_t hi = vrshlq_s64(vmull_s32(vget_high_s32(x), vget_high_s32(w)), n);
    return vcombine_s32(vmovn_s64(lo), vmovn_s64(hi));
}
static inline vi vi_muls(vi a, uint32_t m, uint64_t h, int s) {
    const uint32x4_t u = vreinterpretq_u32_s32(a);
    const int64x2_t n = vdupq_n_s64(-s);
    const uint64x2_t hh = vdupq_n_u64(h);
    const uint64x2_t lo = vshlq_u64(vmlal_u32(hh, vget_low_u32(u), vdup_n_u32(m)), n);
    const uint64x2_t hi = vshlq_u64(vmlal_u32(hh, vget_high_u32(u), vdup_n_u32(m)), n);
    return vreinterpretq_s32_u32(vcombine_u32(vmovn_u64(lo), vmovn_u64(hi)));
}
static inline void vi_load_pairs(const int16_t *x, vi *even, vi *odd) {
    const vi v = vreinterpretq_s32_s16(vld1q_s16(x));
    *even = vshrq_n_s32(vshlq_n_s32(v, 16), 16);
    *odd = vshrq_n_s32(v, 16);
}
static inline void vi_unzip(vi first, vi second, vi *even, vi *odd) {
    const int32x4x2_t z = vuzpq_s32(first, second);
    *even = z.val[0];
    *odd = z.val[1];
}
static inline void vi_zip(vi a, vi b, vi *first, vi *second) {
    const int32x4x2_t z = vzipq_s32(a, b);
    *first = z.val[0];
    *second = z.val[1];
}
static inline void vi_store4(int32_t *y, vi a, vi b, vi c, vi d) {
    const int32x4x4_t v = {{a, b, c, d}};
    vst4q_s32(y, v);
}

#else
#define VL 1
typedef int32_t vi;
typedef int32_t vt;

static inline vi vi_load(const int32_t *p) { return *p; }
static inline void vi_store(int32_t *p, vi v) { *p = v; }
static inline vi vi_set(int32_t x) { return x; }
static inline vi vi_add(vi a, vi b) { return se_add(a, b); }
static inline vi vi_sub(vi a, vi b) { return se_sub(a, b); }
static inline vi vi_mul(vi a, vi b) { return (int32_t)((uint32_t)a * (uint32_t)b); }
static inline vi vi_and(vi a, vi b) { return a & b; }
static inline vi vi_andnot(vi mask, vi b) { return ~mask & b; }
static inline vi vi_or(vi a, vi b) { return a | b; }
static inline vi vi_min(vi a, vi b) { return se_min(a, b); }
static inline vi vi_max(vi a, vi b) { return se_max(a, b); }
static inline vi vi_abs(vi a) { return se_sub(a ^ se_sra(a, 31), se_sra(a, 31)); }
static inline vi vi_eq(vi a, vi b) { return -(a == b); }
static inline vi vi_select(vi mask, vi a, vi b) { return mask ? a : b; }
static inline vi vi_sra(vi v, int n) { return se_sra(v, n); }
static inline vi vi_srl(vi v, int n) { return (int32_t)((uint32_t)v >> n); }
static inline vi vi_sll(vi v, int n) { return se_shl(v, n); }
static inline vi vi_sllv(vi v, vi s) { return se_shl(v, s); }
static inline vi vi_srlv(vi v, vi s) { return (int32_t)((uint32_t)v >> s); }
static inline vi vi_rshv(vi v, vi s) { return se_rsh(v, s); }
static inline vi vi_bitlen(vi v) { return se_bitlen32((uint32_t)v); }
static inline vi vi_rev(vi v) { return v; }
static inline vi vi_gather(const int32_t *t, vi i) { return t[i]; }
static inline vt vt_load(const int32_t *p) { return *p; }
static inline vt vt_set(int32_t w) { return w; }
static inline vt vt_of(vi w) { return w; }
static inline vi vi_rdm(vi a, vt w) { return se_rdm(a, w); }
static inline vi vi_rdm_any(vi a, vt w) { return se_rdm_any(a, w); }
static inline vi vi_window(vi x, vi w, int e) {
    /* hi:lo form: no 64-bit shift by a variable, which 32-bit cores do in software */
    const uint64_t p = (uint64_t)((int64_t)x * w) + ((uint32_t)1 << (30 - e));
    return (int32_t)((uint32_t)p >> (31 - e) | (uint32_t)(p >> 32) << (1 + e));
}
static inline vi vi_muls(vi a, uint32_t m, uint64_t h, int s) {
    return (int32_t)(((uint64_t)(uint32_t)a * m + h) >> s);
}
static inline void vi_load_pairs(const int16_t *x, vi *even, vi *odd) {
    *even = x[0];
    *odd = x[1];
}
static inline void vi_unzip(vi first, vi second, vi *even, vi *odd) {
    *even = first;
    *odd = second;
}
static inline void vi_zip(vi a, vi b, vi *first, vi *second) {
    *first = a;
    *second = b;
}
static inline void vi_store4(int32_t *y, vi a, vi b, vi c, vi d) {
    y[0] = a;
    y[1] = b;
    y[2] = c;
    y[3] = d;
}
#endif

/* Hold within 31 bits: -2^30 ... 2^30 - 1. */
static inline vi vi_sat31(vi v) {
#if VL == 1
    return se_sat31(v);
#else
    return vi_min(vi_max(v, vi_set(-(1 << 30))), vi_set((1 << 30) - 1));
#endif
}

static inline vi vi_clamp(vi v, int32_t limit) { return vi_min(vi_max(v, vi_set(-limit)), vi_set(limit)); }

/* Sum of the lanes, read as unsigned. */
static inline uint64_t vi_sum(vi v) {
    int32_t lane[VL];
    uint64_t sum = 0;
    vi_store(lane, v);
    for (int i = 0; i < VL; i++) sum += (uint32_t)lane[i];
    return sum;
}

#endif
