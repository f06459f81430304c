// Which variant an instruction set has: asked for once a call.
#include "cpu_features.h"
#include "k2quant.h"
#include "layer/layer.h"

namespace k2quant {

const LayerVariant* layer_variant(int isa) {
    if (!k2quant_isa_works(isa)) return nullptr;
#if defined(__x86_64__)
    // Those that can run the multiplying kernels of the same name can run these.
    if (isa == K2QUANT_AVX512 || isa == K2QUANT_AVX512VNNI) return &layer_avx512;
    if (isa == K2QUANT_AVX2 && has_fma_and_f16c()) return &layer_avx2;
#endif
    return &layer_portable;
}

}  // namespace k2quant
