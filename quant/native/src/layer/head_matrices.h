// The checks of what all forms of attention take: sizes of heads, and their matrices one below the other.
#pragma once

#include "layer/matrix.h"

namespace k2quant {

constexpr int64_t MAX_SIZE = int64_t{1} << 24;

inline bool is_size(int64_t size) { return size > 0 && size <= MAX_SIZE; }

inline bool head_sizes_fit(const k2quant_attention& a) {
    return is_size(a.heads) && is_size(a.nope) && is_size(a.latent) && is_size(a.value) && a.rope >= 0 &&
           a.rope <= MAX_SIZE && a.rope % 2 == 0;
}

// One head's matrix [rows, cols] out of those of all heads.
inline bool resolve_head(const MultiplyVariant& variant, k2quant_matrix given, int64_t rows, int64_t cols, int64_t heads,
                         Matrix& out) {
    if (given.rows != rows * heads || given.cols != cols) return false;
    given.rows = rows;
    return resolve(variant, given, out);
}

}  // namespace k2quant
