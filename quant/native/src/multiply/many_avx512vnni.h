// Kernels for many tokens on AVX-512 with VNNI.

namespace many {
// Twice sixteen rows times so many tokens fill the registers: 12 sums of products of levels and 12 of weighted ones,
// or eight and sixteen where halves of a group are weighted by themselves.
constexpr int PARTS = 2;
constexpr int TILE_TOKENS = 6;
constexpr int HALVES_TILE_TOKENS = 4;
constexpr int64_t LEVELS_FROM = 5;  // tokens, measured
constexpr int64_t FLOATS_FROM = 16;

#include "multiply/many/rows.h"
#include "multiply/many/lanes_avx512.h"
#include "multiply/many/dot_vnni.h"
#include "multiply/many/many.h"
}  // namespace many

#include "multiply/many/choice.h"
