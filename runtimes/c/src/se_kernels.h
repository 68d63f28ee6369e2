/* The loops of the core, one table of functions per instruction set. Internal. */
#ifndef SE_KERNELS_H
#define SE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* Work buffers have SE_PAD values more than their length: vector loops may read and write there. */
#define SE_PAD 64

typedef void (*se_stage_fn)(const int32_t *xr, const int32_t *xi, int32_t *yr, int32_t *yi, int m,
                            int s, const int32_t *tw);

/* What the expansion back to a linear spectrum needs to know about a frame. */
typedef struct se_expand {
    const int32_t *log2_table, *exp2_table;
    int32_t whole, fraction; /* 1/c = whole + fraction*2^-31 */
    int32_t scale_log2;      /* log2 of level and window norm, Q24 */
} se_expand;

typedef struct se_compress {
    const int32_t *log2_table, *exp2_table;
    int32_t exponent;   /* c, Q31 */
    int32_t shift_log2; /* log2 of everything |X| is divided by, Q24 */
} se_compress;

typedef struct se_quantizer {
    uint32_t multiplier;
    int32_t shift, limit, zero_point;
} se_quantizer;

typedef struct se_kernels {
    const char *name;
    int lanes;
    se_stage_fn first4;   /* radix 4 at s == 1 */
    se_stage_fn pair[6];  /* s == 4 with 8 lanes, by radix; NULL where not needed */
    se_stage_fn stage[6]; /* s a multiple of lanes, by radix 2, 3, 4, 5 */
    void (*split)(const int32_t *zr, const int32_t *zi, int32_t *re, int32_t *im, int m,
                  const int32_t *cos, const int32_t *sin);
    void (*unsplit)(const int32_t *re, const int32_t *im, int32_t *zr, int32_t *zi, int m,
                    int shift, const int32_t *cos, const int32_t *sin);
    uint64_t (*weighted_peak)(const int16_t *x, const int32_t *weight_even,
                              const int32_t *weight_odd, int half);
    uint64_t (*energy)(const int16_t *x, int n);
    uint64_t (*spectrum_sum)(const int32_t *re, const int32_t *im, int n);
    void (*unzip)(const int32_t *v, int32_t *even, int32_t *odd, int half);
    void (*zip)(const int32_t *even, const int32_t *odd, int32_t *v, int half);
    void (*window)(const int16_t *x, const int32_t *even, const int32_t *odd, int32_t *vr,
                   int32_t *vim, int half, int e);
    void (*overlap_add)(const int32_t *yr, const int32_t *yi, const int32_t *even,
                        const int32_t *odd, int32_t *acc, int half, int shift);
    void (*compress)(const int32_t *re, const int32_t *im, int n, int e, const se_compress *c,
                     int32_t *mag, int32_t *fr, int32_t *fi);
    void (*quantize)(const int32_t *value, int n, const se_quantizer *q, int32_t *code);
    int (*expand)(int32_t *re, int32_t *im, int32_t *length, int32_t *level, int n,
                  const se_expand *x);
    void (*mask_bias)(const int32_t *f, const int32_t *mask, const int32_t *bias, int n,
                      int32_t *u);
    void (*complex_mask)(const int32_t *fr, const int32_t *fi, const int32_t *mr,
                         const int32_t *mi, int n, int32_t *ur, int32_t *ui);
    void (*gain)(const int32_t *x, const int32_t *gain, int n, int32_t *y);
} se_kernels;

extern const se_kernels se_kernels_scalar;
#if defined(__x86_64__) || defined(_M_X64) || defined(__i386__) || defined(_M_IX86)
#define SE_HAS_X86 1
extern const se_kernels se_kernels_sse41;
extern const se_kernels se_kernels_avx2;
#endif
#if defined(__ARM_NEON) || defined(__ARM_NEON__)
#define SE_HAS_NEON 1
extern const se_kernels se_kernels_neon;
#endif

#endif
