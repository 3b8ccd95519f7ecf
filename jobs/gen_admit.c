/* Prompts: read, packed into spans, and handed over to the stream engine. */
#include "jobs/gen_impl.h"

#include "base/mem.h"

#include <string.h>

// Whether the next document may be opened: free streams for it, and not too much waiting already.
static bool has_room(const struct generator *g, int n_promised) {
    if (stream_room(g->stream) - n_promised < g->n_setting || g->n_doc >= GEN_DOCS_MOST)
        return false;
    size_t held = 0;
    for (int i = 0; i < g->n_doc; i++) {
        for (int k = 0; k < g->n_setting; k++) {
            const struct gen_track *t = &g->docs[i]->tracks[k];
            const size_t lists =
                t->cap_ids * 4 + t->cap_logp * 8 + t->tops.cap_ids * 4 + t->tops.cap_logp * 8;
            held += t->held.n + t->answer.n + t->turns.n + lists;
        }
    }
    return held < GEN_HELD_BYTES;
}

enum status gen_turn_rule(const struct generator *g, const struct gen_track *t, int64_t pos,
                          int64_t n, struct vis_rule *out, struct err *e) {
    const int64_t turn = n + t->how.max_new, room = t->base->n_win - turn;
    const struct vis_class plain = {.window = 0};
    *out = *t->base;
    if (out->dense) return OK;
    out->n_prefill = 0;
    switch (g->cfg.part.man->generate.turn) {
    case MAN_TURN_STREAM: break;
    case MAN_TURN_CHUNK: // one chunk, which begins here; gen_step ends it
        out->n_chunk = n;
        out->n_prefill = pos % n;
        break;
    case MAN_TURN_ROOM: {
        // What is kept of the window now, less what prompt and answer need.
        const int64_t kept = pos - vis_cache_low(&t->rule, &plain, pos);
        if (room < 1) {
            return err_fail(e, E_ARG,
                            "turn %zu: prompt and answer may take %lld tokens, and the window "
                            "has %lld",
                            t->turn, (long long)turn, (long long)t->base->n_win);
        }
        out->strict = false;
        out->n_win = kept < 1 ? 1 : kept < room ? kept : room;
        out->n_chunk = turn;
        out->n_prefill = pos % turn;
        break;
    }
    }
    return OK;
}

// Caches for a document whose reading has begun. Under a dense prefill the rule depends on how long
// the prompt is, so all of it is read first.
static enum status open_tracks(struct generator *g, struct gen_doc *d, struct err *e) {
    enum status st = OK;
    const struct manifest *man = g->cfg.part.man;
    bool dense = false;
    const bool turns = d->prompt.kind == GEN_TURNS && man->generate.turn != MAN_TURN_STREAM;
    for (int i = 0; i < g->n_setting; i++) {
        dense = dense || turns || man->settings[i].prefill == MAN_PREFILL_DENSE;
    }
    if (dense) TRY(doc_reader_fill(&g->reader, SIZE_MAX, e));
    if (d->d->failure.code != OK) goto done;
    for (int i = 0; i < g->n_setting; i++) {
        struct gen_track *t = &d->tracks[i];
        gen_set_how(g, d, t);
        const int64_t n = (int64_t)g->reader.n_queue;
        if (man->settings[i].prefill == MAN_PREFILL_DENSE) t->rule.n_prefill = n;
        if (turns && n > 0) {
            struct err why = {.code = OK};
            if (gen_turn_rule(g, t, 0, n, &t->rule, &why) != OK) {
                TRY(gen_fail(g, d, &why, e));
                goto done;
            }
        }
        TRY(cache_open(&t->cache, g->cfg.part.mo, &t->rule, e));
        TRY(stream_past_open(&t->past, g->cfg.part.step_mo, &t->how, e));
    }
    d->opened = true;
done:
    return st;
}

static enum status add_piece(struct generator *g, struct gen_doc *d, int64_t n, struct err *e) {
    enum status st = OK;
    struct err why = {.code = OK};
    TRY(mem_grow(&g->pieces, &g->cap_piece, (size_t)g->n_piece + 1, sizeof *g->pieces, e));
    struct gen_piece *p = &g->pieces[g->n_piece];
    *p = (struct gen_piece){.doc = d, .n = n};
    // Under every setting before anything is added: a document fails as a whole.
    for (int i = 0; i < g->n_setting && st == OK; i++) {
        st = span_check(g->span, d->tracks[i].cache, n, &why);
    }
    for (int i = 0; i < g->n_setting; i++) {
        int64_t row = 0;
        if (st == OK) {
            st = span_add(g->span, d->tracks[i].cache, g->reader.queue, g->no_targets, n, true,
                          &row, &why);
        }
        if (st != OK) return gen_fail(g, d, &why, e); // E_ARG: nothing was added
        if (i == 0) p->row = row;
    }
    TRY(mem_zalloc(&p->ids, (size_t)n, sizeof *p->ids, e));
    memcpy(p->ids, g->reader.queue, (size_t)n * sizeof *p->ids);
    g->n_piece++;
    doc_reader_advance(&g->reader, (size_t)n);
done:
    return st;
}

static enum status no_prompt(struct generator *g, struct gen_doc *d, struct err *e) {
    struct err why = {.code = OK};
    err_fail(&why, E_FORMAT,
             "%s: byte %lld: the prompt has no tokens: there is nothing to continue", d->d->source,
             (long long)d->d->offset);
    return gen_fail(g, d, &why, e);
}

/* Feeds the document being read until all but the last id of its prompt is in spans, or the span is
 * full. *through: nothing is left to read of it. */
static enum status feed(struct generator *g, struct gen_doc *d, bool *through, struct err *e) {
    enum status st = OK;
    const int64_t room = span_room(g->span) / g->n_setting;
    if (!d->opened) TRY(open_tracks(g, d, e));
    // One id more than there is room for: the last goes through the stream engine.
    TRY(doc_reader_fill(&g->reader, (size_t)room + 1, e));
    if (d->d->failure.code == OK && d->d->ended && d->d->n_tok == 0) TRY(no_prompt(g, d, e));
    if (d->d->failure.code == OK && g->reader.n_queue > 1) {
        const int64_t have = (int64_t)g->reader.n_queue - 1, n = have < room ? have : room;
        TRY(add_piece(g, d, n, e));
    }
    if (d->d->failure.code != OK) {
        const struct err why = d->d->failure; // of the reader: its streams and caches go, too
        TRY(gen_fail(g, d, &why, e));
        *through = true;
        goto done;
    }
    *through = d->d->ended && g->reader.n_queue == 1;
    if (*through) {
        d->ready = true;
        d->last = g->reader.queue[0];
        for (int i = 0; i < g->n_setting; i++) {
            d->tracks[i].n_prompt = d->tracks[i].n_turn_prompt = d->d->n_tok;
        }
    }
done:
    return st;
}

static enum status run_span(struct generator *g, struct err *e) {
    enum status st = OK;
    if (g->n_piece > 0) TRY(span_run(g->span, &g->cfg.part.stop, e));
    for (int i = 0; i < g->n_piece; i++) {
        struct gen_piece *p = &g->pieces[i];
        for (int k = 0; k < g->n_setting && p->doc->d->failure.code == OK; k++) {
            // setting k's rows follow setting k - 1's
            TRY(stream_past_add(p->doc->tracks[k].past, g->span, p->row + k * p->n, p->ids, p->n,
                                e));
        }
        mem_free(p->ids);
        p->ids = NULL;
    }
    g->n_piece = 0;
    span_clear(g->span);
done:
    return st;
}

// The prompts are through: their documents become streams.
static enum status enter(struct generator *g, struct gen_doc *d, struct err *e) {
    enum status st = OK;
    for (int i = 0; i < g->n_setting && d->d->failure.code == OK; i++) {
        struct gen_track *t = &d->tracks[i];
        struct err why = {.code = OK};
        int slot = -1;
        const struct stream_entry in = {
            .cache = t->cache, .past = &t->past, .how = &t->how, .ids = &d->last, .n = 1};
        st = stream_enter(g->stream, &in, &slot, &why);
        if (st != OK) {
            TRY(gen_fail(g, d, &why, e));
            break;
        }
        t->slot = slot;
        g->track_of_slot[slot] = t;
        g->doc_of_slot[slot] = d;
        cache_close(t->cache);
        t->cache = NULL;
    }
done:
    return st;
}

// Runs what is in the span. Documents that are through enter at once: a prompt's cache and a stream's
// own are as large as each other, and of the first kind there are only as many as spans are shared by.
static enum status run_and_enter(struct generator *g, int first, int *n_promised, struct err *e) {
    enum status st = OK;
    TRY(run_span(g, e));
    for (int i = first; i < g->n_doc; i++) {
        struct gen_doc *d = g->docs[i];
        if (d->ready && d->tracks[0].slot < 0 && !d->tracks[0].done) TRY(enter(g, d, e));
    }
    *n_promised = 0;
done:
    return st;
}

enum status gen_admit(struct generator *g, struct err *e) {
    enum status st = OK;
    int n_promised = 0; // streams of documents that are through and have not entered
    int first = 0;      // of the documents that are not streams yet
    while (first < g->n_doc &&
           (g->docs[first]->tracks[0].slot >= 0 || g->docs[first]->tracks[0].done)) {
        first++;
    }
    for (;;) {
        struct gen_doc *d = g->n_doc > first ? g->docs[g->n_doc - 1] : NULL;
        const bool reading = d != NULL && g->reader.doc == d->d;
        if (!reading) {
            if (g->end || !has_room(g, n_promised)) break;
            TRY(gen_open_next(g, true, e));
            if (g->end) break;
            d = g->docs[g->n_doc - 1];
            if (d->d->failure.code != OK) continue;
        }
        bool through = false;
        TRY(feed(g, d, &through, e));
        if (through) {
            g->reader.doc = NULL;
            if (d->ready) n_promised += g->n_setting;
        }
        if (!through || span_room(g->span) < g->n_setting) {
            TRY(run_and_enter(g, first, &n_promised, e));
        }
    }
    TRY(run_and_enter(g, first, &n_promised, e));
done:
    return st;
}
