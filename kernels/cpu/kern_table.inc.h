/* The table of one instruction set; CPU_TABLE, CPU_TABLE_ISA and MR_MAX come from the including
 * file, `transpose` too. TABLE_ROWS are the entries that are not products. */
static void nothing(void) {
}

static void pack_a(uint32_t *dst, int m, const uint32_t *src, int64_t lds, int n_i, int64_t n_k) {
    transpose(dst, m, m, src, lds, n_i, n_k);
}

static void pack_at(uint32_t *dst, int m, const uint32_t *src, int64_t lds, int n_i, int64_t n_k) {
    for (int64_t k = 0; k < n_k; k++) {
        memcpy(dst + k * m, src + k * lds, (size_t)n_i * sizeof *dst);
        memset(dst + k * m + n_i, 0, (size_t)(m - n_i) * sizeof *dst);
    }
}

#define TABLE_ROWS                                                                                 \
    .transpose = transpose, .zip = zip, .floats = floats, .row_max = row_max, .row_exp = row_exp,  \
    .soften = soften, .scale_lanes = scale_lanes, .scale_out = scale_out, .exp_small = exp_small,  \
    .logit_max = logit_max, .logit_sum = logit_sum, .norm = norm, .rope = rope, .act = act,        \
    .add = add, .to_bf16 = to_bf16, .int8_a = int8_a, .int8_b = int8_b, .round_bf16 = round_bf16,  \
    .dot = dot

const struct cpu_kernels CPU_TABLE = {.isa = CPU_TABLE_ISA,
                                      .mr = MR_MAX,
                                      .nr = NR,
                                      .bf16_pairs = VEC_ISA == 2,
                                      .step_multiple = 1,
                                      .kc = 192,
                                      .keys = TILE_KEYS,
                                      .thread_begin = nothing,
                                      .thread_end = nothing,
                                      .tile_rows = tile_rows,
                                      .tile = tile,
                                      .pack_a = pack_a,
                                      .pack_at = pack_at,
                                      .peak = peak,
                                      TABLE_ROWS};
