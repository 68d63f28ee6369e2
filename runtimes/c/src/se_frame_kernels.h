/* Loops over one frame outside the FFT: norms, windows, overlap-add, features, codes, masks.
 * Included once per instruction set. Tails that are not a multiple of VL are done in plain C. */

/* The larger of sum |x| * weight over the even samples and over the odd ones; weights <= 128 (Q7),
 * x has 2*half samples. */
static uint64_t weighted_peak(const int16_t *x, const int32_t *even, const int32_t *odd, int half) {
    uint64_t total_even = 0, total_odd = 0;
    int i = 0;
    while (i + VL <= half) { /* 256 products of 2^22 stay below 2^31 */
        const int stop = se_min(half - VL, i + 255 * VL);
        vi sum_even = vi_set(0), sum_odd = vi_set(0);
        SE_UNROLL for (; i <= stop; i += VL) {
            vi a, b;
            vi_load_pairs(x + 2 * i, &a, &b);
            sum_even = vi_add(sum_even, vi_mul(vi_abs(a), vi_load(even + i)));
            sum_odd = vi_add(sum_odd, vi_mul(vi_abs(b), vi_load(odd + i)));
        }
        total_even += vi_sum(sum_even);
        total_odd += vi_sum(sum_odd);
    }
    for (; i < half; i++) {
        total_even += (uint64_t)se_abs(x[2 * i]) * (uint32_t)even[i];
        total_odd += (uint64_t)se_abs(x[2 * i + 1]) * (uint32_t)odd[i];
    }
    return total_even > total_odd ? total_even : total_odd;
}

/* sum x^2 of n samples, n <= 4096 */
static uint64_t energy(const int16_t *x, int n) {
    vi low = vi_set(0), high = vi_set(0);
    uint64_t total;
    int i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL) {
        vi a, b, s;
        vi_load_pairs(x + i, &a, &b);
        s = vi_add(vi_mul(a, a), vi_mul(b, b)); /* <= 2^31, unsigned */
        low = vi_add(low, vi_and(s, vi_set(0xFFFF)));
        high = vi_add(high, vi_srl(s, 16));
    }
    total = vi_sum(low) + (vi_sum(high) << 16);
    for (; i < n; i++) total += (uint64_t)((int32_t)x[i] * x[i]);
    return total;
}

/* sum |re| + |im| of n values, n <= 4096 */
static uint64_t spectrum_sum(const int32_t *re, const int32_t *im, int n) {
    vi low = vi_set(0), high = vi_set(0);
    uint64_t total;
    int i = 0;
    for (; VL > 1 && i + VL <= n; i += VL) { /* with one lane the plain loop is faster */
        const vi a = vi_abs(vi_load(re + i)), b = vi_abs(vi_load(im + i));
        low = vi_add(low, vi_add(vi_and(a, vi_set(0xFFFF)), vi_and(b, vi_set(0xFFFF))));
        high = vi_add(high, vi_add(vi_srl(a, 16), vi_srl(b, 16)));
    }
    total = vi_sum(low) + (vi_sum(high) << 16);
    SE_UNROLL for (; i < n; i++) {
        total += se_abs(re[i]);
        total += se_abs(im[i]);
    }
    return total;
}

/* v[2*half] to even and odd samples, and back */
static void unzip(const int32_t *v, int32_t *even, int32_t *odd, int half) {
    int i = 0;
    for (; i + VL <= half; i += VL) {
        vi a, b;
        vi_unzip(vi_load(v + 2 * i), vi_load(v + 2 * i + VL), &a, &b);
        vi_store(even + i, a);
        vi_store(odd + i, b);
    }
    for (; i < half; i++) {
        even[i] = v[2 * i];
        odd[i] = v[2 * i + 1];
    }
}

static void zip(const int32_t *even, const int32_t *odd, int32_t *v, int half) {
    int i = 0;
    for (; i + VL <= half; i += VL) {
        vi a, b;
        vi_zip(vi_load(even + i), vi_load(odd + i), &a, &b);
        vi_store(v + 2 * i, a);
        vi_store(v + 2 * i + VL, b);
    }
    for (; i < half; i++) {
        v[2 * i] = even[i];
        v[2 * i + 1] = odd[i];
    }
}

/* (x*w + 2^(30-e)) >> (31-e), which is rdm(x << e, w) where x << e has at most 30 bits. */
static void window(const int16_t *x, const int32_t *even, const int32_t *odd, int32_t *vr,
                   int32_t *vim, int half, int e) {
    vi a, b;
    if (e <= 14) {
        SE_UNROLL for (int i = 0; i < half; i += VL) {
            vi_load_pairs(x + 2 * i, &a, &b);
            vi_store(vr + i, vi_rdm(vi_sll(a, e), vt_load(even + i)));
            vi_store(vim + i, vi_rdm(vi_sll(b, e), vt_load(odd + i)));
        }
        return;
    }
    for (int i = 0; i < half; i += VL) {
        vi_load_pairs(x + 2 * i, &a, &b);
        vi_store(vr + i, vi_window(a, vi_load(even + i), e));
        vi_store(vim + i, vi_window(b, vi_load(odd + i), e));
    }
}

/* y * w in the accumulator's format; |y| < 2^30, so the result is within SE_OLA_MAX. */
static inline vi to_ola(vi y, vt w, int shift) {
    const vi v = vi_rdm(y, w);
    if (shift > 0) {
        const int s = se_min(shift, 31);
        return vi_sra(vi_add(vi_sra(v, s - 1), vi_set(1)), 1);
    }
    shift = se_min(-shift, 29);
    return vi_sll(vi_clamp(v, SE_OLA_MAX >> shift), shift);
}

static void overlap_add(const int32_t *yr, const int32_t *yi, const int32_t *even,
                        const int32_t *odd, int32_t *acc, int half, int shift) {
    SE_UNROLL for (int i = 0; i < half; i += VL) {
        vi a, b;
        vi_zip(to_ola(vi_load(yr + i), vt_load(even + i), shift),
               to_ola(vi_load(yi + i), vt_load(odd + i), shift), &a, &b);
        vi_store(acc + 2 * i, vi_sat31(vi_add(vi_load(acc + 2 * i), a)));
        vi_store(acc + 2 * i + VL, vi_sat31(vi_add(vi_load(acc + 2 * i + VL), b)));
    }
}

/* log2 of v >= 1 in Q24: 256 segments, linear between */
static inline vi log2_q24(vi v, const int32_t *table) {
    const vi n = vi_sub(vi_bitlen(v), vi_set(1));
    const vi f = vi_and(vi_sllv(v, vi_sub(vi_set(31), n)), vi_set(INT32_MAX));
    const vi i = vi_srl(f, 23), t = vi_and(vi_srl(f, 9), vi_set(0x3FFF));
    const vi low = vi_gather(table, i), high = vi_gather(table + 1, i);
    const vi step = vi_mul(vi_sub(high, low), t);
    return vi_add(vi_sll(n, 24), vi_add(low, vi_sra(vi_add(step, vi_set(1 << 13)), 14)));
}

/* 2^f in Q30, f the fraction of a Q24 number: 256 segments, linear between */
static inline vi exp2_q30(vi v, const int32_t *table) {
    const vi f = vi_and(v, vi_set(SE_LOG_ONE - 1));
    const vi i = vi_srl(f, 16), t = vi_and(vi_srl(f, 6), vi_set(0x3FF));
    const vi low = vi_gather(table, i), high = vi_gather(table + 1, i);
    const vi step = vi_mul(vi_sub(high, low), t);
    return vi_sll(vi_add(low, vi_srl(vi_add(step, vi_set(1 << 9)), 10)), 1);
}

/* One complex value as a direction of 30 bits and the log2 of its length. */
typedef struct {
    vi r, i;     /* components shifted left by `shift`, the larger one in [2^29, 2^30) */
    vi shift;
    vi length;   /* log2 |(r, i)|, Q24 */
    vi zero;     /* all ones where the value is 0 */
} polar;

static inline polar to_polar(vi re, vi im, const int32_t *log2_table) {
    polar z;
    const vi size = vi_or(vi_abs(re), vi_abs(im));
    vi power;
    z.zero = vi_eq(size, vi_set(0));
    z.shift = vi_sub(vi_set(30), vi_bitlen(size));
    z.r = vi_sllv(re, z.shift);
    z.i = vi_sllv(im, z.shift);
    power = vi_add(vi_rdm(z.r, vt_of(z.r)), vi_rdm(z.i, vt_of(z.i)));
    power = vi_or(power, vi_and(z.zero, vi_set(1)));
    z.length = vi_sra(vi_add(log2_q24(power, log2_table), vi_set(31 * SE_LOG_ONE)), 1);
    return z;
}

/* v * 2^(lg + extra): v of 30 bits, lg in Q24, rounded half up */
static inline vi scale_by(vi v, vi lg, int extra, const int32_t *exp2_table) {
    const vi k = vi_add(vi_sra(lg, 24), vi_set(extra + 1));
    const vi right = vi_min(vi_max(vi_sub(vi_set(0), k), vi_set(0)), vi_set(31));
    const vi product = vi_rdm(v, vt_of(exp2_q30(lg, exp2_table)));
    return vi_rshv(vi_sllv(product, vi_max(k, vi_set(0))), right);
}

static void compress(const int32_t *re, const int32_t *im, int n, int e, const se_compress *c,
                     int32_t *mag, int32_t *fr, int32_t *fi) {
    const vt exponent = vt_set(c->exponent);
    const vi limit = vi_set(15 * SE_LOG_ONE - 4096); /* just below 2^15 */
    for (int k = 0; k < n; k += VL) {
        const polar z = to_polar(vi_load(re + k), vi_load(im + k), c->log2_table);
        const vi lost = vi_sll(vi_add(z.shift, vi_set(e)), 24);
        const vi lm = vi_sub(vi_sub(z.length, lost), vi_set(c->shift_log2));
        const vi lc = vi_min(vi_rdm(lm, exponent), limit);
        const vi lg = vi_sub(lc, z.length);
        const vi right = vi_min(vi_sub(vi_set(14), vi_sra(lc, 24)), vi_set(31));
        vi m = exp2_q30(lc, c->exp2_table); /* Q30, so 2^(lc+16) is this >> (14 - floor lc) */
        m = vi_rshv(m, right);
        vi_store(mag + k, vi_andnot(z.zero, m));
        vi_store(fr + k, scale_by(z.r, lg, 16, c->exp2_table));
        vi_store(fi + k, scale_by(z.i, lg, 16, c->exp2_table));
    }
}

/* Half away from zero: the magnitude is rounded half up, then the sign returns. */
static void quantize(const int32_t *value, int n, const se_quantizer *q, int32_t *code) {
    const uint64_t half = (uint64_t)1 << (q->shift - 1);
    const vi zero = vi_set(0), zp = vi_set(q->zero_point), limit = vi_set(q->limit);
    for (int k = 0; k < n; k += VL) {
        const vi v = vi_load(value + k), sign = vi_sra(v, 31);
        const vi a = vi_min(vi_abs(v), limit);
        const vi u = vi_muls(a, q->multiplier, half, q->shift);
        const vi s = vi_add(vi_select(sign, vi_sub(zero, u), u), zp);
        vi_store(code + k, vi_min(vi_max(s, vi_set(-128)), vi_set(127)));
    }
}

/* U -> U * |U|^(1/c - 1) * scale, in place; returns the exponent of the frame. */
static int expand(int32_t *re, int32_t *im, int32_t *length, int32_t *level, int n,
                  const se_expand *x) {
    const vt fraction = vt_set(x->fraction);
    const vi none = vi_set(INT32_MIN), whole = vi_set(x->whole);
    vi top = none;
    int32_t lane[VL], peak = INT32_MIN, e;
    for (int k = 0; k < n; k += VL) {
        const polar z = to_polar(vi_load(re + k), vi_load(im + k), x->log2_table);
        const vi lu = vi_sub(z.length, vi_sll(vi_add(z.shift, vi_set(16)), 24)); /* U is Q16 */
        vi ly = vi_add(vi_mul(lu, whole), vi_rdm(lu, fraction));
        ly = vi_select(z.zero, none, vi_add(ly, vi_set(x->scale_log2)));
        top = vi_max(top, ly);
        vi_store(re + k, z.r);
        vi_store(im + k, z.i);
        vi_store(length + k, z.length);
        vi_store(level + k, ly);
    }
    vi_store(lane, top);
    for (int i = 0; i < VL; i++) peak = se_max(peak, lane[i]);
    if (peak == INT32_MIN) return 0; /* every U is zero, and so is what was stored */
    e = 28 - se_sra(peak, 24);       /* the longest value gets 29 bits */
    for (int k = 0; k < n; k += VL) {
        const vi ly = vi_load(level + k);
        const vi gone = vi_eq(ly, none);
        const vi lg = vi_andnot(gone, vi_sub(vi_add(ly, vi_set(e * SE_LOG_ONE)), vi_load(length + k)));
        vi_store(re + k, scale_by(vi_load(re + k), lg, 0, x->exp2_table));
        vi_store(im + k, scale_by(vi_load(im + k), lg, 0, x->exp2_table));
    }
    return e;
}

/* u = mask * f + bias, each part and the sum held within 30 bits */
static void mask_bias(const int32_t *f, const int32_t *mask, const int32_t *bias, int n,
                      int32_t *u) {
    for (int k = 0; k < n; k += VL) {
        const vi p = vi_clamp(vi_rdm_any(vi_load(f + k), vt_of(vi_load(mask + k))), SE_OLA_MAX);
        vi_store(u + k, vi_clamp(vi_add(p, vi_load(bias + k)), SE_OLA_MAX));
    }
}

static void complex_mask(const int32_t *fr, const int32_t *fi, const int32_t *mr,
                         const int32_t *mi, int n, int32_t *ur, int32_t *ui) {
    for (int k = 0; k < n; k += VL) {
        const vi a = vi_load(fr + k), b = vi_load(fi + k);
        const vt c = vt_of(vi_load(mr + k)), d = vt_of(vi_load(mi + k));
        const vi ac = vi_clamp(vi_rdm_any(a, c), SE_OLA_MAX);
        const vi bd = vi_clamp(vi_rdm_any(b, d), SE_OLA_MAX);
        const vi ad = vi_clamp(vi_rdm_any(a, d), SE_OLA_MAX);
        const vi bc = vi_clamp(vi_rdm_any(b, c), SE_OLA_MAX);
        vi_store(ur + k, vi_clamp(vi_sub(ac, bd), SE_OLA_MAX));
        vi_store(ui + k, vi_clamp(vi_add(ad, bc), SE_OLA_MAX));
    }
}

static void gain(const int32_t *x, const int32_t *g, int n, int32_t *y) {
    for (int k = 0; k < n; k += VL)
        vi_store(y + k, vi_rdm(vi_load(x + k), vt_of(vi_load(g + k))));
}
