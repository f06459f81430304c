// A weight matrix of a job: checked, with its kernel, and cut into pieces of rows.
#pragma once

#include "k2quant_layer.h"
#include "multiply/multiply.h"

namespace k2quant {

// Of weights: at least some 10 us for one thread. Long pieces are read faster, since the processor has to find out only
// once where it reads; with few pieces the last one keeps the other threads waiting.
constexpr int64_t LEAST_PIECE_BYTES = 128 * 1024, MOST_PIECE_BYTES = 512 * 1024;
constexpr int64_t GOOD_PIECES = 64;
constexpr int64_t MAX_WEIGHTS = int64_t{1} << 48;

struct Matrix {
    const uint8_t* data = nullptr;
    int64_t rows = 0;
    int64_t cols = 0;
    int64_t row_bytes = 0;
    const BlockKernels* kernels = nullptr;

    int64_t bytes() const { return rows * row_bytes; }
    int64_t piece_rows() const {
        const int64_t wanted = bytes() / GOOD_PIECES, most = wanted < MOST_PIECE_BYTES ? wanted : MOST_PIECE_BYTES;
        const int64_t fitting = (most < LEAST_PIECE_BYTES ? LEAST_PIECE_BYTES : most) / row_bytes;
        return fitting < 1 ? 1 : fitting < rows ? fitting : rows;
    }
    int64_t pieces() const { return rows == 0 ? 0 : (rows + piece_rows() - 1) / piece_rows(); }
    bool wants_levels() const { return !kernels->takes_floats; }
};

// False when the matrix does not fit its type, or when there is no kernel for it.
inline bool resolve(const MultiplyVariant& variant, const k2quant_matrix& given, Matrix& out) {
    const BlockKernels* kernels = variant.of(given.type);
    if (!kernels || !given.data || given.rows <= 0 || given.cols <= 0 || given.cols % kernels->block_weights) return false;
    if (given.rows > MAX_WEIGHTS / given.cols) return false;
    out = {given.data, given.rows, given.cols, given.cols / kernels->block_weights * kernels->block_bytes, kernels};
    return true;
}

// Rows `first`.. of piece number `piece`.
inline void multiply_piece(const Matrix& w, int64_t piece, const Activations* x, int64_t tokens, float* y,
                           int64_t y_stride) {
    const int64_t first = piece * w.piece_rows();
    const int64_t count = w.rows - first < w.piece_rows() ? w.rows - first : w.piece_rows();
    w.kernels->few({w.data + first * w.row_bytes, count, w.cols, w.row_bytes, x, tokens, y + first, y_stride});
}

}  // namespace k2quant
