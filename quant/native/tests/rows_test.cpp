// Rows of every type, instruction set and size in memory of exactly their size: with the address sanitizer
// (K2QUANT_SANITIZE) a byte that is read or written beyond them ends the program. Products are compared with the portable
// ones.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "k2quant.h"

namespace {

struct Type {
    int type, block_weights, block_bytes;
};
const Type TYPES[] = {
    {K2QUANT_Q4_K, 256, 144}, {K2QUANT_Q5_K, 256, 176}, {K2QUANT_Q6_K, 256, 210}, {K2QUANT_IQ4_XS, 256, 136},
    {K2QUANT_Q8_0, 32, 34},   {K2QUANT_Q4_0, 32, 18},   {K2QUANT_Q5_0, 32, 22},   {K2QUANT_F32, 1, 4},
    {K2QUANT_F16, 1, 2},      {K2QUANT_BF16, 1, 2},     {K2QUANT_NF4, 64, 36},
};
const int ISAS[] = {K2QUANT_PORTABLE, K2QUANT_AVX2, K2QUANT_AVX512, K2QUANT_AVX512VNNI};

// Bytes of which no two make a half or a float that is infinite or NaN.
void fill(uint8_t* bytes, size_t count, unsigned& state) {
    for (size_t i = 0; i < count; ++i) {
        state = state * 1664525u + 1013904223u;
        bytes[i] = static_cast<uint8_t>(state >> 24 & 0x3F);
    }
}

bool products_agree(const Type& type, int64_t rows, int64_t cols, int64_t tokens, int many) {
    const size_t bytes = static_cast<size_t>(rows * (cols / type.block_weights) * type.block_bytes);
    const size_t inputs = static_cast<size_t>(tokens * cols), results = static_cast<size_t>(tokens * rows);
    uint8_t* weights = static_cast<uint8_t*>(std::malloc(bytes));
    float* x = static_cast<float*>(std::malloc(inputs * sizeof(float)));
    float* y = static_cast<float*>(std::malloc(results * sizeof(float)));
    float* expected = static_cast<float*>(std::malloc(results * sizeof(float)));
    unsigned state = static_cast<unsigned>(rows * 131 + cols * 17 + tokens);
    fill(weights, bytes, state);
    for (size_t i = 0; i < inputs; ++i) {
        state = state * 1664525u + 1013904223u;
        x[i] = static_cast<float>(state >> 8) / 4194304.0f - 2.0f;  // few lie halfway between two levels
    }
    bool good = k2quant_multiply(K2QUANT_PORTABLE, type.type, weights, rows, cols, x, tokens, 0, expected) == K2QUANT_OK;
    for (int isa : ISAS) {
        if (!k2quant_serves(isa, type.type)) continue;
        good = good && k2quant_multiply(isa, type.type, weights, rows, cols, x, tokens, many, y) == K2QUANT_OK;
        double error = 0, size = 0;
        for (size_t i = 0; i < results; ++i) {
            error += std::pow(static_cast<double>(y[i]) - static_cast<double>(expected[i]), 2);
            size += std::pow(static_cast<double>(expected[i]), 2);
        }
        // An activation halfway between two levels may get either, which moves results by some 4e-4, more where
        // they nearly cancel. `many` may multiply with other roundings of the activations.
        if (!(error <= size * (many ? 1e-3 : 1e-5))) {
            std::printf("type %d isa %d: %lld rows of %lld times %lld tokens, many %d: error %g of %g\n", type.type, isa,
                        static_cast<long long>(rows), static_cast<long long>(cols), static_cast<long long>(tokens), many,
                        std::sqrt(error), std::sqrt(size));
            good = false;
        }
    }
    std::free(weights);
    std::free(x);
    std::free(y);
    std::free(expected);
    return good;
}

// Decoded rows in any order: the same bytes for every instruction set, and nothing beyond the matrix.
bool decoded_rows_agree(const Type& type, int64_t cols) {
    constexpr int64_t ROWS = 3, COUNT = 4;
    const size_t bytes = static_cast<size_t>(ROWS * (cols / type.block_weights) * type.block_bytes);
    const size_t values = static_cast<size_t>(COUNT * cols);
    uint8_t* weights = static_cast<uint8_t*>(std::malloc(bytes));
    float* found = static_cast<float*>(std::malloc(values * sizeof(float)));
    float* expected = static_cast<float*>(std::malloc(values * sizeof(float)));
    unsigned state = static_cast<unsigned>(cols);
    fill(weights, bytes, state);
    const int64_t ids[COUNT] = {2, 0, 2, 1}, beyond[] = {0, ROWS}, before[] = {-1};
    const auto decode = [&](int isa, const int64_t* rows, int64_t count, float* out) {
        return k2quant_decode_rows(isa, type.type, weights, ROWS, cols, rows, count, out);
    };
    bool good = decode(K2QUANT_PORTABLE, ids, COUNT, expected) == K2QUANT_OK &&
                !std::memcmp(expected, expected + 2 * cols, static_cast<size_t>(cols) * sizeof(float)) &&
                decode(K2QUANT_PORTABLE, beyond, 2, found) == K2QUANT_BAD_ARGUMENT &&
                decode(K2QUANT_PORTABLE, before, 1, found) == K2QUANT_BAD_ARGUMENT;
    for (int isa : ISAS) {
        if (!k2quant_serves(isa, type.type)) continue;
        good = good && decode(isa, ids, COUNT, found) == K2QUANT_OK;
        good = good && !std::memcmp(found, expected, values * sizeof(float));
    }
    if (!good) std::printf("type %d: decoded rows of %lld differ\n", type.type, static_cast<long long>(cols));
    std::free(weights);
    std::free(found);
    std::free(expected);
    return good;
}

bool gates_agree(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(float);
    float* gate = static_cast<float*>(std::malloc(bytes));
    float* up = static_cast<float*>(std::malloc(bytes));
    bool good = true;
    for (int isa : ISAS) {
        for (int64_t i = 0; i < count; ++i) gate[i] = static_cast<float>(i - count / 2), up[i] = 1.0f;
        if (!k2quant_isa_works(isa)) continue;
        good = good && k2quant_gated(isa, gate, up, count) == K2QUANT_OK;
        for (int64_t i = 0; i < count; ++i) {
            const double g = static_cast<double>(i - count / 2), silu = g / (1 + std::exp(-g));
            good = good && std::fabs(static_cast<double>(gate[i]) - silu) <= 1e-6 * std::fabs(silu) + 1e-30;
        }
    }
    std::free(gate);
    std::free(up);
    return good;
}

}  // namespace

int main() {
    int checks = 0;
    bool good = true;
    for (const Type& type : TYPES) {
        const int64_t blocks[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 44, 65};
        for (int64_t count : blocks) {
            if (type.block_weights == 256 && count > 9) continue;
            good = decoded_rows_agree(type, count * type.block_weights) && good;
            ++checks;
            for (int64_t rows : {1, 2, 3, 4, 5, 17, 33}) {
                for (int64_t tokens : {1, 2, 3, 4, 5, 7, 8, 9, 17, 33}) {
                    if (rows * tokens > 300) continue;
                    for (int many : {0, 1}) {
                        good = products_agree(type, rows, count * type.block_weights, tokens, many) && good;
                        ++checks;
                    }
                }
            }
        }
    }
    for (int64_t count = 1; count < 100; ++count, ++checks) good = gates_agree(count) && good;
    std::printf("%s: %d checks of rows\n", good ? "good" : "BAD", checks);
    return good ? 0 : 1;
}
