#include "jobs/part.h"

#include "base/clock.h"
#include "base/hash.h"

#include <string.h>

enum { COMMIT_BYTES = 4 << 20 };

struct vis_rule part_rule(const struct man_setting *s) {
    return (struct vis_rule){.dense = s->mode == MAN_DENSE,
                             .n_sink = s->sink_tokens,
                             .n_win = s->window_tokens,
                             .n_prefill = s->prefill == MAN_PREFILL_DENSE ? s->prefill_tokens : 0,
                             .n_chunk = s->chunk_tokens,
                             .strict = s->strict_window};
}

/* ---- documents ---- */

void part_feed_begin(struct part_feed *f, const struct plan *plan, const struct plan_part *part,
                     const struct ledger_mark *m) {
    part_feed_fini(f);
    *f = (struct part_feed){.plan = plan, .part = part, .slice = m->slice, .seek = m->offset};
}

void part_feed_fini(struct part_feed *f) {
    corpus_close(f->corpus);
    f->corpus = NULL;
}

enum status part_feed_next(struct part_feed *f, struct corpus_doc *doc, bool *end, struct err *bad,
                           struct err *e) {
    enum status st = OK;
    bool none = true;
    *end = false;
    *bad = (struct err){.code = OK};
    while (none) {
        if (f->slice >= f->part->n_slice) {
            *end = true;
            goto done;
        }
        if (f->corpus == NULL) {
            const struct corpus_file *file = &f->plan->slices[f->part->first_slice + f->slice].file;
            TRY(corpus_open(&f->corpus, file, e));
            if (f->seek > file->begin) TRY(corpus_seek(f->corpus, f->seek, e));
            f->seek = -1;
        }
        st = corpus_next(f->corpus, doc, &none, bad);
        if (st == E_FORMAT) {
            st = OK;
            break;
        }
        if (st != OK) FAIL(e, st, "%s", bad->msg);
        if (none) {
            part_feed_fini(f);
            f->slice++;
        }
    }
done:
    return st;
}

int64_t part_feed_bytes(const struct part_feed *f, const struct doc *doc, int64_t pos) {
    int64_t sum = 0;
    for (int i = 0; i < f->slice && i < f->part->n_slice; i++) {
        sum += plan_slice_bytes(&f->plan->slices[f->part->first_slice + i]);
    }
    if (doc == NULL || f->slice >= f->part->n_slice) return sum;
    const struct plan_slice *sl = &f->plan->slices[f->part->first_slice + f->slice];
    if (sl->file.packing != UNPACK_NONE) return sum + corpus_place(f->corpus);
    return sum + (doc->offset - sl->file.begin) + pos;
}

/* ---- bytes put aside ---- */

enum status part_chunk_put(const struct part_out *out, struct part_chunk *c, const char *bytes,
                           size_t n, struct err *e) {
    c->n = (int64_t)n;
    c->hash = hash_64(bytes, n);
    return out->spool(out->ctx, bytes, n, &c->at, e);
}

enum status part_chunk_get(const struct part_out *out, const struct part_chunk *c, struct sbuf *to,
                           struct err *e) {
    enum status st = OK;
    TRY(out->unspool(out->ctx, c->at, (size_t)c->n, to, e));
    if (hash_64(to->s + to->n - c->n, (size_t)c->n) != c->hash) {
        FAIL(e, E_IO, "token rows that were put aside are damaged");
    }
done:
    return st;
}

/* ---- commits ---- */

void part_clock_start(struct part_clock *c, const struct ledger_mark *m) {
    c->committed_ns = c->saved_ns = clock_ns();
    c->committed_documents = m->documents;
}

bool part_commit_due(const struct part_clock *c, const struct part_config *cfg,
                     const struct part_out *out, const struct ledger_mark *m, bool middle,
                     bool *with_state) {
    const int64_t now = clock_ns();
    *with_state = middle && (double)(now - c->saved_ns) >= cfg->checkpoint_s * 1e9;
    const bool batch_due = m->documents > c->committed_documents &&
                           ((double)(now - c->committed_ns) >= cfg->commit_s * 1e9 ||
                            out->uncommitted(out->ctx) >= COMMIT_BYTES);
    return *with_state || batch_due;
}

void part_committed(struct part_clock *c, const struct ledger_mark *m, bool saved) {
    c->committed_ns = clock_ns();
    c->committed_documents = m->documents;
    if (saved) c->saved_ns = c->committed_ns;
}

enum status part_compare_heads(const char *have, size_t n_have, const struct sbuf *want,
                               struct err *e) {
    size_t line = 0;
    for (size_t i = 0; i < want->n; i++) {
        if (i >= n_have || have[i] != want->s[i]) {
            const int word = (int)strcspn(want->s + line, " ");
            return err_fail(e, E_FORMAT, "it belongs to another %.*s", word, want->s + line);
        }
        if (want->s[i] == '\n') line = i + 1;
    }
    return n_have == want->n ? OK : err_fail(e, E_FORMAT, "it belongs to another document");
}
