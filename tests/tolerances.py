"""Every tolerance of the test suite, by name. Integer paths are exact and have none."""

STEP_EQUALS_CLIP_RELATIVE = 1e-5  # of the clip's peak (design, numerical contract)
ONNXRUNTIME_CODES_EQUAL = 0.998  # share of equal int8 codes, max difference 1
LITERT_CODES_EQUAL = 0.995  # share of equal int8 codes, max difference 1
METRIC_ABSOLUTE = 2e-4  # dB or score units; the reference values are printed with 6 decimals
PESQ_ABSOLUTE = 2e-6  # PESQ and STOI come from the very packages that made the reference values
COUNT_RELATIVE = 0.03  # parameters, MACs and state of a network against the design table
LAYER_ABSOLUTE = 1e-5  # a layer against its textbook loop, values around 1, float32
LET_THROUGH_SNR_DB = 50.0  # a session with a constant mask against its input times that constant
RESAMPLED_SNR_DB = 45.0  # the same through 48 or 44.1 kHz and back, a sine, int16 on the way
RESTORED_RESAMPLER_SNR_DB = 60.0  # after a replay: 1e-7 on the way in is a step of int16 at times
FLOAT_ENGINES_PCM = 1  # int16 steps between two engines of one float32 program
RSS_GROWTH_BYTES = 1_000_000  # of a process over hundreds of thousands of hops
TFLITE_RUNTIME_TINY_CODES_EQUAL = 0.93  # builtin kernels round twice; tiny is all requantisation
TFLITE_RUNTIME_MAX_CODES = 6  # largest code difference of the old runtime (measured per op)
RECONSTRUCTION_RELATIVE = 1e-5  # float32 analysis and synthesis with an identity mask, of the peak
FEATURE_ABSOLUTE = 2e-3  # float32 features against float64 formulas; |X|^0.3 is steep at zero

# Fixed-point STFT against float64 with the ideal window (design, numerical contract).
STFT_SNR_DB = {64: 128.0, 512: 128.0, 1024: 122.0}  # up to this n_fft, at every level
STFT_WORST_FRAME_DB = 118.0  # any single frame of any signal, n_fft <= 1024
FEATURE_ABSOLUTE_Q16 = 1.0  # in units of 2^-16, or
FEATURE_RELATIVE = 1e-5  # of the value, whichever is larger
LOG_TABLE_DB = 0.02  # |X|^c through log2 and exp2
EXPAND_TABLE_DB = 0.05  # and back
FLOAT_ENGINE_ABSOLUTE = 1e-5  # float32 engines against torch, values around 1
W8A8_OPS_SQNR_DB = 20.0  # one op between int8 tensors, Gaussian data; the worst (exp chains) has 24
RUNNING_STATISTICS_SQNR_DB = 28.0  # cumulative norm beyond calibration; 31 measured, int8 sums: 12
SAME_PROGRAM_SNR_DB = 45.0  # audio of an engine against audio of torch, one program, int16 PCM
LOG_MEL_DB = 0.03  # every non-zero cell, at every level
LOG_MEL_CODES_DIFFERENT = 5e-4  # share of int8 codes, max difference 1
PCEN_RELATIVE = 1e-3
DCT_SNR_DB = 75.0
ZOO_SI_SDR_GAIN_DB = 1.0  # shipped weights over the noisy input, six hard validation files
ZOO_KEYWORD_ACCURACY = 0.84  # shipped keyword net, every third validation clip (measured 0.89)
EXACT_GRADIENT_COSINE = 1 - 1e-7  # of the integer STFT's loss against the float STFT's
TORCH_CODES_EQUAL = 0.998  # fake-quant torch (float32 sums) against the integer golden rollout
ONNXRUNTIME_CODES_EQUAL_WITH_TIES = 0.98  # one code of 256 lies exactly on a rounding boundary
