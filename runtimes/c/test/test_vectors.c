/* Hop by hop against tests/golden/stft_vectors.txt and feature_vectors.txt, which pytest reads too.
 *
 *     test_vectors vectors.txt
 *
 * "case n hop window frames", then per frame "push pcm...", "spectrum e re... im...",
 * "pull pcm...".
 * "logmel <read_mel_case> frames", then per frame "push pcm...", "mel ...", "int8 ...", "int16 ..."
 * and, where there is PCEN, "pcen ...".
 * "dct n bits fraction_bits", then "x ...", "forward ...", "inverse ...", and for a block
 * "x2d ...", "forward2d ...", "inverse2d ...". */
#include "se_test.h"

static void expect(FILE *file, const char *word) {
    char seen[16];
    if (fscanf(file, "%15s", seen) != 1 || strcmp(seen, word) != 0) fail("expected word", word);
}

static void read_int16(FILE *file, int16_t *x, int count) {
    for (int i = 0; i < count; i++) {
        int v;
        if (fscanf(file, "%d", &v) != 1) fail("missing number", "int16");
        x[i] = (int16_t)v;
    }
}

static void check_int32(FILE *file, const int32_t *x, int count, const char *what) {
    for (int i = 0; i < count; i++) {
        long v;
        if (fscanf(file, "%ld", &v) != 1) fail("missing number", what);
        if (v != x[i]) {
            fprintf(stderr, "FAILED: %s[%d] is %ld, expected %ld\n", what, i, (long)x[i], v);
            exit(1);
        }
    }
}

static void check_int16(FILE *file, const int16_t *x, int count, const char *what) {
    for (int i = 0; i < count; i++) {
        const int32_t wide = x[i];
        check_int32(file, &wide, 1, what);
    }
}

static void run_case(FILE *file) {
    char window[16];
    int n, hop, frames, bins;
    se_stft_config c;
    se_stft *stft;
    void *memory;
    int16_t *pcm;
    int32_t *re, *im, e;
    size_t size;
    if (fscanf(file, "%d %d %15s %d", &n, &hop, window, &frames) != 4) fail("case", "line");
    c = make_config(n, hop, window_index(window), SE_AUTO);
    bins = n / 2 + 1;
    size = se_stft_size(&c);
    memory = take(size);
    pcm = take((size_t)hop * 2);
    re = take((size_t)bins * 4);
    im = take((size_t)bins * 4);
    if (se_stft_init(memory, size - 1, &c, &stft) != SE_BAD_MEMORY) fail("size", "not checked");
    if (se_stft_init(memory, size, &c, &stft)) fail("se_stft_init", "status");
    for (int t = 0; t < frames; t++) {
        expect(file, "push");
        read_int16(file, pcm, hop);
        e = se_stft_push(stft, pcm, re, im);
        expect(file, "spectrum");
        check_int32(file, &e, 1, "exponent");
        check_int32(file, re, bins, "re");
        check_int32(file, im, bins, "im");
        se_stft_pull(stft, re, im, e, pcm);
        expect(file, "pull");
        check_int16(file, pcm, hop, "pcm");
    }
    drop_config(&c);
    free(memory);
    free(pcm);
    free(re);
    free(im);
}

static void run_mel(FILE *file) {
    static mel_case c;
    static mel_frame frame;
    se_stft_config config;
    se_stft *stft;
    se_logmel *mel;
    void *memory, *mel_memory;
    int16_t *pcm;
    int32_t *re, *im, frames, bands;
    size_t size, mel_size;
    read_mel_case(file, &c);
    frames = read_int(file, "frames");
    bands = c.mel.bands;
    config = make_padded_config(c.m, c.n, c.hop, c.window, SE_AUTO);
    size = se_stft_size(&config);
    mel_size = se_logmel_size(&c.mel);
    memory = take(size);
    mel_memory = take(mel_size);
    pcm = take((size_t)c.hop * 2);
    re = take((size_t)c.mel.bins * 4);
    im = take((size_t)c.mel.bins * 4);
    if (se_stft_init(memory, size, &config, &stft)) fail("se_stft_init", "status");
    if (se_logmel_init(mel_memory, mel_size - 1, &c.mel, &mel) != SE_BAD_MEMORY)
        fail("size", "not checked");
    if (se_logmel_init(mel_memory, mel_size, &c.mel, &mel)) fail("se_logmel_init", "status");
    for (int t = 0; t < frames; t++) {
        int e;
        expect(file, "push");
        read_int16(file, pcm, c.hop);
        e = se_stft_push(stft, pcm, re, im);
        run_mel_case(&c, mel, re, im, e, &frame);
        expect(file, "mel");
        check_int32(file, frame.mel, bands, "log-mel");
        expect(file, "int8");
        check_int32(file, frame.codes8, bands, "int8 code");
        expect(file, "int16");
        check_int32(file, frame.codes16, bands, "int16 code");
        if (!c.has_pcen) continue;
        expect(file, "pcen");
        check_int32(file, frame.pcen, bands, "PCEN");
    }
    drop_config(&config);
    free(memory);
    free(mel_memory);
    free(pcm);
    free(re);
    free(im);
}

static void run_dct(FILE *file) {
    enum { MOST = 64 };
    static int16_t matrix[MOST * MOST];
    static int32_t x[MOST * MOST], y[MOST * MOST], z[MOST * MOST];
    const int n = read_int(file, "n"), bits = read_int(file, "bits");
    const int fraction_bits = read_int(file, "fraction_bits");
    const int down = bits - fraction_bits, up = bits + fraction_bits;
    if (se_make_dct(n, bits, matrix)) fail("se_make_dct", "status");
    expect(file, "x");
    for (int i = 0; i < n; i++) x[i] = read_int(file, "x");
    se_dct_forward(matrix, n, x, down, y);
    expect(file, "forward");
    check_int32(file, y, n, "forward");
    se_dct_inverse(matrix, n, y, up, z);
    expect(file, "inverse");
    check_int32(file, z, n, "inverse");
    expect(file, "x2d");
    for (int i = 0; i < n * n; i++) x[i] = read_int(file, "x2d");
    se_dct_forward_2d(matrix, n, down, bits, x, y);
    expect(file, "forward2d");
    check_int32(file, x, n * n, "forward2d");
    se_dct_inverse_2d(matrix, n, bits, up, x, y);
    expect(file, "inverse2d");
    check_int32(file, x, n * n, "inverse2d");
}

int main(int argc, char **argv) {
    char word[16];
    int cases = 0;
    FILE *file = argc > 1 ? fopen(argv[1], "r") : NULL;
    if (!file) fail("cannot open the vectors", argc > 1 ? argv[1] : "no argument");
    while (fscanf(file, "%15s", word) == 1) {
        if (strcmp(word, "case") == 0)
            run_case(file);
        else if (strcmp(word, "logmel") == 0)
            run_mel(file);
        else if (strcmp(word, "dct") == 0)
            run_dct(file);
        else
            fail("expected case, logmel or dct, got", word);
        cases++;
    }
    fclose(file);
    if (cases == 0) fail("no cases", argv[1]);
    printf("%d cases equal\n", cases);
    return 0;
}
