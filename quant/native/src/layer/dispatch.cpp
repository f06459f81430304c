// One token's experts of a layer, looked up and multiplied in one call.
#include "layer/dispatch.h"

#include <time.h>

#include "k2quant_layer.h"

namespace k2quant {

int64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return int64_t{1'000'000'000} * t.tv_sec + t.tv_nsec;
}

int multiply_chosen(int isa, void* pool, const float* x, int64_t hidden, const Chosen& chosen, float* y) {
    static constexpr int64_t FIRST_TOKEN[MOST_USED + 1] = {};
    int64_t once[MOST_USED + 1];
    for (int64_t i = 0; i < chosen.count; ++i) once[i] = 1;
    return k2quant_experts(isa, pool, x, 1, hidden, chosen.experts, chosen.count, once, FIRST_TOKEN, chosen.weights, y, 0);
}

}  // namespace k2quant

using namespace k2quant;

int k2quant_dispatch(int isa, void* pool, const float* x, int64_t hidden, const k2quant_expert* table, int64_t experts,
                     const int64_t* ids, const float* weights, int64_t used, int leave_out, const k2quant_expert* shared,
                     float* y, int64_t* outcome) {
    if (!pool || !x || !table || !ids || !weights || !y || !outcome || used < 0 || used > MOST_USED) {
        return K2QUANT_BAD_ARGUMENT;
    }
    for (int64_t i = 0; i < used; ++i) {
        if (ids[i] < 0 || ids[i] >= experts) return K2QUANT_BAD_ARGUMENT;
    }
    const int64_t start = now_ns();
    Chosen chosen;
    chosen.choose(table, ids, weights, used, leave_out != 0);
    outcome[0] = chosen.count;
    outcome[1] = chosen.missing;
    outcome[2] = 0;
    if (chosen.missing) return K2QUANT_OK;
    if (shared) chosen.add(*shared, 1);
    const int status = multiply_chosen(isa, pool, x, hidden, chosen, y);
    outcome[2] = now_ns() - start;
    return status;
}
