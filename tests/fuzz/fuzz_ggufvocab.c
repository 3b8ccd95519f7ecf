#include "tests/fuzz/tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    fuzz_put("m.gguf", data, n);
    fuzz_tokenize(fuzz_path);
    return 0;
}
