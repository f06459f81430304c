#include "jobs/products.h"

namespace k2quant {

namespace {

constexpr double LEAST_PIECE = 128 << 10;     // bytes read for one token, of a matrix
constexpr double SMALLEST_PIECE = 64 << 10;  // where the whole is small
constexpr double MOST_PIECE = 768 << 10;
constexpr double GOOD_PIECES = 64;  // of a phase
constexpr int64_t FEWEST_PIECES = 16;  // with fewer, larger ones the last piece keeps too many threads waiting
constexpr double HELPER_COST = 256 << 10;  // some 15 us of work: waking a thread takes about half of that
constexpr int64_t QUANTIZED_VALUES = 1 << 17;  // of a piece, some 20 us

}  // namespace

bool fit_matrix(const MultiplyVariant& variant, int type, const uint8_t* data, int64_t rows, int64_t cols,
                BlockMatrix& out) {
    const BlockKernels* kernels = variant.of(type);
    if (!kernels || !data || rows < 0 || cols <= 0 || cols % kernels->block_weights || !product_fits(rows, cols)) {
        return false;
    }
    out = {kernels, data, rows, cols, cols / kernels->block_weights * kernels->block_bytes};
    return true;
}

void multiply_rows(const BlockMatrix& w, int64_t first, int64_t rows, const Activations* x, int64_t tokens, float* y,
                   int64_t y_stride, void* scratch) {
    RowsCall call = {w.data + first * w.row_bytes, rows, w.cols, w.row_bytes, x, tokens, y, y_stride};
    if (w.takes_many(tokens)) {
        w.kernels->many(call, scratch);
        return;
    }
    for (int64_t start = 0; start < tokens; start += MOST_TOKENS) {
        call.x = x + start;
        call.tokens = tokens - start < MOST_TOKENS ? tokens - start : MOST_TOKENS;
        call.y = y + start * y_stride;
        w.kernels->few(call);
    }
}

size_t scratch_bytes(const MultiplyVariant& variant, const BlockMatrix& w, int64_t tokens) {
    return w.takes_many(tokens) ? variant.many_scratch_bytes(w.cols) : 0;
}

void VectorSet::reserve(Layout& layout, int64_t vectors, int64_t width, bool with_levels) {
    count = vectors;
    cols = width;
    with_levels_ = with_levels;
    const size_t values = with_levels ? static_cast<size_t>(vectors * width) : 0;
    x_at_ = layout.add(static_cast<size_t>(vectors) * sizeof(Activations));
    levels_at_ = layout.add(values);
    scales_at_ = layout.add(values / SCALE_GROUP * sizeof(float));
    sums_at_ = layout.add(values / SUM_GROUP * sizeof(float));
}

void VectorSet::place(void* memory) {
    char* start = static_cast<char*>(memory);
    x = reinterpret_cast<Activations*>(start + x_at_);
    levels = with_levels_ ? reinterpret_cast<int8_t*>(start + levels_at_) : nullptr;
    scales = with_levels_ ? reinterpret_cast<float*>(start + scales_at_) : nullptr;
    sums = with_levels_ ? reinterpret_cast<float*>(start + sums_at_) : nullptr;
}

void VectorSet::set(int64_t index, const float* values) const {
    x[index] = {values, nullptr, nullptr, nullptr};
    if (!with_levels_) return;
    x[index] = {values, levels + index * cols, scales + index * (cols / SCALE_GROUP), sums + index * (cols / SUM_GROUP)};
}

void VectorSet::quantize(const MultiplyVariant& variant, int64_t index) const {
    quantize_some(variant, index, 0, cols);
}

// Groups of values have scales of their own, so that parts of a vector, whole groups each, give what the whole gives.
void VectorSet::quantize_some(const MultiplyVariant& variant, int64_t index, int64_t first, int64_t values) const {
    variant.quantize(x[index].values + first, values, levels + index * cols + first,
                     scales + index * (cols / SCALE_GROUP) + first / SCALE_GROUP,
                     sums + index * (cols / SUM_GROUP) + first / SUM_GROUP);
}

int64_t vectors_of_piece(int64_t cols) { return cols < QUANTIZED_VALUES ? QUANTIZED_VALUES / cols : 1; }

int64_t rows_of_piece(int64_t rows, double row_cost, double total_cost, int64_t step, int64_t matrices) {
    double least = LEAST_PIECE * static_cast<double>(matrices), cost = total_cost / GOOD_PIECES;
    const double most_cost = least > MOST_PIECE ? least : MOST_PIECE;
    if (least > total_cost / FEWEST_PIECES) least = total_cost / FEWEST_PIECES;
    if (least < SMALLEST_PIECE) least = SMALLEST_PIECE;
    cost = cost < least ? least : cost > most_cost ? most_cost : cost;
    const double fitting = cost / (row_cost < 1 ? 1 : row_cost);
    const int64_t most = fitting < static_cast<double>(rows) ? static_cast<int64_t>(fitting) : rows;
    const int64_t pieces = most < 1 ? rows : pieces_of(rows, most);
    const int64_t even = pieces < 1 ? 1 : pieces_of(rows, pieces);
    return even < 1 ? step : pieces_of(even, step) * step;
}

int64_t many_step(int64_t rows) {
    int64_t step = MANY_ROWS;
    while (step > MANY_ROW_STEP && rows < step * FEWEST_PIECES) step /= 2;
    return step;
}

int helpers_for(double total_cost, const Pool& pool) {
    const double wanted = total_cost / HELPER_COST;
    const int most = pool_threads(pool) - 1;
    return wanted < most ? static_cast<int>(wanted) : most;
}

bool reserve_workers(Pool& pool, size_t bytes) {
    if (bytes == 0) return true;
    for (int worker = 0; worker < pool_threads(pool); ++worker) {
        if (!worker_memory(pool, worker, bytes)) return false;
    }
    return true;
}

}  // namespace k2quant
