/* The table of one instruction set; SE_TABLE names it. */
#include "se_kernels.h"
#include "se_plan.h"
#include "se_simd.h"

#include "se_fft_kernels.h"
#include "se_frame_kernels.h"

#if VL == 8
#define SE_PAIRS {0, 0, pair2, pair3, pair4, pair5}
#else
#define SE_PAIRS {0}
#endif

const se_kernels SE_TABLE = {
    SE_NAME,       VL,      first4,    SE_PAIRS, {0, 0, stage2, stage3, stage4, stage5},
    split,         unsplit, weighted_peak, energy, spectrum_sum, unzip,    zip,     window, overlap_add, compress,
    quantize,      expand,  mask_bias, complex_mask, gain,
};
