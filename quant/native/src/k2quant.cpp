// The C interface: arguments are checked and the variant is chosen here.
#include "k2quant.h"

#include <cstdlib>

#include "cpu_features.h"
#include "variant.h"

namespace {

using k2quant::EncodeCall;
using k2quant::Variant;

constexpr int64_t BLOCK = 256;
constexpr int64_t MAX_WEIGHTS = int64_t{1} << 48;  // keeps products of sizes far from overflow
constexpr float LEAST_WEIGHT = 0x1p-20f;           // of the largest: keeps sums of a sub-block above zero

const Variant* variant_of(int isa) {
    if (!k2quant_isa_works(isa)) return nullptr;
#if defined(__x86_64__)
    if (isa == K2QUANT_AVX512 || isa == K2QUANT_AVX512VNNI) return &k2quant::avx512_variant;
    if (isa == K2QUANT_AVX2) return &k2quant::avx2_variant;
#endif
    return &k2quant::portable_variant;
}

bool shape_fits(int64_t rows, int64_t cols, int64_t multiple) {
    return rows >= 0 && cols > 0 && cols % multiple == 0 && rows <= MAX_WEIGHTS / cols;
}

// Only the ratios within a super-block count: its largest weight is brought to 1, so that no sum leaves the range of
// float32. Columns without importance keep a trace of weight, and super-blocks without any are flat.
void scale_weights(const float* importance, int64_t cols, float* weights) {
    for (int64_t start = 0; start < cols; start += BLOCK) {
        float largest = 0;
        for (int64_t i = start; i < start + BLOCK; ++i) largest = importance[i] > largest ? importance[i] : largest;
        for (int64_t i = start; i < start + BLOCK; ++i) {
            float share = largest > 0 ? importance[i] / largest : 1.0f;
            weights[i] = share > LEAST_WEIGHT ? share : LEAST_WEIGHT;
        }
    }
}

int status_of(bool finite) { return finite ? K2QUANT_OK : K2QUANT_NOT_FINITE; }

}  // namespace

int k2quant_interface(void) { return K2QUANT_INTERFACE; }
int k2quant_encoding(void) { return K2QUANT_ENCODING; }

int k2quant_isa_works(int isa) {
    switch (isa) {
        case K2QUANT_PORTABLE: return 1;
        case K2QUANT_AVX2: return k2quant::has_avx2();
        case K2QUANT_AVX512: return k2quant::has_avx512();
        case K2QUANT_AVX512VNNI: return k2quant::has_avx512vnni();
        default: return 0;
    }
}

int k2quant_encode(int isa, int type, const float* values, int64_t rows, int64_t cols, const float* importance,
                   uint8_t* blocks) {
    const Variant* variant = variant_of(isa);
    if (!variant || !values || !blocks || !shape_fits(rows, cols, BLOCK)) return K2QUANT_BAD_ARGUMENT;
    bool (*encode)(const EncodeCall&) = type == K2QUANT_Q4_K   ? variant->encode_q4_k
                                        : type == K2QUANT_Q5_K ? variant->encode_q5_k
                                        : type == K2QUANT_Q6_K ? variant->encode_q6_k
                                                               : nullptr;
    if (!encode) return K2QUANT_BAD_ARGUMENT;
    float* weights = nullptr;
    if (importance) {
        weights = static_cast<float*>(std::malloc(static_cast<size_t>(cols) * sizeof(float)));
        if (!weights) return K2QUANT_NO_MEMORY;
        scale_weights(importance, cols, weights);
    }
    const bool finite = encode({values, weights, rows * (cols / BLOCK), cols / BLOCK, blocks});
    std::free(weights);
    return status_of(finite);
}

int k2quant_decode_fp8(int isa, const uint8_t* codes, const float* factors, int64_t rows, int64_t cols, float* values) {
    const Variant* variant = variant_of(isa);
    if (!variant || !codes || !factors || !values || !shape_fits(rows, cols, 1)) return K2QUANT_BAD_ARGUMENT;
    return status_of(variant->decode_fp8(codes, factors, rows, cols, values));
}

int k2quant_decode_int4(int isa, const uint8_t* words, const float* scales, int64_t rows, int64_t cols, float* values) {
    const Variant* variant = variant_of(isa);
    if (!variant || !words || !scales || !values || !shape_fits(rows, cols, 32)) return K2QUANT_BAD_ARGUMENT;
    return status_of(variant->decode_int4(words, scales, rows, cols, values));
}
