#include "tests/fuzz/tok.h"

// merges.txt and, behind a NUL, vocab.json.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char config[] = "{\"tokenizer_class\":\"GPT2Tokenizer\",\"bos_token\":\"</s>\","
                                 "\"pad_token\":{\"content\":\"<pad>\",\"lstrip\":true}}";
    const uint8_t *nul = n > 0 ? memchr(data, 0, n) : NULL;
    const size_t n_merges = nul != NULL ? (size_t)(nul - data) : n;
    const size_t behind = nul != NULL ? n_merges + 1 : n;
    fuzz_put("tokenizer_config.json", (const uint8_t *)config, sizeof config - 1);
    fuzz_put("vocab.json", data + behind, n - behind);
    fuzz_put("merges.txt", data, n_merges);
    fuzz_tokenize(fuzz_dir);
    return 0;
}
