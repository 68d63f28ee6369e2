/* What the test programs share: integer test signals, SHA-256, and failing with a message. */
#ifndef SE_TEST_H
#define SE_TEST_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "spectral_edge.h"

#define SE_SIGNALS 10

static inline void fail(const char *what, const char *where) {
    fprintf(stderr, "FAILED: %s (%s)\n", what, where);
    exit(1);
}

static inline void *take(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) fail("out of memory", "malloc");
    return memory;
}

/* ---- signals: tests/dsp/signals.py makes the same ones --------------------------------------- */

static inline int16_t sample(int kind, int32_t i, uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    switch (kind) {
    case 0: /* white noise at full scale */
        return (int16_t)((int32_t)(*state >> 16) - 32768);
    case 1: /* random signs at full scale */
        return (int16_t)(*state >> 31 ? 32767 : -32768);
    case 2: /* square wave at full scale */
        return (int16_t)(i / 37 % 2 ? 32767 : -32768);
    case 3: /* impulses */
        return (int16_t)(i % 97 == 0 ? 32767 : 0);
    case 4: /* noise of one step */
        return (int16_t)((int32_t)((*state >> 16) % 3) - 1);
    case 5: { /* triangular chirp */
        const int32_t phase = (int32_t)(((uint32_t)i * (uint32_t)i * 3u) & 0xFFFF);
        return (int16_t)(phase < 32768 ? 2 * phase - 32768 : 98303 - 2 * phase);
    }
    case 6: /* constant */
        return -32768;
    case 7: /* Nyquist at full scale */
        return (int16_t)(i % 2 ? -32768 : 32767);
    case 8: /* noise that fades from full scale to silence, and again */
        return (int16_t)(((int32_t)(*state >> 16) - 32768) / (1 << (i / 512 % 17)));
    default: /* one step once in silence */
        return (int16_t)(i == 200);
    }
}

static inline void signal_fill(int kind, int32_t count, int16_t *x) {
    uint32_t state = 1;
    for (int32_t i = 0; i < count; i++) x[i] = sample(kind, i, &state);
}

/* ---- SHA-256 --------------------------------------------------------------------------------- */

typedef struct sha256 {
    uint32_t h[8];
    uint64_t length;
    unsigned char block[64];
} sha256;

static inline void sha256_start(sha256 *s) {
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(s->h, start, sizeof start);
    s->length = 0;
}

static inline uint32_t rotate(uint32_t v, int n) { return v >> n | v << (32 - n); }

static const uint32_t sha256_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
    0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
    0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
    0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
    0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
    0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
    0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
    0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
    0xc67178f2};

static inline void sha256_block(sha256 *s) {
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)s->block[4 * i] << 24 | (uint32_t)s->block[4 * i + 1] << 16 |
               (uint32_t)s->block[4 * i + 2] << 8 | s->block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        const uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) +
               (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
    }
    memcpy(v, s->h, sizeof v);
    for (int i = 0; i < 64; i++) {
        const uint32_t e = v[4], a = v[0];
        const uint32_t t1 = v[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
                            ((e & v[5]) ^ (~e & v[6])) + sha256_constants[i] + w[i];
        const uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) +
                            ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof v[0]);
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) s->h[i] += v[i];
}

static inline void sha256_byte(sha256 *s, unsigned char byte) {
    s->block[s->length++ % 64] = byte;
    if (s->length % 64 == 0) sha256_block(s);
}

/* little-endian, whatever the machine */
static inline void sha256_int32(sha256 *s, const int32_t *v, int count) {
    for (int i = 0; i < count; i++) {
        for (int b = 0; b < 32; b += 8) sha256_byte(s, (unsigned char)((uint32_t)v[i] >> b));
    }
}

static inline void sha256_int16(sha256 *s, const int16_t *v, int count) {
    for (int i = 0; i < count; i++) {
        sha256_byte(s, (unsigned char)((uint16_t)v[i] & 0xFF));
        sha256_byte(s, (unsigned char)((uint16_t)v[i] >> 8));
    }
}

static inline void sha256_text(sha256 *s, char *text) { /* 65 bytes */
    const uint64_t bits = s->length * 8;
    sha256_byte(s, 0x80);
    while (s->length % 64 != 56) sha256_byte(s, 0);
    for (int b = 56; b >= 0; b -= 8) sha256_byte(s, (unsigned char)(bits >> b));
    for (int i = 0; i < 8; i++) sprintf(text + 8 * i, "%08lx", (unsigned long)s->h[i]);
}

/* ---- tables ---------------------------------------------------------------------------------- */

static const char *const window_names[] = {"sqrt_hann", "hann", "hamming", "rect"};

static inline int window_index(const char *name) {
    for (int i = 0; i < 4; i++) {
        if (strcmp(name, window_names[i]) == 0) return i;
    }
    fail("unknown window", name);
    return -1;
}

/* A configuration with its tables, for the length of the program: m samples of window, n of FFT. */
static inline se_stft_config make_padded_config(int m, int n, int hop, int window, int isa) {
    se_stft_config c;
    int32_t *cosine = take((size_t)n * 4), *sine = take((size_t)n * 4);
    int32_t *taper = take((size_t)m * 4), *dual = take((size_t)m * 4);
    if (se_make_circle(n, cosine, sine) || se_make_window(window, m, taper)) fail("tables", "size");
    if (se_make_padded_dual(window, m, n, hop, dual, &c.dual_exponent)) fail("tables", "dual");
    c.window_length = m;
    c.n_fft = n;
    c.hop = hop;
    c.isa = isa;
    c.cosine = cosine;
    c.sine = sine;
    c.window = taper;
    c.dual = dual;
    return c;
}

/* ---- log-mel, codes and PCEN, as the golden files write them down ------------------------------ */

static inline long long read_number(FILE *file, const char *what) {
    long long v;
    if (fscanf(file, "%lld", &v) != 1) fail("missing number", what);
    return v;
}

static inline int32_t read_int(FILE *file, const char *what) {
    return (int32_t)read_number(file, what);
}

#define SE_MAX_BANDS 64
#define SE_MAX_WEIGHTS 2048

typedef struct mel_case {
    int m, n, hop, window, has_pcen;
    se_logmel_config mel;
    se_code_rule rule[2]; /* int8, int16 */
    se_pcen_config pcen;
    int64_t smoothed[SE_MAX_BANDS];
    int32_t first[SE_MAX_BANDS], count[SE_MAX_BANDS], offset[SE_MAX_BANDS];
    int32_t weight[SE_MAX_WEIGHTS], log2_table[257], exp2_table[257];
} mel_case;

/* "m n hop window bands power whole fraction reference floor total_bits", two code rules, 0 or 1 and
 * the seven numbers of PCEN, then first, count, offset and weights of each band. */
static inline void read_mel_case(FILE *file, mel_case *c) {
    char window[16];
    int used = 0;
    memset(c, 0, sizeof *c);
    if (fscanf(file, "%d %d %d %15s", &c->m, &c->n, &c->hop, window) != 4) fail("line", "logmel");
    c->window = window_index(window);
    c->mel.bins = c->n / 2 + 1;
    c->mel.bands = read_int(file, "bands");
    c->mel.power = read_int(file, "power");
    c->mel.whole = read_int(file, "whole");
    c->mel.fraction = read_int(file, "fraction");
    c->mel.reference = read_int(file, "reference");
    c->mel.floor = read_int(file, "floor");
    c->mel.total_bits = read_int(file, "total_bits");
    for (int i = 0; i < 2; i++) {
        c->rule[i].multiplier = (uint32_t)read_number(file, "multiplier");
        c->rule[i].shift = read_int(file, "shift");
        c->rule[i].limit = read_int(file, "limit");
        c->rule[i].zero_point = read_int(file, "zero_point");
    }
    c->has_pcen = read_int(file, "pcen");
    if (c->has_pcen) {
        c->pcen.bands = c->mel.bands;
        c->pcen.smooth_mantissa = read_int(file, "smooth_mantissa");
        c->pcen.smooth_shift = read_int(file, "smooth_shift");
        c->pcen.gain = read_int(file, "gain");
        c->pcen.power = read_int(file, "power");
        c->pcen.epsilon = read_number(file, "epsilon");
        c->pcen.bias = read_int(file, "bias");
        c->pcen.bias_power = read_int(file, "bias_power");
    }
    if (c->mel.bands < 1 || c->mel.bands > SE_MAX_BANDS) fail("number of bands", "logmel");
    for (int i = 0; i < c->mel.bands; i++) {
        c->first[i] = read_int(file, "first");
        c->count[i] = read_int(file, "count");
        c->offset[i] = read_int(file, "offset");
        if (c->count[i] < 1 || used + c->count[i] > SE_MAX_WEIGHTS) fail("number of weights", "logmel");
        for (int k = 0; k < c->count[i]; k++) c->weight[used++] = read_int(file, "weight");
    }
    se_make_log_tables(c->log2_table, c->exp2_table);
    c->mel.first = c->first;
    c->mel.count = c->count;
    c->mel.offset = c->offset;
    c->mel.weight = c->weight;
    c->mel.log2_table = c->pcen.log2_table = c->log2_table;
    c->pcen.exp2_table = c->exp2_table;
}

/* What one frame becomes. */
typedef struct mel_frame {
    int32_t mel[SE_MAX_BANDS], pcen[SE_MAX_BANDS];
    int32_t codes8[SE_MAX_BANDS], codes16[SE_MAX_BANDS]; /* widened */
} mel_frame;

static inline void run_mel_case(mel_case *c, se_logmel *mel, const int32_t *re, const int32_t *im, int e,
                                mel_frame *f) {
    int8_t codes8[SE_MAX_BANDS];
    int16_t codes16[SE_MAX_BANDS];
    const int bands = c->mel.bands;
    se_logmel_frame(mel, re, im, e, f->mel);
    if (se_quantize_int8(&c->rule[0], f->mel, bands, codes8)) fail("se_quantize_int8", "status");
    if (se_quantize_int16(&c->rule[1], f->mel, bands, codes16)) fail("se_quantize_int16", "status");
    for (int i = 0; i < bands; i++) {
        f->codes8[i] = codes8[i];
        f->codes16[i] = codes16[i];
    }
    if (c->has_pcen) se_pcen_frame(&c->pcen, f->mel, c->smoothed, f->pcen);
}

static inline se_stft_config make_config(int n, int hop, int window, int isa) {
    return make_padded_config(n, n, hop, window, isa);
}

static inline void drop_config(const se_stft_config *c) {
    free((void *)(uintptr_t)c->cosine);
    free((void *)(uintptr_t)c->sine);
    free((void *)(uintptr_t)c->window);
    free((void *)(uintptr_t)c->dual);
}

#endif
