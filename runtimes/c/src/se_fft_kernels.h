/* Complex FFT stages (Stockham, decimation in frequency, forward) and the split between the
 * complex transform of n/2 points and the real one of n. Included once per instruction set.
 *
 * One stage takes x[r][m][s] to y[m][r][s]: y[p][k][q] = w^(p*k) * sum_j x[j][p][q] * u^(j*k),
 * w = exp(-2*pi*i/(r*m)), u = exp(-2*pi*i/r). Twiddles are stored as (cos, sin) of the positive
 * angle in Q31. */

#define SE_COS72 663608942      /* cos 72 deg, Q31 */
#define SE_COS144 (-1737350766) /* cos 144 deg */
#define SE_SIN72 2042378317
#define SE_SIN144 1262259218
#define SE_SIN60 1859775393

typedef struct { vi r, i; } vc;

static inline vc vc_load(const int32_t *r, const int32_t *i) {
    vc z;
    z.r = vi_load(r);
    z.i = vi_load(i);
    return z;
}
static inline vc vc_add(vc a, vc b) {
    a.r = vi_add(a.r, b.r);
    a.i = vi_add(a.i, b.i);
    return a;
}
static inline vc vc_sub(vc a, vc b) {
    a.r = vi_sub(a.r, b.r);
    a.i = vi_sub(a.i, b.i);
    return a;
}
/* a - i*b and a + i*b */
static inline vc vc_sub_i(vc a, vc b) {
    a.r = vi_add(a.r, b.i);
    a.i = vi_sub(a.i, b.r);
    return a;
}
static inline vc vc_add_i(vc a, vc b) {
    a.r = vi_sub(a.r, b.i);
    a.i = vi_add(a.i, b.r);
    return a;
}
/* z * (c - i*s) */
static inline vc vc_turn(vc z, vt c, vt s) {
    vc y;
    y.r = vi_add(vi_rdm(z.r, c), vi_rdm(z.i, s));
    y.i = vi_sub(vi_rdm(z.i, c), vi_rdm(z.r, s));
    return y;
}
static inline vc vc_scale(vc z, vt w) {
    z.r = vi_rdm(z.r, w);
    z.i = vi_rdm(z.i, w);
    return z;
}

static inline void bfly2(const vc *x, vc *y) {
    y[0] = vc_add(x[0], x[1]);
    y[1] = vc_sub(x[0], x[1]);
}
static inline void bfly3(const vc *x, vc *y) {
    const vc t = vc_add(x[1], x[2]), d = vc_scale(vc_sub(x[1], x[2]), vt_set(SE_SIN60));
    vc mid; /* x0 - t/2, half rounded up */
    mid.r = vi_add(x[0].r, vi_sra(vi_sub(vi_set(1), t.r), 1));
    mid.i = vi_add(x[0].i, vi_sra(vi_sub(vi_set(1), t.i), 1));
    y[0] = vc_add(x[0], t);
    y[1] = vc_sub_i(mid, d);
    y[2] = vc_add_i(mid, d);
}
static inline void bfly4(const vc *x, vc *y) {
    const vc a0 = vc_add(x[0], x[2]), a1 = vc_sub(x[0], x[2]);
    const vc b0 = vc_add(x[1], x[3]), b1 = vc_sub(x[1], x[3]);
    y[0] = vc_add(a0, b0);
    y[1] = vc_sub_i(a1, b1);
    y[2] = vc_sub(a0, b0);
    y[3] = vc_add_i(a1, b1);
}
static inline void bfly5(const vc *x, vc *y) {
    const vc t1 = vc_add(x[1], x[4]), t2 = vc_add(x[2], x[3]);
    const vc d1 = vc_sub(x[1], x[4]), d2 = vc_sub(x[2], x[3]);
    const vt c1 = vt_set(SE_COS72), c2 = vt_set(SE_COS144);
    const vt s1 = vt_set(SE_SIN72), s2 = vt_set(SE_SIN144);
    const vc a1 = vc_add(vc_add(x[0], vc_scale(t1, c1)), vc_scale(t2, c2));
    const vc a2 = vc_add(vc_add(x[0], vc_scale(t1, c2)), vc_scale(t2, c1));
    const vc b1 = vc_add(vc_scale(d1, s1), vc_scale(d2, s2));
    const vc b2 = vc_sub(vc_scale(d1, s2), vc_scale(d2, s1));
    y[0] = vc_add(vc_add(x[0], t1), t2);
    y[1] = vc_sub_i(a1, b1);
    y[2] = vc_sub_i(a2, b2);
    y[3] = vc_add_i(a2, b2);
    y[4] = vc_add_i(a1, b1);
}

/* General stage: s is a multiple of VL; tw[p][r-1][2]. p == 0 needs no twiddles. */
#define SE_STAGE(R)                                                                                \
    static void stage##R(const int32_t *xr, const int32_t *xi, int32_t *yr, int32_t *yi, int m,    \
                         int s, const int32_t *tw) {                                               \
        const int step = s * m;                                                                    \
        for (int q = 0; q < s; q += VL) {                                                          \
            vc x[R], y[R];                                                                         \
            for (int k = 0; k < R; k++) x[k] = vc_load(xr + q + k * step, xi + q + k * step);      \
            bfly##R(x, y);                                                                         \
            for (int k = 0; k < R; k++) {                                                          \
                vi_store(yr + q + k * s, y[k].r);                                                  \
                vi_store(yi + q + k * s, y[k].i);                                                  \
            }                                                                                      \
        }                                                                                          \
        for (int p = 1; p < m; p++) {                                                              \
            vt c[R], t[R];                                                                         \
            const int in = s * p, out = s * R * p;                                                 \
            for (int k = 1; k < R; k++) {                                                          \
                c[k] = vt_set(tw[2 * ((R - 1) * p + k - 1)]);                                      \
                t[k] = vt_set(tw[2 * ((R - 1) * p + k - 1) + 1]);                                  \
            }                                                                                      \
            for (int q = 0; q < s; q += VL) {                                                      \
                vc x[R], y[R];                                                                     \
                for (int k = 0; k < R; k++)                                                        \
                    x[k] = vc_load(xr + in + q + k * step, xi + in + q + k * step);                \
                bfly##R(x, y);                                                                     \
                vi_store(yr + out + q, y[0].r);                                                    \
                vi_store(yi + out + q, y[0].i);                                                    \
                for (int k = 1; k < R; k++) {                                                      \
                    const vc z = vc_turn(y[k], c[k], t[k]);                                        \
                    vi_store(yr + out + q + k * s, z.r);                                           \
                    vi_store(yi + out + q + k * s, z.i);                                           \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }
SE_STAGE(2)
SE_STAGE(3)
SE_STAGE(4)
SE_STAGE(5)

#if VL == 8
/* s == 4: two values of p in one vector, twiddles spread to [p/2][r-1][2][8]. */
#define SE_PAIR(R)                                                                                 \
    static void pair##R(const int32_t *xr, const int32_t *xi, int32_t *yr, int32_t *yi, int m,     \
                        int s, const int32_t *tw) {                                                \
        (void)s;                                                                                   \
        for (int p = 0; p < m; p += 2) {                                                           \
            vc x[R], y[R];                                                                         \
            const int32_t *w = tw + 8 * (R - 1) * p;                                               \
            int32_t *const outr = yr + 4 * R * p, *const outi = yi + 4 * R * p;                    \
            for (int k = 0; k < R; k++)                                                            \
                x[k] = vc_load(xr + 4 * (p + k * m), xi + 4 * (p + k * m));                        \
            bfly##R(x, y);                                                                         \
            vi_store_halves(outr, outr + 4 * R, y[0].r);                                           \
            vi_store_halves(outi, outi + 4 * R, y[0].i);                                           \
            for (int k = 1; k < R; k++) {                                                          \
                const vc z = vc_turn(y[k], vt_pair(w), vt_pair(w + 8));                            \
                vi_store_halves(outr + 4 * k, outr + 4 * (R + k), z.r);                            \
                vi_store_halves(outi + 4 * k, outi + 4 * (R + k), z.i);                            \
                w += 16;                                                                           \
            }                                                                                      \
        }                                                                                          \
    }
SE_PAIR(2)
SE_PAIR(3)
SE_PAIR(4)
SE_PAIR(5)
#endif

/* Radix 4 at s == 1: lanes run over p; twiddles are six planes of `plane` values. */
static void first4(const int32_t *xr, const int32_t *xi, int32_t *yr, int32_t *yi, int m, int s,
                   const int32_t *tw) {
    const int plane = SE_FIRST4_PLANE(m);
    (void)s;
    for (int p = 0; p < m; p += VL) {
        vc x[4], y[4];
        for (int k = 0; k < 4; k++) x[k] = vc_load(xr + p + k * m, xi + p + k * m);
        bfly4(x, y);
        for (int k = 1; k < 4; k++) {
            const int32_t *w = tw + (2 * k - 2) * plane + p;
            y[k] = vc_turn(y[k], vt_load(w), vt_load(w + plane));
        }
        vi_store4(yr + 4 * p, y[0].r, y[1].r, y[2].r, y[3].r);
        vi_store4(yi + 4 * p, y[0].i, y[1].i, y[2].i, y[3].i);
    }
}

/* Bins k and m-k of the real transform from the same two of the complex one. */
static inline void split_at(const int32_t *zr, const int32_t *zi, int32_t *re, int32_t *im, int m,
                            int k, const int32_t *cos, const int32_t *sin) {
    const int j = m - k - (VL - 1);
    const vc z = vc_load(zr + k, zi + k);
    const vi c = vi_rev(vi_load(zr + j)), d = vi_rev(vi_load(zi + j));
    const vi ar = vi_add(z.r, c), ai = vi_sub(z.i, d), br = vi_sub(z.r, c), bi = vi_add(z.i, d);
    const vt wc = vt_load(cos + k), ws = vt_load(sin + k);
    const vi tr = vi_sub(vi_rdm(bi, wc), vi_rdm(br, ws));
    const vi ti = vi_add(vi_rdm(br, wc), vi_rdm(bi, ws)); /* minus the turned imaginary part */
    const vi one = vi_set(1);
    vi_store(re + k, vi_sra(vi_add(vi_add(ar, tr), one), 1));
    vi_store(im + k, vi_sra(vi_add(vi_sub(ai, ti), one), 1));
    vi_store(re + j, vi_rev(vi_sra(vi_add(vi_sub(ar, tr), one), 1)));
    vi_store(im + j, vi_rev(vi_sra(vi_sub(one, vi_add(ti, ai)), 1)));
}

static void split(const int32_t *zr, const int32_t *zi, int32_t *re, int32_t *im, int m,
                  const int32_t *cos, const int32_t *sin) {
    const int last = m / 2; /* k = 1 ... last, the partner m-k covers the rest */
    SE_UNROLL for (int k = 1; k + VL <= last + 1; k += VL) split_at(zr, zi, re, im, m, k, cos, sin);
    split_at(zr, zi, re, im, m, last + 1 - VL, cos, sin);
    re[0] = zr[0] + zi[0];
    re[m] = zr[0] - zi[0];
    im[0] = im[m] = 0;
}

static inline vi shift_in(vi v, int shift) {
    if (shift > 0) return vi_sra(vi_add(vi_sra(v, shift - 1), vi_set(1)), 1);
    return vi_sll(v, -shift);
}

static inline void unsplit_at(const int32_t *re, const int32_t *im, int32_t *zr, int32_t *zi,
                              int m, int k, int shift, const int32_t *cos, const int32_t *sin) {
    const int j = m - k - (VL - 1);
    const vi xr = shift_in(vi_load(re + k), shift), xi = shift_in(vi_load(im + k), shift);
    const vi c = shift_in(vi_rev(vi_load(re + j)), shift);
    const vi d = shift_in(vi_rev(vi_load(im + j)), shift);
    const vi ar = vi_add(xr, c), ai = vi_sub(xi, d), br = vi_sub(xr, c), bi = vi_add(xi, d);
    const vt wc = vt_load(cos + k), ws = vt_load(sin + k);
    const vi tr = vi_add(vi_rdm(br, ws), vi_rdm(bi, wc)); /* minus the turned real part */
    const vi ti = vi_sub(vi_rdm(br, wc), vi_rdm(bi, ws));
    vi_store(zr + k, vi_sub(ar, tr));
    vi_store(zi + k, vi_add(ai, ti));
    vi_store(zr + j, vi_rev(vi_add(ar, tr)));
    vi_store(zi + j, vi_rev(vi_sub(ti, ai)));
}

static void unsplit(const int32_t *re, const int32_t *im, int32_t *zr, int32_t *zi, int m,
                    int shift, const int32_t *cos, const int32_t *sin) {
    const int last = m / 2;
    int32_t low, high;
    if (shift > 0) { /* the branch taken once, not per value */
        SE_UNROLL for (int k = 1; k + VL <= last + 1; k += VL)
            unsplit_at(re, im, zr, zi, m, k, shift, cos, sin);
    } else {
        SE_UNROLL for (int k = 1; k + VL <= last + 1; k += VL)
            unsplit_at(re, im, zr, zi, m, k, shift, cos, sin);
    }
    unsplit_at(re, im, zr, zi, m, last + 1 - VL, shift, cos, sin);
    low = shift > 0 ? se_rsh(re[0], shift) : se_shl(re[0], -shift);
    high = shift > 0 ? se_rsh(re[m], shift) : se_shl(re[m], -shift);
    zr[0] = low + high;
    zi[0] = low - high;
}
