// One instruction set's implementations. Arguments were checked by the caller (k2quant.cpp).
#pragma once

#include <cstdint>

namespace k2quant {

// Super-blocks of 256 weights lie one after the other; those of a row have `row_blocks` sets of column weights.
struct EncodeCall {
    const float* values;
    const float* weights;  // [row_blocks * 256], each set's largest is 1; or null
    int64_t blocks;
    int64_t row_blocks;
    uint8_t* out;
};

// Each returns whether all values, in decoding all results, were finite (and in encoding within half precision).
struct Variant {
    bool (*encode_q4_k)(const EncodeCall& call);
    bool (*encode_q5_k)(const EncodeCall& call);
    bool (*encode_q6_k)(const EncodeCall& call);
    bool (*decode_fp8)(const uint8_t* codes, const float* factors, int64_t rows, int64_t cols, float* values);
    bool (*decode_int4)(const uint8_t* words, const float* scales, int64_t rows, int64_t cols, float* values);
};

extern const Variant portable_variant;
extern const Variant avx2_variant;
extern const Variant avx512_variant;

}  // namespace k2quant
