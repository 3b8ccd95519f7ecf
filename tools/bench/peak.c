/* What one thread and all threads can do at most, measured apart from the program: `basin bench` must say
 * the same. The loops are written in assembly, so that no compiler can spill or drop anything; each
 * accumulator is a chain of its own, and there are enough of them to hide the latency. Best of several
 * repetitions; threads are timed together, from their common start to the end of the last one.
 *
 * build: make build/release/tools/bench/peak
 * run:   build/release/tools/bench/peak [threads] */
#include "base/clock.h"
#include "base/cpu.h"

#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { REPEAT = 25, ROUNDS = 200000 };

#if defined(__x86_64__)

/* 24 chains: registers 0..23 accumulate, 24 and 25 are what is multiplied. */
#define ALL(op)                                                                                    \
    op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) op(13) op(14) \
        op(15) op(16) op(17) op(18) op(19) op(20) op(21) op(22) op(23)
#define ZERO(r) "vpxord %%zmm" #r ", %%zmm" #r ", %%zmm" #r "\n\t"
#define FMA(r) "vfmadd231ps %%zmm25, %%zmm24, %%zmm" #r "\n\t"
#define BF16(r) "vdpbf16ps %%zmm25, %%zmm24, %%zmm" #r "\n\t"
#define INT8(r) "vpdpbusd %%zmm25, %%zmm24, %%zmm" #r "\n\t"
#define CLOBBER                                                                                    \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",       \
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#define LOOP(name, op, isa)                                                                        \
    __attribute__((target(isa))) static void name(int64_t n) {                                     \
        __asm__ volatile(ALL(ZERO) ZERO(24) ZERO(25) "1:\n\t" ALL(op) "dec %0\n\tjnz 1b\n\t"       \
                                                                      "vzeroupper"                 \
                         : "+r"(n)                                                                 \
                         :                                                                         \
                         : "cc", CLOBBER);                                                         \
    }
LOOP(f32_512, FMA, "avx512f")
LOOP(bf16_512, BF16, "avx512f")
LOOP(int8_512, INT8, "avx512f")

/* 12 chains of 256 bits. */
#define TWELVE(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11)
#define ZERO_Y(r) "vxorps %%ymm" #r ", %%ymm" #r ", %%ymm" #r "\n\t"
#define FMA_Y(r) "vfmadd231ps %%ymm13, %%ymm12, %%ymm" #r "\n\t"
#define INT8_Y(r) "%{vex%} vpdpbusd %%ymm13, %%ymm12, %%ymm" #r "\n\t"
#define LOOP_Y(name, op)                                                                           \
    static void name(int64_t n) {                                                                  \
        __asm__ volatile(TWELVE(ZERO_Y) ZERO_Y(12)                                                 \
                             ZERO_Y(13) "1:\n\t" TWELVE(op) "dec %0\n\tjnz 1b\n\tvzeroupper"       \
                         : "+r"(n)                                                                 \
                         :                                                                         \
                         : "cc", CLOBBER);                                                         \
    }
LOOP_Y(f32_256, FMA_Y)
LOOP_Y(int8_256, INT8_Y)

static const struct loop {
    const char *name;
    void (*run)(int64_t n);
    double ops; // of a round
    enum cpu_isa isa;
    bool vnni; // AVX-VNNI is needed
} loops[] = {
    {"f32 fma, 256 bits", f32_256, 12 * 8 * 2, CPU_AVX2, false},
    {"int8 vpdpbusd, 256 bits", int8_256, 12 * 8 * 8, CPU_AVX2, true},
    {"f32 fma, 512 bits", f32_512, 24 * 16 * 2, CPU_AVX512, false},
    {"bf16 vdpbf16ps, 512 bits", bf16_512, 24 * 16 * 4, CPU_AVX512, false},
    {"int8 vpdpbusd, 512 bits", int8_512, 24 * 16 * 8, CPU_AVX512, false},
};

static double gflops(const struct loop *l, int n_thread) {
    double best = 0;
    for (int i = 0; i < REPEAT; i++) {
        int64_t t0 = 0, t1 = 0;
#pragma omp parallel num_threads(n_thread)
        {
#pragma omp barrier
#pragma omp master
            t0 = clock_ns();
            l->run(ROUNDS);
#pragma omp barrier
#pragma omp master
            t1 = clock_ns();
        }
        const double rate = l->ops * ROUNDS * n_thread / (double)(t1 - t0);
        if (rate > best) best = rate;
    }
    return best;
}

static void products(int n_thread) {
    for (size_t i = 0; i < sizeof loops / sizeof *loops; i++) {
        if (loops[i].isa > cpu_isa_best() || (loops[i].vnni && !cpu_has_avxvnni())) continue;
        printf("%-26s %10.1f %10.1f GFLOP/s\n", loops[i].name, gflops(loops + i, 1),
               gflops(loops + i, n_thread));
        fflush(stdout);
    }
}
#else
static void products(int n_thread) {
    (void)n_thread;
}
#endif

/* Every thread reads a stretch of its own, a word of each cache line. */
static double read_rate(int n_thread) {
    enum { LINE = 8 };
    const int64_t n = (int64_t)64 << 20; // words of eight bytes, beyond any cache
    const int64_t n_line = n / LINE;
    const double bytes = 8.0 * (double)n;
    uint64_t *p = aligned_alloc(64, (size_t)n * sizeof *p), sum = 0;
    double best = 0;
    if (p == NULL) return 0;
    for (int64_t i = 0; i < n; i++) p[i] = (uint64_t)i;
    for (int i = 0; i < REPEAT / 2; i++) {
        const int64_t t0 = clock_ns();
#pragma omp parallel for num_threads(n_thread) reduction(+ : sum) schedule(static)
        for (int64_t k = 0; k < n_line; k++) sum += p[k * LINE];
        const double rate = bytes / (double)(clock_ns() - t0);
        if (rate > best) best = rate;
    }
    __asm__ volatile("" ::"r"(sum));
    free(p);
    return best;
}

int main(int argc, char **argv) {
    const int n_thread = argc > 1 ? atoi(argv[1]) : cpu_threads();
    printf("%-26s %10d %10d threads\n", "", 1, n_thread);
    products(n_thread);
    printf("%-26s %10.1f %10.1f GB/s\n", "memory read", read_rate(1), read_rate(n_thread));
    return 0;
}
