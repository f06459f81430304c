// The C interface to products of rows: arguments are checked and activations prepared here.
#include "k2quant.h"

#include <cstdlib>

#include "multiply/multiply.h"

namespace {

using k2quant::Activations;
using k2quant::BlockKernels;
using k2quant::MOST_TOKENS;
using k2quant::MultiplyVariant;
using k2quant::RowsCall;

constexpr int64_t MAX_WEIGHTS = int64_t{1} << 48;  // keeps products of sizes far from overflow

bool sizes_fit(const BlockKernels& kernels, int64_t rows, int64_t cols, int64_t tokens) {
    return rows >= 0 && tokens >= 0 && cols > 0 && cols <= MAX_WEIGHTS && cols % kernels.block_weights == 0 &&
           rows <= MAX_WEIGHTS / cols && tokens <= MAX_WEIGHTS / cols && (rows == 0 || tokens <= MAX_WEIGHTS / rows);
}

// Memory for the activations of some tokens, in one piece at a multiple of 64.
struct Prepared {
    Activations* x;
    float *scales, *sums;
    int8_t* levels;
    void* scratch;
    void* memory;
};

constexpr size_t LINE = 64;
size_t lines(size_t bytes) { return (bytes + LINE - 1) / LINE * LINE; }

bool allocate(int64_t tokens, int64_t cols, bool takes_floats, size_t scratch_bytes, Prepared& p) {
    const size_t count = static_cast<size_t>(tokens), values = takes_floats ? 0 : count * static_cast<size_t>(cols);
    const size_t x = lines(count * sizeof(Activations)), scales = lines(values / k2quant::SCALE_GROUP * sizeof(float));
    const size_t sums = lines(values / k2quant::SUM_GROUP * sizeof(float)), levels = lines(values);
    p.memory = std::malloc(x + scales + sums + levels + lines(scratch_bytes) + LINE);
    if (!p.memory) return false;
    char* next = static_cast<char*>(p.memory) + (LINE - reinterpret_cast<uintptr_t>(p.memory) % LINE);
    p.x = reinterpret_cast<Activations*>(next);
    p.scales = reinterpret_cast<float*>(next += x);
    p.sums = reinterpret_cast<float*>(next += scales);
    p.levels = reinterpret_cast<int8_t*>(next += sums);
    p.scratch = next + levels;
    return true;
}

void prepare(const MultiplyVariant& variant, const float* x, int64_t tokens, int64_t cols, bool takes_floats,
             const Prepared& p) {
    for (int64_t t = 0; t < tokens; ++t) {
        const float* values = x + t * cols;
        p.x[t] = {values, nullptr, nullptr, nullptr};
        if (takes_floats) continue;
        int8_t* levels = p.levels + t * cols;
        float *scales = p.scales + t * (cols / k2quant::SCALE_GROUP), *sums = p.sums + t * (cols / k2quant::SUM_GROUP);
        variant.quantize(values, cols, levels, scales, sums);
        p.x[t] = {values, levels, scales, sums};
    }
}

}  // namespace

int k2quant_serves(int isa, int type) {
    const MultiplyVariant* variant = k2quant::multiply_variant(isa);
    return variant && variant->of(type);
}

int k2quant_multiply(int isa, int type, const uint8_t* weights, int64_t rows, int64_t cols, const float* x,
                     int64_t tokens, int many, float* y) {
    const MultiplyVariant* variant = k2quant::multiply_variant(isa);
    const BlockKernels* kernels = variant ? variant->of(type) : nullptr;
    if (!kernels || !weights || !x || !y || !sizes_fit(*kernels, rows, cols, tokens)) return K2QUANT_BAD_ARGUMENT;
    if (rows == 0 || tokens == 0) return K2QUANT_OK;
    const bool at_once = many && kernels->many;
    const int64_t most = at_once || tokens < MOST_TOKENS ? tokens : MOST_TOKENS;
    Prepared prepared;
    const size_t scratch_bytes = at_once ? variant->many_scratch_bytes(cols) : 0;
    if (!allocate(most, cols, kernels->takes_floats, scratch_bytes, prepared)) return K2QUANT_NO_MEMORY;
    const int64_t row_bytes = cols / kernels->block_weights * kernels->block_bytes;
    for (int64_t first = 0; first < tokens; first += most) {
        const int64_t count = tokens - first < most ? tokens - first : most;
        prepare(*variant, x + first * cols, count, cols, kernels->takes_floats, prepared);
        const RowsCall call = {weights, rows, cols, row_bytes, prepared.x, count, y + first * rows, rows};
        if (at_once) {
            kernels->many(call, prepared.scratch);
        } else {
            kernels->few(call);
        }
    }
    std::free(prepared.memory);
    return K2QUANT_OK;
}

int k2quant_decode_rows(int isa, int type, const uint8_t* weights, int64_t rows, int64_t cols, const int64_t* ids,
                        int64_t count, float* values) {
    const MultiplyVariant* variant = k2quant::multiply_variant(isa);
    const BlockKernels* kernels = variant ? variant->of(type) : nullptr;
    if (!kernels || !weights || !sizes_fit(*kernels, rows, cols, count)) return K2QUANT_BAD_ARGUMENT;
    if (count > 0 && (!ids || !values)) return K2QUANT_BAD_ARGUMENT;
    for (int64_t i = 0; i < count; ++i) {
        if (ids[i] < 0 || ids[i] >= rows) return K2QUANT_BAD_ARGUMENT;
    }
    const int64_t row_bytes = cols / kernels->block_weights * kernels->block_bytes;
    for (int64_t i = 0; i < count; ++i) {
        kernels->decode(weights + ids[i] * row_bytes, cols, values + i * cols);
    }
    return K2QUANT_OK;
}

int k2quant_gated(int isa, float* gate, const float* up, int64_t count) {
    const MultiplyVariant* variant = k2quant::multiply_variant(isa);
    if (!variant || !gate || !up || count < 0 || count > MAX_WEIGHTS) return K2QUANT_BAD_ARGUMENT;
    variant->gated(gate, up, count);
    return K2QUANT_OK;
}
