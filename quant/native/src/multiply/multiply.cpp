// Which kernels an instruction set has.
#include "multiply/multiply.h"

#include "cpu_features.h"
#include "k2quant.h"
#include "multiply/variants.h"

namespace k2quant {

const MultiplyVariant* multiply_variant(int isa) {
    if (!k2quant_isa_works(isa)) return nullptr;
#if defined(__x86_64__)
    if (isa == K2QUANT_PORTABLE || !has_fma_and_f16c()) return &multiply_portable;
    if (isa == K2QUANT_AVX512VNNI) return &multiply_avx512vnni;
    return isa == K2QUANT_AVX512 ? &multiply_avx512 : &multiply_avx2;
#else
    return &multiply_portable;
#endif
}

}  // namespace k2quant
