// Root mean square norms of many rows, a piece for some of them.
#include "jobs/products.h"
#include "k2quant_layer.h"
#include "layer/layer.h"
#include "pool/pool.h"

namespace k2quant {
namespace {

constexpr int64_t PIECE_VALUES = 1 << 16;

struct Norm {
    const LayerVariant& layer;
    const float* x;
    const float* weight;
    int64_t tokens, cols;
    float eps;
    float* out;
    int64_t rows_of_piece;
};

void norm_rows(void* job, int64_t piece, int) {
    const Norm& norm = *static_cast<const Norm*>(job);
    const int64_t first = piece * norm.rows_of_piece, last = first + norm.rows_of_piece;
    for (int64_t row = first; row < last && row < norm.tokens; ++row) {
        norm.layer.rms_norm(norm.x + row * norm.cols, norm.weight, norm.cols, norm.eps, norm.out + row * norm.cols);
    }
}

}  // namespace
}  // namespace k2quant

using namespace k2quant;

int k2quant_rms_norm(int isa, void* pool, const float* x, const float* weight, int64_t tokens, int64_t cols, float eps,
                     float* out) {
    const LayerVariant* layer = layer_variant(isa);
    if (!layer || !pool || !weight || tokens < 0 || cols < 1 || !product_fits(tokens, cols)) return K2QUANT_BAD_ARGUMENT;
    if (tokens > 0 && (!x || !out)) return K2QUANT_BAD_ARGUMENT;
    Norm job = {*layer, x, weight, tokens, cols, eps, out, cols < PIECE_VALUES ? PIECE_VALUES / cols : 1};
    const Phase phase = {norm_rows, pieces_of(tokens, job.rows_of_piece)};
    Pool& threads = *static_cast<Pool*>(pool);
    run_phases(threads, &job, &phase, 1, pool_threads(threads) - 1);
    return K2QUANT_OK;
}
