/* Streaming STFT: history and window in, window and overlap-add out. */
#include <string.h>

#include "se_core.h"

static int valid(const se_stft_config *c) {
    if (!c || !c->cosine || !c->sine || !c->window || !c->dual) return 0;
    if (c->window_length < 0 || c->window_length > c->n_fft) return 0;
    return c->hop >= 1 && c->hop <= se_window_length(c);
}

/* ceil(w * 2^7) of a Q31 window value in [0, 1] */
static int32_t bound_weight(int32_t w) { return (int32_t)(((uint32_t)w + (1u << 24) - 1) >> 24); }

static void fill(const se_stft_config *c, se_stft *t) {
    for (int i = 0; i < t->m; i++) {
        (i & 1 ? t->window_odd : t->window_even)[i / 2] = c->window[i];
        (i & 1 ? t->weight_odd : t->weight_even)[i / 2] = bound_weight(c->window[i]);
        (i & 1 ? t->dual_odd : t->dual_even)[i / 2] = c->dual[i];
    }
}

int se_stft_layout(se_arena *arena, const se_stft_config *c, const se_kernels *k, se_stft *t) {
    const int n = c->n_fft, m = se_window_length(c), half = (m + 1) / 2 + SE_PAD;
    se_stft measured;
    if (!t) t = &measured;
    t->n = n;
    t->m = m;
    t->half = (m + 1) / 2;
    t->hop = c->hop;
    t->k = k;
    t->dual_exponent = c->dual_exponent;
    t->window_even = se_arena_ints(arena, half);
    t->window_odd = se_arena_ints(arena, half);
    t->weight_even = se_arena_ints(arena, half);
    t->weight_odd = se_arena_ints(arena, half);
    t->dual_even = se_arena_ints(arena, half);
    t->dual_odd = se_arena_ints(arena, half);
    t->overlap = se_arena_ints(arena, m + SE_PAD);
    t->history = se_arena_take(arena, ((size_t)m + SE_PAD) * sizeof(int16_t));
    t->fft = se_arena_take(arena, sizeof(se_fft));
    if (t->window_even) {
        fill(c, t);
        memset(t->history, 0, ((size_t)m + SE_PAD) * sizeof(int16_t));
    }
    return se_fft_layout(arena, n, c->cosine, c->sine, k, t->fft);
}

size_t se_stft_size(const se_stft_config *config) {
    se_arena arena = {NULL, SE_ALIGN};
    if (!valid(config) || !se_fft_size(config->n_fft)) return 0;
    (void)se_arena_take(&arena, sizeof(se_stft));
    (void)se_stft_layout(&arena, config, se_kernels_find(SE_AUTO), NULL);
    return arena.used;
}

int se_stft_init(void *memory, size_t size, const se_stft_config *config, se_stft **stft) {
    const size_t needed = se_stft_size(config);
    const se_kernels *k = needed ? se_kernels_find(config->isa) : NULL;
    se_arena arena;
    if (!needed || !k || !stft) return SE_BAD_VALUE;
    if (!memory || size < needed) return SE_BAD_MEMORY;
    se_arena_open(&arena, memory);
    *stft = se_arena_take(&arena, sizeof(se_stft));
    return se_stft_layout(&arena, config, k, *stft);
}

void se_stft_reset(se_stft *t) {
    memset(t->history, 0, (size_t)t->m * sizeof(int16_t));
    memset(t->overlap, 0, (size_t)t->m * sizeof(int32_t));
}

/* The exponent that keeps every intermediate of the FFT inside 31 bits: with sum |v| < 2^29 over the
 * even samples and over the odd ones, each intermediate is a sum of v times numbers of modulus 1.
 * The 1/1024 pays for the roundings. */
static int frame_exponent(const se_stft *t) {
    const uint64_t peak = t->k->weighted_peak(t->history, t->weight_even, t->weight_odd, t->half);
    return peak ? se_min(30, 36 - se_bitlen64(peak + (peak >> 10))) : 0;
}

int se_stft_push(se_stft *t, const int16_t *pcm, int32_t *re, int32_t *im) {
    const size_t kept = (size_t)(t->m - t->hop), fresh = (size_t)t->hop;
    const size_t bins = (size_t)t->n / 2 + 1, padding = (size_t)(t->n / 2 - t->half);
    int32_t *yr, *yi;
    int e;
    memmove(t->history, t->history + fresh, kept * sizeof(int16_t));
    memcpy(t->history + kept, pcm, fresh * sizeof(int16_t));
    e = frame_exponent(t);
    if (e == 0) {
        memset(re, 0, bins * sizeof(int32_t));
        memset(im, 0, bins * sizeof(int32_t));
        return 0;
    }
    t->k->window(t->history, t->window_even, t->window_odd, t->fft->ar, t->fft->ai, t->half, e);
    if (padding) {
        memset(t->fft->ar + t->half, 0, padding * sizeof(int32_t));
        memset(t->fft->ai + t->half, 0, padding * sizeof(int32_t));
    }
    se_fft_run(t->fft, 0, &yr, &yi);
    t->k->split(yr, yi, re, im, t->n / 2, t->fft->cosine, t->fft->sine);
    return e;
}

void se_stft_pull(se_stft *t, const int32_t *re, const int32_t *im, int e, int16_t *pcm) {
    const int shift = se_fft_load_spectrum(t->fft, re, im);
    const size_t kept = (size_t)(t->m - t->hop);
    const int32_t *const overlap = t->overlap;
    const int hop = t->hop;
    int32_t *yr, *yi;
    se_fft_run(t->fft, 1, &yr, &yi);
    t->k->overlap_add(yr, yi, t->dual_even, t->dual_odd, t->overlap, t->half,
                      e - shift - SE_OLA_FRACTION + t->dual_exponent);
    SE_UNROLL for (int i = 0; i < hop; i++)
        pcm[i] = (int16_t)se_sat16(se_rsh(overlap[i], SE_OLA_FRACTION));
    memmove(t->overlap, t->overlap + t->hop, kept * sizeof(int32_t));
    memset(t->overlap + kept, 0, (size_t)t->hop * sizeof(int32_t));
}

void se_stft_push_clip(se_stft *t, const int16_t *pcm, int64_t hops, int32_t *re, int32_t *im,
                       int32_t *e) {
    const int64_t bins = t->n / 2 + 1;
    for (int64_t i = 0; i < hops; i++)
        e[i] = se_stft_push(t, pcm + i * t->hop, re + i * bins, im + i * bins);
}

void se_stft_pull_clip(se_stft *t, const int32_t *re, const int32_t *im, const int32_t *e,
                       int64_t hops, int16_t *pcm) {
    const int64_t bins = t->n / 2 + 1;
    for (int64_t i = 0; i < hops; i++)
        se_stft_pull(t, re + i * bins, im + i * bins, e[i], pcm + i * t->hop);
}

const char *se_stft_isa(const se_stft *t) { return t->k->name; }
