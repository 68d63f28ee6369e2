/* Real FFT of n points through a complex one of n/2: plan, forward, inverse. */
#include "se_core.h"
#include "se_plan.h"

/* Radices in the order they run: fours, then at most one two, threes, fives. */
static int factorise(int m, int *radix) {
    static const int order[] = {4, 2, 3, 5};
    int count = 0;
    for (int i = 0; i < 4; i++) {
        while (m % order[i] == 0) {
            radix[count++] = order[i];
            m /= order[i];
        }
    }
    return m == 1 ? count : 0;
}

static int valid(int n) {
    int radix[SE_MAX_STAGES];
    return n >= 64 && n <= 4096 && n % 2 == 0 && factorise(n / 2, radix) > 0;
}

typedef struct { const int32_t *cosine, *sine; int n; } circle;

static void put_twiddle(const circle *c, int p, int k, int length, int32_t *w, int stride) {
    const int i = p * k * (c->n / length) % c->n;
    w[0] = c->cosine[i];
    w[stride] = c->sine[i];
}

static void fill_first4(const circle *c, int m, int32_t *tw) {
    const int plane = SE_FIRST4_PLANE(m);
    for (int p = 0; p < m; p++) {
        for (int k = 1; k < 4; k++)
            put_twiddle(c, p, k, 4 * m, tw + (2 * k - 2) * plane + p, plane);
    }
}

static void fill_pair(const circle *c, int r, int m, int32_t *tw) {
    for (int p = 0; p < m; p++) {
        int32_t *block = tw + 8 * (r - 1) * (p & ~1) + 4 * (p & 1);
        for (int k = 1; k < r; k++) {
            for (int q = 0; q < 4; q++) put_twiddle(c, p, k, r * m, block + 16 * (k - 1) + q, 8);
        }
    }
}

static void fill_general(const circle *c, int r, int m, int32_t *tw) {
    for (int p = 0; p < m; p++) {
        for (int k = 1; k < r; k++)
            put_twiddle(c, p, k, r * m, tw + 2 * ((r - 1) * p + k - 1), 1);
    }
}

/* One stage: which loop, how many twiddles, and (unless measuring) the twiddles themselves. */
static void plan_stage(se_arena *arena, const circle *c, const se_kernels *k, int r, int m, int s,
                       se_stage *stage) {
    const int first = s == 1 && r == 4, pair = s == 4 && k->pair[r];
    const int count = first  ? 6 * SE_FIRST4_PLANE(m)
                      : pair ? 8 * (r - 1) * ((m + 1) & ~1) + 1
                             : 2 * (r - 1) * m;
    int32_t *tw = se_arena_ints(arena, count);
    if (!tw) return;
    stage->m = m;
    stage->s = s;
    stage->twiddles = tw;
    if (first) {
        stage->run = k->first4;
        fill_first4(c, m, tw);
    } else if (pair) {
        stage->run = k->pair[r];
        fill_pair(c, r, m, tw);
    } else {
        stage->run = s % k->lanes == 0 ? k->stage[r] : se_kernels_scalar.stage[r];
        fill_general(c, r, m, tw);
    }
}

int se_fft_layout(se_arena *arena, int n, const int32_t *cosine, const int32_t *sine,
                  const se_kernels *k, se_fft *fft) {
    const int half = n / 2;
    const circle c = {cosine, sine, n};
    int radix[SE_MAX_STAGES], count, length = half, s = 1;
    se_fft measured;
    if (!valid(n)) return SE_BAD_VALUE;
    if (!fft) fft = &measured;
    count = factorise(half, radix);
    fft->n = n;
    fft->k = k;
    fft->stages = count;
    for (int i = 0; i < count; i++) {
        plan_stage(arena, &c, k, radix[i], length / radix[i], s, &fft->stage[i]);
        s *= radix[i];
        length /= radix[i];
    }
    fft->cosine = se_arena_ints(arena, half + SE_PAD);
    fft->sine = se_arena_ints(arena, half + SE_PAD);
    fft->ar = se_arena_ints(arena, half + SE_PAD);
    fft->ai = se_arena_ints(arena, half + SE_PAD);
    fft->br = se_arena_ints(arena, half + SE_PAD);
    fft->bi = se_arena_ints(arena, half + SE_PAD);
    if (!fft->cosine) return SE_OK;
    for (int i = 0; i <= half; i++) {
        fft->cosine[i] = cosine[i];
        fft->sine[i] = sine[i];
    }
    return SE_OK;
}

size_t se_fft_size(int n) {
    se_arena arena = {NULL, SE_ALIGN};
    (void)se_arena_take(&arena, sizeof(se_fft));
    /* the widest layout, so that one size serves every instruction set */
    return se_fft_layout(&arena, n, NULL, NULL, se_kernels_find(SE_AUTO), NULL) == SE_OK
               ? arena.used
               : 0;
}

int se_fft_init(void *memory, size_t size, int n, const int32_t *cosine, const int32_t *sine,
                int isa, se_fft **fft) {
    const se_kernels *k = se_kernels_find(isa);
    const size_t needed = se_fft_size(n);
    se_arena arena;
    se_fft *f;
    if (!needed || !k || !cosine || !sine || !fft) return SE_BAD_VALUE;
    if (!memory || size < needed) return SE_BAD_MEMORY;
    se_arena_open(&arena, memory);
    f = se_arena_take(&arena, sizeof(se_fft));
    *fft = f;
    return se_fft_layout(&arena, n, cosine, sine, k, f);
}

void se_fft_run(const se_fft *fft, int swap, int32_t **yr, int32_t **yi) {
    int32_t *xr = swap ? fft->ai : fft->ar, *xi = swap ? fft->ar : fft->ai;
    int32_t *zr = swap ? fft->bi : fft->br, *zi = swap ? fft->br : fft->bi;
    for (int i = 0; i < fft->stages; i++) {
        const se_stage *stage = &fft->stage[i];
        int32_t *const tr = xr, *const ti = xi;
        stage->run(xr, xi, zr, zi, stage->m, stage->s, stage->twiddles);
        xr = zr;
        xi = zi;
        zr = tr;
        zi = ti;
    }
    *yr = swap ? xi : xr;
    *yi = swap ? xr : xi;
}

void se_fft_forward(se_fft *fft, const int32_t *v, int32_t *re, int32_t *im) {
    int32_t *yr, *yi;
    fft->k->unzip(v, fft->ar, fft->ai, fft->n / 2);
    se_fft_run(fft, 0, &yr, &yi);
    fft->k->split(yr, yi, re, im, fft->n / 2, fft->cosine, fft->sine);
}

int se_fft_load_spectrum(const se_fft *fft, const int32_t *re, const int32_t *im) {
    const int bins = fft->n / 2 + 1;
    const uint64_t sum = 2 * fft->k->spectrum_sum(re, im, bins);
    const int shift = sum ? se_max(se_bitlen64(sum + (sum >> 10)) - 29, -29) : 0;
    fft->k->unsplit(re, im, fft->ar, fft->ai, bins - 1, shift, fft->cosine, fft->sine);
    return shift;
}

int se_fft_inverse(se_fft *fft, const int32_t *re, const int32_t *im, int32_t *y) {
    int32_t *yr, *yi;
    const int shift = se_fft_load_spectrum(fft, re, im);
    se_fft_run(fft, 1, &yr, &yi);
    fft->k->zip(yr, yi, y, fft->n / 2);
    return shift;
}
