// What an instruction set brings to multiplying quantized rows: y = x @ W.T for few tokens and for many.
//
// Arguments were checked by the caller. Nothing here allocates or knows of threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace k2quant {

constexpr int MOST_TOKENS = 8;   // of a call of `few`
constexpr int SCALE_GROUP = 32;  // activations that share a scale
constexpr int SUM_GROUP = 16;    // activations of which the sum is known, for offsets of sub-blocks

// One token's activations. Quantized weights are multiplied with levels * scale, float weights with the values.
// Levels, scales and sums are null when cols is not a multiple of 32: no quantized type has such rows. A group that
// holds NaN or infinity has the scale NaN, so that the product shows it.
struct Activations {
    const float* values;   // [cols]
    const int8_t* levels;  // [cols], -127..127
    const float* scales;   // [cols / 32]
    const float* sums;     // [cols / 16], scale times the sum of the 16 levels
};

// Some rows of a matrix and the tokens they are multiplied with: y[t * y_stride + r] is set.
struct RowsCall {
    const uint8_t* weights;
    int64_t rows;
    int64_t cols;
    int64_t row_bytes;
    const Activations* x;  // [tokens]
    int64_t tokens;
    float* y;
    int64_t y_stride;
};

// `many` arranges the tokens anew in every call and works on MANY_ROW_STEP rows side by side. Pieces of MANY_ROWS lose
// 2 % of the speed that 512 rows at once have, 64 rows 4 %, 32 rows 12 %, 16 rows 25 %, 8 rows 60 %. Results do not
// depend on the pieces, nor on which tokens come together.
constexpr int64_t MANY_ROW_STEP = 32;
constexpr int64_t MANY_ROWS = 128;

// A block type's kernels. `few` takes 1 to MOST_TOKENS tokens and reads the weights once. `many` takes any number and
// unpacks some rows at a time into `scratch`, of many_scratch_bytes(cols) bytes at a multiple of 64; null where this
// instruction set has no better way than `few` for some tokens after the others.
struct BlockKernels {
    int type;            // k2quant_type
    int block_weights;   // cols is a multiple of it
    int block_bytes;
    bool takes_floats;   // multiplies with Activations::values
    void (*few)(const RowsCall& call);
    void (*many)(const RowsCall& call, void* scratch);
    int64_t many_from;   // tokens from which on `many` is the faster one
    void (*decode)(const uint8_t* row, int64_t cols, float* values);  // a row's weights as numbers
};

struct MultiplyVariant {
    const BlockKernels* kernels;
    int count;
    size_t (*many_scratch_bytes)(int64_t cols);

    // cols is a multiple of 32.
    void (*quantize)(const float* values, int64_t cols, int8_t* levels, float* scales, float* sums);
    // gate[i] = silu(gate[i]) * up[i]
    void (*gated)(float* gate, const float* up, int64_t count);

    const BlockKernels* of(int type) const {
        for (int i = 0; i < count; ++i) {
            if (kernels[i].type == type) return &kernels[i];
        }
        return nullptr;
    }
};

// The kernels of an instruction set (k2quant_isa), null when this machine cannot run it.
const MultiplyVariant* multiply_variant(int isa);

}  // namespace k2quant
