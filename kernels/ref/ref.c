#include "kernels/ref/ref_impl.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>

double ref_weight(const struct wt *w, int64_t row, int64_t col) {
    const enum dtype type = w->src.dtype;
    if (w->src.transposed) return ref_element(dev_src_transposed(&w->src, row, col), type, 0);
    const int i = type < DT_Q8_0 ? 0 : (int)(col % dtype_block(type));
    return ref_element(dev_src_ptr(&w->src, row) + dtype_row_bytes(type, col), type, i);
}

// Weights are read where they lie; preparing only looks for what is not a number.
static void ref_wt_prepare(struct dev *d, struct wt *w) {
    if (w->use == WT_TABLE) return;
    for (int64_t i = 0; i < w->src.n_out; i++)
        for (int64_t k = 0; k < w->src.n_in; k++)
            if (!isfinite(ref_weight(w, i, k))) {
                dev_fail(d, E_FORMAT, "%s holds NaN or infinity", w->src.name);
                return;
            }
}

static void ref_wt_release(struct wt *w) {
    (void)w;
}

static void ref_close(struct dev *d) {
    mem_free(d);
}

static const struct dev_ops ref_ops = {
    .kind = "ref",
    .close = ref_close,
    .sync = dev_host_sync,
    .times = dev_host_times,
    .buf_alloc = dev_host_buf_alloc,
    .buf_release = dev_host_buf_release,
    .write = dev_host_write,
    .read = dev_host_read,
    .wt_prepare = ref_wt_prepare,
    .wt_release = ref_wt_release,
    .wt_drop = ref_wt_release,
    .embed = ref_embed,
    .norm = ref_norm,
    .linear = ref_linear,
    .angles = ref_angles,
    .rope = ref_rope,
    .kv_store = ref_kv_store,
    .attend = ref_attend,
    .act = ref_act,
    .add = ref_add,
    .clip = ref_clip,
    .head = ref_head,
    .sample = ref_sample,
    .similar = ref_similar,
    .copy = dev_host_copy,
    .copy_peer = dev_host_copy_peer,
    .fetch = dev_host_copy_peer,
    .event_open = dev_host_event_open,
    .event_close = dev_host_event_close,
    .event_record = dev_host_event_record,
    .event_wait = dev_host_event_wait,
};

enum status dev_open_ref(struct dev **out, const struct dev_config *c, struct err *e) {
    struct dev *d = NULL;
    *out = NULL;
    enum status st = dev_config_check(c, e);
    if (st == OK) st = mem_zalloc(&d, 1, sizeof *d, e);
    if (st != OK) return st;
    d->ops = &ref_ops;
    d->cfg = *c;
    d->act = DT_F64;
    d->kv = DT_F64;
    d->op = "open";
    snprintf(d->describe, sizeof d->describe, "ref float64%s, 1 thread",
             c->compute == DT_BF16 ? " with a bf16 cache" : "");
    *out = d;
    return OK;
}
