/* What the GPU does at most: a large product by the same library, under the same rules as every product here, and
 * its own memory copied. The best of several repetitions counts. */
#include "kernels/cuda/cuda_impl.h"

#include "base/clock.h"

#include <math.h>

enum { REPEAT_LEAST = 3, PRODUCTS = 8, COPIES = 4 };

struct yard {
    struct cuda_gemm g;
    void *w, *x, *y;         // owned: operands and the product, [side, side]
    cudaEvent_t first, last; // owned
};

// Numbers as a model has them: what is multiplied decides how much power it takes. Two of bf16 are also an f32.
static void fill(struct cuda_dev *d, void *p, size_t bytes) {
    const int64_t n = (int64_t)(bytes / sizeof(bf16_t));
    const struct cuda_make m = {
        .dst = p, .seed = 1, .scale = ldexpf(1, -7), .n = n, .n_in = n, .block = 1};
    cuda_make_rows(d->stream, &m);
    CUDA_LAUNCHED(d);
}

static enum status open_yard(struct yard *a, struct cuda_dev *d, struct err *e) {
    enum status st = OK;
    const size_t side = (size_t)d->tune.peak, bytes = side * side * cuda_word(d);
    TRY(cuda_take(d, bytes, &a->w, e));
    TRY(cuda_take(d, bytes, &a->x, e));
    TRY(cuda_take(d, side * side * sizeof(float), &a->y, e));
    if (!cuda_gemm_choose(d, &a->g, d->tune.peak) ||
        !CUDA_OK(d, cudaEventCreateWithFlags(&a->first, cudaEventDefault)) ||
        !CUDA_OK(d, cudaEventCreateWithFlags(&a->last, cudaEventDefault)))
        goto done;
    fill(d, a->w, bytes);
    fill(d, a->x, bytes);
done:
    return st;
}

static void close_yard(struct yard *a, struct cuda_dev *d) {
    cuda_give(d, a->w);
    cuda_give(d, a->x);
    cuda_give(d, a->y);
    cuda_gemm_close(d, &a->g);
    if (a->first != NULL) cudaEventDestroy(a->first);
    if (a->last != NULL) cudaEventDestroy(a->last);
}

static void multiply(struct cuda_dev *d, const struct yard *a) {
    for (int i = 0; i < PRODUCTS; i++) cuda_gemm_run(d, &a->g, a->w, a->x, a->y);
}

static void copy(struct cuda_dev *d, const struct yard *a) {
    const size_t bytes = (size_t)(d->tune.peak * d->tune.peak) * cuda_word(d);
    for (int i = 0; i < COPIES; i++)
        CUDA_OK(d, cudaMemcpyAsync(a->x, a->w, bytes, cudaMemcpyDeviceToDevice, d->stream));
}

// Seconds of `work` at its best; 0 after a failure.
static double best(struct cuda_dev *d, const struct yard *a, double seconds,
                   void (*work)(struct cuda_dev *, const struct yard *)) {
    double least = 0;
    const int64_t end = clock_ns() + (int64_t)(seconds * 1e9);
    for (int i = 0; i < REPEAT_LEAST || clock_ns() < end; i++) {
        float ms = 0;
        if (!CUDA_OK(d, cudaEventRecord(a->first, d->stream))) return 0;
        work(d, a);
        if (!CUDA_OK(d, cudaEventRecord(a->last, d->stream)) ||
            !CUDA_OK(d, cudaEventSynchronize(a->last)) ||
            !CUDA_OK(d, cudaEventElapsedTime(&ms, a->first, a->last)) || d->base.err.code != OK)
            return 0;
        if (least == 0 || ms * 1e-3 < least) least = ms * 1e-3;
    }
    return least;
}

enum status cuda_measure(struct dev *dev, double seconds, struct dev_peaks *out, struct err *e) {
    enum status st = OK;
    struct yard a = {.g = {.n = 0}};
    dev->op = "measure";
    struct cuda_dev *d = cuda_begin(dev, DEV_OTHER);
    const double side = (double)d->tune.peak;
    a.g.n = a.g.k = d->tune.peak;
    TRY(open_yard(&a, d, e));
    const double product = best(d, &a, seconds, multiply), moved = best(d, &a, seconds, copy);
    if (product > 0 && moved > 0) {
        out->flops = PRODUCTS * 2 * side * side * side / product;
        out->read_bytes =
            COPIES * 2 * side * side * (double)cuda_word(d) / moved; // read and written
    }
done:
    close_yard(&a, d);
    const enum status sunk = dev_sync(dev, st == OK ? e : NULL);
    return st == OK ? sunk : st;
}
