/* Plain C, one lane: every machine, and the stages whose stride is no multiple of a vector. */
#define SE_TABLE se_kernels_scalar
#define SE_NAME "scalar"
#include "se_kernels_table.h"
