#include "base/sbuf.h"
#include "io/json.h"
#include "io/manifest.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static void print(const struct json *j, struct sbuf *out) {
    struct manifest *m = NULL;
    struct man_problems p;
    struct err e = {0};
    man_problems_init(&p);
    sbuf_clear(out);
    if (man_parse(&m, j, ".", 0, &p, &e) == OK) {
        man_canonical(m, out);
    } else {
        CHECK(e.msg[0] != '\0' && p.n_errors > 0);
    }
    man_close(m);
    man_problems_fini(&p);
}

/* A manifest that is accepted has a canonical form that is accepted and prints as itself. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    struct json *j = NULL, *again = NULL;
    struct sbuf a, b;
    sbuf_init(&a);
    sbuf_init(&b);
    if (json_open_text(&j, "m.json", (const char *)data, n, NULL) == OK) {
        print(j, &a);
        if (a.n > 0) {
            CHECK(json_open_text(&again, "canonical", a.s, a.n, NULL) == OK);
            print(again, &b);
            CHECK(a.n == b.n && memcmp(a.s, b.s, a.n) == 0);
        }
    }
    json_close(j);
    json_close(again);
    sbuf_fini(&a);
    sbuf_fini(&b);
    return 0;
}
