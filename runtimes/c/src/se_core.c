/* Memory, choice of instruction set, scalar log2 and exp2. */
#include "se_core.h"

#if defined(SE_HAS_X86) && defined(_MSC_VER)
#include <intrin.h>
#endif

void *se_arena_take(se_arena *arena, size_t bytes) {
    void *piece = arena->base ? arena->base + arena->used : NULL;
    arena->used += (bytes + SE_ALIGN - 1) / SE_ALIGN * SE_ALIGN;
    return piece;
}

int32_t *se_arena_ints(se_arena *arena, int count) {
    int32_t *piece = se_arena_take(arena, (size_t)count * sizeof(int32_t));
    if (piece) {
        for (int i = 0; i < count; i++) piece[i] = 0;
    }
    return piece;
}

void se_arena_open(se_arena *arena, void *memory) {
    const uintptr_t address = (uintptr_t)memory;
    arena->used = 0;
    arena->base = NULL;
    if (memory) arena->base = (unsigned char *)memory + (SE_ALIGN - address % SE_ALIGN) % SE_ALIGN;
}

#if defined(SE_HAS_X86)
static int cpu_has(int isa) {
#if defined(_MSC_VER)
    int leaf1[4], leaf7[4];
    __cpuid(leaf1, 1);
    if (isa == SE_SSE41) return (leaf1[2] >> 19) & 1;
    if (!((leaf1[2] >> 27) & 1) || (_xgetbv(0) & 6) != 6) return 0;
    __cpuidex(leaf7, 7, 0);
    return (leaf7[1] >> 5) & 1;
#else
    return isa == SE_SSE41 ? __builtin_cpu_supports("sse4.1") : __builtin_cpu_supports("avx2");
#endif
}
#endif

int se_isa_available(int isa) {
    switch (isa) {
    case SE_AUTO:
    case SE_SCALAR:
        return 1;
#if defined(SE_HAS_X86)
    case SE_SSE41:
    case SE_AVX2:
        return cpu_has(isa) != 0;
#endif
#if defined(SE_HAS_NEON)
    case SE_NEON:
        return 1;
#endif
    default:
        return 0;
    }
}

const se_kernels *se_kernels_find(int isa) {
#if defined(SE_HAS_X86)
    if ((isa == SE_AUTO || isa == SE_AVX2) && cpu_has(SE_AVX2)) return &se_kernels_avx2;
    if ((isa == SE_AUTO || isa == SE_SSE41) && cpu_has(SE_SSE41)) return &se_kernels_sse41;
#endif
#if defined(SE_HAS_NEON)
    if (isa == SE_AUTO || isa == SE_NEON) return &se_kernels_neon;
#endif
    return isa == SE_AUTO || isa == SE_SCALAR ? &se_kernels_scalar : NULL;
}

int32_t se_log2_q24(const int32_t *table, uint64_t v) {
    const int n = se_bitlen64(v) - 1;
    const uint32_t f = (uint32_t)(n > 31 ? v >> (n - 31) : v << (31 - n)) & INT32_MAX;
    const uint32_t i = f >> 23, t = (f >> 9) & 0x3FFF;
    const int32_t step = (table[i + 1] - table[i]) * (int32_t)t;
    return n * SE_LOG_ONE + table[i] + se_rsh(step, 14);
}

int32_t se_exp2_q30(const int32_t *table, int32_t x) {
    const uint32_t f = (uint32_t)x & (SE_LOG_ONE - 1);
    const uint32_t i = f >> 16, t = (f >> 6) & 0x3FF;
    const uint32_t step = (uint32_t)(table[i + 1] - table[i]) * t;
    return (table[i] + (int32_t)((step + (1 << 9)) >> 10)) * 2;
}

int32_t se_exp2_q16(const int32_t *table, int32_t x) {
    x = se_min(x, 15 * SE_LOG_ONE - 4096);
    return se_rsh(se_exp2_q30(table, x), se_min(14 - se_sra(x, 24), 31));
}

uint64_t se_sqrt_u64(uint64_t v) {
    uint64_t root = 0;
    for (uint64_t bit = (uint64_t)1 << 62; bit; bit >>= 2) {
        const uint64_t trial = root + bit;
        root >>= 1;
        if (v >= trial) {
            v -= trial;
            root += bit;
        }
    }
    return root;
}
