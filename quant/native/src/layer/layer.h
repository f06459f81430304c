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

struct LayerVariant {
    // out = x / sqrt(mean(x^2) + eps) * weight
    void (*rms_norm)(const float* x, const float* weight, int64_t count, float eps, float* out);
    void (*attend_chunk)(const ChunkCall& call);
    void (*join_chunks)(const JoinCall& call);
};

extern const LayerVariant layer_portable;
extern const LayerVariant layer_avx2;
extern const LayerVariant layer_avx512;

// The variant of an instruction set (k2quant_isa), null when this machine cannot run it.
const LayerVariant* layer_variant(int isa);

}  // namespace k2quant
