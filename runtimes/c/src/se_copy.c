/* Moves a list of memory ranges.
 *
 * A streaming step has about a dozen states of some hundred bytes to some kilobytes. Moving each from
 * Python costs more for the call than for the bytes, so the whole list is one call. */
#include "se_copy.h"

#include <string.h>

void se_copy_many(const se_copy *copies, size_t count) {
    for (size_t i = 0; i < count; i++) {
        memmove(copies[i].target, copies[i].source, copies[i].size);
    }
}
