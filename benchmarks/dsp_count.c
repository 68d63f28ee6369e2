/* Runs one transform many times, for counting instructions from outside: the difference between two
 * numbers of calls is the cost of the calls alone. benchmarks/dsp.py --instructions builds and runs it.
 *
 *     dsp_count fft|frame n calls */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "spectral_edge.h"

#define MAX 4096

static int16_t pcm[MAX * 4], out[MAX];
static int32_t cosine[MAX], sine[MAX], window[MAX], dual[MAX], v[MAX], re[MAX], im[MAX];
static int64_t memory[32768];

int main(int argc, char **argv) {
    const int n = argc > 3 ? atoi(argv[2]) : 0, hop = n / 2, calls = argc > 3 ? atoi(argv[3]) : 0;
    se_stft_config c = {n, hop, SE_AUTO, 0, cosine, sine, window, dual, 0};
    uint32_t state = 1;
    se_fft *fft;
    se_stft *stft;
    for (int i = 0; i < MAX * 4; i++) {
        state = state * 1664525u + 1013904223u;
        pcm[i] = (int16_t)((int32_t)(state >> 18) - 8192);
    }
    for (int i = 0; i < MAX; i++) v[i] = pcm[i] * 2;
    if (se_make_circle(n, cosine, sine) || se_make_window(SE_SQRT_HANN, n, window)) return 1;
    if (se_make_dual(SE_SQRT_HANN, n, hop, dual, &c.dual_exponent)) return 1;
    if (strcmp(argv[1], "fft") == 0) {
        if (se_fft_init(memory, sizeof memory, n, cosine, sine, SE_AUTO, &fft)) return 1;
        for (int i = 0; i < calls; i++) se_fft_forward(fft, v, re, im);
        return 0;
    }
    if (se_stft_init(memory, sizeof memory, &c, &stft)) return 1;
    for (int i = 0; i < calls; i++) {
        const int e = se_stft_push(stft, pcm + i % 4 * hop, re, im);
        se_stft_pull(stft, re, im, e, out);
    }
    return 0;
}
