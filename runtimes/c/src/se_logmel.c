/* Log-mel energies of one frame; spectral_edge/dsp/logmel.py is the same in NumPy. */
#include "se_core.h"

#define SE_WEIGHT_BITS 15

struct se_logmel {
    se_logmel_config config;
    uint64_t *power; /* [bins] */
};

static int within(int32_t v, int32_t limit) { return v >= -limit && v <= limit; }

/* What the sums and the logarithms below rely on. */
static int valid_bands(const se_logmel_config *c) {
    const int32_t *weight = c->weight;
    for (int i = 0; i < c->bands; i++) {
        uint32_t total = 0;
        if (c->first[i] < 0 || c->count[i] < 1 || c->count[i] > c->bins - c->first[i]) return 0;
        if (!within(c->offset[i], 20 * SE_LOG_ONE)) return 0;
        for (int k = 0; k < c->count[i]; k++) {
            if (weight[k] < 0 || weight[k] > 1 << SE_WEIGHT_BITS) return 0;
            total += (uint32_t)weight[k];
        }
        if (se_bitlen32(total) > c->total_bits) return 0;
        weight += c->count[i];
    }
    return 1;
}

static int valid(const se_logmel_config *c) {
    if (!c || c->bins < 1 || c->bins > 2049 || c->bands < 1 || c->bands > 512) return 0;
    if (c->power < 1 || c->power > 2 || c->total_bits < 1 || c->total_bits > 27) return 0;
    if (c->whole < 0 || c->whole > 6 || c->fraction < 0) return 0;
    if (!within(c->reference, 32 * SE_LOG_ONE)) return 0;
    if (!c->first || !c->count || !c->weight || !c->offset || !c->log2_table) return 0;
    return valid_bands(c);
}

size_t se_logmel_size(const se_logmel_config *config) {
    se_arena arena = {NULL, SE_ALIGN};
    if (!valid(config)) return 0;
    (void)se_arena_take(&arena, sizeof(se_logmel));
    (void)se_arena_take(&arena, (size_t)config->bins * sizeof(uint64_t));
    return arena.used;
}

int se_logmel_init(void *memory, size_t size, const se_logmel_config *config, se_logmel **logmel) {
    const size_t needed = se_logmel_size(config);
    se_arena arena;
    if (!needed || !logmel) return SE_BAD_VALUE;
    if (!memory || size < needed) return SE_BAD_MEMORY;
    se_arena_open(&arena, memory);
    *logmel = se_arena_take(&arena, sizeof(se_logmel));
    (*logmel)->config = *config;
    (*logmel)->power = se_arena_take(&arena, (size_t)config->bins * sizeof(uint64_t));
    return SE_OK;
}

/* Prepares the power (or, for power 1, the magnitude) of all bins; returns the exponent that
 * the sums have to be multiplied by. */
static int prepare(se_logmel *m, const int32_t *re, const int32_t *im, int e) {
    const se_logmel_config *c = &m->config;
    uint64_t peak = 0;
    int shift;
    for (int k = 0; k < c->bins; k++) {
        m->power[k] = (uint64_t)((int64_t)re[k] * re[k]) + (uint64_t)((int64_t)im[k] * im[k]);
        if (m->power[k] > peak) peak = m->power[k];
    }
    if (c->power == 2) {
        shift = se_max(se_bitlen64(peak) + c->total_bits - 63, 0);
        for (int k = 0; k < c->bins; k++) m->power[k] >>= shift;
        return shift - SE_WEIGHT_BITS - 2 * e;
    }
    shift = se_max(62 - se_bitlen64(peak), 0) & ~1;
    for (int k = 0; k < c->bins; k++) m->power[k] = se_sqrt_u64(m->power[k] << shift);
    return -shift / 2 - SE_WEIGHT_BITS - e;
}

void se_logmel_frame(se_logmel *m, const int32_t *re, const int32_t *im, int e, int32_t *out) {
    const se_logmel_config *c = &m->config;
    const int32_t scale = prepare(m, re, im, e) * SE_LOG_ONE;
    const int32_t *weight = c->weight;
    for (int i = 0; i < c->bands; i++) {
        const uint64_t *p = m->power + c->first[i];
        uint64_t sum = 0;
        int32_t v = c->floor;
        for (int k = 0; k < c->count[i]; k++) sum += p[k] * (uint32_t)weight[k];
        weight += c->count[i];
        if (sum) {
            const int32_t log = se_log2_q24(c->log2_table, sum) + scale + c->offset[i];
            v = se_rsh(log + c->reference, 8);
            v = se_max(v * c->whole + se_rdm_any(v, c->fraction), c->floor);
        }
        out[i] = v;
    }
}
