/* libFuzzer target: any configuration, PCM, spectrum, network output and saved state; the scalar
 * and the best vector build must agree bit for bit, under both sanitizers.
 *
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Iinclude \
 *         test/fuzz_core.c $(ls src/se_*.c) -o fuzz_core && ./fuzz_core -max_total_time=60 */
#include "se_test.h"

typedef struct input {
    const uint8_t *data;
    size_t left;
} input;

static uint32_t number(input *in, int bytes) {
    uint32_t v = 0;
    for (int i = 0; i < bytes; i++) {
        v = v << 8 | (in->left ? *in->data : 0x5Au);
        if (in->left) {
            in->data++;
            in->left--;
        }
    }
    return v;
}

/* Fills a block from the input, then repeats what there was. */
static void fill(input *in, void *block, size_t size) {
    uint8_t *to = block;
    const size_t take_now = in->left < size ? in->left : size;
    memcpy(to, in->data, take_now);
    in->data += take_now;
    in->left -= take_now;
    for (size_t i = take_now; i < size; i++) to[i] = take_now ? to[i % take_now] : 0;
}

static void same(const void *a, const void *b, size_t size, const char *what) {
    if (memcmp(a, b, size) != 0) {
        fprintf(stderr, "bits differ: %s\n", what);
        abort();
    }
}

static const int sizes[] = {64, 72, 80, 90, 96, 100, 120, 128, 150, 162, 192, 240, 250, 256};

static void fuzz_stft(input *in, const se_stft_config *base) {
    const int bins = base->n_fft / 2 + 1;
    se_stft *stft[2];
    void *memory[2];
    int16_t *pcm = take((size_t)base->hop * 2), *out[2];
    int32_t *re[2], *im[2], e[2];
    for (int i = 0; i < 2; i++) {
        se_stft_config c = *base;
        c.isa = i ? SE_AUTO : SE_SCALAR;
        memory[i] = take(se_stft_size(&c));
        out[i] = take((size_t)base->hop * 2);
        re[i] = take((size_t)bins * 4);
        im[i] = take((size_t)bins * 4);
        if (se_stft_init(memory[i], se_stft_size(&c), &c, &stft[i])) fail("init", "stft");
    }
    for (int t = 0; t < 4; t++) {
        const int wild = (int)number(in, 1) & 1;
        fill(in, pcm, (size_t)base->hop * 2);
        for (int i = 0; i < 2; i++) e[i] = se_stft_push(stft[i], pcm, re[i], im[i]);
        same(re[0], re[1], (size_t)bins * 4, "re");
        same(im[0], im[1], (size_t)bins * 4, "im");
        same(&e[0], &e[1], 4, "exponent");
        if (wild) {
            fill(in, re[0], (size_t)bins * 4);
            fill(in, im[0], (size_t)bins * 4);
            memcpy(re[1], re[0], (size_t)bins * 4);
            memcpy(im[1], im[0], (size_t)bins * 4);
            e[0] = e[1] = (int8_t)number(in, 1);
        }
        for (int i = 0; i < 2; i++) se_stft_pull(stft[i], re[i], im[i], e[i], out[i]);
        same(out[0], out[1], (size_t)base->hop * 2, "pcm");
    }
    free(pcm);
    for (int i = 0; i < 2; i++) {
        free(memory[i]);
        free(out[i]);
        free(re[i]);
        free(im[i]);
    }
}

static se_frontend_config frontend_config(input *in, const se_stft_config *stft) {
    static int32_t log2_table[257], exp2_table[257];
    static const int32_t whole[] = {3, 2, 1}, fraction[] = {715827883, 0, 0};
    static const int32_t exponent[] = {644245094, 1 << 30, INT32_MAX};
    const uint32_t kind = number(in, 1);
    se_frontend_config c;
    memset(&c, 0, sizeof c);
    se_make_log_tables(log2_table, exp2_table);
    c.stft = *stft;
    c.log2_table = log2_table;
    c.exp2_table = exp2_table;
    c.channels = 3;
    for (int i = 0; i < 3; i++) c.feature[i] = i;
    c.compression = exponent[kind % 3];
    c.inverse_whole = whole[kind % 3];
    c.inverse_fraction = fraction[kind % 3];
    c.reference_log2 = se_make_reference_log2(SE_SQRT_HANN, stft->n_fft);
    c.running_level = kind >> 2 & 1;
    c.alpha_mantissa = 33421;
    c.alpha_shift = 22;
    c.level_start = c.running_level ? INT64_C(176758293702) : INT64_C(1) << 46;
    c.level_floor = 70368744;
    c.head = (int32_t)(kind >> 3 & 3);
    c.delay = (int32_t)(kind >> 5 & 3);
    return c;
}

static se_codes fuzz_codes(input *in) {
    se_codes q;
    memset(&q, 0, sizeof q);
    q.multiplier = (1u << 30) + number(in, 3);
    q.shift = 31 + (int32_t)number(in, 1) % 16;
    q.limit = 1 << 20;
    q.zero_point = (int8_t)number(in, 1);
    for (int i = 0; i < 256; i++) {
        q.mask[i] = (i << 23) | (int32_t)number(in, 1);
        q.bias[i] = (i - 128) * 1024;
    }
    return q;
}

static void fuzz_frontend(input *in, const se_stft_config *stft) {
    const int bins = stft->n_fft / 2 + 1, hop = stft->hop;
    const int as_float = (int)number(in, 1) & 1;
    const size_t network = (size_t)bins * 7 * (as_float ? 4 : 1);
    const se_codes codes = fuzz_codes(in);
    se_frontend_config c = frontend_config(in, stft);
    se_frontend *f[2];
    void *memory[2];
    uint8_t *buffer[2], *state[2];
    int16_t *pcm = take((size_t)hop * 2), *out[2];
    size_t state_size;
    for (int i = 0; i < 2; i++) {
        se_binding b;
        const ptrdiff_t size = as_float ? 4 : 1;
        c.stft.isa = i ? SE_AUTO : SE_SCALAR;
        memory[i] = take(se_frontend_size(&c));
        buffer[i] = take(network);
        out[i] = take((size_t)hop * 2);
        if (se_frontend_init(memory[i], se_frontend_size(&c), &c, &codes, &f[i])) fail("init", "frontend");
        memset(&b, 0, sizeof b);
        b.pcm_in = pcm;
        b.pcm_out = out[i];
        b.as_float = as_float;
        b.features.data = buffer[i];
        b.mask.data = buffer[i] + 3 * bins * size;
        b.bias.data = buffer[i] + 5 * bins * size;
        b.features.channel_stride = b.mask.channel_stride = b.bias.channel_stride = bins;
        b.features.bin_stride = b.mask.bin_stride = b.bias.bin_stride = 1;
        if (se_frontend_bind(f[i], &b)) fail("bind", "frontend");
    }
    state_size = se_frontend_state_size(f[0]);
    for (int i = 0; i < 2; i++) state[i] = take(state_size);
    if (number(in, 1) & 1) { /* a saved state with a right head and wild numbers */
        se_frontend_save(f[0], state[0]);
        fill(in, state[0] + 40, state_size - 40);
        for (int i = 0; i < 2; i++) {
            if (se_frontend_load(f[i], state[0], state_size)) fail("load", "frontend");
        }
    }
    for (int t = 0; t < 4; t++) {
        fill(in, pcm, (size_t)hop * 2);
        for (int i = 0; i < 2; i++) se_frontend_analyze(f[i]);
        same(buffer[0], buffer[1], network * 3 / 7, "features");
        fill(in, buffer[0] + network * 3 / 7, network - network * 3 / 7);
        memcpy(buffer[1], buffer[0], network);
        for (int i = 0; i < 2; i++) se_frontend_synthesize(f[i]);
        same(out[0], out[1], (size_t)hop * 2, "pcm");
        for (int i = 0; i < 2; i++) se_frontend_save(f[i], state[i]);
        same(state[0], state[1], state_size, "state");
    }
    free(pcm);
    for (int i = 0; i < 2; i++) {
        free(memory[i]);
        free(buffer[i]);
        free(state[i]);
        free(out[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    const uint32_t kind = number(&in, 1);
    const int n = sizes[number(&in, 1) % (sizeof sizes / sizeof sizes[0])];
    const int window = (int)(kind >> 1 & 3);
    const int least = n / 8, most = window == SE_HANN ? n / 4 : n / 2;
    const int hop = least + (int)(number(&in, 2) % (uint32_t)(most - least + 1));
    se_stft_config c = make_config(n, hop, window, SE_AUTO);
    if (kind & 1)
        fuzz_stft(&in, &c);
    else
        fuzz_frontend(&in, &c);
    drop_config(&c);
    return 0;
}
