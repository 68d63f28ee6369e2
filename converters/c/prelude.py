"""C text that generated programs start with: types, vectors, and functions of one value.

Functions are written so that a compiler vectorises a loop over them without ``-ffast-math``: no
branches, no library calls, no errno. Largest errors, found over 4 million arguments by
``tests/converters/c/test_functions.py``: ``se_exp`` and ``se_log`` 2 ulp, ``se_tanh`` and
``se_logistic`` 4 ulp.
"""

from __future__ import annotations

import re

__all__ = ["HEAD", "helpers"]

HEAD = r"""#include <math.h>
#include <stdint.h>
#include <string.h>

#if !defined(__GNUC__)
#error "this file needs the vector types of GCC or Clang"
#endif
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define SE_KERNEL static __attribute__((noinline))
"""

# name -> text; a helper is written when something names it
_HELPERS: dict[str, str] = {}


def _helper(name: str, text: str) -> None:
    _HELPERS[name] = text.strip("\n") + "\n"


for _lanes in (4, 8, 16):
    _helper(
        f"se_f{_lanes}",
        f"""
typedef float se_f{_lanes} __attribute__((vector_size({4 * _lanes}), aligned(4), may_alias));
""",
    )
    _helper(
        f"se_i{_lanes}",
        f"""
typedef int32_t se_i{_lanes} __attribute__((vector_size({4 * _lanes}), aligned(4), may_alias));
""",
    )
    _helper(
        f"se_u{_lanes}",
        f"""
typedef uint32_t se_u{_lanes} __attribute__((vector_size({4 * _lanes}), aligned(4), may_alias));
""",
    )

_helper(
    "SE_FMA16",
    """
#if defined(__AVX512F__)
#define SE_FMA16(a, w, x) ((se_f16)_mm512_fmadd_ps((__m512)(w), _mm512_set1_ps(x), (__m512)(a)))
#else
#define SE_FMA16(a, w, x) ((a) + (w) * (x))
#endif
""",
)
_helper(
    "SE_FMA8",
    """
#if defined(__FMA__) && defined(__AVX2__)
#define SE_FMA8(a, w, x) ((se_f8)_mm256_fmadd_ps((__m256)(w), _mm256_set1_ps(x), (__m256)(a)))
#else
#define SE_FMA8(a, w, x) ((a) + (w) * (x))
#endif
""",
)
_helper(
    "SE_FMA4",
    """
#if defined(__FMA__) && defined(__AVX2__)
#define SE_FMA4(a, w, x) ((se_f4)_mm_fmadd_ps((__m128)(w), _mm_set1_ps(x), (__m128)(a)))
#elif defined(__aarch64__)
#define SE_FMA4(a, w, x) ((se_f4)vfmaq_n_f32((float32x4_t)(a), (float32x4_t)(w), (x)))
#else
#define SE_FMA4(a, w, x) ((a) + (w) * (x))
#endif
""",
)
# acc[o] += w[o][0] * x[0] + w[o][1] * x[1], the pair of x as one int32
_MADD = {
    16: (
        "defined(__AVX512BW__)",
        "_mm512_add_epi32",
        "_mm512_madd_epi16",
        "__m512i",
        "_mm512_set1_epi32",
        "_mm512_loadu_si512",
    ),
    8: (
        "defined(__AVX2__)",
        "_mm256_add_epi32",
        "_mm256_madd_epi16",
        "__m256i",
        "_mm256_set1_epi32",
        "_mm256_loadu_si256",
    ),
    4: (
        "defined(__AVX2__)",
        "_mm_add_epi32",
        "_mm_madd_epi16",
        "__m128i",
        "_mm_set1_epi32",
        "_mm_loadu_si128",
    ),
}
for _lanes, (_test, _add, _madd, _type, _set, _load) in _MADD.items():
    _vector, _dot = f"se_i{_lanes}", _add.replace("add_epi32", "dpwssd_epi32")
    _helper(
        f"SE_MADD{_lanes}",
        f"""
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define SE_MADD{_lanes}(a, w, x) \\
    (({_vector}){_dot}(({_type})(a), {_load}((const {_type} *)(w)), {_set}(x)))
#elif {_test}
#define SE_MADD{_lanes}(a, w, x) \\
    (({_vector}){_add}(({_type})(a), {_madd}({_load}((const {_type} *)(w)), {_set}(x))))
#else
#define SE_MADD{_lanes}(a, w, x) \\
    ((a) + (({_vector})(*(const se_u{_lanes} *)(w) << 16) >> 16) * (int32_t)(int16_t)(x) + \\
     (*(const {_vector} *)(w) >> 16) * ((int32_t)(x) >> 16))
#endif
""",
    )

# codes as int32; the general form goes through the vector type of GCC and Clang
_WIDEN = {
    16: ("defined(__AVX512F__)", "_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(p)))"),
    8: ("defined(__AVX2__)", "_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p)))"),
}
for _lanes, (_test, _text) in _WIDEN.items():
    _helper(
        f"se_b{_lanes}",
        f"""
typedef int8_t se_b{_lanes} __attribute__((vector_size({_lanes}), aligned(1), may_alias));
""",
    )
    _helper(
        f"SE_WIDEN{_lanes}",
        f"""
#if {_test}
#define SE_WIDEN{_lanes}(p) ((se_i{_lanes}){_text})
#else
#define SE_WIDEN{_lanes}(p) __builtin_convertvector(*(const se_b{_lanes} *)(p), se_i{_lanes})
#endif
""",
    )
_helper(
    "SE_MAC",
    """
#if defined(__FP_FAST_FMAF)
#define SE_MAC(a, w, x) fmaf(w, x, a)
#else
#define SE_MAC(a, w, x) ((a) + (w) * (x))
#endif
""",
)
_helper(
    "se_max",
    """
static inline float se_max(float a, float b) { return a > b ? a : b; }
""",
)
_helper(
    "se_min",
    """
static inline float se_min(float a, float b) { return a < b ? a : b; }
""",
)
_helper(
    "se_round",
    """
/* nearest whole number in [low, high], halves to even: 1.5 * 2^23 leaves no room for a fraction */
static inline float se_round(float v, float low, float high)
{
    v = v > low ? v : low;
    v = v < high ? v : high;
    return (v + 12582912.0f) - 12582912.0f;
}
""",
)
_helper(
    "se_clamp",
    """
static inline int32_t se_clamp(int32_t v, int32_t low, int32_t high)
{
    v = v > low ? v : low;
    return v < high ? v : high;
}
""",
)
_helper(
    "se_bits",
    """
static inline float se_bits(int32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
""",
)
_helper(
    "se_exp",
    """
/* e^x = 2^n e^r with |r| <= ln(2)/2 and ln(2) in two parts; 2^n in two steps for subnormals */
static inline float se_exp(float x)
{
    float n, r, p;
    int32_t i;
    x = x > -104.0f ? x : -104.0f;
    x = x < 89.0f ? x : 89.0f;
    n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    p = 1.9875691e-4f;
    p = p * r + 1.3981999e-3f;
    p = p * r + 8.3334519e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666666e-1f;
    p = p * r + 0.5f;
    p = (p * r) * r + r + 1.0f;
    i = (int32_t)n;
    return p * se_bits(((i >> 1) + 127) << 23) * se_bits(((i - (i >> 1)) + 127) << 23);
}
""",
)
_helper(
    "se_logistic",
    """
static inline float se_logistic(float x)
{
    return 1.0f / (1.0f + se_exp(-x));
}
""",
)
_helper(
    "se_tanh",
    """
/* odd polynomial near zero, 1 - 2 / (e^2|x| + 1) elsewhere */
static inline float se_tanh(float x)
{
    const float a = x < 0.0f ? -x : x, s = x * x;
    const float far = 1.0f - 2.0f / (se_exp(2.0f * (a < 10.0f ? a : 10.0f)) + 1.0f);
    float p = -5.70498872745e-3f;
    p = p * s + 2.06390887954e-2f;
    p = p * s - 5.37397155531e-2f;
    p = p * s + 1.33314422036e-1f;
    p = p * s - 3.33332819422e-1f;
    p = p * s * x + x;
    return a < 0.625f ? p : x < 0.0f ? -far : far;
}
""",
)
_helper(
    "se_log",
    """
/* x = 2^e m with m in [sqrt(1/2), sqrt(2)); zero gives -inf, negative numbers NaN */
static inline float se_log(float x)
{
    const float small = x < 1.17549435e-38f ? 8388608.0f : 1.0f, y = x * small;
    int32_t bits, e;
    float m, s, p, n;
    memcpy(&bits, &y, sizeof bits);
    e = (int32_t)((uint32_t)bits - 0x3f3504f3u) >> 23;
    m = se_bits((int32_t)((uint32_t)bits - (uint32_t)e * 8388608u)) - 1.0f;
    n = (float)e - (small > 1.0f ? 23.0f : 0.0f);
    s = m * m;
    p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * s + n * -2.12194440e-4f - 0.5f * s + m + n * 0.693359375f;
    p = x > 3.40282347e38f ? x : p;
    return x > 0.0f ? p : x == 0.0f ? -INFINITY : NAN;
}
""",
)
_helper(
    "se_whole",
    """
/* towards zero; saturates, NaN gives 0 */
static inline int32_t se_whole(float x)
{
    if (!(x > -2147483648.0f))
        return x <= -2147483648.0f ? INT32_MIN : 0;
    return x >= 2147483648.0f ? INT32_MAX : (int32_t)x;
}
""",
)
_helper(
    "se_floor_div",
    """
static inline int64_t se_floor_div(int64_t a, int64_t b)
{
    int64_t q;
    if (b == 0)
        return 0;
    if (b == -1)
        return (int64_t)(0 - (uint64_t)a);
    q = a / b;
    return q - (a % b != 0 && (a < 0) != (b < 0));
}
""",
)
_helper(
    "se_gelu_tanh",
    """
static inline float se_gelu_tanh(float x)
{
    return 0.5f * x * (1.0f + se_tanh(0.797884561f * (x + 0.044715f * x * x * x)));
}
""",
)


def helpers(body: str) -> str:
    """Text of every helper that ``body`` needs, in the order of this module."""
    needed: set[str] = set()
    queue = [body]
    while queue:
        for name in set(re.findall(r"\b(?:se_|SE_)\w+", queue.pop())):
            if name in _HELPERS and name not in needed:
                needed.add(name)
                queue.append(_HELPERS[name])
    return "\n".join(text for name, text in _HELPERS.items() if name in needed)
