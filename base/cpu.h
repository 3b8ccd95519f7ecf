/* What the CPU offers: instruction sets and how many threads this process may use. */
#ifndef BASIN_BASE_CPU_H
#define BASIN_BASE_CPU_H

#include "base/err.h"

enum cpu_isa {
    CPU_PORTABLE, /* plain C */
    CPU_AVX2,     /* AVX2 + FMA + F16C */
    CPU_AVX512,   /* AVX-512 F, BW, VL, DQ, VNNI and BF16 */
    CPU_AMX       /* the same, and bf16 products in AMX tile registers */
};

enum cpu_isa cpu_isa_best(void);
/* The products of bytes of AVX-512 for vectors of 256 bits. */
bool cpu_has_avxvnni(void);
const char *cpu_isa_name(enum cpu_isa isa);

/* Name to isa: "portable", "avx2", "avx512", "amx". NULL or "" means the best this CPU has.
 * Errors: E_ARG (unknown name), E_UNSUPPORTED (this CPU lacks it). */
enum status cpu_isa_parse(enum cpu_isa *out, const char *name, struct err *e) WARN_UNUSED;

/* min(CPU affinity, floor of the cgroup's CPU quota), at least 1. */
int cpu_threads(void);

/* Model name from /proc/cpuinfo, "unknown" without one. */
void cpu_model(char *name, size_t cap);

/* Bytes of memory this process may still take: the smaller of MemAvailable and what the cgroup
 * leaves. */
int64_t cpu_memory_bytes(void);

#endif
