// The parts of a decoder layer around its experts, for few tokens: latent attention (DeepSeek-V2, arXiv 2405.04434,
// section 2.1) in its absorbed form, and the router. What an instruction set brings to it, and the checked sizes.
#pragma once

#include <cstdint>

#include "multiply/multiply.h"

namespace k2quant {

constexpr int64_t CHUNK_POSITIONS = 128;  // of the cache at a time: with 576 values each they stay in a core's cache
constexpr int64_t GROUP_HEADS = 16;       // heads that read a chunk together

// Some queries against some cached positions: what they take from them, before the chunks are joined.
struct ChunkCall {
    const float* const* queries;  // [rows], each [latent + rope]
    const int64_t* visible;       // [rows]: how many of the positions each may see
    int64_t rows;
    const float* cache;  // [positions, latent + rope]
    int64_t positions;
    int64_t latent;
    int64_t rope;
    float scale;
    float* scores;      // [rows, CHUNK_POSITIONS], scratch
    float* const* out;  // [rows], each [latent]: sum of exp(score - largest) * latent
    float* largest;     // [rows], -infinity for a query that sees none
    float* total;       // [rows], sum of exp(score - largest)
};

// The chunks of one query joined: out [latent] is the weighted mean.
struct JoinCall {
    const float* parts;    // [chunks][stride], the first `latent` of each
    const float* largest;  // [chunks][largest_stride]
    const float* total;
    int64_t chunks;
    int64_t stride;
    int64_t number_stride;
    int64_t latent;
    float* out;
};

constexpr int64_t PANEL_COLS = 64;       // columns of a matrix that lie together; queries of a tile
constexpr int64_t HEAD_POSITIONS = 128;  // of the cache that a head expands at a time

// Keys and values of one head for some cached positions: out [positions][cols, in whole panels] = latents times a matrix
// in panels, each [latent][PANEL_COLS].
struct ExpandCall {
    const float* latents;  // [positions][latent_step]
    int64_t latent_step;
    int64_t positions;
    int64_t latent;
    const float* panels;
    int64_t cols;
    float* out;
};

// Some queries of one head, lanes of a panel, and a chunk of at most HEAD_POSITIONS positions. Chunks come one after the
// other: `largest` begins with -infinity, `total` and `out` with 0, and every query sees position 0.
struct TileCall {
    const float* queries;  // [key_width + rotated_width][PANEL_COLS], scaled
    int vectors;           // of sixteen queries
    const float* keys;     // [positions][key_step]
    int64_t key_step;
    int64_t key_width;
    const float* rotated;  // the keys' rotary parts, [positions][rotated_step]
    int64_t rotated_step;
    int64_t rotated_width;
    const float* values;  // [positions][value_step]
    int64_t value_step;
    int64_t value_width;
    int64_t positions;
    int64_t visible;  // the first query sees so many of the positions, each other one more than that before it
    float* scores;    // [HEAD_POSITIONS][PANEL_COLS], scratch
    float* largest;   // [PANEL_COLS], of the scores so far
    float* total;     // [PANEL_COLS], sum of exp(score - largest)
    float* out;       // [value_width][PANEL_COLS], sum of exp(score - largest) * value
};

struct LayerVariant {
    // out = x / sqrt(mean(x^2) + eps) * weight
    void (*rms_norm)(const float* x, const float* weight, int64_t count, float eps, float* out);
    void (*attend_chunk)(const ChunkCall& call);
    void (*join_chunks)(const JoinCall& call);
    void (*expand_positions)(const ExpandCall& call);
    void (*attend_tile)(const TileCall& call);
};

extern const LayerVariant layer_portable;
extern const LayerVariant layer_avx2;
extern const LayerVariant layer_avx512;

// The variant of an instruction set (k2quant_isa), null when this machine cannot run it.
const LayerVariant* layer_variant(int isa);

}  // namespace k2quant
