// The experts of a call with their matrices and their parts of its lists.
#pragma once

#include "jobs/jobs.h"

namespace k2quant {

struct ListedExpert {
    BlockMatrix gate, up, down;
    int64_t tokens;
    const int64_t* token_ids;
    const float* scales;
};

// Fills out [count] of a call that fit_experts accepted.
void list_experts(const MultiplyVariant& variant, const ExpertsCall& call, ListedExpert* out);

// Whether some gate or up takes levels.
bool any_takes_levels(const MultiplyVariant& variant, const ExpertsCall& call);

}  // namespace k2quant
