// One token through some layers: attention, router, experts, one job after the other without coming back between them.
// What a caller does between two jobs takes as long as reading some megabytes of weights.
#include "jobs/jobs.h"
#include "k2quant_layer.h"
#include "layer/dispatch.h"
#include "pool/pool.h"

namespace k2quant {
namespace {

struct Pass {
    int isa;
    void* pool;
    const k2quant_layer* layers;
    int64_t count;
    float* x;  // [hidden]
    int64_t hidden;
    float *normed, *sum, *guess_normed;  // [hidden]
    int64_t guess;
};

// x += the sum of experts.
int add_experts(const Pass& p, const Chosen& chosen) {
    const int status = multiply_chosen(p.isa, p.pool, p.normed, p.hidden, chosen, p.sum);
    for (int64_t i = 0; i < p.hidden && status == K2QUANT_OK; ++i) p.x[i] += p.sum[i];
    return status;
}

int run_dense(const Pass& p, const k2quant_layer& layer) {
    const int status = k2quant_rms_norm(p.isa, p.pool, p.x, layer.norm, 1, p.hidden, layer.eps, p.normed);
    if (status != K2QUANT_OK) return status;
    Chosen block;
    block.add(layer.experts[0], 1);
    return add_experts(p, block);
}

// Whether what the layer behind `index` will probably ask for is here.
int find_guess(const Pass& p, int64_t index, bool& is_here) {
    is_here = true;
    if (p.guess == 0 || index + 1 == p.count || !p.layers[index + 1].router) return K2QUANT_OK;
    const k2quant_layer& next = p.layers[index + 1];
    int64_t ids[MOST_USED];
    float weights[MOST_USED];
    const int status = k2quant_route(p.isa, p.pool, next.router, p.x, 1, p.guess_normed, ids, weights);
    const int64_t count = p.guess < next.router->used ? p.guess : next.router->used;
    for (int64_t i = 0; i < count && status == K2QUANT_OK; ++i) is_here = is_here && next.experts[ids[i]].gate;
    return status;
}

int run_experts(const Pass& p, int64_t index, int64_t* ids, float* weights, int64_t* routed_ns, bool& is_here) {
    const k2quant_layer& layer = p.layers[index];
    int status = k2quant_route(p.isa, p.pool, layer.router, p.x, 1, p.normed, ids, weights);
    *routed_ns = now_ns();
    if (status != K2QUANT_OK) return status;
    Chosen chosen;
    chosen.choose(layer.experts, ids, weights, layer.router->used, false);
    is_here = !chosen.missing;
    if (is_here) status = find_guess(p, index, is_here);
    if (status != K2QUANT_OK || !is_here) return status;
    if (layer.shared) chosen.add(*layer.shared, 1);
    return add_experts(p, chosen);
}

bool fits(const k2quant_layer& layer, int64_t hidden, int64_t most_used) {
    if (!layer.attention || layer.attention->hidden != hidden || !layer.experts) return false;
    if (!layer.router) return layer.norm;
    return layer.router->hidden == hidden && layer.router->used <= most_used && layer.router->used <= MOST_USED;
}

}  // namespace
}  // namespace k2quant

using namespace k2quant;

int k2quant_pass(int isa, void* pool, const k2quant_layer* layers, int64_t count, int64_t first, float* x,
                 int64_t hidden, float* const* caches, int64_t capacity, int64_t position, const float* cosines,
                 const float* sines, float* scratch, int64_t* ids, float* weights, int64_t most_used, int64_t guess,
                 int64_t* times_ns, int64_t* reached) {
    if (!pool || !layers || count < 0 || first < 0 || first > count || !x || hidden < 1 || !caches || !scratch || !ids ||
        !weights || guess < 0 || !times_ns || !reached) {
        return K2QUANT_BAD_ARGUMENT;
    }
    for (int64_t i = 0; i < count; ++i) {
        if (!fits(layers[i], hidden, most_used)) return K2QUANT_BAD_ARGUMENT;
    }
    const Turn turn(*static_cast<Pool*>(pool));
    const Pass p = {isa,     pool,             layers,               count, x, hidden,
                    scratch, scratch + hidden, scratch + 2 * hidden, guess};
    for (int64_t i = first; i < count; ++i) {
        *reached = i;
        const int64_t start = now_ns();
        int status = k2quant_attend(isa, pool, layers[i].attention, x, 1, caches[i], capacity, position, cosines, sines);
        const int64_t attended = now_ns();
        int64_t routed = attended;
        bool is_here = true;
        if (status == K2QUANT_OK) {
            status = layers[i].router ? run_experts(p, i, ids + i * most_used, weights, &routed, is_here)
                                      : run_dense(p, layers[i]);
        }
        if (status != K2QUANT_OK) return status;
        times_ns[3 * i] = attended - start;
        times_ns[3 * i + 1] = routed - attended;
        times_ns[3 * i + 2] = now_ns() - routed;
        if (!is_here) return K2QUANT_OK;
    }
    *reached = count;
    return K2QUANT_OK;
}
