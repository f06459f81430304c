// The avx2 variant. See body.h.
#include "layer/layer.h"

namespace {
using k2quant::CHUNK_POSITIONS;
using k2quant::ChunkCall;
using k2quant::JoinCall;
#include "body.h"
}  // namespace

namespace k2quant {
extern const LayerVariant layer_avx2 = {rms_norm, attend_chunk, join_chunks};
}  // namespace k2quant
