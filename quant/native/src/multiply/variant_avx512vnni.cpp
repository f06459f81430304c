// Kernels with those AVX-512 instructions and VNNI.
#include <cstddef>
#include <cstdint>
#include <immintrin.h>

#include "k2quant.h"
#include "multiply/variants.h"

namespace {
using k2quant::Activations;
using k2quant::BlockKernels;
using k2quant::MOST_TOKENS;
using k2quant::RowsCall;

#include "half.h"
#include "multiply/block_types.h"
#include "multiply/unpack_plain.h"
#include "multiply/decode.h"
#include "multiply/quantize.h"
#include "multiply/gated.h"
#include "multiply/headers_128.h"
#include "multiply/lanes_avx512.h"
#include "multiply/dot_vnni.h"
#include "multiply/few.h"
#include "multiply/rows_q4k_vnni.h"
#include "multiply/many_avx512vnni.h"
#include "multiply/table.h"
}  // namespace

namespace k2quant {
extern const MultiplyVariant multiply_avx512vnni = {
    table, TABLE_ROWS, many_scratch_bytes, quantize, gated,
};
}  // namespace k2quant
