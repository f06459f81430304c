// Kernels for many tokens on AVX2 with FMA and F16C.

namespace many {
// Sixteen rows take two of the sixteen registers; sums of four tokens take eight.
constexpr int PARTS = 1;
constexpr int TILE_TOKENS = 4;
constexpr int HALVES_TILE_TOKENS = 4;
constexpr int64_t LEVELS_FROM = 5;  // tokens, measured
constexpr int64_t FLOATS_FROM = 12;

#include "multiply/many/rows.h"
#include "multiply/many/lanes_avx2.h"
#include "multiply/many/dot_wide.h"
#include "multiply/many/many.h"
}  // namespace many

#include "multiply/many/choice.h"
