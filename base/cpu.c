#include "base/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *const isa_names[] = {"portable", "avx2", "avx512", "amx"};

#if defined(__x86_64__)
// AMX state is large, so that Linux hands it out on request only; asking again is harmless.
static bool amx_ready(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    uint32_t a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const uint32_t tile = 1u << 24, bf16 = 1u << 22;
    if ((d & tile) == 0 || (d & bf16) == 0) return false;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
}
#endif

enum cpu_isa cpu_isa_best(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 =
        avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
    if (avx512 && amx_ready()) return CPU_AMX;
    if (avx512) return CPU_AVX512;
    if (avx2) return CPU_AVX2;
#endif
    return CPU_PORTABLE;
}

bool cpu_has_avxvnni(void) {
#if defined(__x86_64__)
    uint32_t a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4)) != 0;
#else
    return false;
#endif
}

const char *cpu_isa_name(enum cpu_isa isa) {
    return isa_names[isa];
}

enum status cpu_isa_parse(enum cpu_isa *out, const char *name, struct err *e) {
    const enum cpu_isa best = cpu_isa_best();
    *out = best;
    if (name == NULL || *name == '\0') return OK;
    for (int i = CPU_PORTABLE; i <= CPU_AMX; i++) {
        if (strcmp(name, isa_names[i]) != 0) continue;
        if (i > (int)best) {
            return err_fail(e, E_UNSUPPORTED,
                            "BASIN_CPU=%s: this CPU has no %s; the best here is %s", name, name,
                            isa_names[best]);
        }
        *out = (enum cpu_isa)i;
        return OK;
    }
    return err_fail(e, E_ARG, "BASIN_CPU=%s: must be portable, avx2, avx512 or amx", name);
}

static bool read_line(const char *path, char *line, int cap) {
    FILE *f = fopen(path, "re");
    if (f == NULL) return false;
    const bool ok = fgets(line, cap, f) != NULL;
    fclose(f);
    return ok;
}

// Path of this process's cgroup v2 directory's `file`, falling back to the root of the hierarchy.
static bool read_cgroup(const char *file, char *line, int cap) {
    char entry[512], path[640];
    if (read_line("/proc/self/cgroup", entry, sizeof entry) && strncmp(entry, "0::", 3) == 0) {
        entry[strcspn(entry, "\n")] = '\0';
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", entry + 3, file);
        if (read_line(path, line, cap)) return true;
    }
    snprintf(path, sizeof path, "/sys/fs/cgroup/%s", file);
    return read_line(path, line, cap);
}

int cpu_threads(void) {
    int n = 1;
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
    char line[128];
    long long quota = 0, period = 0;
    if (read_cgroup("cpu.max", line, sizeof line) &&
        sscanf(line, "%lld %lld", &quota, &period) == 2 && period > 0 && quota / period < n) {
        n = (int)(quota / period);
    }
    return n < 1 ? 1 : n;
}

void cpu_model(char *name, size_t cap) {
    snprintf(name, cap, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "re");
    if (f == NULL) return;
    char line[256];
    while (fgets(line, sizeof line, f) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || colon == NULL) continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(name, cap, "%s", colon + 1 + (colon[1] == ' '));
        break;
    }
    fclose(f);
}

int64_t cpu_memory_bytes(void) {
    long long free_bytes = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    if (f != NULL) {
        char line[128];
        while (fgets(line, sizeof line, f) != NULL) {
            long long kb = 0;
            if (sscanf(line, "MemAvailable: %lld kB", &kb) == 1) free_bytes = kb * 1024;
        }
        fclose(f);
    }
    char line[128];
    long long limit = 0, used = 0;
    if (read_cgroup("memory.max", line, sizeof line) && sscanf(line, "%lld", &limit) == 1 &&
        read_cgroup("memory.current", line, sizeof line) && sscanf(line, "%lld", &used) == 1 &&
        limit - used < free_bytes) {
        free_bytes = limit > used ? limit - used : 0;
    }
    return free_bytes;
}
