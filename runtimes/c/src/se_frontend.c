/* The front end of an enhancement network: level, features and codes on the way in; mask, bias,
 * expansion and overlap-add on the way out; `delay` frames kept in between. */
#include <string.h>

#include "se_core.h"

#define SE_MAX_DELAY 4096
#define SE_STATE_MAGIC 0x53454631u /* "SEF1" */

/* What synthesis needs of one frame. */
typedef struct slot {
    int32_t *re, *im;   /* spectrum, exponent e */
    int32_t *fr, *fi;   /* compressed features, Q16 */
    int32_t *e, *level; /* one value each: exponent; log2 sqrt(power), Q24 */
} slot;

struct se_frontend {
    se_frontend_config config;
    const se_kernels *k;
    se_stft *stft;
    int bins, padded; /* padded: a whole number of vectors */
    int64_t power;    /* running, Q16 */
    int64_t frames;   /* analysed so far */
    int64_t pulled;   /* synthesised so far */
    int32_t *ring;    /* delay + 1 slots */
    int32_t *mag;     /* of the last frame */
    int32_t *work[6];
    se_codes codes;
    int32_t gain[256]; /* mask^(1/c) by code, Q31: what head "mask" multiplies X by */
    se_binding bound;
};

static int slot_ints(const se_frontend *f) { return 4 * f->padded + 16; }

static slot slot_of(const se_frontend *f, int64_t frame) {
    int32_t *p = f->ring + (size_t)(frame % (f->config.delay + 1)) * (size_t)slot_ints(f);
    slot s;
    s.re = p;
    s.im = p + f->padded;
    s.fr = p + 2 * f->padded;
    s.fi = p + 3 * f->padded;
    s.e = p + 4 * f->padded;
    s.level = s.e + 1;
    return s;
}

static int valid(const se_frontend_config *c) {
    if (!c || !se_stft_size(&c->stft) || !c->log2_table || !c->exp2_table) return 0;
    if (se_window_length(&c->stft) != c->stft.n_fft) return 0;
    if (c->channels < 1 || c->channels > 3 || c->compression <= 0) return 0;
    for (int i = 0; i < c->channels; i++) {
        if (c->feature[i] < 0 || c->feature[i] > 2) return 0;
    }
    if (c->inverse_whole < 1 || c->inverse_whole > 3 || c->inverse_fraction < 0) return 0;
    if (c->reference_log2 < 0 || c->reference_log2 > 6 * SE_LOG_ONE) return 0;
    if (c->alpha_mantissa < 0 || c->alpha_mantissa > 65536) return 0;
    if (c->alpha_shift < 1 || c->alpha_shift > 62) return 0;
    if (c->level_floor < 65536 || c->level_start < c->level_floor) return 0;
    if (c->level_start > (int64_t)1 << 46 || c->head < 0 || c->head > SE_HEAD_COMPLEX_MASK) return 0;
    return c->delay >= 0 && c->delay <= SE_MAX_DELAY;
}

static int valid_codes(const se_codes *q) {
    return q->shift >= 1 && q->shift <= 62 && q->limit >= 0 && q->zero_point >= -128 &&
           q->zero_point <= 127 && q->multiplier <= INT32_MAX;
}

static int layout(se_arena *arena, const se_frontend_config *c, const se_kernels *k,
                  se_frontend *f) {
    se_frontend measured;
    if (!f) f = &measured;
    f->bins = c->stft.n_fft / 2 + 1;
    f->padded = (f->bins + 15) & ~15;
    f->config = *c;
    f->k = k;
    f->ring = se_arena_ints(arena, (c->delay + 1) * slot_ints(f));
    f->mag = se_arena_ints(arena, f->padded);
    for (int i = 0; i < 6; i++) f->work[i] = se_arena_ints(arena, f->padded);
    f->stft = se_arena_take(arena, sizeof(se_stft));
    return se_stft_layout(arena, &c->stft, k, f->stft);
}

/* mask^(1/c), Q31 in and out; 0 and 1 are exact. */
static int32_t mask_power(const se_frontend *f, int32_t mask) {
    const se_frontend_config *c = &f->config;
    int32_t lm, lg;
    if (mask <= 0) return 0;
    if (mask == SE_Q31_ONE) return mask;
    lm = se_min(se_log2_q24(c->log2_table, (uint32_t)mask) - 31 * SE_LOG_ONE, -1);
    lg = lm * c->inverse_whole + se_rdm_any(lm, c->inverse_fraction);
    return se_rsh(se_exp2_q30(c->exp2_table, lg), se_min(-(se_sra(lg, 24) + 1), 31));
}

size_t se_frontend_size(const se_frontend_config *config) {
    se_arena arena = {NULL, SE_ALIGN};
    if (!valid(config)) return 0;
    (void)se_arena_take(&arena, sizeof(se_frontend));
    (void)layout(&arena, config, se_kernels_find(SE_AUTO), NULL);
    return arena.used;
}

int se_frontend_init(void *memory, size_t size, const se_frontend_config *config,
                     const se_codes *codes, se_frontend **frontend) {
    const size_t needed = se_frontend_size(config);
    const se_kernels *k = needed ? se_kernels_find(config->stft.isa) : NULL;
    se_arena arena;
    se_frontend *f;
    int status;
    if (!needed || !k || !frontend || (codes && !valid_codes(codes))) return SE_BAD_VALUE;
    if (!memory || size < needed) return SE_BAD_MEMORY;
    se_arena_open(&arena, memory);
    f = se_arena_take(&arena, sizeof(se_frontend));
    memset(f, 0, sizeof(se_frontend));
    status = layout(&arena, config, k, f);
    if (status != SE_OK) return status;
    if (codes) {
        f->codes = *codes;
        for (int i = 0; i < 256; i++) f->gain[i] = mask_power(f, codes->mask[i]);
    }
    se_frontend_reset(f);
    *frontend = f;
    return SE_OK;
}

void se_frontend_reset(se_frontend *f) {
    const size_t ring = (size_t)(f->config.delay + 1) * (size_t)slot_ints(f);
    se_stft_reset(f->stft);
    memset(f->ring, 0, ring * sizeof(int32_t));
    memset(f->mag, 0, (size_t)f->padded * sizeof(int32_t));
    f->power = f->config.level_start;
    f->frames = 0;
    f->pulled = 0;
}

/* P <- P + alpha * (min(E, 8P) - P), not below the floor; returns log2 sqrt(P), Q24. */
static int32_t update_level(se_frontend *f, const int16_t *pcm) {
    const se_frontend_config *c = &f->config;
    if (c->running_level) {
        const uint64_t hop = (uint64_t)c->stft.hop;
        const uint64_t sum = f->k->energy(pcm, c->stft.hop);
        int64_t mean = (int64_t)(((sum << 16) + hop / 2) / hop);
        int64_t product;
        if (mean > 8 * f->power) mean = 8 * f->power;
        product = (mean - f->power) * c->alpha_mantissa;
        f->power += (product + ((int64_t)1 << (c->alpha_shift - 1))) >> c->alpha_shift;
        if (f->power < c->level_floor) f->power = c->level_floor;
    }
    return se_sra(se_log2_q24(c->log2_table, (uint64_t)f->power) - 16 * SE_LOG_ONE, 1);
}

void se_frontend_push(se_frontend *f, const int16_t *pcm) {
    const se_frontend_config *c = &f->config;
    const slot s = slot_of(f, f->frames);
    se_compress how;
    *s.level = update_level(f, pcm);
    *s.e = se_stft_push(f->stft, pcm, s.re, s.im);
    how.log2_table = c->log2_table;
    how.exp2_table = c->exp2_table;
    how.exponent = c->compression;
    how.shift_log2 = *s.level + c->reference_log2;
    f->k->compress(s.re, s.im, f->padded, *s.e, &how, f->mag, s.fr, s.fi);
    f->frames++;
}

/* Feature plane of channel i of the last frame. */
static const int32_t *plane(const se_frontend *f, int i) {
    const slot s = slot_of(f, f->frames + f->config.delay); /* frame - 1, kept positive */
    const int kind = f->config.feature[i];
    return kind == 0 ? f->mag : kind == 1 ? s.fr : s.fi;
}

void se_frontend_features(const se_frontend *f, int32_t *features) {
    for (int i = 0; i < f->config.channels; i++)
        memcpy(features + i * f->bins, plane(f, i), (size_t)f->bins * sizeof(int32_t));
}

void se_frontend_clip(se_frontend *f, const int16_t *pcm, int64_t hops, int32_t *features) {
    const int64_t bins = f->bins;
    for (int64_t t = 0; t < hops; t++) {
        se_frontend_push(f, pcm + t * f->config.stft.hop);
        for (int i = 0; i < f->config.channels; i++)
            memcpy(features + (i * hops + t) * bins, plane(f, i), (size_t)bins * sizeof(int32_t));
    }
}

int se_frontend_bind(se_frontend *f, const se_binding *b) {
    const int head = f->config.head;
    if (!b || !b->pcm_in || !b->pcm_out || !b->features.data) return SE_BAD_VALUE;
    if (head != SE_HEAD_NONE && !b->mask.data) return SE_BAD_VALUE;
    if (head == SE_HEAD_MASK_BIAS && !b->bias.data) return SE_BAD_VALUE;
    f->bound = *b;
    return SE_OK;
}

static void write_codes(se_frontend *f, const se_view *out, int channel) {
    int32_t *code = f->work[0];
    int8_t *to = (int8_t *)out->data + channel * out->channel_stride;
    const int64_t stride = out->bin_stride;
    se_quantizer q;
    q.multiplier = f->codes.multiplier;
    q.shift = f->codes.shift;
    q.limit = f->codes.limit;
    q.zero_point = f->codes.zero_point;
    f->k->quantize(plane(f, channel), f->padded, &q, code);
    if (stride == 1) {
        for (int k = 0; k < f->bins; k++) to[k] = (int8_t)code[k];
    } else {
        for (int k = 0; k < f->bins; k++) to[k * stride] = (int8_t)code[k];
    }
}

static void write_values(const se_frontend *f, const se_view *out, int channel) {
    const int32_t *value = plane(f, channel);
    float *to = (float *)out->data + channel * out->channel_stride;
    for (int k = 0; k < f->bins; k++) to[k * out->bin_stride] = (float)value[k] * (1.0f / 65536.0f);
}

void se_frontend_analyze(se_frontend *f) {
    se_frontend_push(f, f->bound.pcm_in);
    for (int i = 0; i < f->config.channels; i++) {
        if (f->bound.as_float)
            write_values(f, &f->bound.features, i);
        else
            write_codes(f, &f->bound.features, i);
    }
}

/* float to fixed: truncated towards zero, saturated; NaN is 0 */
static int32_t to_fixed(float v, float one, int32_t limit) {
    const float x = v * one;
    if (x >= (float)limit) return limit;
    if (x <= -(float)limit) return -limit;
    return x == x ? (int32_t)x : 0;
}

/* One channel of what the network returned, as integers: a table by code, or floats. */
static void read_view(const se_frontend *f, const se_view *in, int channel, const int32_t *table,
                      float one, int32_t limit, int32_t *out) {
    const int64_t stride = in->bin_stride, start = channel * in->channel_stride;
    if (f->bound.as_float) {
        const float *from = (const float *)in->data + start;
        for (int k = 0; k < f->bins; k++) out[k] = to_fixed(from[k * stride], one, limit);
    } else {
        const int8_t *from = (const int8_t *)in->data + start;
        for (int k = 0; k < f->bins; k++) out[k] = table[from[k * stride] + 128];
    }
}

static void read_mask(const se_frontend *f, int channel, int32_t *out) {
    read_view(f, &f->bound.mask, channel, f->codes.mask, 2147483648.0f, INT32_MAX, out);
}

static void read_bias(const se_frontend *f, int channel, int32_t *out) {
    read_view(f, &f->bound.bias, channel, f->codes.bias, 65536.0f, SE_OLA_MAX, out);
}

/* Head "mask": X * mask^(1/c), without a detour through the compressed domain. */
static int apply_mask(se_frontend *f, const slot *s, int32_t *re, int32_t *im) {
    int32_t *g = f->work[2];
    if (f->bound.as_float) {
        read_mask(f, 0, g);
        for (int k = 0; k < f->bins; k++) g[k] = mask_power(f, g[k]);
    } else {
        read_view(f, &f->bound.mask, 0, f->gain, 0.0f, 0, g);
    }
    f->k->gain(s->re, g, f->padded, re);
    f->k->gain(s->im, g, f->padded, im);
    return *s->e;
}

/* The other heads make a compressed spectrum U, which is expanded again. */
static int apply_compressed(se_frontend *f, const slot *s, int32_t *ur, int32_t *ui) {
    const se_frontend_config *c = &f->config;
    int32_t *a = f->work[2], *b = f->work[3];
    se_expand x;
    read_mask(f, 0, a);
    if (c->head == SE_HEAD_COMPLEX_MASK) {
        read_mask(f, 1, b);
        f->k->complex_mask(s->fr, s->fi, a, b, f->padded, ur, ui);
    } else {
        read_bias(f, 0, b);
        f->k->mask_bias(s->fr, a, b, f->padded, ur);
        read_bias(f, 1, b);
        f->k->mask_bias(s->fi, a, b, f->padded, ui);
    }
    x.log2_table = c->log2_table;
    x.exp2_table = c->exp2_table;
    x.whole = c->inverse_whole;
    x.fraction = c->inverse_fraction;
    x.scale_log2 = *s->level + c->reference_log2;
    for (int k = f->bins; k < f->padded; k++) ur[k] = ui[k] = 0;
    return f->k->expand(ur, ui, f->work[4], f->work[5], f->padded, &x);
}

void se_frontend_synthesize(se_frontend *f) {
    const slot s = slot_of(f, f->pulled + 1); /* == pulled - delay, modulo delay + 1 */
    const int warm = f->pulled >= f->config.delay; /* before that the slot holds silence */
    int32_t *re = f->work[0], *im = f->work[1];
    int e;
    switch (warm ? f->config.head : SE_HEAD_NONE) {
    case SE_HEAD_NONE:
        e = *s.e;
        re = s.re;
        im = s.im;
        break;
    case SE_HEAD_MASK:
        e = apply_mask(f, &s, re, im);
        break;
    default:
        e = apply_compressed(f, &s, re, im);
    }
    se_stft_pull(f->stft, re, im, e, f->bound.pcm_out);
    f->pulled++;
}

/* ---- state ---------------------------------------------------------------------------------- */

typedef struct state_head {
    uint32_t magic;
    int32_t n_fft, hop, delay;
    int64_t power, frames, pulled;
} state_head;

size_t se_frontend_state_size(const se_frontend *f) {
    const size_t n = (size_t)f->config.stft.n_fft, bins = (size_t)f->bins;
    const size_t frames = (size_t)f->config.delay + 1;
    return sizeof(state_head) + n * sizeof(int16_t) + n * sizeof(int32_t) +
           frames * (4 * bins + 2) * sizeof(int32_t);
}

/* Copies one block of state; the direction is the caller's. */
typedef unsigned char *(*copy_fn)(unsigned char *bytes, void *live, size_t size);

static unsigned char *copy_out(unsigned char *bytes, void *live, size_t size) {
    memcpy(bytes, live, size);
    return bytes + size;
}

static unsigned char *copy_in(unsigned char *bytes, void *live, size_t size) {
    memcpy(live, bytes, size);
    return bytes + size;
}

static void copy_state(const se_frontend *f, unsigned char *bytes, copy_fn copy) {
    const size_t n = (size_t)f->config.stft.n_fft, row = (size_t)f->bins * sizeof(int32_t);
    bytes = copy(bytes, f->stft->history, n * sizeof(int16_t));
    bytes = copy(bytes, f->stft->overlap, n * sizeof(int32_t));
    for (int i = 0; i <= f->config.delay; i++) {
        const slot s = slot_of(f, i);
        bytes = copy(bytes, s.re, row);
        bytes = copy(bytes, s.im, row);
        bytes = copy(bytes, s.fr, row);
        bytes = copy(bytes, s.fi, row);
        bytes = copy(bytes, s.e, 2 * sizeof(int32_t));
    }
}

void se_frontend_save(const se_frontend *f, void *state) {
    state_head head;
    memset(&head, 0, sizeof head);
    head.magic = SE_STATE_MAGIC;
    head.n_fft = f->config.stft.n_fft;
    head.hop = f->config.stft.hop;
    head.delay = f->config.delay;
    head.power = f->power;
    head.frames = f->frames;
    head.pulled = f->pulled;
    memcpy(state, &head, sizeof head);
    copy_state(f, (unsigned char *)state + sizeof head, copy_out);
}

/* A state is data from outside: every number that later arithmetic relies on is checked. */
static int trusted(const se_frontend *f, const state_head *h) {
    return h->magic == SE_STATE_MAGIC && h->n_fft == f->config.stft.n_fft &&
           h->hop == f->config.stft.hop && h->delay == f->config.delay &&
           h->power >= f->config.level_floor && h->power <= (int64_t)1 << 46 && h->frames >= 0 &&
           h->frames < (int64_t)1 << 48 && h->pulled >= 0 && h->pulled < (int64_t)1 << 48;
}

static void tame(const se_frontend *f) {
    for (int i = 0; i < f->config.stft.n_fft; i++)
        f->stft->overlap[i] = se_clamp(f->stft->overlap[i], -SE_OLA_MAX, SE_OLA_MAX);
    for (int i = 0; i <= f->config.delay; i++) {
        const slot s = slot_of(f, i);
        for (int k = 0; k < f->bins; k++) {
            s.re[k] = se_clamp(s.re[k], -SE_OLA_MAX, SE_OLA_MAX);
            s.im[k] = se_clamp(s.im[k], -SE_OLA_MAX, SE_OLA_MAX);
        }
        *s.e = se_clamp(*s.e, 0, 30);
        *s.level = se_clamp(*s.level, 0, 16 * SE_LOG_ONE);
    }
}

int se_frontend_load(se_frontend *f, const void *state, size_t size) {
    state_head head;
    if (!state || size != se_frontend_state_size(f)) return SE_BAD_STATE;
    memcpy(&head, state, sizeof head);
    if (!trusted(f, &head)) return SE_BAD_STATE;
    f->power = head.power;
    f->frames = head.frames;
    f->pulled = head.pulled;
    copy_state(f, (unsigned char *)(uintptr_t)state + sizeof head, copy_in);
    tame(f);
    return SE_OK;
}

const char *se_frontend_isa(const se_frontend *f) { return f->k->name; }
