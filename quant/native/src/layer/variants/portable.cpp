// The portable variant. See body.h.
#include "layer/layer.h"

namespace {
using k2quant::CHUNK_POSITIONS;
using k2quant::ChunkCall;
using k2quant::ExpandCall;
using k2quant::JoinCall;
using k2quant::PANEL_COLS;
using k2quant::TileCall;
constexpr int TILE_ROWS = 2;
constexpr int TILE_VECTORS = 1;
#include "body.h"
#include "panels.h"
#include "heads.h"
}  // namespace

namespace k2quant {
extern const LayerVariant layer_portable = {rms_norm, attend_chunk, join_chunks, expand_positions, attend_tile};
}  // namespace k2quant
