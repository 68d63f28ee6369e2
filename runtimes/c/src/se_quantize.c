/* Q16 values to int8 or int16 codes; spectral_edge/dsp/features.py: CodeRule is the same. */
#include "se_core.h"

int se_make_code_rule(uint32_t mantissa, int exponent, int zero_point, int bits, se_code_rule *rule) {
    const int most = bits == 8 ? 10 : 17; /* 2^most: a code far beyond saturation */
    const int up = 32 - se_bitlen32(mantissa);
    uint64_t divisor, quotient, rest, limit;
    int shift;
    if (!mantissa || exponent < -64 || exponent > 128 || (bits != 8 && bits != 16) || !rule)
        return SE_BAD_VALUE;
    divisor = (uint64_t)mantissa << up; /* in [2^31, 2^32) */
    quotient = ((uint64_t)1 << 62) / divisor;
    rest = ((uint64_t)1 << 62) % divisor;
    if (2 * rest > divisor || (2 * rest == divisor && (quotient & 1))) quotient++;
    shift = 78 - up - exponent;
    if (quotient == (uint64_t)1 << 31) {
        quotient >>= 1;
        shift--;
    }
    if (shift < 1 || shift > 62) return SE_BAD_VALUE;
    limit = shift + most < 63 ? ((uint64_t)1 << (shift + most)) / quotient + 1 : INT32_MAX;
    rule->multiplier = (uint32_t)quotient;
    rule->shift = shift;
    rule->limit = limit < INT32_MAX ? (int32_t)limit : INT32_MAX;
    rule->zero_point = zero_point;
    return SE_OK;
}

static int valid(const se_code_rule *r, int32_t low, int32_t high) {
    return r && r->shift >= 1 && r->shift <= 62 && r->limit >= 0 && r->multiplier <= INT32_MAX &&
           r->zero_point >= low && r->zero_point <= high;
}

/* Half goes away from zero: the magnitude is rounded half up, then the sign returns. */
static int32_t code_of(const se_code_rule *r, int32_t v, int32_t low, int32_t high) {
    const uint64_t half = (uint64_t)1 << (r->shift - 1);
    const uint32_t size = se_abs(v) < (uint32_t)r->limit ? se_abs(v) : (uint32_t)r->limit;
    const int64_t u = (int64_t)(((uint64_t)size * r->multiplier + half) >> r->shift);
    const int64_t code = (v < 0 ? -u : u) + r->zero_point;
    return code < low ? low : code > high ? high : (int32_t)code;
}

int se_quantize_int8(const se_code_rule *rule, const int32_t *values, int count, int8_t *codes) {
    if (!valid(rule, INT8_MIN, INT8_MAX)) return SE_BAD_VALUE;
    for (int i = 0; i < count; i++) codes[i] = (int8_t)code_of(rule, values[i], INT8_MIN, INT8_MAX);
    return SE_OK;
}

int se_quantize_int16(const se_code_rule *rule, const int32_t *values, int count, int16_t *codes) {
    if (!valid(rule, INT16_MIN, INT16_MAX)) return SE_BAD_VALUE;
    for (int i = 0; i < count; i++)
        codes[i] = (int16_t)code_of(rule, values[i], INT16_MIN, INT16_MAX);
    return SE_OK;
}
