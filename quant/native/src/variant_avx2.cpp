// The avx2 variant. See variant_body.h.
#include <cstddef>
#include <cstdint>
#include <immintrin.h>

#include "variant.h"

namespace {
#include "simd_avx2.h"
#include "variant_body.h"
}  // namespace

namespace k2quant {
extern const Variant avx2_variant = {encode_affine<Q4K>, encode_affine<Q5K>, encode_q6_k, decode_fp8, decode_int4};
}  // namespace k2quant
