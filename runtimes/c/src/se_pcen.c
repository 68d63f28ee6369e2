/* Per-channel energy normalisation of log-mel frames; spectral_edge/dsp/pcen.py is the same. */
#include "se_core.h"

#define SE_ENERGY_MAX ((int64_t)1 << 46)

/* 2^log in Q16, 64 bits, saturating at 2^30. */
static int64_t energy_of(const se_pcen_config *c, int32_t log_q16) {
    const int32_t k = se_sra(log_q16, 16);
    int32_t mantissa;
    if (k >= 30) return SE_ENERGY_MAX;
    if (k < -17) return 0;
    mantissa = se_exp2_q30(c->exp2_table, se_shl(log_q16 & 0xFFFF, 8));
    return k >= 14 ? (int64_t)mantissa << (k - 14) : se_rsh(mantissa, se_min(14 - k, 31));
}

void se_pcen_frame(const se_pcen_config *c, const int32_t *log_energy, int64_t *smoothed,
                   int32_t *out) {
    const int64_t half = (int64_t)1 << (c->smooth_shift - 1);
    for (int i = 0; i < c->bands; i++) {
        const int64_t energy = energy_of(c, log_energy[i]);
        int32_t level, ratio = 0, sum_log;
        smoothed[i] += ((energy - smoothed[i]) * c->smooth_mantissa + half) >> c->smooth_shift;
        level = se_log2_q24(c->log2_table, (uint64_t)(smoothed[i] + c->epsilon)) - 16 * SE_LOG_ONE;
        if (energy > 0) {
            const int32_t log = se_clamp(log_energy[i], -30 * 65536, 30 * 65536) * 256;
            ratio = se_exp2_q16(c->exp2_table, log - se_rdm_any(level, c->gain));
        }
        sum_log = se_log2_q24(c->log2_table, (uint64_t)ratio + (uint32_t)c->bias) - 16 * SE_LOG_ONE;
        out[i] = se_exp2_q16(c->exp2_table, se_rdm_any(sum_log, c->power)) - c->bias_power;
    }
}
