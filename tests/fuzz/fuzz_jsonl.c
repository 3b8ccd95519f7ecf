#include "io/corpus.h"
#include "io/json.h"
#include "tests/fuzz/fuzz.h"

/* Text, lines of a generate job, then ids, through a buffer of a size that the input chooses. */
static void read_all(const char *ids_key, bool batch, size_t buffer, enum corpus_utf8 policy) {
    const struct corpus_file f = {.path = fuzz_path,
                                  .source = "a.jsonl",
                                  .fd = -1,
                                  .size = -1,
                                  .end = -1,
                                  .kind = CORPUS_JSONL,
                                  .id_key = "id",
                                  .ids_key = ids_key,
                                  .messages_key = batch ? "messages" : NULL,
                                  .batch = batch,
                                  .invalid_utf8 = policy,
                                  .buffer_bytes = buffer};
    struct corpus *c = NULL;
    struct corpus_doc d;
    bool end = false;
    int64_t last = -1;
    CHECK(corpus_open(&c, &f, NULL) == OK);
    for (int i = 0; i < 10000 && !end; i++) {
        struct err e = {0};
        const enum status st = corpus_next(c, &d, &end, &e);
        if (end) break;
        CHECK((st == OK || st == E_FORMAT) && d.offset > last && d.id != NULL);
        last = d.offset;
        char text[64];
        int32_t ids[16];
        size_t n = 1;
        if (st == OK && d.is_json) { // what was found to be JSON is
            struct sbuf value;
            struct json *doc = NULL;
            sbuf_init(&value);
            CHECK(corpus_read_json(c, &value, &e) == OK);
            if (json_open_text(&doc, "value", value.s, value.n, &e) == OK) json_close(doc);
            sbuf_fini(&value);
            continue;
        }
        while (st == OK && n > 0) {
            const enum status r = d.is_ids ? corpus_read_ids(c, ids, 16, &n, &e)
                                           : corpus_read_text(c, text, 64, &n, &e);
            CHECK(r == OK);
        }
    }
    corpus_close(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 1) return 0;
    fuzz_put("a.jsonl", data + 1, n - 1);
    read_all(NULL, false, 12u + data[0] % 64u,
             data[0] & 128 ? CORPUS_UTF8_REPLACE : CORPUS_UTF8_FAIL);
    read_all(NULL, true, 12u + data[0] % 64u, CORPUS_UTF8_REPLACE);
    read_all("token_ids", false, 12u + data[0] % 64u, CORPUS_UTF8_FAIL);
    return 0;
}
