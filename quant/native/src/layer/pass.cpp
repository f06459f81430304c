// One token through some layers: attention, router, experts, one job after the other without coming back between them.
// What a caller does between two jobs takes as long as reading some megabytes of weights.
#include <time.h>

#include "jobs/jobs.h"
#include "k2quant_layer.h"
#include "pool/pool.h"

namespace k2quant {
namespace {

constexpr int64_t MOST_USED = 64;  // experts of a token

struct Pass {
    int isa;
    void* pool;
    float* x;      // [hidden]
    int64_t hidden;
    float* normed;  // [hidden]
    float* sum;     // [hidden]
    int64_t position, capacity;
    const float *cosines, *sines;
};

int64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return int64_t{1'000'000'000} * t.tv_sec + t.tv_nsec;
}

// x += the experts' sum, in the order of `chosen`, which all have weight 1 without `weights`.
int add_experts(const Pass& p, const k2quant_expert* chosen, int64_t count, const float* weights) {
    static constexpr int64_t NO_ID[MOST_USED + 1] = {};
    int64_t once[MOST_USED + 1];
    for (int64_t i = 0; i < count; ++i) once[i] = 1;
    const int status = k2quant_experts(p.isa, p.pool, p.normed, 1, p.hidden, chosen, count, once, NO_ID, weights, p.sum, 0);
    for (int64_t i = 0; i < p.hidden && status == K2QUANT_OK; ++i) p.x[i] += p.sum[i];
    return status;
}

int run_dense(const Pass& p, const k2quant_layer& layer) {
    if (!layer.norm || !layer.experts) return K2QUANT_BAD_ARGUMENT;
    const float one = 1;
    const int status = k2quant_rms_norm(p.isa, p.pool, p.x, layer.norm, 1, p.hidden, layer.eps, p.normed);
    return status == K2QUANT_OK ? add_experts(p, layer.experts, 1, &one) : status;
}

int run_experts(const Pass& p, const k2quant_layer& layer, int64_t* ids, int64_t* routed_ns) {
    const int64_t used = layer.router->used;
    if (!layer.experts || used > MOST_USED) return K2QUANT_BAD_ARGUMENT;
    k2quant_expert chosen[MOST_USED + 1];
    float weights[MOST_USED + 1];
    const int status = k2quant_route(p.isa, p.pool, layer.router, p.x, 1, p.normed, ids, weights);
    *routed_ns = now_ns();
    if (status != K2QUANT_OK) return status;
    for (int64_t i = 0; i < used; ++i) chosen[i] = layer.experts[ids[i]];
    if (layer.shared) {
        chosen[used] = *layer.shared;
        weights[used] = 1;
    }
    return add_experts(p, chosen, used + (layer.shared != nullptr), weights);
}

}  // namespace
}  // namespace k2quant

using namespace k2quant;

int k2quant_pass(int isa, void* pool, const k2quant_layer* layers, int64_t count, float* x, int64_t hidden,
                 float* const* caches, int64_t capacity, int64_t position, const float* cosines, const float* sines,
                 float* scratch, int64_t* ids, int64_t most_used, int64_t* times_ns) {
    if (!pool || !layers || count < 0 || !x || hidden < 1 || !caches || !scratch || !ids || !times_ns) {
        return K2QUANT_BAD_ARGUMENT;
    }
    for (int64_t i = 0; i < count; ++i) {
        const k2quant_layer& layer = layers[i];
        if (!layer.attention || layer.attention->hidden != hidden) return K2QUANT_BAD_ARGUMENT;
        if (layer.router && (layer.router->hidden != hidden || layer.router->used > most_used)) {
            return K2QUANT_BAD_ARGUMENT;
        }
    }
    const Turn turn(*static_cast<Pool*>(pool));
    const Pass p = {isa, pool, x, hidden, scratch, scratch + hidden, position, capacity, cosines, sines};
    for (int64_t i = 0; i < count; ++i, times_ns += 3, ids += most_used) {
        const int64_t start = now_ns();
        int status = k2quant_attend(isa, pool, layers[i].attention, x, 1, caches[i], capacity, position, cosines, sines);
        const int64_t attended = now_ns();
        int64_t routed = attended;
        if (status == K2QUANT_OK) {
            status = layers[i].router ? run_experts(p, layers[i], ids, &routed) : run_dense(p, layers[i]);
        }
        if (status != K2QUANT_OK) return status;
        times_ns[0] = attended - start;
        times_ns[1] = routed - attended;
        times_ns[2] = now_ns() - routed;
    }
    return K2QUANT_OK;
}
