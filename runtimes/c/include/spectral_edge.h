/* spectral-edge: fixed-point STFT, features and overlap-add, the same bits on every CPU.
 *
 * C99, integers only, no libm, no allocation, no globals. The caller owns all memory: ask
 * se_<thing>_size, hand that many bytes to se_<thing>_init, keep them until done; there is nothing
 * to free. Tables (cosines, windows, logarithms) are constants: se_make_* computes them once, the
 * Python package hands over its own (the same bits), or they are kept in ROM. Objects share
 * nothing, so each may be used from one thread at a time.
 *
 * Numbers: int16 PCM. A spectrum is int32 mantissas re[bins], im[bins] with one exponent e per
 * frame: X = (re + i*im) * 2^-e in units of int16 samples; bins = n_fft/2 + 1. "Q16" is an int32
 * with 16 fraction bits. What every function computes, bit by bit: docs/numerics.md.
 *
 * Below, "Overflow" says what happens to values that do not fit, "In place" whether outputs may be
 * inputs (otherwise they must not overlap). A function that returns int and no number of its own
 * returns an se_status; sizes are bytes, 0 for a configuration that init would refuse. */
#ifndef SPECTRAL_EDGE_H
#define SPECTRAL_EDGE_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(SE_BUILD_DLL)
#define SE_API __declspec(dllexport)
#elif defined(__GNUC__)
#define SE_API __attribute__((visibility("default")))
#else
#define SE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define SE_VERSION 1

typedef enum se_status {
    SE_OK = 0,
    SE_BAD_VALUE = -1,  /* a field of the configuration is out of range */
    SE_BAD_MEMORY = -2, /* the memory handed over is too small, or NULL */
    SE_BAD_STATE = -3   /* a saved state belongs to another configuration */
} se_status;

/* Instruction sets; all give the same bits. AUTO takes the best one of this CPU. */
typedef enum se_isa { SE_AUTO = 0, SE_SCALAR = 1, SE_SSE41 = 2, SE_AVX2 = 3, SE_NEON = 4 } se_isa;

/* 1 when this build on this CPU can use `isa`. */
SE_API int se_isa_available(int isa);

/* ---- tables: computed once, with integers only --------------------------------------------- */

/* Periodic tapers. */
typedef enum se_window { SE_SQRT_HANN = 0, SE_HANN = 1, SE_HAMMING = 2, SE_RECT = 3 } se_window;

/* n: a size of se_fft_size. cosine, sine: int32[n], Q31 of 2*pi*k/n, +1.0 stored as 2^31 - 1. */
SE_API int se_make_circle(int n, int32_t *cosine, int32_t *sine);

/* values: int32[n], Q31 in [0, 1]; n 1...4096. */
SE_API int se_make_window(int window, int n, int32_t *values);

/* Canonical dual window w/(n * sum of shifted w^2): dual int32[n], Q31, times 2^-dual_exponent.
 * SE_BAD_VALUE where the sum comes near 0, which no overlap-add can undo. */
SE_API int se_make_dual(int window, int n, int hop, int32_t *dual, int32_t *dual_exponent);

/* The same for a window of n samples in front of a longer transform: dual int32[n], w/(n_fft * sum). */
SE_API int se_make_padded_dual(int window, int n, int n_fft, int hop, int32_t *dual,
                               int32_t *dual_exponent);

/* Largest error in int16 steps after push and pull with that dual window, warm-up left out: 0 when
 * the sums of shifted w^2 differ by no more than a factor of 16 (1 for n_fft above 1024), 32768 where
 * they come near 0. A program should warn above 1, as the Python package does. Negative: an
 * se_status. */
SE_API int se_round_trip_error(int window, int n, int n_fft, int hop);

/* log2 sqrt(sum of w^2) of n samples, 1...4096, Q24. */
SE_API int32_t se_make_reference_log2(int window, int n);

/* log2_table: int32[257], log2(1 + i/256), Q24. exp2_table: int32[257], 2^(i/256), Q29. */
SE_API void se_make_log_tables(int32_t *log2_table, int32_t *exp2_table);

/* ---- real FFT ------------------------------------------------------------------------------ */

typedef struct se_fft se_fft;

/* Bytes for a transform of n samples: even, 2^a*3^b*5^c, 64...4096. Returns 0 for any other n. */
SE_API size_t se_fft_size(int n);

/* memory: size bytes, any alignment. cosine, sine: int32[n] of se_make_circle; copied. isa: an
 * se_isa. *fft points into memory. */
SE_API int se_fft_init(void *memory, size_t size, int n, const int32_t *cosine,
                       const int32_t *sine, int isa, se_fft **fft);

/* v: int32[n], any Q, with sum |v| < 2^29 - 2^18 over the even samples and over the odd ones -> re,
 * im: int32[n/2 + 1], the plain DFT of v in the same Q, |value| < 2^30, im[0] = im[n/2] = 0.
 * Overflow: none under that condition. In place: no, v is kept. */
SE_API void se_fft_forward(se_fft *fft, const int32_t *v, int32_t *re, int32_t *im);

/* re, im: int32[n/2 + 1], any values (im[0] and im[n/2] count for s only) -> y: int32[n]. Returns s
 * such that y = n * inverse_dft(X) * 2^-s, -29...16, |y| < 2^30.
 * Overflow: none, s is chosen from sum |X|. In place: no, re and im are kept. */
SE_API int se_fft_inverse(se_fft *fft, const int32_t *re, const int32_t *im, int32_t *y);

/* ---- streaming STFT and its inverse -------------------------------------------------------- */

typedef struct se_stft se_stft;

typedef struct se_stft_config {
    int32_t n_fft, hop; /* hop: 1...window_length */
    int32_t isa;        /* an se_isa */
    int32_t dual_exponent;
    const int32_t *cosine, *sine; /* int32[n_fft], Q31; copied */
    const int32_t *window;        /* int32[window_length], Q31 in [0, 1]; copied */
    const int32_t *dual; /* int32[window_length]: dual window / n_fft * 2^dual_exponent, Q31; copied */
    int32_t window_length; /* 1...n_fft, zeros follow the windowed samples; 0 means n_fft */
} se_stft_config;

/* Bytes for one channel, both directions: its state, its tables and its work space. */
SE_API size_t se_stft_size(const se_stft_config *config);

/* memory: size bytes, any alignment. Starts in silence. *stft points into memory. */
SE_API int se_stft_init(void *memory, size_t size, const se_stft_config *config, se_stft **stft);

/* Forget the past: zeros before the next sample, empty overlap. */
SE_API void se_stft_reset(se_stft *stft);

/* Push one hop of PCM, get the frame that ends with it: pcm int16[hop], any values -> re, im:
 * int32[bins], |value| < 2^30, phases from the window's first sample. Returns the exponent e, 0...30;
 * 0 and zeros for a silent frame. X is the plain DFT of samples * window, no 1/n.
 * Overflow: none. In place: no. */
SE_API int se_stft_push(se_stft *stft, const int16_t *pcm, int32_t *re, int32_t *im);

/* Add one frame, get the hop of PCM it completes: window_length - hop samples behind the last pushed.
 * re, im: int32[bins], any values, with any exponent e within +-2^30 -> pcm: int16[hop]. The inverse
 * of se_stft_push, 1/n included, rounded half up.
 * Overflow: contributions and sums saturate 18 dB above full scale, the output at full scale.
 * In place: re and im are kept; pcm may be the block that was pushed. */
SE_API void se_stft_pull(se_stft *stft, const int32_t *re, const int32_t *im, int e,
                         int16_t *pcm);

/* The same for many hops: pcm int16[hops*hop], re, im int32[hops][bins], e int32[hops]. Overflow as
 * above. In place: no. */
SE_API void se_stft_push_clip(se_stft *stft, const int16_t *pcm, int64_t hops, int32_t *re,
                              int32_t *im, int32_t *e);
SE_API void se_stft_pull_clip(se_stft *stft, const int32_t *re, const int32_t *im,
                              const int32_t *e, int64_t hops, int16_t *pcm);

/* ---- front end of an enhancement network --------------------------------------------------- */

typedef struct se_frontend se_frontend;

typedef enum se_head { SE_HEAD_NONE = 0, SE_HEAD_MASK, SE_HEAD_MASK_BIAS, SE_HEAD_COMPLEX_MASK } se_head;

typedef struct se_frontend_config {
    se_stft_config stft;
    const int32_t *log2_table; /* int32[257]: log2(1 + i/256), Q24; referenced */
    const int32_t *exp2_table; /* int32[257]: 2^(i/256), Q29; referenced */
    int32_t channels;          /* 1...3 */
    int32_t feature[3];        /* of each channel: 0 mag, 1 re, 2 im */
    int32_t compression;       /* c, Q31 */
    int32_t inverse_whole, inverse_fraction; /* 1/c = whole + fraction*2^-31 */
    int32_t reference_log2;                  /* log2 sqrt(sum of squared window), Q24 */
    int32_t running_level;                   /* 0: fixed full scale, 1: running power */
    int32_t alpha_mantissa, alpha_shift;     /* alpha = mantissa * 2^-shift, 16-bit mantissa */
    int64_t level_start, level_floor;        /* power in squared int16 units, Q16 */
    int32_t delay;                           /* frames between analysis and synthesis, >= 0 */
    int32_t head;                            /* an se_head */
} se_frontend_config;

/* Codes of the network: how Q16 features become int8, and what an int8 mask or bias code means. */
typedef struct se_codes {
    uint32_t multiplier; /* 1/(scale * 2^16) = multiplier * 2^-shift, multiplier in [2^30, 2^31) */
    int32_t shift;       /* 1...62 */
    int32_t limit;       /* magnitudes above it saturate */
    int32_t zero_point;
    int32_t mask[256]; /* by code + 128: the mask, Q31, in [-1, 1] */
    int32_t bias[256]; /* by code + 128: the bias, Q16, within 30 bits */
} se_codes;

/* Where the bound calls read and write; elements at [channel*channel_stride + bin*bin_stride]. */
typedef struct se_view {
    void *data;
    int64_t channel_stride, bin_stride;
} se_view;

typedef struct se_binding {
    const int16_t *pcm_in;         /* int16[hop] */
    int16_t *pcm_out;              /* int16[hop] */
    se_view features, mask, bias;  /* int8, or float32 when as_float; unused ones have data NULL */
    int32_t as_float;
} se_binding;

/* Bytes for one channel. window_length must be n_fft here. */
SE_API size_t se_frontend_size(const se_frontend_config *config);

/* memory: size bytes, any alignment. codes may be NULL when only float32 or Q16 values are exchanged;
 * copied. *frontend points into memory. */
SE_API int se_frontend_init(void *memory, size_t size, const se_frontend_config *config,
                            const se_codes *codes, se_frontend **frontend);

/* Forget the past: silence, the starting level, no frames. */
SE_API void se_frontend_reset(se_frontend *frontend);

/* Push one hop, pcm int16[hop]: level, STFT, compressed features, kept inside for synthesis.
 * Overflow: features saturate just below 2^15. In place: pcm is kept. */
SE_API void se_frontend_push(se_frontend *frontend, const int16_t *pcm);

/* Features of the last frame: int32[channels][bins], Q16: |X|^c and |X|^(c-1)*re, im of X divided by
 * level and window norm. Overflow: saturate just below 2^15. In place: no. */
SE_API void se_frontend_features(const se_frontend *frontend, int32_t *features);

/* Features of a whole clip from the present state: pcm int16[hops*hop] ->
 * int32[channels][hops][bins], Q16. Overflow: saturate just below 2^15. In place: no. */
SE_API void se_frontend_clip(se_frontend *frontend, const int16_t *pcm, int64_t hops,
                             int32_t *features);

/* Bound calls, for a caller that owns its buffers; the binding is copied, the buffers are not. */
SE_API int se_frontend_bind(se_frontend *frontend, const se_binding *binding);

/* pcm_in -> features: push, then int8 codes or float32 (Q16 / 65536).
 * Overflow: codes saturate. In place: no. */
SE_API void se_frontend_analyze(se_frontend *frontend);

/* mask and bias -> pcm_out: the head applied to the frame `delay` frames ago, then the inverse. Codes
 * by the tables of se_codes, or float32 (NaN counts as 0).
 * Overflow: masks, biases, products, sums and output saturate. In place: pcm_out may be pcm_in. */
SE_API void se_frontend_synthesize(se_frontend *frontend);

/* All memory of the stream as state_size bytes (little-endian machines): save, and load into a front
 * end of the same configuration. Overflow: load clamps numbers that are out of range. In place: no. */
SE_API size_t se_frontend_state_size(const se_frontend *frontend);
SE_API void se_frontend_save(const se_frontend *frontend, void *state);
SE_API int se_frontend_load(se_frontend *frontend, const void *state, size_t size);

/* Name of the instruction set in use: "scalar", "sse41", "avx2" or "neon". */
SE_API const char *se_frontend_isa(const se_frontend *frontend);
SE_API const char *se_stft_isa(const se_stft *stft);

/* ---- log-mel energies ---------------------------------------------------------------------- */

typedef struct se_logmel se_logmel;

typedef struct se_logmel_config {
    int32_t bins, bands; /* up to 2049, 512 */
    int32_t power;       /* 2 sums |X|^2, 1 sums |X| */
    int32_t total_bits;  /* bits of the largest sum of weights of one band */
    int32_t whole, fraction; /* output = max(log2*whole + rdm(log2, fraction), floor), Q16 */
    int32_t reference;       /* added to log2, Q24 */
    int32_t floor;           /* Q16; what silence gives */
    const int32_t *first, *count; /* int32[bands]: bins of each band; all referenced */
    const int32_t *weight;        /* int32[sum of count], Q15 in [0, 1] */
    const int32_t *offset;        /* int32[bands]: added to log2, Q24 */
    const int32_t *log2_table;    /* int32[257], see se_make_log_tables */
} se_logmel_config;

/* Bytes. Refuses weights outside [0, 1], sums above total_bits (27 at most), |reference| > 32 and
 * |offset| > 20: what the arithmetic relies on. */
SE_API size_t se_logmel_size(const se_logmel_config *config);

/* memory: size bytes, any alignment; the arrays of the configuration stay the caller's. */
SE_API int se_logmel_init(void *memory, size_t size, const se_logmel_config *config,
                          se_logmel **logmel);

/* One frame: re, im int32[bins], |value| <= 2^30, exponent e 0...30, as se_stft_push gives them ->
 * out int32[bands], Q16, the logarithm of sum weight*|X|^power in the unit of the configuration.
 * Overflow: none. In place: no, re and im are kept. */
SE_API void se_logmel_frame(se_logmel *logmel, const int32_t *re, const int32_t *im, int e,
                            int32_t *out);

/* ---- codes of a network ---------------------------------------------------------------------- */

/* How a Q16 value becomes a code: clamp(round(value/(scale * 2^16)) + zero_point), half away from 0. */
typedef struct se_code_rule {
    uint32_t multiplier; /* 1/(scale * 2^16) = multiplier * 2^-shift, multiplier in [2^30, 2^31) */
    int32_t shift;       /* 1...62 */
    int32_t limit;       /* magnitudes above it saturate */
    int32_t zero_point;
} se_code_rule;

/* scale = mantissa * 2^-exponent, as every float32 is; bits 8 or 16. SE_BAD_VALUE when the scale
 * is outside 2^-45...2^16. */
SE_API int se_make_code_rule(uint32_t mantissa, int exponent, int zero_point, int bits,
                             se_code_rule *rule);

/* values: int32[count], Q16, any -> codes [count]. Overflow: codes saturate. In place: no. */
SE_API int se_quantize_int8(const se_code_rule *rule, const int32_t *values, int count,
                            int8_t *codes);
SE_API int se_quantize_int16(const se_code_rule *rule, const int32_t *values, int count,
                             int16_t *codes);

/* ---- integer DCT --------------------------------------------------------------------------- */

/* matrix: int16[n][n] of the orthonormal DCT-II with `bits` fraction bits, 7...14; n 2...64.
 * Row k holds sqrt(2/n)*cos(pi*k*(2i+1)/(2n)), row 0 sqrt(1/n). */
SE_API int se_make_dct(int n, int bits, int16_t *matrix);

/* y[k] = (sum_i matrix[k][i]*x[i] + half) >> shift, 1...30, half rounded up: the DCT-II of x.
 * x, y: int32[n], any values; y has the fraction bits of x plus bits - shift.
 * Overflow: y saturates to int32, sums have 64 bits. In place: no. */
SE_API void se_dct_forward(const int16_t *matrix, int n, const int32_t *x, int shift, int32_t *y);

/* The same with the transposed matrix: the DCT-III, its inverse. Overflow: saturates. In place: no. */
SE_API void se_dct_inverse(const int16_t *matrix, int n, const int32_t *x, int shift, int32_t *y);

/* Rows, then columns of a block int32[n][n], each with its shift, 1...30; work: int32[n*n].
 * Overflow: both passes saturate to int32. In place: yes. */
SE_API void se_dct_forward_2d(const int16_t *matrix, int n, int row_shift, int column_shift,
                              int32_t *block, int32_t *work);
SE_API void se_dct_inverse_2d(const int16_t *matrix, int n, int row_shift, int column_shift,
                              int32_t *block, int32_t *work);

/* ---- per-channel energy normalisation ------------------------------------------------------- */

typedef struct se_pcen_config {
    int32_t bands;
    int32_t smooth_mantissa, smooth_shift; /* s = mantissa * 2^-shift; mantissa 2^15...2^16, shift 16...31 */
    int32_t gain;                          /* alpha, Q31, > 0 */
    int32_t power;                         /* r, Q31, > 0 */
    int64_t epsilon;                       /* added to the smoothed energy, Q16, 1...2^46 */
    int32_t bias;                          /* delta, Q16, 2...2^30 */
    int32_t bias_power;                    /* delta^r, Q16: the output of silence is 0 */
    const int32_t *log2_table, *exp2_table;
} se_pcen_config;

/* One frame: log_energy int32[bands], log2 of the mel energies in Q16 (INT32_MIN: silence), smoothed
 * int64[bands], the state, Q16 energies, zeros at first -> out: int32[bands], Q16 of
 * (E/(eps+M)^alpha + delta)^r - delta^r.
 * Overflow: energies saturate at 2^46, the output below 2^15. In place: out may be log_energy. */
SE_API void se_pcen_frame(const se_pcen_config *config, const int32_t *log_energy,
                          int64_t *smoothed, int32_t *out);

#ifdef __cplusplus
}
#endif

#endif
