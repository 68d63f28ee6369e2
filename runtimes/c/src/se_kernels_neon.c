/* NEON, where the compiler has it on; nothing to choose at run time. */
#include "se_kernels.h"
#if defined(SE_HAS_NEON)
#define SE_ISA_NEON
#define SE_TABLE se_kernels_neon
#define SE_NAME "neon"
#include "se_kernels_table.h"
#else
typedef int se_kernels_neon_unused;
#endif
