/* Hop by hop against tests/golden/stft_vectors.txt: the file that pytest reads too.
 *
 *     test_vectors stft_vectors.txt
 *
 * "case n hop window frames", then per frame "push pcm...", "spectrum e re... im...",
 * "pull pcm...". */
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

int main(int argc, char **argv) {
    char word[16];
    int cases = 0;
    FILE *file = argc > 1 ? fopen(argv[1], "r") : NULL;
    if (!file) fail("cannot open the vectors", argc > 1 ? argv[1] : "no argument");
    while (fscanf(file, "%15s", word) == 1) {
        if (strcmp(word, "case") != 0) fail("expected case, got", word);
        run_case(file);
        cases++;
    }
    fclose(file);
    if (cases == 0) fail("no cases", argv[1]);
    printf("%d cases equal\n", cases);
    return 0;
}
