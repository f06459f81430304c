// The C interface to a pool of threads and to products by all of them: arguments are checked here.
#include "jobs/jobs.h"
#include "k2quant.h"
#include "pool/pool.h"

namespace {

using k2quant::BlockMatrix;
using k2quant::MOST_WEIGHTS;
using k2quant::MultiplyVariant;
using k2quant::Pool;
using k2quant::product_fits;

Pool* pool_of(void* pool) { return static_cast<Pool*>(pool); }

int status_of(bool had_memory) { return had_memory ? K2QUANT_OK : K2QUANT_NO_MEMORY; }

}  // namespace

int k2quant_pool_open(int isa, int threads, int nodes, int pin, void** pool) {
    if (!k2quant_isa_works(isa) || !pool || threads < 1 || nodes < 0) return K2QUANT_BAD_ARGUMENT;
    *pool = k2quant::open_pool(threads, nodes, pin != 0);
    return status_of(*pool != nullptr);
}

int k2quant_pool_close(int, void* pool) {
    if (!pool) return K2QUANT_BAD_ARGUMENT;
    k2quant::close_pool(pool_of(pool));
    return K2QUANT_OK;
}

int k2quant_pool_threads(int, void* pool) { return pool ? k2quant::pool_threads(*pool_of(pool)) : 0; }

int k2quant_linear(int isa, void* pool, int type, const uint8_t* weights, int64_t rows, int64_t cols, const float* x,
                   int64_t tokens, float* y) {
    const MultiplyVariant* variant = k2quant::multiply_variant(isa);
    BlockMatrix w;
    if (!variant || !pool || tokens < 0 || (tokens > 0 && (!x || !y)) ||
        !k2quant::fit_matrix(*variant, type, weights, rows, cols, w) ||
        !product_fits(tokens, cols) || !product_fits(tokens, rows)) {
        return K2QUANT_BAD_ARGUMENT;
    }
    return status_of(k2quant::linear_job(*pool_of(pool), *variant, w, x, tokens, y));
}

int k2quant_heads(int isa, void* pool, int type, const uint8_t* weights, int64_t heads, int64_t rows, int64_t cols,
                  const float* x, int64_t token_stride, int64_t head_stride, int64_t tokens, float* y) {
    const MultiplyVariant* variant = k2quant::multiply_variant(isa);
    BlockMatrix w;
    if (!variant || !pool || (tokens > 0 && (!x || !y)) ||
        !k2quant::fit_matrix(*variant, type, weights, rows, cols, w) ||
        !product_fits(heads, rows * cols) || !product_fits(heads, tokens) || !product_fits(heads * tokens, cols) ||
        !product_fits(heads * tokens, rows) || !product_fits(tokens, token_stride) ||
        !product_fits(heads, head_stride)) {
        return K2QUANT_BAD_ARGUMENT;
    }
    return status_of(k2quant::heads_job(*pool_of(pool), *variant, {w, heads, x, token_stride, head_stride, tokens, y}));
}

int k2quant_experts(int isa, void* pool, const float* x, int64_t tokens, int64_t hidden,
                    const struct k2quant_expert* experts, int64_t count, const int64_t* expert_tokens,
                    const int64_t* token_ids, const float* scales, float* y, int add) {
    const MultiplyVariant* variant = k2quant::multiply_variant(isa);
    const k2quant::ExpertsCall call = {x,         tokens, hidden, experts, count, expert_tokens,
                                       token_ids, scales, y,      add != 0};
    if (!variant || !pool || !k2quant::fit_experts(*variant, call)) return K2QUANT_BAD_ARGUMENT;
    return status_of(k2quant::experts_job(*pool_of(pool), *variant, call));
}

int k2quant_read_roof(int isa, void* pool, const uint8_t* data, int64_t bytes, uint64_t* out) {
    if (!k2quant_isa_works(isa) || !pool || !data || !out || bytes < 0 || bytes > MOST_WEIGHTS) {
        return K2QUANT_BAD_ARGUMENT;
    }
    *out = k2quant::read_roof_job(*pool_of(pool), isa, data, bytes);
    return K2QUANT_OK;
}
