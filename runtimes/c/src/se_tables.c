/* Tables made on the spot from integers, for users of the core alone: the same bits as
 * spectral_edge/dsp/tables.py, without libm and without 128-bit types. Values below are "Q62":
 * unsigned 64-bit with 62 fraction bits. */
#include "se_core.h"

#define ONE ((uint64_t)1 << 62)
#define ROOT_HALF UINT64_C(0x2D413CCCFE779921) /* sqrt(1/2) */
#define PI_Q62 UINT64_C(0xC90FDAA22168C235)

/* a*b >> 62 */
static uint64_t mul(uint64_t a, uint64_t b) {
    const uint64_t al = (uint32_t)a, ah = a >> 32, bl = (uint32_t)b, bh = b >> 32;
    const uint64_t low = al * bl, mid1 = ah * bl, mid2 = al * bh;
    const uint64_t carry = (low >> 32) + (uint32_t)mid1 + (uint32_t)mid2;
    const uint64_t high = ah * bh + (mid1 >> 32) + (mid2 >> 32) + (carry >> 32);
    return high << 2 | (uint32_t)carry >> 30;
}

/* floor(a/b * 2^bits) for b < 2^63, when that fits */
static uint64_t ratio(uint64_t a, uint64_t b, int bits) {
    uint64_t quotient = a / b, rest = a % b;
    while (bits-- > 0) {
        rest <<= 1;
        quotient <<= 1;
        if (rest >= b) {
            rest -= b;
            quotient |= 1;
        }
    }
    return quotient;
}

static int32_t q31(uint64_t v) {
    const uint64_t r = (v + ((uint64_t)1 << 30)) >> 31;
    return r > SE_Q31_ONE ? SE_Q31_ONE : (int32_t)r;
}

static int32_t minus_q31(uint64_t v) {
    return (int32_t)(-(int64_t)((v + ((uint64_t)1 << 30)) >> 31));
}

/* cosine and sine of pi/4 * j/n, 0 <= j <= n, by Taylor series */
static void octant(int j, int n, uint64_t *c, uint64_t *s) {
    const uint64_t x = mul(PI_Q62 >> 2, ratio((uint64_t)j, (uint64_t)n, 62)), square = mul(x, x);
    uint64_t cos_term = ONE, sin_term = x, cos_sum[2] = {ONE, 0}, sin_sum[2] = {x, 0};
    for (unsigned k = 2; sin_term || cos_term; k += 2) { /* alternating: [1] is subtracted */
        cos_term = mul(cos_term, square) / ((uint64_t)(k - 1) * k);
        sin_term = mul(sin_term, square) / ((uint64_t)k * (k + 1));
        cos_sum[k / 2 % 2] += cos_term;
        sin_sum[k / 2 % 2] += sin_term;
    }
    *c = cos_sum[0] - cos_sum[1];
    *s = sin_sum[0] - sin_sum[1];
}

/* |cos| and |sin| of 2*pi*k/n and their signs, by symmetry */
typedef struct { uint64_t c, s; int c_negative, s_negative; } turn;

static turn turn_of(int k, int n) {
    const int j = 8 * (k % n), quadrant = j / (2 * n), rest = j % (2 * n);
    turn t;
    if (rest > n)
        octant(2 * n - rest, n, &t.s, &t.c);
    else
        octant(rest, n, &t.c, &t.s);
    if (quadrant & 1) {
        const uint64_t c = t.c;
        t.c = t.s;
        t.s = c;
    }
    t.c_negative = quadrant == 1 || quadrant == 2;
    t.s_negative = quadrant >= 2;
    return t;
}

static int valid_size(int n) { return se_fft_size(n) != 0; }

int se_make_circle(int n, int32_t *cosine, int32_t *sine) {
    if (!valid_size(n) || !cosine || !sine) return SE_BAD_VALUE;
    for (int k = 0; k < n; k++) {
        const turn t = turn_of(k, n);
        cosine[k] = t.c_negative ? minus_q31(t.c) : q31(t.c);
        sine[k] = t.s_negative ? minus_q31(t.s) : q31(t.s);
    }
    return SE_OK;
}

/* One value of the periodic window, Q62. */
static uint64_t taper(int window, int i, int n) {
    const turn t = turn_of(i, n);
    switch (window) {
    case SE_SQRT_HANN: /* sqrt((1 - cos 2a)/2) = sin a */
        return turn_of(i, 2 * n).s;
    case SE_HANN:
        return t.c_negative ? (ONE + t.c) >> 1 : (ONE - t.c) >> 1;
    case SE_HAMMING:
        return t.c_negative ? ONE / 50 * 27 + t.c / 50 * 23 : ONE / 50 * 27 - t.c / 50 * 23;
    default:
        return ONE;
    }
}

static int valid_window(int window, int m) {
    return window >= SE_SQRT_HANN && window <= SE_RECT && m >= 1 && m <= 4096;
}

int se_make_window(int window, int n, int32_t *values) {
    if (!valid_window(window, n) || !values) return SE_BAD_VALUE;
    for (int i = 0; i < n; i++) values[i] = q31(taper(window, i, n));
    return SE_OK;
}

/* Sum of the squared window at sample r of a hop, with `down` fewer fraction bits. */
static uint64_t overlap(int window, int n, int hop, int r, int down) {
    uint64_t sum = 0;
    for (int i = r; i < n; i += hop) {
        const uint64_t w = taper(window, i, n);
        sum += mul(w, w) >> down;
    }
    return sum;
}

int se_make_dual(int window, int n, int hop, int32_t *dual, int32_t *dual_exponent) {
    return se_make_padded_dual(window, n, n, hop, dual, dual_exponent);
}

int se_make_padded_dual(int window, int n, int n_fft, int hop, int32_t *dual,
                        int32_t *dual_exponent) {
    int odd = n_fft, twos = 0, down, bits = 30, length;
    uint64_t peak = 0;
    if (!valid_size(n_fft) || !valid_window(window, n) || n > n_fft) return SE_BAD_VALUE;
    if (hop < 1 || hop > n || !dual || !dual_exponent) return SE_BAD_VALUE;
    for (; odd % 2 == 0; odd /= 2) twos++;
    down = se_bitlen32((uint32_t)((n + hop - 1) / hop)) + se_bitlen32((uint32_t)odd);
    for (int pass = 0; pass < 2; pass++) { /* first the size of the largest value, then all bits */
        peak = 0;
        for (int r = 0; r < hop; r++) {
            const uint64_t sum = overlap(window, n, hop, r, down) * (uint64_t)odd;
            if (sum < ONE >> 50) return SE_BAD_VALUE; /* not invertible */
            for (int i = r; i < n; i += hop) {
                const uint64_t v = ratio(taper(window, i, n) >> down, sum, bits);
                if (v > peak) peak = v;
            }
        }
        if (pass == 0) bits += 61 - se_bitlen64(peak);
    }
    length = se_bitlen64(peak);
    for (int i = 0; i < n; i++) {
        const uint64_t sum = overlap(window, n, hop, i % hop, down) * (uint64_t)odd;
        const uint64_t v = ratio(taper(window, i, n) >> down, sum, bits);
        const uint64_t r = (v + ((uint64_t)1 << (length - 32))) >> (length - 31);
        dual[i] = r > SE_Q31_ONE ? SE_Q31_ONE : (int32_t)r;
    }
    *dual_exponent = bits - length + twos;
    return SE_OK;
}

int se_round_trip_error(int window, int n, int n_fft, int hop) {
    const int down = 13; /* 4096 terms */
    uint64_t low = UINT64_MAX, high = 0, error;
    if (!valid_size(n_fft) || !valid_window(window, n) || n > n_fft) return SE_BAD_VALUE;
    if (hop < 1 || hop > n) return SE_BAD_VALUE;
    for (int r = 0; r < hop; r++) {
        const uint64_t sum = overlap(window, n, hop, r, down);
        if (sum < low) low = sum;
        if (sum > high) high = sum;
    }
    if (high <= 16 * low) return n_fft > 1024;
    if (low < high >> 17) return 32768;
    /* 118 dB below full scale times sqrt(n_fft), amplified by high/low: Q20, Q10 and Q10 */
    error = 43257 * se_sqrt_u64((uint64_t)n_fft << 20) * ratio(high, low, 10);
    error = (error + ((uint64_t)1 << 40) - 1) >> 40;
    return error < 32768 ? (int)error : 32768;
}

/* 2^fraction * log2(v * 2^-scale), rounded down, by repeated squaring */
static int64_t exact_log2(uint64_t v, int scale, int fraction) {
    const int length = se_bitlen64(v);
    uint64_t mantissa = length > 63 ? v >> (length - 63) : v << (63 - length);
    int64_t result = length - 1 - scale;
    for (int i = 0; i < fraction; i++) { /* mantissa in [1, 2) */
        const uint64_t half = mul(mantissa, mantissa >> 1);
        result *= 2;
        if (half >= ONE) {
            mantissa = half;
            result += 1;
        } else {
            mantissa = half << 1;
        }
    }
    return result;
}

int32_t se_make_reference_log2(int window, int n) {
    const int down = 13; /* 4096 terms */
    return (int32_t)((exact_log2(overlap(window, n, 1, 0, down), 62 - down, 25) + 2) >> 2);
}

void se_make_log_tables(int32_t *log2_table, int32_t *exp2_table) {
    static const uint64_t root[8] = {/* 2^(1/2), 2^(1/4), ... in Q62 */
        UINT64_C(0x5a827999fcef3242), UINT64_C(0x4c1bf828c6dc54b8),
        UINT64_C(0x45cae0f1f545eb73), UINT64_C(0x42d561b3e6243d8a),
        UINT64_C(0x4166c34c5615d0ec), UINT64_C(0x40b268f9de0183ba),
        UINT64_C(0x4058f6a7ecccd5b6), UINT64_C(0x402c6be96af2fb58),
    };
    for (int i = 0; i <= 256; i++) {
        uint64_t v = ONE;
        for (int bit = 0; bit < 8; bit++) {
            if (i >> (7 - bit) & 1) v = mul(v, root[bit]);
        }
        log2_table[i] = (int32_t)((exact_log2((uint64_t)(256 + i), 8, 25) + 1) >> 1);
        exp2_table[i] = i < 256 ? (int32_t)((v + ((uint64_t)1 << 32)) >> 33) : 1 << 30;
    }
}

int se_make_dct(int n, int bits, int16_t *matrix) {
    uint64_t norm; /* sqrt(2/n), Q62 */
    if (n < 2 || n > 64 || bits < 7 || bits > 14 || !matrix) return SE_BAD_VALUE;
    norm = se_sqrt_u64(((uint64_t)1 << 63) / (uint64_t)n) << 31;
    for (int k = 0; k < n; k++) {
        for (int i = 0; i < n; i++) {
            const turn t = turn_of(k * (2 * i + 1), 4 * n);
            const uint64_t v = k ? mul(norm, t.c) : mul(norm, ROOT_HALF);
            const int32_t r = (int32_t)((v + ((uint64_t)1 << (61 - bits))) >> (62 - bits));
            matrix[k * n + i] = (int16_t)(t.c_negative ? -r : r);
        }
    }
    return SE_OK;
}
