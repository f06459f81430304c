// Kernels for every machine.
#include <cstddef>
#include <cstdint>

#include "k2quant.h"
#include "multiply/variants.h"

namespace {
using k2quant::BlockKernels;
using k2quant::MOST_TOKENS;
using k2quant::RowsCall;

#include "half.h"
#include "multiply/block_types.h"
#include "multiply/unpack_plain.h"
#include "multiply/decode.h"
#include "multiply/quantize.h"
#include "multiply/quantize_portable.h"
#include "multiply/gated.h"
#include "multiply/rows_portable.h"
#include "multiply/many_none.h"
#include "multiply/table.h"
}  // namespace

namespace k2quant {
extern const MultiplyVariant multiply_portable = {
    table, TABLE_ROWS, many_scratch_bytes, quantize, gated,
};
}  // namespace k2quant
