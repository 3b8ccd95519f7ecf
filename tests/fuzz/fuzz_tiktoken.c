#include "tests/fuzz/tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    fuzz_put("qwen.tiktoken", data, n);
    fuzz_tokenize(fuzz_dir);
    return 0;
}
