// What the jobs share: checked matrices, activations of several tokens, products of some rows, sizes of pieces.
#pragma once

#include <cstddef>
#include <cstdint>

#include "multiply/multiply.h"
#include "pool/pool.h"

namespace k2quant {

constexpr int64_t MOST_WEIGHTS = int64_t{1} << 48;  // of a matrix, or values of a call: far from overflow

// Whether a * b values are a size that a call may have.
inline bool product_fits(int64_t a, int64_t b) { return a >= 0 && b >= 0 && (b == 0 || a <= MOST_WEIGHTS / b); }

// A matrix in blocks whose sizes were checked.
struct BlockMatrix {
    const BlockKernels* kernels;
    const uint8_t* data;
    int64_t rows;
    int64_t cols;
    int64_t row_bytes;

    bool takes_levels() const { return !kernels->takes_floats; }
    bool takes_many(int64_t tokens) const { return kernels->many && tokens >= kernels->many_from; }
    // What multiplying a row costs, in bytes read for one token.
    double row_cost(int64_t tokens) const {
        return static_cast<double>(row_bytes + ROW_BYTES) * (1 + static_cast<double>(tokens - 1) / COMPUTE_TOKENS);
    }

private:
    static constexpr int64_t ROW_BYTES = 256;  // what a row costs beside its bytes: short ones take some 15 ns
    static constexpr double COMPUTE_TOKENS = 4;  // so many more take about as long as reading the weights once
};

// False when there is no kernel for the type, or when the sizes are not those of whole blocks.
bool fit_matrix(const MultiplyVariant& variant, int type, const uint8_t* data, int64_t rows, int64_t cols,
                BlockMatrix& out);

// y[t * y_stride + r] for rows first .. first + rows of w. `scratch` has scratch_bytes.
void multiply_rows(const BlockMatrix& w, int64_t first, int64_t rows, const Activations* x, int64_t tokens, float* y,
                   int64_t y_stride, void* scratch);
size_t scratch_bytes(const MultiplyVariant& variant, const BlockMatrix& w, int64_t tokens);

// Gives out parts of a memory whose size is not known yet: the offsets first, the addresses once it is there.
class Layout {
public:
    size_t add(size_t bytes) {
        const size_t start = used_;
        used_ += (bytes + LINE - 1) / LINE * LINE;
        return start;
    }
    size_t bytes() const { return used_; }

private:
    static constexpr size_t LINE = 64;
    size_t used_ = 0;
};

// Levels, scales and sums of `count` vectors of `cols` values one after the other, with an Activations for each.
struct VectorSet {
    Activations* x = nullptr;
    int8_t* levels = nullptr;  // null when no matrix takes levels
    float *scales = nullptr, *sums = nullptr;
    int64_t count = 0, cols = 0;

    void reserve(Layout& layout, int64_t vectors, int64_t width, bool with_levels);
    void place(void* memory);
    void set(int64_t index, const float* values) const;                      // what x[index] points to
    void quantize(const MultiplyVariant& variant, int64_t index) const;      // all its values
    void quantize_some(const MultiplyVariant& variant, int64_t index, int64_t first, int64_t values) const;

private:
    bool with_levels_ = false;
    size_t x_at_ = 0, levels_at_ = 0, scales_at_ = 0, sums_at_ = 0;
};

// Vectors that are quantized in one piece.
int64_t vectors_of_piece(int64_t cols);

inline int64_t pieces_of(int64_t count, int64_t of_piece) { return (count + of_piece - 1) / of_piece; }

// Rows of a piece, a multiple of `step`: some 20 to 50 us of work, and enough pieces of `total_cost` for many threads.
// A piece that passes over several matrices is larger: reading reaches its speed only in long runs. Depends on shapes
// alone, never on the number of threads.
int64_t rows_of_piece(int64_t rows, double row_cost, double total_cost, int64_t step, int64_t matrices = 1);

// The step for pieces of `many`, whose speed grows with the rows of a call, out of so many rows in all.
int64_t many_step(int64_t rows);

// How many threads are worth waking beside the caller.
int helpers_for(double total_cost, const Pool& pool);

// Whether every worker has this much memory of its own, so that worker_memory will not fail in a piece.
bool reserve_workers(Pool& pool, size_t bytes);

}  // namespace k2quant
