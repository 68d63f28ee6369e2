/* Every output of the core, hashed and compared with tests/golden/hashes.txt.
 *
 *     test_hashes hashes.txt [auto|scalar|sse41|avx2|neon]
 *
 * Lines, see tests/golden/regenerate.py:
 *     stft n hop window sha256
 *     padded m n hop window sha256
 *     frontend n hop window head delay <16 integers> sha256
 *     logmel <read_mel_case> sha256
 *     dct n bits fraction_bits sha256 */
#include "se_test.h"

static int isa_index(const char *name) {
    static const char *const names[] = {"auto", "scalar", "sse41", "avx2", "neon"};
    for (int i = 0; i < 5; i++) {
        if (strcmp(name, names[i]) == 0) return i;
    }
    fail("unknown instruction set", name);
    return -1;
}

static int hops_of(int n, int hop) { return 3 * n / hop + 6; }

static void hash_stft(const se_stft_config *c, char *text) {
    const int bins = c->n_fft / 2 + 1, hops = hops_of(c->n_fft, c->hop);
    const size_t size = se_stft_size(c);
    void *memory = take(size);
    int16_t *x = take((size_t)(hops * c->hop) * 2), *y = take((size_t)c->hop * 2);
    int32_t *re = take((size_t)bins * 4), *im = take((size_t)bins * 4), e;
    se_stft *stft;
    sha256 hash;
    sha256_start(&hash);
    if (se_stft_init(memory, size, c, &stft)) fail("se_stft_init", "status");
    for (int kind = 0; kind < SE_SIGNALS; kind++) {
        signal_fill(kind, hops * c->hop, x);
        se_stft_reset(stft);
        for (int t = 0; t < hops; t++) {
            e = se_stft_push(stft, x + t * c->hop, re, im);
            se_stft_pull(stft, re, im, e, y);
            sha256_int32(&hash, re, bins);
            sha256_int32(&hash, im, bins);
            sha256_int32(&hash, &e, 1);
            sha256_int16(&hash, y, c->hop);
        }
    }
    sha256_text(&hash, text);
    free(memory);
    free(x);
    free(y);
    free(re);
    free(im);
}

/* Masks and biases from the same generator as the signals. */
static void fill_codes(int8_t *codes, int count, uint32_t *state) {
    for (int i = 0; i < count; i++) {
        *state = *state * 1664525u + 1013904223u;
        codes[i] = (int8_t)((int32_t)(*state >> 24) - 128);
        if (*state >> 20 & 1) codes[i] = -128; /* half of the masks are zero */
    }
}

static void hash_frontend(const se_frontend_config *c, const se_codes *codes, char *text) {
    const int bins = c->stft.n_fft / 2 + 1, hop = c->stft.hop, hops = hops_of(c->stft.n_fft, hop);
    const size_t size = se_frontend_size(c);
    void *memory = take(size);
    int16_t *x = take((size_t)(hops * hop) * 2), *in = take((size_t)hop * 2);
    int16_t *out = take((size_t)hop * 2);
    int8_t *buffer = take((size_t)bins * 7);
    int32_t *features = take((size_t)(bins * c->channels) * 4), widened;
    uint32_t state = 7;
    se_frontend *frontend;
    se_binding binding;
    sha256 hash;
    memset(&binding, 0, sizeof binding);
    binding.pcm_in = in;
    binding.pcm_out = out;
    binding.features.data = buffer;
    binding.features.channel_stride = 1;
    binding.features.bin_stride = c->channels;
    binding.mask.data = buffer + 3 * bins;
    binding.mask.channel_stride = bins;
    binding.mask.bin_stride = 1;
    binding.bias.data = buffer + 5 * bins;
    binding.bias.channel_stride = 1;
    binding.bias.bin_stride = 2;
    sha256_start(&hash);
    if (se_frontend_init(memory, size, c, codes, &frontend)) fail("se_frontend_init", "status");
    if (se_frontend_bind(frontend, &binding)) fail("se_frontend_bind", "status");
    for (int kind = 0; kind < SE_SIGNALS; kind++) {
        signal_fill(kind, hops * hop, x);
        se_frontend_reset(frontend);
        for (int t = 0; t < hops; t++) {
            memcpy(in, x + t * hop, (size_t)hop * 2);
            se_frontend_analyze(frontend);
            fill_codes(buffer + 3 * bins, 4 * bins, &state);
            se_frontend_features(frontend, features);
            se_frontend_synthesize(frontend);
            sha256_int32(&hash, features, bins * c->channels);
            for (int i = 0; i < bins * c->channels; i++) {
                widened = buffer[i];
                sha256_int32(&hash, &widened, 1);
            }
            sha256_int16(&hash, out, hop);
        }
    }
    sha256_text(&hash, text);
    free(memory);
    free(x);
    free(in);
    free(out);
    free(buffer);
    free(features);
}

/* Log-mel, both kinds of codes, and PCEN of all signals. */
static void hash_mel(mel_case *c, int isa, char *text) {
    static mel_frame frame;
    const int bins = c->mel.bins, bands = c->mel.bands, hops = hops_of(c->n, c->hop);
    const se_stft_config config = make_padded_config(c->m, c->n, c->hop, c->window, isa);
    const size_t size = se_stft_size(&config), mel_size = se_logmel_size(&c->mel);
    void *memory = take(size), *mel_memory = take(mel_size);
    int16_t *x = take((size_t)(hops * c->hop) * 2);
    int32_t *re = take((size_t)bins * 4), *im = take((size_t)bins * 4);
    se_stft *stft;
    se_logmel *mel;
    sha256 hash;
    sha256_start(&hash);
    if (se_stft_init(memory, size, &config, &stft)) fail("se_stft_init", "status");
    if (se_logmel_init(mel_memory, mel_size, &c->mel, &mel)) fail("se_logmel_init", "status");
    for (int kind = 0; kind < SE_SIGNALS; kind++) {
        signal_fill(kind, hops * c->hop, x);
        se_stft_reset(stft);
        memset(c->smoothed, 0, sizeof c->smoothed);
        for (int t = 0; t < hops; t++) {
            const int e = se_stft_push(stft, x + t * c->hop, re, im);
            run_mel_case(c, mel, re, im, e, &frame);
            sha256_int32(&hash, frame.mel, bands);
            sha256_int32(&hash, frame.codes8, bands);
            sha256_int32(&hash, frame.codes16, bands);
            if (c->has_pcen) sha256_int32(&hash, frame.pcen, bands);
        }
    }
    sha256_text(&hash, text);
    drop_config(&config);
    free(memory);
    free(mel_memory);
    free(x);
    free(re);
    free(im);
}

/* The matrix, then forward and back of blocks of int8 and of 20-bit values, in one dimension and two. */
static void hash_dct(int n, int bits, int fraction_bits, char *text) {
    enum { MOST = 64 };
    static int16_t matrix[MOST * MOST];
    static int32_t block[MOST * MOST], work[MOST * MOST], row[MOST];
    const int down = bits - fraction_bits, up = bits + fraction_bits;
    uint32_t state = 9;
    sha256 hash;
    sha256_start(&hash);
    if (se_make_dct(n, bits, matrix)) fail("se_make_dct", "status");
    sha256_int16(&hash, matrix, n * n);
    for (int size = 24; size >= 12; size -= 12) { /* 8 bits, then 20 */
        for (int i = 0; i < n * n; i++) {
            state = state * 1664525u + 1013904223u;
            block[i] = (int32_t)(state >> size) - (1 << (31 - size));
        }
        se_dct_forward(matrix, n, block, down, row);
        sha256_int32(&hash, row, n);
        se_dct_inverse(matrix, n, row, up, work);
        sha256_int32(&hash, work, n);
        se_dct_forward_2d(matrix, n, down, bits, block, work);
        sha256_int32(&hash, block, n * n);
        se_dct_inverse_2d(matrix, n, bits, up, block, work);
        sha256_int32(&hash, block, n * n);
    }
    sha256_text(&hash, text);
}

static void read_mel(FILE *file, int isa, char *seen, char *expected) {
    static mel_case c;
    read_mel_case(file, &c);
    if (fscanf(file, "%64s", expected) != 1) fail("line", "logmel");
    hash_mel(&c, isa, seen);
}

static void read_dct(FILE *file, char *seen, char *expected) {
    int n, bits, fraction_bits;
    if (fscanf(file, "%d %d %d %64s", &n, &bits, &fraction_bits, expected) != 4) fail("line", "dct");
    hash_dct(n, bits, fraction_bits, seen);
}

static void read_padded(FILE *file, int isa, char *seen, char *expected) {
    char window[16];
    int m, n, hop;
    se_stft_config c;
    if (fscanf(file, "%d %d %d %15s %64s", &m, &n, &hop, window, expected) != 5) fail("line", "padded");
    c = make_padded_config(m, n, hop, window_index(window), isa);
    hash_stft(&c, seen);
    drop_config(&c);
}

static void read_stft(FILE *file, int isa, char *seen, char *expected) {
    char window[16];
    int n, hop;
    se_stft_config c;
    if (fscanf(file, "%d %d %15s %64s", &n, &hop, window, expected) != 4) fail("line", "stft");
    c = make_config(n, hop, window_index(window), isa);
    hash_stft(&c, seen);
    drop_config(&c);
}

static void read_frontend(FILE *file, int isa, char *seen, char *expected) {
    static int32_t log2_table[257], exp2_table[257];
    static se_codes codes;
    se_frontend_config c;
    char window[16];
    int n, hop, head, delay;
    long long v[16];
    memset(&c, 0, sizeof c);
    if (fscanf(file, "%d %d %15s %d %d", &n, &hop, window, &head, &delay) != 5)
        fail("line", "frontend");
    for (int i = 0; i < 16; i++) {
        if (fscanf(file, "%lld", &v[i]) != 1) fail("line", "frontend integers");
    }
    if (fscanf(file, "%64s", expected) != 1) fail("line", "frontend hash");
    c.stft = make_config(n, hop, window_index(window), isa);
    se_make_log_tables(log2_table, exp2_table);
    c.log2_table = log2_table;
    c.exp2_table = exp2_table;
    c.channels = 3;
    for (int i = 0; i < 3; i++) c.feature[i] = i;
    c.compression = (int32_t)v[0];
    c.inverse_whole = (int32_t)v[1];
    c.inverse_fraction = (int32_t)v[2];
    c.reference_log2 = (int32_t)v[3];
    c.running_level = (int32_t)v[4];
    c.alpha_mantissa = (int32_t)v[5];
    c.alpha_shift = (int32_t)v[6];
    c.level_start = v[7];
    c.level_floor = v[8];
    c.delay = delay;
    c.head = head;
    codes.multiplier = (uint32_t)v[9];
    codes.shift = (int32_t)v[10];
    codes.limit = (int32_t)v[11];
    codes.zero_point = (int32_t)v[12];
    for (int i = 0; i < 256; i++) {
        codes.mask[i] = (int32_t)((i - 128 - v[13]) * v[14]);
        codes.bias[i] = (int32_t)((i - 128) * v[15]);
    }
    if (c.reference_log2 != se_make_reference_log2(window_index(window), n))
        fail("reference_log2", window);
    hash_frontend(&c, &codes, seen);
    drop_config(&c.stft);
}

int main(int argc, char **argv) {
    const int isa = argc > 2 ? isa_index(argv[2]) : SE_AUTO;
    char kind[16], seen[65], expected[65];
    int lines = 0;
    FILE *file = argc > 1 ? fopen(argv[1], "r") : NULL;
    if (!file) fail("cannot open the list of hashes", argc > 1 ? argv[1] : "no argument");
    if (!se_isa_available(isa)) {
        printf("not available on this CPU\n");
        return 77; /* skipped, for ctest */
    }
    while (fscanf(file, "%15s", kind) == 1) {
        if (strcmp(kind, "stft") == 0)
            read_stft(file, isa, seen, expected);
        else if (strcmp(kind, "padded") == 0)
            read_padded(file, isa, seen, expected);
        else if (strcmp(kind, "logmel") == 0)
            read_mel(file, isa, seen, expected);
        else if (strcmp(kind, "dct") == 0)
            read_dct(file, seen, expected);
        else if (strcmp(kind, "frontend") == 0)
            read_frontend(file, isa, seen, expected);
        else
            fail("unknown line", kind);
        if (strcmp(seen, expected) != 0) {
            fprintf(stderr, "FAILED: line %d (%s): %s instead of %s\n", lines + 1, kind, seen, expected);
            return 1;
        }
        lines++;
    }
    fclose(file);
    if (lines == 0) fail("no lines", argv[1]);
    printf("%d hashes equal\n", lines);
    return 0;
}
