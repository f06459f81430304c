#include "jobs/expert_list.h"

namespace k2quant {

namespace {

// False when a matrix does not fit. The lists are not looked at.
bool resolve(const MultiplyVariant& variant, const ExpertsCall& call, int64_t index, ListedExpert& out) {
    const k2quant_expert& given = call.experts[index];
    out.tokens = call.expert_tokens[index];
    return given.ff > 0 && given.hidden == call.hidden &&
           fit_matrix(variant, given.gate_type, given.gate, given.ff, call.hidden, out.gate) &&
           fit_matrix(variant, given.up_type, given.up, given.ff, call.hidden, out.up) &&
           fit_matrix(variant, given.down_type, given.down, call.hidden, given.ff, out.down);
}

}  // namespace

void list_experts(const MultiplyVariant& variant, const ExpertsCall& call, ListedExpert* out) {
    const int64_t* token_ids = call.token_ids;
    const float* scales = call.scales;
    for (int64_t i = 0; i < call.count; ++i) {
        ListedExpert& expert = out[i];
        resolve(variant, call, i, expert);
        expert.token_ids = token_ids;
        expert.scales = scales;
        token_ids += expert.tokens;
        scales += expert.tokens;
    }
}

bool any_takes_levels(const MultiplyVariant& variant, const ExpertsCall& call) {
    for (int64_t i = 0; i < call.count; ++i) {
        const k2quant_expert& given = call.experts[i];
        if (!variant.of(given.gate_type)->takes_floats || !variant.of(given.up_type)->takes_floats) return true;
    }
    return false;
}

bool fit_experts(const MultiplyVariant& variant, const ExpertsCall& call) {
    if (call.tokens < 0 || call.count < 0 || call.count > MOST_WEIGHTS || call.hidden <= 0 ||
        (call.tokens > 0 && (!call.x || !call.y)) || !product_fits(call.tokens, call.hidden)) {
        return false;
    }
    if (call.count > 0 && (!call.experts || !call.expert_tokens)) return false;
    int64_t listed = 0;
    for (int64_t i = 0; i < call.count; ++i) {
        ListedExpert expert;
        if (!resolve(variant, call, i, expert) || expert.tokens < 0) return false;
        if (!product_fits(expert.tokens, call.experts[i].ff) || !product_fits(expert.tokens, call.hidden)) return false;
        if (expert.tokens > 0 && (!call.token_ids || !call.scales)) return false;
        for (int64_t t = 0; t < expert.tokens; ++t) {
            const int64_t id = call.token_ids[listed + t];
            if (id < 0 || id >= call.tokens) return false;
        }
        listed += expert.tokens;
    }
    return true;
}

}  // namespace k2quant
