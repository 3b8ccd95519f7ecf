#include "io/safetensors.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    struct st_files *f = NULL;
    struct err e = {0};
    char text[HASH_TEXT];
    fuzz_put("model.safetensors", data, n);
    if (st_open(&f, fuzz_dir, &e) == OK) {
        volatile unsigned char sum = 0;
        for (size_t i = 0; i < st_count(f); i++) {
            const struct st_tensor *t = st_at(f, i);
            CHECK(st_get(f, t->name) == t);
            if (t->bytes > 0) sum = (unsigned char)(sum + t->data[0] + t->data[t->bytes - 1]);
        }
        CHECK(st_identity(f, text, &e) == OK && st_hash_full(f, text, &e) == OK);
    } else {
        CHECK(e.code != OK && e.msg[0] != '\0');
    }
    st_close(f);
    return 0;
}
