// The portable variant. See variant_body.h.
#include <cstddef>
#include <cstdint>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "variant.h"

namespace {
#include "simd_portable.h"
#include "variant_body.h"
}  // namespace

namespace k2quant {
extern const Variant portable_variant = {encode_affine<Q4K>, encode_affine<Q5K>, encode_q6_k, decode_fp8, decode_int4};
}  // namespace k2quant
