#include "io/gguf.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    struct gguf_files *f = NULL;
    struct err e = {0};
    char text[HASH_TEXT];
    fuzz_put("m.gguf", data, n);
    if (gguf_open(&f, fuzz_path, &e) == OK) {
        volatile unsigned char sum = 0;
        for (size_t i = 0; i < gguf_count(f); i++) {
            const struct gguf_tensor *t = gguf_at(f, i);
            CHECK(gguf_get(f, t->name) != NULL);
            if (t->bytes > 0) sum = (unsigned char)(sum + t->data[0] + t->data[t->bytes - 1]);
        }
        for (size_t i = 0; i < gguf_meta_count(f); i++) {
            const struct gguf_value *v = gguf_meta_at(f, i);
            for (size_t k = 0; k < 4; k++) {
                const char *s = NULL;
                size_t bytes = 0;
                int64_t x = 0;
                double d = 0;
                bool b = false;
                if (gguf_get_str(v, k, &s, &bytes) && bytes > 0)
                    sum = (unsigned char)(sum + (unsigned char)s[bytes - 1]);
                if (gguf_get_int(v, k, &x) || gguf_get_num(v, k, &d) || gguf_get_bool(v, k, &b))
                    sum++;
            }
        }
        CHECK(gguf_identity(f, text, &e) == OK);
    } else {
        CHECK(e.code != OK && e.msg[0] != '\0');
    }
    gguf_close(f);
    return 0;
}
