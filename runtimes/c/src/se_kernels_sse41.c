/* SSE4.1 on x86, chosen at run time; compiled without any flag on the command line. */
#include "se_kernels.h"
#if defined(SE_HAS_X86)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("sse4.1"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("sse4.1")
#endif
#define SE_ISA_SSE41
#define SE_TABLE se_kernels_sse41
#define SE_NAME "sse41"
#include "se_kernels_table.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int se_kernels_sse41_unused;
#endif
