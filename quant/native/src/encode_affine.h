// Q4_K and Q5_K: value = d * scale * level - dmin * minimum, with a 6-bit scale and minimum for each 32 weights.
//
// Two super-blocks are laid side by side: lane j has the 32 weights of sub-block j, so that the search below never
// adds across lanes. For each sub-block:
//   1. lines: levels are taken for GRID x GRID ranges that end inside or outside of the smallest and largest weight;
//      for each, the best line through (level, weight) is computed by least squares, and the best of all is kept.
//      Its levels are then taken anew and it is fitted once more.
//   2. d and dmin follow from the largest scale and minimum of the super-block, and the 6-bit scales and minima start at
//      the nearest ones. In ROUNDS rounds each is moved by at most one to where the error is smallest, then d and dmin
//      are fitted to the levels.
// Errors are squared and weighted by the importance, if there is one. The constants are what measurement left
// (benchmarks/encode.py): more of any brings thousandths of the error.

#include "affine_search.h"
#include "affine_header.h"

template <class Type>
static inline void write_levels(const float* x, const uint8_t* scales, const uint8_t* minima, float d, float dmin,
                                uint8_t* levels) {
    for (int j = 0; j < BLOCK / SUB; ++j) {
        float step = d * static_cast<float>(scales[j]);
        F minimum = set(dmin * static_cast<float>(minima[j])), per_x = set(1.0f / step);
        for (int i = SUB * j; i < SUB * j + SUB; i += LANES) {
            store_levels(levels + i, nearest_between(mul(add(load(x + i), minimum), per_x), 0, Type::top));
        }
    }
}

// Encode two super-blocks, or one with padding beside it (`count` 1). False if a value is too large or not finite.
template <class Type, bool W>
static bool encode_pair(const Sources& from, int count, uint8_t* out) {
    Columns c;
    gather<W>(from, c);
    Header header = nearest_header(best_line<Type, W>(c), c.lowest);
    for (int round = 0; round < ROUNDS; ++round) {
        move_to_best<Type, W>(c, header);
        refit_steps<Type, W>(c, header);
    }
    uint8_t scales[LANES], minima[LANES], levels[BLOCK];
    store_levels(scales, header.scale);
    store_levels(minima, header.minimum);
    bool fits = true;
    for (int half = 0; half < count; ++half, out += Type::bytes) {
        Size size = size_of(float_bits(largest_lane(c.magnitudes, 8 * half, 8 * half + 8)));
        for (int j = 8 * half; j < 8 * half + 8; ++j) {
            if (size_of(float_bits(c.magnitudes[j])) == Size::too_large) size = Size::too_large;
        }
        if (size != Size::fits) {
            for (int i = 0; i < Type::bytes; ++i) out[i] = 0;
            fits = fits && size == Size::tiny;
            continue;
        }
        store_half(out, header.d[half]);
        store_half(out + 2, header.dmin[half]);
        pack_scales(scales + 8 * half, minima + 8 * half, out + 4);
        write_levels<Type>(from.x[half], scales + 8 * half, minima + 8 * half, half_value(header.d[half]),
                           half_value(header.dmin[half]), levels);
        pack_levels<Type>(levels, out + 16);
    }
    return fits;
}

template <class Type, bool W>
static bool encode_affine_blocks(const EncodeCall& call) {
    Padding padding;
    for (int i = 0; i < BLOCK; ++i) {
        padding.zeros[i] = 0;
        padding.ones[i] = 1;
    }
    bool fits = true;
    for (int64_t block = 0; block < call.blocks; block += 2) {
        const int count = call.blocks - block > 1 ? 2 : 1;
        Sources from = {{call.values + BLOCK * block, padding.zeros}, {padding.ones, padding.ones}};
        if (count == 2) from.x[1] = from.x[0] + BLOCK;
        for (int half = 0; W && half < count; ++half) {
            from.w[half] = call.weights + BLOCK * ((block + half) % call.row_blocks);
        }
        fits = encode_pair<Type, W>(from, count, call.out + Type::bytes * block) && fits;
    }
    return fits;
}

template <class Type>
static bool encode_affine(const EncodeCall& call) {
    return call.weights ? encode_affine_blocks<Type, true>(call) : encode_affine_blocks<Type, false>(call);
}
