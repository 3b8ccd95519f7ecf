#include "jobs/plan.h"

#include "base/mem.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct plan_file {
    char *source;  /* owned */
    char *path;    /* owned */
    char *place;   /* owned: where its directory really is, and its name there; NULL for stdin */
    int64_t bytes; /* -1 for stdin */
    int input;     /* index in the manifest */
    enum corpus_kind kind;
    enum unpack_kind packing;
};

void plan_free(struct plan *p) {
    if (p == NULL) return;
    for (int i = 0; i < p->n_file; i++) {
        mem_free(p->files[i].source);
        mem_free(p->files[i].path);
        mem_free(p->files[i].place);
    }
    mem_free(p->files);
    mem_free(p->slices);
    mem_free(p->parts);
    mem_free(p->dir);
    mem_free(p);
}

/* ---- files ---- */

// Growing arrays of the plan, whose counts are ints because everything that numbers parts is.
struct builder {
    struct plan *p;             /* borrowed */
    const struct manifest *man; /* borrowed */
    size_t cap_file, cap_slice, cap_part;
    struct sbuf dir, real; /* the directory resolved last: a pattern's files mostly share theirs */
    bool gathering;        /* the last part takes more .txt files */
};

static enum status resolve_dir(struct builder *b, const char *path, size_t n, struct err *e) {
    if (b->dir.n == n && n > 0 && memcmp(b->dir.s, path, n) == 0) return OK;
    sbuf_clear(&b->dir);
    sbuf_clear(&b->real);
    sbuf_add(&b->dir, path, n);
    if (sbuf_status(&b->dir, e) != OK) return E_NOMEM;
    char *real = realpath(n > 0 ? sbuf_str(&b->dir) : ".", NULL);
    // A directory that vanished just now: opening the file will say so.
    sbuf_puts(&b->real, real != NULL ? real : sbuf_str(&b->dir));
    free(real);
    return sbuf_status(&b->real, e);
}

// "a.txt", "./a.txt" and "/where/a.txt" are one entry of one directory. Links to a file are not
// resolved: a directory of links is a way to choose documents, each under its own name.
static enum status find_place(struct builder *b, struct plan_file *f, struct err *e) {
    enum status st = OK;
    const char *slash = strrchr(f->path, '/');
    const char *name = slash != NULL ? slash + 1 : f->path;
    struct sbuf place;
    sbuf_init(&place);
    TRY(resolve_dir(b, f->path, (size_t)(name - f->path), e));
    sbuf_printf(&place, "%s/%s", sbuf_str(&b->real), name);
    TRY(sbuf_status(&place, e));
    TRY(mem_dup(&f->place, place.s, place.n, e));
done:
    sbuf_fini(&place);
    return st;
}

static enum status new_file(struct builder *b, struct plan_file **out, int input, struct err *e) {
    enum status st = OK;
    struct plan *p = b->p;
    *out = NULL;
    if (p->n_file == INT32_MAX) FAIL(e, E_ARG, "too many input files");
    TRY(mem_grow(&p->files, &b->cap_file, (size_t)p->n_file + 1, sizeof *p->files, e));
    *out = &p->files[p->n_file++];
    memset(*out, 0, sizeof **out);
    (*out)->input = input;
done:
    return st;
}

static enum status add_stdin(struct builder *b, int input, struct err *e) {
    enum status st = OK;
    struct plan_file *f = NULL;
    TRY(new_file(b, &f, input, e));
    f->kind = b->man->inputs[input].keys_given ? CORPUS_JSONL : CORPUS_TXT;
    f->bytes = -1;
    TRY(mem_dup(&f->source, "-", 1, e));
    TRY(mem_dup(&f->path, "-", 1, e));
done:
    return st;
}

static enum status add_input(struct builder *b, int input, struct err *e) {
    enum status st = OK;
    const struct man_input *in = &b->man->inputs[input];
    struct corpus_list list;
    memset(&list, 0, sizeof list);
    if (strcmp(in->path, "-") == 0) return add_stdin(b, input, e);
    TRY(corpus_glob(in->path, b->p->dir, &list, e));
    for (size_t i = 0; i < list.n; i++) {
        struct plan_file *f = NULL;
        struct corpus_match *m = &list.v[i];
        TRY(new_file(b, &f, input, e));
        f->source = m->source; // the strings change hands
        f->path = m->path;
        f->bytes = m->bytes;
        m->source = m->path = NULL;
        TRY(corpus_kind_of(f->path, in->keys_given, &f->kind, e));
        f->packing = unpack_kind_of(f->path);
        TRY(find_place(b, f, e));
    }
done:
    if (st != OK) err_prefix(e, "$.input[%d]: ", input);
    corpus_list_fini(&list);
    return st;
}

static int by_source(const void *a, const void *b) {
    const struct plan_file *x = a, *y = b;
    const int order = strcmp(x->source, y->source);
    return order != 0 ? order : (x->input > y->input) - (x->input < y->input);
}

static int by_place(const void *a, const void *b) {
    const struct plan_file *x = *(const struct plan_file *const *)a;
    const struct plan_file *y = *(const struct plan_file *const *)b;
    const int order = strcmp(x->place != NULL ? x->place : "", y->place != NULL ? y->place : "");
    return order != 0 ? order : (x->input > y->input) - (x->input < y->input);
}

// A document is known by its source and offset, and no document is meant to be scored twice.
static enum status refuse_repeated(const struct plan *p, struct err *e) {
    enum status st = OK;
    const struct plan_file **sorted = NULL; /* owned */
    TRY(mem_zalloc(&sorted, (size_t)p->n_file, sizeof *sorted, e));
    for (int i = 0; i < p->n_file; i++) sorted[i] = &p->files[i];
    qsort(sorted, (size_t)p->n_file, sizeof *sorted, by_place);
    for (int i = 1; i < p->n_file; i++) {
        const struct plan_file *x = sorted[i - 1], *y = sorted[i];
        if (x->place == NULL || y->place == NULL || strcmp(x->place, y->place) != 0) continue;
        FAIL(e, E_ARG, "%s is matched by $.input[%d] and by $.input[%d]", x->source, x->input,
             y->input);
    }
done:
    mem_free(sorted);
    return st;
}

/* ---- parts ---- */

static enum status new_part(struct builder *b, struct err *e) {
    enum status st = OK;
    struct plan *p = b->p;
    if (p->n_part == PLAN_MAX_PARTS) {
        FAIL(e, E_ARG, "more than %d parts; make $.output.part_bytes larger", PLAN_MAX_PARTS);
    }
    TRY(mem_grow(&p->parts, &b->cap_part, (size_t)p->n_part + 1, sizeof *p->parts, e));
    p->parts[p->n_part++] = (struct plan_part){.first_slice = p->n_slice};
done:
    return st;
}

// Adds [begin, end) of a file to the last part; end -1: all of a file whose size is not that of its
// content, or not known.
static enum status add_slice(struct builder *b, const struct plan_file *f, int64_t begin,
                             int64_t end, struct err *e) {
    enum status st = OK;
    struct plan *p = b->p;
    const struct man_input *in = &b->man->inputs[f->input];
    const bool lines = f->kind == CORPUS_JSONL;
    if (p->n_slice == INT32_MAX) FAIL(e, E_ARG, "too many input files");
    TRY(mem_grow(&p->slices, &b->cap_slice, (size_t)p->n_slice + 1, sizeof *p->slices, e));
    p->slices[p->n_slice++] = (struct plan_slice){
        .bytes = f->bytes,
        .file = {.path = f->path,
                 .source = f->source,
                 .fd = -1,
                 .packing = f->packing,
                 .size = f->bytes,
                 .begin = begin,
                 .end = end,
                 .kind = f->kind,
                 .text_key = lines ? in->text_key : NULL,
                 .id_key = lines ? in->id_key : NULL,
                 .ids_key = lines ? in->ids_key : NULL,
                 .messages_key = lines ? in->messages_key : NULL,
                 .batch = lines && b->man->job == MAN_GENERATE,
                 .invalid_utf8 = in->invalid_utf8 == MAN_UTF8_REPLACE ? CORPUS_UTF8_REPLACE
                                                                      : CORPUS_UTF8_FAIL}};
    struct plan_part *part = &p->parts[p->n_part - 1];
    part->n_slice++;
    const int64_t bytes = end >= 0 ? end - begin : f->bytes;
    if (bytes < 0) {
        part->bytes = -1;
    } else {
        part->bytes += bytes;
        p->bytes += bytes;
    }
done:
    return st;
}

static enum status add_file(struct builder *b, const struct plan_file *f, struct err *e) {
    enum status st = OK;
    const int64_t most = b->man->output.part_bytes;
    const bool one_part = f->bytes < 0 || f->packing != UNPACK_NONE;
    if (!one_part && f->kind == CORPUS_TXT) {
        if (!b->gathering) TRY(new_part(b, e));
        TRY(add_slice(b, f, 0, f->bytes, e));
        b->gathering = b->p->parts[b->p->n_part - 1].bytes < most;
        goto done;
    }
    b->gathering = false;
    if (one_part) {
        TRY(new_part(b, e));
        TRY(add_slice(b, f, 0, -1, e));
        goto done;
    }
    int64_t begin = 0;
    do {
        const int64_t end = f->bytes - begin > most ? begin + most : f->bytes;
        TRY(new_part(b, e));
        TRY(add_slice(b, f, begin, end, e));
        begin = end;
    } while (begin < f->bytes);
done:
    return st;
}

enum status plan_make(struct plan **out, const struct manifest *man, struct err *e) {
    enum status st = OK;
    struct builder b = {.man = man};
    *out = NULL;
    sbuf_init(&b.dir);
    sbuf_init(&b.real);
    TRY(mem_zalloc(&b.p, 1, sizeof *b.p, e));
    TRY(mem_dup(&b.p->dir, man->dir, strlen(man->dir), e));
    for (size_t i = 0; i < man->n_inputs; i++) TRY(add_input(&b, (int)i, e));
    TRY(refuse_repeated(b.p, e));
    qsort(b.p->files, (size_t)b.p->n_file, sizeof *b.p->files, by_source);
    for (int i = 0; i < b.p->n_file; i++) TRY(add_file(&b, &b.p->files[i], e));
    *out = b.p;
    b.p = NULL;
done:
    sbuf_fini(&b.dir);
    sbuf_fini(&b.real);
    plan_free(b.p);
    return st;
}

int64_t plan_slice_bytes(const struct plan_slice *s) {
    const int64_t end = s->file.end >= 0 ? s->file.end : s->bytes;
    return end > s->file.begin ? end - s->file.begin : 0;
}

/* ---- the deal ---- */

struct weight {
    int64_t bytes;
    int index; /* a part, or a rank */
};

static int by_weight(const void *a, const void *b) {
    const struct weight *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return (x->index > y->index) - (x->index < y->index);
}

static bool lighter(const struct weight *x, const struct weight *y) {
    return x->bytes < y->bytes || (x->bytes == y->bytes && x->index < y->index);
}

// The root of a heap (least first) has become heavier.
static void sink_root(struct weight *heap, int n) {
    for (int i = 0; i < n / 2;) {
        int least = 2 * i + 1;
        if (least + 1 < n && lighter(&heap[least + 1], &heap[least])) least++;
        if (lighter(&heap[i], &heap[least])) return;
        const struct weight w = heap[i];
        heap[i] = heap[least];
        heap[least] = w;
        i = least;
    }
}

enum status plan_deal(const struct plan *p, int n_rank, int *rank_of_part, struct err *e) {
    enum status st = OK;
    struct weight *parts = NULL, *ranks = NULL; /* owned */
    if (n_rank < 1) FAIL(e, E_ARG, "%d ranks", n_rank);
    TRY(mem_zalloc(&parts, (size_t)p->n_part, sizeof *parts, e));
    TRY(mem_zalloc(&ranks, (size_t)n_rank, sizeof *ranks, e));
    for (int i = 0; i < p->n_part; i++) parts[i] = (struct weight){p->parts[i].bytes, i};
    for (int i = 0; i < n_rank; i++) ranks[i].index = i; // nothing yet: already a heap
    qsort(parts, (size_t)p->n_part, sizeof *parts, by_weight);
    for (int i = 0; i < p->n_part; i++) {
        rank_of_part[parts[i].index] = ranks[0].index;
        if (parts[i].bytes > 0) ranks[0].bytes += parts[i].bytes;
        sink_root(ranks, n_rank);
    }
done:
    mem_free(parts);
    mem_free(ranks);
    return st;
}

void plan_print(const struct plan *p, struct sbuf *out) {
    sbuf_putc(out, '[');
    for (int i = 0; i < p->n_part; i++) {
        const struct plan_part *part = &p->parts[i];
        sbuf_printf(out, "%s{\"part\":%d,\"bytes\":%" PRId64 ",\"slices\":[", i > 0 ? "," : "", i,
                    part->bytes);
        for (int k = 0; k < part->n_slice; k++) {
            const struct corpus_file *f = &p->slices[part->first_slice + k].file;
            sbuf_puts(out, k > 0 ? ",{\"source\":" : "{\"source\":");
            sbuf_json_string(out, f->source, strlen(f->source));
            sbuf_printf(out, ",\"begin\":%" PRId64 ",\"end\":%" PRId64 "}", f->begin, f->end);
        }
        sbuf_puts(out, "]}");
    }
    sbuf_putc(out, ']');
}
