/* Memory moves of a step: state outputs become state inputs in one call. */
#ifndef SE_COPY_H
#define SE_COPY_H

#include "spectral_edge.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    void *target;       /* [size] bytes, written */
    const void *source; /* [size] bytes, read; may overlap target */
    size_t size;
} se_copy;

/* Do `count` moves in order. A source may not overlap the target of an earlier move. */
SE_API void se_copy_many(const se_copy *copies, size_t count);

#ifdef __cplusplus
}
#endif
#endif
