#include "tests/support_job.h"

#include "tests/support_tree.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

const char job_json[] = "{\"identity\":{\"cache\":{\"sink_tokens\":4}},\"parts\":[{\"bytes\":1},"
                        "{\"bytes\":2}],\"note\":\"free\"}";

static bool fails(const struct job *j, int doc) {
    return !j->heal && (doc == 2 || doc == 5);
}

static int n_lines(int doc) {
    return doc == 3 || doc == 5 ? 11 : doc % 3;
}

static void put_line(const struct job *j, struct sbuf *out, int part, int doc, int line) {
    uint32_t x = (uint32_t)(part * 7919 + doc * 131 + line + 1);
    sbuf_printf(out, "{\"id\":\"p%dd%d\",\"source\":\"p%d\",\"offset\":%d,\"setting\":\"sink\"",
                part, doc, part, doc);
    if (line >= 0) {
        sbuf_printf(out, ",\"first\":%d,\"fill\":\"", line);
        for (int i = 0; i < (j->line_bytes > 0 ? j->line_bytes : 150); i++) {
            x = x * 1664525u + 1013904223u;
            sbuf_putc(out, (char)('a' + (x >> 24) % 26));
        }
        sbuf_putc(out, '"');
    } else {
        sbuf_printf(out, ",\"num_tokens\":%d,\"num_scored\":%d,\"num_bytes\":%d,\"num_words\":%d",
                    doc * 10, doc * 10, doc * 40, doc * 7);
        sbuf_printf(out, ",\"sum_logprob\":-%d.5", doc);
    }
    sbuf_puts(out, "}\n");
}

struct drive {
    struct job *j;
    struct ledger_part *p;
    struct ledger_mark m;
    struct sbuf line;
    int part, steps;
};

static enum status document(struct drive *d, int doc, int from, struct err *e) {
    enum status st = OK;
    struct job *j = d->j;
    char state[32];
    d->m.slice = 0;
    d->m.offset = doc;
    for (int k = from; k < n_lines(doc); k++) {
        if (++d->steps == j->stop_at) {
            if (j->copy_to != NULL) tree_copy(j->dir, j->copy_to);
            return E_CANCEL;
        }
        sbuf_clear(&d->line);
        put_line(j, &d->line, d->part, doc, k);
        TRY(sbuf_status(&d->line, e));
        TRY(ledger_add_open(d->p, d->line.s, d->line.n, e));
        if (j->state_every == 0 || (k + 1) % j->state_every != 0) continue;
        const int n = snprintf(state, sizeof state, "%d %d", doc, k + 1);
        TRY(ledger_commit(d->p, &d->m, state, (size_t)n, e));
    }
    sbuf_clear(&d->line);
    if (fails(j, doc)) {
        TRY(ledger_drop_document(d->p, e));
        d->m.failed++;
        sbuf_printf(
            &d->line,
            "{\"id\":\"p%dd%d\",\"source\":\"p%d\",\"offset\":%d,\"setting\":\"sink\",\"code\":"
            "\"format\",\"message\":\"no\"}\n",
            d->part, doc, d->part, doc);
        TRY(sbuf_status(&d->line, e));
        TRY(ledger_add(d->p, LEDGER_ERRORS, d->line.s, d->line.n, e));
    } else {
        ledger_close_document(d->p);
        put_line(j, &d->line, d->part, doc, -1);
        TRY(sbuf_status(&d->line, e));
        TRY(ledger_add(d->p, LEDGER_RESULTS, d->line.s, d->line.n, e));
        d->m.rows++;
        d->m.tokens += doc * 10;
    }
    d->m.documents++;
    d->m.offset = doc + 1;
    j->documents++;
    if (j->commit_every > 0 && (doc + 1) % j->commit_every == 0) {
        TRY(ledger_commit(d->p, &d->m, NULL, 0, e));
    }
done:
    return st;
}

static enum status one_part(struct drive *d, struct ledger *l, struct err *e) {
    enum status st = OK;
    bool held = false, no_locks = false;
    int from = 0;
    struct sbuf state;
    sbuf_init(&state);
    if (ledger_is_settled(l, d->part)) goto done;
    TRY(ledger_part_open(&d->p, l, d->part, d->j->ignore_lock, &held, &no_locks, &d->m, &state, e));
    if (held) {
        st = E_BUSY;
        goto done;
    }
    if (d->p == NULL) goto done;
    if (state.n > 0) {
        int doc = -1;
        assert_int_equal(sscanf(sbuf_str(&state), "%d %d", &doc, &from), 2);
        assert_int_equal(doc, d->m.documents);
    }
    assert_int_equal(d->m.offset, d->m.documents);
    for (int i = (int)d->m.documents; i < JOB_DOCUMENTS; i++, from = 0) {
        TRY(document(d, i, from, e));
    }
    TRY(ledger_publish(d->p, &d->m, e));
done:
    ledger_part_close(d->p);
    d->p = NULL;
    sbuf_fini(&state);
    return st;
}

enum status job_run(struct job *j, struct err *e) {
    enum status st = OK;
    struct ledger *l = NULL;
    struct drive d = {.j = j};
    struct ledger_counts total;
    bool all = false;
    sbuf_init(&d.line);
    const struct ledger_config c = {.dir = j->dir,
                                    .job_json = job_json,
                                    .n_part = JOB_PARTS,
                                    .tokens = true,
                                    .retry_failed = j->retry_failed,
                                    .attempt = j->attempt};
    TRY(ledger_open(&l, &c, e));
    for (d.part = 0; d.part < JOB_PARTS; d.part++) TRY(one_part(&d, l, e));
    TRY(ledger_finish(l, &all, &total, e));
    assert_true(all);
done:
    sbuf_fini(&d.line);
    ledger_close(l);
    return st;
}

void job_assert_same(const char *dir, const char *want) {
    struct sbuf a, b;
    char name[LEDGER_NAME];
    sbuf_init(&a);
    sbuf_init(&b);
    for (int part = 0; part < JOB_PARTS; part++) {
        for (int s = 0; s <= LEDGER_STREAMS; s++) {
            if (s < LEDGER_STREAMS) ledger_name(name, (enum ledger_stream)s, part, JOB_PARTS);
            if (s == LEDGER_STREAMS) snprintf(name, sizeof name, ".basin/done/%05d.json", part);
            const bool there = tree_read(dir, name, &a);
            assert_int_equal(there, tree_read(want, name, &b));
            if (!there) continue;
            assert_int_equal(a.n, b.n);
            assert_memory_equal(a.s, b.s, a.n);
        }
    }
    assert_true(tree_read(dir, "_SUCCESS", &a));
    assert_true(tree_read(want, "_SUCCESS", &b));
    assert_string_equal(sbuf_str(&a), sbuf_str(&b));
    sbuf_fini(&a);
    sbuf_fini(&b);
}
