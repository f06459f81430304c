// Kernels for many tokens on AVX-512 without VNNI.

namespace many {
// As with VNNI (many_avx512vnni.h).
constexpr int PARTS = 2;
constexpr int TILE_TOKENS = 6;
constexpr int HALVES_TILE_TOKENS = 4;
constexpr int64_t LEVELS_FROM = 5;  // tokens, measured
constexpr int64_t FLOATS_FROM = 16;

#include "multiply/many/rows.h"
#include "multiply/many/lanes_avx512.h"
#include "multiply/many/dot_wide.h"
#include "multiply/many/many.h"
}  // namespace many

#include "multiply/many/choice.h"
