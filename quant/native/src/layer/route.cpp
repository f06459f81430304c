// Norm and router of a few tokens as one job: which experts each goes to, and with which weights. All in float32.
//
// Bias and groups as in DeepSeek-V3 (arXiv 2412.19437, section 2.1.2): both take part in the choice, not in the weights.
#include <cmath>

#include "layer/layer.h"
#include "layer/matrix.h"
#include "layer/rows.h"
#include "pool/pool.h"

namespace k2quant {
namespace {

constexpr int64_t SERIAL_BYTES = 192 * 1024;
constexpr int64_t MAX_EXPERTS = 1 << 16;
constexpr float LEAST_SUM = 1e-20f;  // keeps the division finite when every score is 0

struct Route {
    const k2quant_router& r;
    const MultiplyVariant& multiply;
    const LayerVariant& layer;
    const float* x;  // [tokens, hidden]
    int64_t tokens;
    float* normed;     // [tokens, hidden]
    int64_t* ids;      // [tokens, used]
    float* weights;    // [tokens, used]
    Matrix w;
    Activations* activations;  // [tokens]
    float* scores;             // [tokens, experts]
    float* choice;             // [tokens, experts]
    float* group_scores;       // [tokens, groups]
};

Route& of(void* job) { return *static_cast<Route*>(job); }

void norm_token(void* job, int64_t token, int) {
    Route& s = of(job);
    float* normed = s.normed + token * s.r.hidden;
    s.layer.rms_norm(s.x + token * s.r.hidden, s.r.norm, s.r.hidden, s.r.eps, normed);
    s.activations[token] = {normed, nullptr, nullptr, nullptr};
}

void score_piece(void* job, int64_t piece, int) {
    Route& s = of(job);
    multiply_piece(s.w, piece, s.activations, s.tokens, s.scores, s.r.experts);
}

void turn_into_probabilities(float* scores, int64_t count) {
    float largest = scores[0];
    for (int64_t i = 1; i < count; ++i) largest = scores[i] > largest ? scores[i] : largest;
    float total = 0;
    for (int64_t i = 0; i < count; ++i) total += scores[i] = std::exp(scores[i] - largest);
    for (int64_t i = 0; i < count; ++i) scores[i] /= total;
}

// Number of the largest of `count`; the first of equals. NaN never wins.
int64_t largest_of(const float* values, int64_t count) {
    int64_t best = 0;
    for (int64_t i = 1; i < count; ++i) {
        if (values[i] > values[best] || values[best] != values[best]) best = i;
    }
    return best;
}

// Puts the experts of all but the best groups out of reach; a group's score is the sum of its two best.
void mask_groups(const k2quant_router& r, float* choice, float* group_scores) {
    const int64_t size = r.experts / r.groups;
    for (int64_t group = 0; group < r.groups; ++group) {
        float first = -INFINITY, second = -INFINITY;
        for (int64_t i = group * size; i < (group + 1) * size; ++i) {
            if (choice[i] > first) {
                second = first;
                first = choice[i];
            } else if (choice[i] > second) {
                second = choice[i];
            }
        }
        group_scores[group] = size > 1 ? first + second : first;
    }
    for (int64_t kept = 0; kept < r.groups_used; ++kept) {
        group_scores[largest_of(group_scores, r.groups)] = -INFINITY;
    }
    for (int64_t group = 0; group < r.groups; ++group) {
        if (group_scores[group] == -INFINITY) continue;
        for (int64_t i = group * size; i < (group + 1) * size; ++i) choice[i] = -INFINITY;
    }
}

void choose_token(void* job, int64_t token, int) {
    Route& s = of(job);
    const k2quant_router& r = s.r;
    float* scores = s.scores + token * r.experts;
    float* choice = s.choice + token * r.experts;
    if (r.softmax) {
        turn_into_probabilities(scores, r.experts);
    } else {
        for (int64_t i = 0; i < r.experts; ++i) scores[i] = 1.0f / (1.0f + std::exp(-scores[i]));
    }
    for (int64_t i = 0; i < r.experts; ++i) choice[i] = scores[i] + (r.bias ? r.bias[i] : 0.0f);
    if (r.groups > 1) mask_groups(r, choice, s.group_scores + token * r.groups);
    float total = 0;
    for (int64_t i = 0; i < r.used; ++i) {
        const int64_t best = largest_of(choice, r.experts);
        s.ids[token * r.used + i] = best;
        total += s.weights[token * r.used + i] = scores[best];
        choice[best] = -INFINITY;
    }
    const float factor = r.normalize ? r.scale / (total + LEAST_SUM) : r.scale;
    for (int64_t i = 0; i < r.used; ++i) s.weights[token * r.used + i] *= factor;
}

bool fits(Route& s) {
    const k2quant_router& r = s.r;
    if (!r.norm || !r.weight || r.experts < 1 || r.experts > MAX_EXPERTS || r.used < 1 || r.used > r.experts) return false;
    if (r.groups < 1 || r.experts % r.groups || r.groups_used < 1 || r.groups_used > r.groups) return false;
    if (r.used > r.experts / r.groups * r.groups_used) return false;  // they would run out
    return resolve(s.multiply, {reinterpret_cast<const uint8_t*>(r.weight), r.experts, r.hidden, K2QUANT_F32, 0}, s.w);
}

void lay_out(Route& s, Shelf& shelf) {
    s.activations = shelf.take<Activations>(s.tokens);
    s.scores = shelf.take<float>(s.tokens * s.r.experts);
    s.choice = shelf.take<float>(s.tokens * s.r.experts);
    s.group_scores = shelf.take<float>(s.tokens * s.r.groups);
}

int run(Route& s, Pool& pool) {
    const Turn turn(pool);
    Shelf counted(nullptr);
    lay_out(s, counted);
    void* memory = job_memory(pool, counted.used());
    if (!memory) return K2QUANT_NO_MEMORY;
    Shelf shelf(memory);
    lay_out(s, shelf);
    const Phase phases[] = {{norm_token, s.tokens}, {score_piece, s.w.pieces()}, {choose_token, s.tokens}};
    const int helpers = s.w.bytes() < SERIAL_BYTES ? 0 : pool_threads(pool) - 1;
    run_phases(pool, &s, phases, sizeof phases / sizeof phases[0], helpers);
    return K2QUANT_OK;
}

}  // namespace
}  // namespace k2quant

using namespace k2quant;

int k2quant_route(int isa, void* pool, const k2quant_router* router, const float* x, int64_t tokens, float* normed,
                  int64_t* ids, float* weights) {
    const MultiplyVariant* multiply = multiply_variant(isa);
    const LayerVariant* layer = layer_variant(isa);
    if (!multiply || !layer || !pool || !router || !x || !normed || !ids || !weights) return K2QUANT_BAD_ARGUMENT;
    if (tokens < 1 || tokens > MOST_TOKENS) return K2QUANT_BAD_ARGUMENT;
    Route s = {*router, *multiply, *layer, x, tokens, normed, ids, weights, {}, nullptr, nullptr, nullptr, nullptr};
    if (!fits(s)) return K2QUANT_BAD_ARGUMENT;
    return run(s, *static_cast<Pool*>(pool));
}
