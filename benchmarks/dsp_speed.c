/* Times one real FFT and one complete frame (hop in, window, FFT, inverse, window, overlap-add, int16
 * out) of the core and, where compiled in, of float libraries doing the same. benchmarks/dsp.py builds
 * and runs it. One line per figure: library size fft_ns frame_ns (best of many repeats). */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "spectral_edge.h"
#ifdef WITH_PFFFT
/* The copy inside the source package of soxr: static functions, memory from outside. */
#define PFFFT_DOUBLE 0
#define pffft_aligned_malloc(bytes) aligned_alloc(64, ((bytes) + 63) / 64 * 64)
#define pffft_aligned_free free
#include "pffft.c"
#endif
#ifdef WITH_FFTW
#include <fftw3.h>
#endif
#ifdef WITH_KISSFFT
#include <kiss_fftr.h>
#endif

#define MAX 4096
#define REPEATS 200
#define CALLS 200

static int16_t pcm[MAX * 8], out_pcm[MAX];
static float window[MAX], history[MAX], overlap[MAX];
static int n, hop;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Best time of one call in ns. */
static double best(void (*call)(int)) {
    double least = 1e30;
    for (int r = 0; r < REPEATS; r++) {
        const double start = now();
        for (int i = 0; i < CALLS; i++) call(i);
        const double each = (now() - start) / CALLS;
        if (each < least) least = each;
    }
    return least;
}

static const int16_t *hop_of(int i) { return pcm + i % 8 * hop; }

static void report(const char *name, void (*fft)(int), void (*frame)(int)) {
    printf("%s %d %.0f %.0f\n", name, n, best(fft), best(frame));
}

/* ---- the core ------------------------------------------------------------------------------- */

static se_fft *fixed_fft;
static se_stft *fixed_stft;
static int32_t v[MAX], re[MAX], im[MAX];

static void fixed_transform(int i) {
    v[i % n] ^= 1;
    se_fft_forward(fixed_fft, v, re, im);
}

static void fixed_frame(int i) {
    const int e = se_stft_push(fixed_stft, hop_of(i), re, im);
    se_stft_pull(fixed_stft, re, im, e, out_pcm);
}

static void time_core(const char *name, int isa) {
    static int32_t cosine[MAX], sine[MAX], taper[MAX], dual[MAX];
    se_stft_config c = {0, 0, 0, 0, cosine, sine, taper, dual, 0};
    void *a, *b;
    if (!se_isa_available(isa)) return;
    c.n_fft = n;
    c.hop = hop;
    c.isa = isa;
    se_make_circle(n, cosine, sine);
    se_make_window(SE_SQRT_HANN, n, taper);
    se_make_dual(SE_SQRT_HANN, n, hop, dual, &c.dual_exponent);
    a = malloc(se_fft_size(n));
    b = malloc(se_stft_size(&c));
    if (!a || !b || se_fft_init(a, se_fft_size(n), n, cosine, sine, isa, &fixed_fft) ||
        se_stft_init(b, se_stft_size(&c), &c, &fixed_stft))
        exit(1);
    for (int i = 0; i < n; i++) v[i] = pcm[i] * 2;
    report(name, fixed_transform, fixed_frame);
    free(a);
    free(b);
}

/* ---- float libraries: the same frame around another FFT --------------------------------------- */

static float *time_buffer, *spectrum;

/* Zeros, aligned for any vector unit; kept until the program ends. */
static float *block_of(int count) {
    char *p = calloc(1, (size_t)count * sizeof(float) + 64);
    if (!p) exit(1);
    return (float *)(void *)(p + (64 - (uintptr_t)p % 64));
}

static void float_in(const int16_t *x) {
    memmove(history, history + hop, (size_t)(n - hop) * sizeof(float));
    for (int i = 0; i < hop; i++) history[n - hop + i] = x[i];
    for (int i = 0; i < n; i++) time_buffer[i] = history[i] * window[i];
}

static void float_out(void) {
    const float scale = 1.0f / (float)n;
    for (int i = 0; i < n; i++) overlap[i] += time_buffer[i] * window[i] * scale;
    for (int i = 0; i < hop; i++) {
        const float s = overlap[i] < -32768 ? -32768 : overlap[i] > 32767 ? 32767 : overlap[i];
        out_pcm[i] = (int16_t)lrintf(s);
    }
    memmove(overlap, overlap + hop, (size_t)(n - hop) * sizeof(float));
    memset(overlap + n - hop, 0, (size_t)hop * sizeof(float));
}

#ifdef WITH_PFFFT
static PFFFT_Setup *pffft;
static float *pffft_work;

static void pffft_forward(int i) {
    time_buffer[i % n] = 1;
    pffft_transform_ordered(pffft, time_buffer, spectrum, pffft_work, PFFFT_FORWARD);
}

static void pffft_frame(int i) {
    float_in(hop_of(i));
    pffft_transform_ordered(pffft, time_buffer, spectrum, pffft_work, PFFFT_FORWARD);
    pffft_transform_ordered(pffft, spectrum, time_buffer, pffft_work, PFFFT_BACKWARD);
    float_out();
}

static void time_pffft(void) {
    if (n & (n - 1)) return; /* this copy knows powers of two only */
    pffft = pffft_new_setup(n, PFFFT_REAL);
    pffft_work = block_of(n);
    report("pffft-float32", pffft_forward, pffft_frame);
}
#endif

#ifdef WITH_FFTW
static fftwf_plan fftw_there, fftw_back;

static void fftw_forward(int i) {
    time_buffer[i % n] = 1;
    fftwf_execute(fftw_there);
}

static void fftw_frame(int i) {
    float_in(hop_of(i));
    fftwf_execute(fftw_there);
    fftwf_execute(fftw_back);
    float_out();
}

static void time_fftw(void) {
    fftw_there = fftwf_plan_dft_r2c_1d(n, time_buffer, (fftwf_complex *)(void *)spectrum, FFTW_ESTIMATE);
    fftw_back = fftwf_plan_dft_c2r_1d(n, (fftwf_complex *)(void *)spectrum, time_buffer, FFTW_ESTIMATE);
    memset(time_buffer, 0, (size_t)n * sizeof(float));
    report("fftw-float32", fftw_forward, fftw_frame);
}
#endif

#ifdef WITH_KISSFFT
static kiss_fftr_cfg kiss_there, kiss_back;

static void kiss_forward(int i) {
    time_buffer[i % n] = 1;
    kiss_fftr(kiss_there, time_buffer, (kiss_fft_cpx *)(void *)spectrum);
}

static void kiss_frame(int i) {
    float_in(hop_of(i));
    kiss_fftr(kiss_there, time_buffer, (kiss_fft_cpx *)(void *)spectrum);
    kiss_fftri(kiss_back, (kiss_fft_cpx *)(void *)spectrum, time_buffer);
    float_out();
}

static void time_kiss(void) {
    kiss_there = kiss_fftr_alloc(n, 0, NULL, NULL);
    kiss_back = kiss_fftr_alloc(n, 1, NULL, NULL);
    report("kissfft-float32", kiss_forward, kiss_frame);
}
#endif

int main(int argc, char **argv) {
    uint32_t state = 1;
    for (int i = 0; i < MAX * 8; i++) {
        state = state * 1664525u + 1013904223u;
        pcm[i] = (int16_t)((int32_t)(state >> 18) - 8192);
    }
    for (int a = 1; a < argc; a++) {
        n = atoi(argv[a]);
        hop = n / 2;
        for (int i = 0; i < n; i++) window[i] = (float)sin(3.14159265358979323846 * i / n);
        time_buffer = block_of(n);
        spectrum = block_of(n + 2);
        time_core("core-avx2", SE_AVX2);
        time_core("core-sse41", SE_SSE41);
        time_core("core-neon", SE_NEON);
        time_core("core-scalar", SE_SCALAR);
#ifdef WITH_PFFFT
        time_pffft();
#endif
#ifdef WITH_FFTW
        time_fftw();
#endif
#ifdef WITH_KISSFFT
        time_kiss();
#endif
    }
    return 0;
}
