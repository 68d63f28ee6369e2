/* Filters a 16-bit WAV through the integer STFT: everything outside a band is removed.
 *
 *     wav_filter in.wav out.wav [low_hz high_hz]
 *
 * Needs the header and the core, nothing else:
 *     cd runtimes/c && cc -O3 -std=c99 -Iinclude example/wav_filter.c $(ls src/se_*.c) -o wav_filter
 * All memory is static; on a device the tables could be constants. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "spectral_edge.h"

#define N_FFT 512
#define HOP 256
#define BINS (N_FFT / 2 + 1)
#define CHANNELS_MAX 2

static int32_t cosine[N_FFT], sine[N_FFT], window[N_FFT], dual[N_FFT];
static int64_t memory[CHANNELS_MAX][6000]; /* se_stft_size says how much is needed */

static void stop(const char *why) {
    fprintf(stderr, "wav_filter: %s\n", why);
    exit(1);
}

static uint32_t little(const unsigned char *b, int bytes) {
    uint32_t v = 0;
    for (int i = bytes - 1; i >= 0; i--) v = v << 8 | b[i];
    return v;
}

typedef struct { uint32_t rate, bytes, channels; } wav_format;

/* Copies the header up to the samples; returns what it says. */
static wav_format copy_header(FILE *in, FILE *out) {
    unsigned char b[12], chunk[4096];
    wav_format f = {0, 0, 0};
    if (fread(b, 1, 12, in) != 12 || memcmp(b, "RIFF", 4) || memcmp(b + 8, "WAVE", 4))
        stop("not a WAV file");
    fwrite(b, 1, 12, out);
    while (fread(b, 1, 8, in) == 8) {
        const uint32_t size = little(b + 4, 4);
        fwrite(b, 1, 8, out);
        if (memcmp(b, "data", 4) == 0) {
            f.bytes = size;
            if (f.channels == 0) stop("no fmt chunk before the samples");
            return f;
        }
        if (size > sizeof chunk || fread(chunk, 1, size, in) != size) stop("a chunk is too long");
        fwrite(chunk, 1, size, out);
        if (memcmp(b, "fmt ", 4) == 0) {
            f.channels = little(chunk + 2, 2);
            f.rate = little(chunk + 4, 4);
            if (little(chunk, 2) != 1 || little(chunk + 14, 2) != 16) stop("not 16-bit PCM");
            if (f.channels > CHANNELS_MAX) stop("more than two channels");
        }
    }
    stop("no samples");
    return f;
}

static void open_streams(se_stft *streams[], uint32_t channels) {
    se_stft_config c = {N_FFT, HOP, SE_AUTO, 0, cosine, sine, window, dual, 0};
    se_make_circle(N_FFT, cosine, sine);
    se_make_window(SE_SQRT_HANN, N_FFT, window);
    if (se_make_dual(SE_SQRT_HANN, N_FFT, HOP, dual, &c.dual_exponent)) stop("window and hop");
    for (uint32_t i = 0; i < channels; i++) {
        if (se_stft_init(memory[i], sizeof memory[i], &c, &streams[i])) stop("static memory");
    }
}

/* One hop of one channel: transform, keep bins low...high, transform back. */
static void filter(se_stft *stft, const int16_t *in, int16_t *out, int low, int high) {
    static int32_t re[BINS], im[BINS];
    const int e = se_stft_push(stft, in, re, im);
    for (int k = 0; k < BINS; k++) {
        if (k < low || k > high) re[k] = im[k] = 0;
    }
    se_stft_pull(stft, re, im, e, out);
}

/* Reads up to HOP interleaved frames, zeros behind the end. */
static void read_hop(FILE *in, int16_t pcm[][HOP], uint32_t channels, uint32_t *left) {
    int got = 0;
    memset(pcm, 0, sizeof(int16_t) * HOP * channels);
    for (; got < HOP && *left >= 2 * channels; got++) {
        for (uint32_t c = 0; c < channels; c++) {
            unsigned char b[2];
            if (fread(b, 1, 2, in) != 2) stop("the file is shorter than its header says");
            pcm[c][got] = (int16_t)little(b, 2);
        }
        *left -= 2 * channels;
    }
}

static void write_frames(FILE *out, int16_t pcm[][HOP], uint32_t channels, int from, int to) {
    for (int i = from; i < to; i++) {
        for (uint32_t c = 0; c < channels; c++) {
            const uint16_t v = (uint16_t)pcm[c][i];
            fputc(v & 0xFF, out);
            fputc(v >> 8, out);
        }
    }
}

int main(int argc, char **argv) {
    static int16_t in_pcm[CHANNELS_MAX][HOP], out_pcm[CHANNELS_MAX][HOP];
    se_stft *streams[CHANNELS_MAX];
    FILE *in = argc > 2 ? fopen(argv[1], "rb") : NULL, *out = argc > 2 ? fopen(argv[2], "wb") : NULL;
    wav_format f;
    int low, high, late = N_FFT - HOP; /* samples the output lags behind: left out, so files align */
    long long to_write;
    if (!in || !out) stop("usage: wav_filter in.wav out.wav [low_hz high_hz]");
    f = copy_header(in, out);
    low = argc > 4 ? (int)(atof(argv[3]) * N_FFT / f.rate) : 0;
    high = argc > 4 ? (int)(atof(argv[4]) * N_FFT / f.rate) : BINS - 1;
    open_streams(streams, f.channels);
    to_write = f.bytes / (2 * f.channels);
    while (to_write > 0) {
        const int from = late < HOP ? late : HOP;
        int to = HOP;
        read_hop(in, in_pcm, f.channels, &f.bytes);
        for (uint32_t c = 0; c < f.channels; c++) filter(streams[c], in_pcm[c], out_pcm[c], low, high);
        late -= from;
        if (to - from > to_write) to = from + (int)to_write;
        write_frames(out, out_pcm, f.channels, from, to);
        to_write -= to - from;
    }
    fclose(in);
    return fclose(out) ? 1 : 0;
}
