// Which of a layer's experts a token goes to, and whether they are at hand.
#pragma once

#include <cstdint>

#include "k2quant.h"

namespace k2quant {

constexpr int64_t MOST_USED = 64;  // experts of a token

// The experts of one token that are multiplied here, in the router's order, the shared one last.
struct Chosen {
    k2quant_expert experts[MOST_USED + 1];
    float weights[MOST_USED + 1];
    int64_t count = 0;
    int64_t missing = 0;

    void add(const k2quant_expert& expert, float weight) {
        experts[count] = expert;
        weights[count++] = weight;
    }

    // `used` of `table`, at most MOST_USED. What lies elsewhere is missing, or with `leave_out` somebody else's business.
    void choose(const k2quant_expert* table, const int64_t* ids, const float* scales, int64_t used, bool leave_out) {
        for (int64_t i = 0; i < used; ++i) {
            const k2quant_expert& expert = table[ids[i]];
            if (expert.gate) {
                add(expert, scales[i]);
            } else if (!leave_out || !expert.elsewhere) {
                ++missing;
            }
        }
    }
};

// y [hidden] = their sum for x [hidden]; zeros when there are none.
int multiply_chosen(int isa, void* pool, const float* x, int64_t hidden, const Chosen& chosen, float* y);

int64_t now_ns();

}  // namespace k2quant
