/* AVX2 on x86, chosen at run time; compiled without any flag on the command line. */
#include "se_kernels.h"
#if defined(SE_HAS_X86)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("avx2")
#endif
#define SE_ISA_AVX2
#define SE_TABLE se_kernels_avx2
#define SE_NAME "avx2"
#include "se_kernels_table.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int se_kernels_avx2_unused;
#endif
