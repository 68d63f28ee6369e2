/* Shared by the sources of the core, hidden from users. */
#ifndef SE_CORE_H
#define SE_CORE_H

#include "se_fixed.h"
#include "se_kernels.h"
#include "spectral_edge.h"

/* Cuts one block of memory into aligned pieces. With base NULL it only measures. */
typedef struct se_arena {
    unsigned char *base;
    size_t used;
} se_arena;

#define SE_ALIGN 64

void *se_arena_take(se_arena *arena, size_t bytes);
int32_t *se_arena_ints(se_arena *arena, int count);
void se_arena_open(se_arena *arena, void *memory);

const se_kernels *se_kernels_find(int isa);

#define SE_MAX_STAGES 12

typedef struct se_stage {
    se_stage_fn run;
    int m, s;
    const int32_t *twiddles;
} se_stage;

struct se_fft {
    int n, stages;
    const se_kernels *k;
    se_stage stage[SE_MAX_STAGES];
    int32_t *cosine, *sine;      /* first half, for the split */
    int32_t *ar, *ai, *br, *bi;  /* work, n/2 + SE_PAD each */
};

/* Lay out or measure; fft NULL measures. */
int se_fft_layout(se_arena *arena, int n, const int32_t *cosine, const int32_t *sine,
                  const se_kernels *k, se_fft *fft);

/* Complex transform of what is in ar, ai; the result's planes are returned. */
void se_fft_run(const se_fft *fft, int swap, int32_t **yr, int32_t **yi);

/* Load spectrum re, im into the work planes with the shift that bounds it; returns the shift. */
int se_fft_load_spectrum(const se_fft *fft, const int32_t *re, const int32_t *im);

struct se_stft {
    int n, hop, dual_exponent;
    int m, half; /* samples of the window, pairs of them: an odd m has a zero behind it */
    const se_kernels *k;
    se_fft *fft;
    int32_t *window_even, *window_odd, *weight_even, *weight_odd, *dual_even, *dual_odd;
    int16_t *history; /* m samples + SE_PAD, the padding zero */
    int32_t *overlap; /* m values, SE_OLA_FRACTION fraction bits, + SE_PAD */
};

/* Samples of the window. */
static inline int se_window_length(const se_stft_config *c) {
    return c->window_length ? c->window_length : c->n_fft;
}

int se_stft_layout(se_arena *arena, const se_stft_config *config, const se_kernels *k,
                   se_stft *stft);

/* log2 of v > 0, Q24, and the fraction part of 2^x as Q30: the formulas of the kernels. */
int32_t se_log2_q24(const int32_t *table, uint64_t v);
int32_t se_exp2_q30(const int32_t *table, int32_t x);

/* 2^x in Q16 of x in Q24, saturating just below 2^15. */
int32_t se_exp2_q16(const int32_t *table, int32_t x);

/* floor(sqrt(v)) */
uint64_t se_sqrt_u64(uint64_t v);

#endif
