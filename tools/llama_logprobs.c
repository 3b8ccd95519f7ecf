/* What llama.cpp gives on a GGUF file: the ids of a text, or the log-probabilities of ids in one dense pass
 * (keys and values in f32, attention without its fused kernel). To compare with `basin score --mode dense`:
 * tools/compare_logprobs.py does.
 *
 * build: cc -O2 -I L/include -I L/ggml/include tools/llama_logprobs.c -L B/bin -lllama -lggml -lggml-base -lm \
 *           -Wl,-rpath,B/bin -o llama_logprobs
 *        with L llama.cpp's sources (those inside llama-cpp-python 0.3.36 were used) and B its build:
 *        cmake -S L -B B -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON && cmake --build B --target llama
 * run:   llama_logprobs MODEL ids < TEXT          an id a line, with BOS as the file says and special tokens found
 *        llama_logprobs MODEL score < IDS         log P(id | those before it) a line, from the second id on */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <llama.h>

enum { BATCH = 256, MOST = 1 << 24 };

static void quiet(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    if (level >= GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static void die(const char *what) {
    fprintf(stderr, "llama_logprobs: %s\n", what);
    exit(1);
}

static int print_ids(const struct llama_vocab *v) {
    char *text = malloc(MOST);
    llama_token *ids = malloc(MOST * sizeof *ids);
    if (text == NULL || ids == NULL) die("out of memory");
    const size_t n = fread(text, 1, MOST, stdin);
    const int32_t n_ids = llama_tokenize(v, text, (int32_t)n, ids, MOST, true, true);
    for (int32_t i = 0; i < n_ids; i++) printf("%d\n", ids[i]);
    free(ids);
    free(text);
    return n_ids < 0;
}

static double log_softmax(const float *logits, int32_t n, llama_token id) {
    double most = logits[0], sum = 0;
    for (int32_t i = 1; i < n; i++) most = logits[i] > most ? logits[i] : most;
    for (int32_t i = 0; i < n; i++) sum += exp(logits[i] - most);
    return logits[id] - most - log(sum);
}

static int print_scores(struct llama_model *m) {
    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(m));
    llama_token *ids = malloc(MOST * sizeof *ids);
    int32_t n = 0;
    while (ids != NULL && n < MOST && scanf("%d", &ids[n]) == 1) n++;
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = (uint32_t)(n + BATCH);
    p.n_batch = p.n_ubatch = BATCH;
    p.n_threads = p.n_threads_batch = 1;
    p.type_k = p.type_v = GGML_TYPE_F32;
    p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    struct llama_context *c = llama_init_from_model(m, p);
    struct llama_batch b = llama_batch_init(BATCH, 0, 1);
    if (c == NULL) die("no context");
    for (int32_t at = 0; at < n; at += b.n_tokens) {
        b.n_tokens = n - at < BATCH ? n - at : BATCH;
        for (int32_t i = 0; i < b.n_tokens; i++) {
            b.token[i] = ids[at + i];
            b.pos[i] = at + i;
            b.n_seq_id[i] = 1;
            b.seq_id[i][0] = 0;
            b.logits[i] = true;
        }
        if (llama_decode(c, b) != 0) die("decoding failed");
        for (int32_t i = 0; i < b.n_tokens && at + i + 1 < n; i++)
            printf("%.9g\n", log_softmax(llama_get_logits_ith(c, i), n_vocab, ids[at + i + 1]));
    }
    llama_batch_free(b);
    llama_free(c);
    free(ids);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) die("usage: llama_logprobs MODEL ids|score");
    llama_log_set(quiet, NULL);
    llama_backend_init();
    struct llama_model_params p = llama_model_default_params();
    p.use_extra_bufts = false; // weights stay as they are: BLAS can read them
    p.vocab_only = strcmp(argv[2], "ids") == 0;
    struct llama_model *m = llama_model_load_from_file(argv[1], p);
    if (m == NULL) die("the model cannot be opened");
    const int code = p.vocab_only ? print_ids(llama_model_get_vocab(m)) : print_scores(m);
    llama_model_free(m);
    llama_backend_free();
    return code;
}
