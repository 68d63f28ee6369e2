/* libFuzzer target: any configuration, PCM, spectrum, network output, saved state, mel bank and DCT;
 * the scalar and the best vector build must agree bit for bit, under both sanitizers. Any compiler
 * builds it with -DSE_FUZZ_ALONE, which adds a main() that feeds random inputs for some seconds.
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

/* Tables take longer than what they are for: made once for each shape that comes along. */
static const se_stft_config *shape(int m, int n, int hop, int window) {
    enum { SHAPES = 1021 };
    static se_stft_config kept[SHAPES];
    static int window_of[SHAPES];
    const int at = ((m * 31 + n) * 31 + hop * 4 + window) % SHAPES;
    se_stft_config *c = &kept[at];
    if (c->window_length == m && c->n_fft == n && c->hop == hop && window_of[at] == window) return c;
    if (c->n_fft) drop_config(c);
    *c = make_padded_config(m, n, hop, window, SE_AUTO);
    if (se_round_trip_error(window, m, n, hop) < 0) fail("se_round_trip_error", "status");
    window_of[at] = window;
    return c;
}

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

static int32_t between(input *in, int32_t least, int32_t most) {
    return least + (int32_t)(number(in, 4) % ((uint32_t)(most - least) + 1));
}

/* Any mel bank that init accepts, any spectrum within 30 bits; PCEN of what comes out, then of
 * anything. */
static void fuzz_mel(input *in) {
    enum { BINS = 65, BANDS = 6 };
    static int32_t log2_table[257], exp2_table[257];
    int32_t first[BANDS], count[BANDS], weight[BANDS * BINS], offset[BANDS], out[BANDS];
    int32_t re[BINS], im[BINS], used = 0;
    uint32_t largest = 0;
    int64_t smoothed[BANDS] = {0};
    se_logmel_config c;
    se_pcen_config p;
    se_logmel *mel;
    se_code_rule q;
    int16_t codes16[BANDS];
    int8_t codes8[BANDS];
    void *memory;
    se_make_log_tables(log2_table, exp2_table);
    memset(&c, 0, sizeof c);
    c.bins = BINS;
    c.bands = between(in, 1, BANDS);
    c.power = between(in, 1, 2);
    c.whole = between(in, 0, 6);
    c.fraction = between(in, 0, INT32_MAX - 1);
    c.reference = between(in, -(32 << 24), 32 << 24);
    c.floor = (int32_t)number(in, 4);
    for (int i = 0; i < c.bands; i++) {
        uint32_t total = 0;
        first[i] = between(in, 0, BINS - 1);
        count[i] = between(in, 1, BINS - first[i]);
        offset[i] = between(in, -(20 << 24), 20 << 24);
        for (int k = 0; k < count[i]; k++) {
            weight[used] = between(in, 0, 32768);
            total += (uint32_t)weight[used++];
        }
        if (total > largest) largest = total;
    }
    for (c.total_bits = 1; c.total_bits < 31 && largest >> c.total_bits; c.total_bits++) continue;
    c.first = first;
    c.count = count;
    c.weight = weight;
    c.offset = offset;
    c.log2_table = log2_table;
    p.bands = c.bands;
    p.smooth_mantissa = between(in, 32768, 65536);
    p.smooth_shift = between(in, 16, 31);
    p.gain = between(in, 1, INT32_MAX - 1);
    p.power = between(in, 1, INT32_MAX - 1);
    p.epsilon = (int64_t)between(in, 1, INT32_MAX - 1) << between(in, 0, 15);
    p.bias = between(in, 2, (1 << 30) - 1);
    p.bias_power = between(in, 0, 1 << 30);
    p.log2_table = log2_table;
    p.exp2_table = exp2_table;
    memory = take(se_logmel_size(&c));
    if (se_logmel_init(memory, se_logmel_size(&c), &c, &mel)) fail("init", "log-mel");
    for (int t = 0; t < 4; t++) {
        const int quiet = between(in, 0, 29);
        fill(in, re, sizeof re);
        fill(in, im, sizeof im);
        for (int k = 0; k < BINS; k++) {
            re[k] = re[k] / (2 << quiet);
            im[k] = im[k] / (2 << quiet);
        }
        se_logmel_frame(mel, re, im, between(in, 0, 30), out);
        for (int i = 0; i < c.bands; i++) {
            if (out[i] < c.floor) fail("below its floor", "log-mel");
        }
        se_pcen_frame(&p, out, smoothed, re);
        fill(in, out, sizeof out);
        se_pcen_frame(&p, out, smoothed, re);
        if (se_make_code_rule(number(in, 4), between(in, -70, 130), between(in, -128, 127), 16, &q))
            continue;
        if (se_quantize_int16(&q, out, BANDS, codes16) || se_quantize_int8(&q, out, BANDS, codes8))
            fail("rule", "quantiser");
    }
    free(memory);
}

static void fuzz_dct(input *in) {
    enum { MOST = 64 };
    static int16_t matrix[MOST * MOST];
    static int32_t block[MOST * MOST], work[MOST * MOST];
    const int n = between(in, 2, MOST), down = between(in, 1, 30), across = between(in, 1, 30);
    if (se_make_dct(n, between(in, 7, 14), matrix)) fail("init", "DCT");
    fill(in, block, (size_t)(n * n) * sizeof block[0]);
    se_dct_forward(matrix, n, block, down, work);
    se_dct_inverse(matrix, n, work, across, block);
    se_dct_forward_2d(matrix, n, across, down, block, work);
    se_dct_inverse_2d(matrix, n, down, across, block, work);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    const uint32_t kind = number(&in, 1);
    const int n = sizes[number(&in, 1) % (sizeof sizes / sizeof sizes[0])];
    const int window = (int)(kind >> 2 & 3), padded = (kind & 3) == 1 && kind >> 4 & 1;
    const int m = padded ? 16 + (int)number(&in, 1) % (n - 15) : n;
    const int least = m / 8, most = window == SE_HANN ? m / 4 : m / 2;
    const int hop = least + (int)(number(&in, 2) % (uint32_t)(most - least + 1));
    if ((kind & 3) == 2) {
        fuzz_mel(&in);
        return 0;
    }
    if ((kind & 3) == 3) {
        fuzz_dct(&in);
        return 0;
    }
    if (kind & 1)
        fuzz_stft(&in, shape(m, n, hop, window));
    else
        fuzz_frontend(&in, shape(m, n, hop, window));
    return 0;
}

#ifdef SE_FUZZ_ALONE
#include <time.h>

/* fuzz_core [seconds [seed]]: inputs of random length; half of them repeat one byte a lot. */
int main(int argc, char **argv) {
    static uint8_t data[8192];
    const clock_t stop = (argc > 1 ? atoi(argv[1]) : 10) * CLOCKS_PER_SEC;
    uint32_t state = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 1;
    long inputs = 0;
    for (; clock() < stop; inputs++) {
        size_t size;
        state = state * 1664525u + 1013904223u;
        size = state >> 19;
        for (size_t i = 0; i < size; i++) {
            state = state * 1664525u + 1013904223u;
            data[i] = inputs & 1 && state >> 30 ? data[i / 2] : (uint8_t)(state >> 24);
        }
        LLVMFuzzerTestOneInput(data, size);
    }
    printf("%ld inputs, nothing found\n", inputs);
    return 0;
}
#endif
