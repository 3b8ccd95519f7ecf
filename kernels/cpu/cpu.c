#include "kernels/cpu/cpu_impl.h"
#include "kernels/cpu/pool.h"

#include "base/mem.h"

#include <omp.h>
#include <stdio.h>

static void cpu_close(struct dev *d) {
    struct cpu_dev *c = cpu_of(d);
    for (size_t i = 0; i < c->n_piece; i++) mem_free(c->piece[i].mem);
    cpu_pool_close(c->pool);
    mem_free(c->piece);
    mem_free(c->scratch);
    mem_free(c);
}

void *cpu_scratch(struct cpu_dev *d, size_t bytes) {
    if (bytes <= d->scratch_bytes) return d->scratch;
    struct err e = {0};
    unsigned char *grown = NULL;
    mem_free(d->scratch); // contents are not kept, so that the peak is one copy
    d->scratch = NULL;
    d->scratch_bytes = 0;
    if (mem_alloc64(&grown, bytes, 1, &e) != OK) {
        dev_fail(&d->base, e.code, "%s", e.msg);
        return NULL;
    }
    d->scratch = grown;
    d->scratch_bytes = bytes;
    return grown;
}

void cpu_share(const struct cpu_dev *d, int64_t work, int64_t n,
               void (*fn)(void *ctx, int64_t item, int thread), void *ctx) {
    if (d->pool != NULL && work >= 64 * 1024) {
        cpu_pool_run(d->pool, n, fn, ctx);
        return;
    }
#pragma omp parallel for num_threads(cpu_team(d, work)) schedule(dynamic, 1)
    for (int64_t i = 0; i < n; i++) fn(ctx, i, omp_get_thread_num());
}

// What does not depend on how matrices are kept.
#define CPU_OPS                                                                                    \
    .kind = "cpu", .close = cpu_close, .sync = dev_host_sync, .times = dev_host_times,             \
    .measure = cpu_measure, .buf_alloc = dev_host_buf_alloc, .buf_release = dev_host_buf_release,  \
    .write = dev_host_write, .read = dev_host_read, .wt_release = cpu_wt_release,                  \
    .wt_drop = cpu_wt_release, .embed = cpu_embed, .norm = cpu_norm, .angles = cpu_angles,         \
    .rope = cpu_rope, .kv_store = cpu_kv_store, .act = cpu_act, .add = cpu_add, .clip = cpu_clip,  \
    .sample = cpu_sample, .similar = cpu_similar, .copy = dev_host_copy,                           \
    .copy_peer = dev_host_copy_peer, .fetch = dev_host_copy_peer,                                  \
    .event_open = dev_host_event_open, .event_close = dev_host_event_close,                        \
    .event_record = dev_host_event_record, .event_wait = dev_host_event_wait

static const struct dev_ops cpu_ops = {CPU_OPS,
                                       .wt_prepare = cpu_wt_prepare,
                                       .linear = cpu_linear,
                                       .attend = cpu_attend,
                                       .mlp = cpu_mlp,
                                       .head = cpu_head};

// Matrices as they are stored, and kernels for few rows.
static const struct dev_ops cpu_step_ops = {CPU_OPS, .wt_prepare = cpu_decode_prepare,
                                            .linear = cpu_decode_linear,
                                            .attend = cpu_decode_attend, .head = cpu_decode_head};

// These AMX kernels multiply bf16 only: an f32 run is AVX-512's.
static const struct cpu_kernels *kernels_of(const struct dev_config *c) {
    switch (c->isa) {
#if defined(__x86_64__)
    case CPU_AMX: return c->compute == DT_BF16 ? &cpu_kernels_amx : &cpu_kernels_avx512;
    case CPU_AVX512: return &cpu_kernels_avx512;
    case CPU_AVX2: return c->int8 && cpu_has_avxvnni() ? &cpu_kernels_avxvnni : &cpu_kernels_avx2;
#else
    case CPU_AMX:
    case CPU_AVX512:
    case CPU_AVX2:
#endif
    case CPU_PORTABLE: break;
    }
    return &cpu_kernels_portable;
}

enum status cpu_open_with(struct dev **out, const struct cpu_kernels *k, const struct dev_config *c,
                          struct err *e) {
    struct cpu_dev *d = NULL;
    *out = NULL;
    enum status st = dev_config_check(c, e);
    if (st == OK) st = mem_zalloc(&d, 1, sizeof *d, e);
    if (st != OK) return st;
    const bool bf16 = c->compute == DT_BF16;
    d->base.ops = c->purpose == DEV_STEPS ? &cpu_step_ops : &cpu_ops;
    d->base.cfg = *c;
    d->base.act = DT_F32;
    d->base.kv = bf16 ? DT_BF16 : DT_F32;
    d->base.op = "open";
    d->k = d->lin = k;
#if defined(__x86_64__)
    if (c->int8 && k == &cpu_kernels_amx) d->lin = &cpu_kernels_avx512;
#endif
    if (c->purpose == DEV_STEPS) {
        d->decode = cpu_decode_of(c->isa);
        st = cpu_pool_open(&d->pool, c->n_thread, e);
        if (st != OK) {
            mem_free(d);
            return st;
        }
    }
    d->n_thread = c->n_thread;
    d->word = bf16 && k->bf16_pairs ? WORD_PAIRS : WORD_F32;
    d->lin_word = c->int8 ? WORD_INT8 : d->word;
    d->round = bf16 && !k->bf16_pairs;
    snprintf(d->base.describe, sizeof d->base.describe, "cpu %s %s, %d thread%s",
             cpu_isa_name(k->isa), c->int8 ? "int8" : dtype_name(c->compute), c->n_thread,
             c->n_thread == 1 ? "" : "s");
    *out = &d->base;
    return OK;
}

enum status dev_open_cpu(struct dev **out, const struct dev_config *c, struct err *e) {
    *out = NULL;
    if (c->isa > cpu_isa_best())
        return err_fail(e, E_UNSUPPORTED, "this CPU has no %s", cpu_isa_name(c->isa));
    return cpu_open_with(out, kernels_of(c), c, e);
}
