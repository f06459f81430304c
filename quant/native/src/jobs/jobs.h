// Products by all threads of a pool, of arguments that were checked. Each is false when there is no memory.
#pragma once

#include <cstdint>

#include "jobs/products.h"
#include "k2quant.h"

namespace k2quant {

// x [tokens, cols] -> y [tokens, rows]
bool linear_job(Pool& pool, const MultiplyVariant& variant, const BlockMatrix& w, const float* x, int64_t tokens,
                float* y);

// Matrices of heads, one after the other, each [rows, cols] like `first`; x of a token and head lies at token *
// token_stride + head * head_stride. y [tokens, heads, rows]
struct HeadsCall {
    BlockMatrix first;
    int64_t heads;
    const float* x;
    int64_t token_stride;
    int64_t head_stride;
    int64_t tokens;
    float* y;
};
bool heads_job(Pool& pool, const MultiplyVariant& variant, const HeadsCall& call);

// Experts [hidden -> ff -> hidden] and what each is asked, their lists one after the other.
struct ExpertsCall {
    const float* x;  // [tokens, hidden]
    int64_t tokens;
    int64_t hidden;
    const k2quant_expert* experts;  // [count]
    int64_t count;
    const int64_t* expert_tokens;  // [count], how many of the lists below are an expert's
    const int64_t* token_ids;      // rows of x and y
    const float* scales;
    float* y;  // [tokens, hidden]
    bool add;  // to what y holds
};
bool experts_job(Pool& pool, const MultiplyVariant& variant, const ExpertsCall& call);

// False when a matrix or a list does not fit.
bool fit_experts(const MultiplyVariant& variant, const ExpertsCall& call);

// The sum of all 64-bit words, after the last whole one the rest as another.
uint64_t read_roof_job(Pool& pool, int isa, const uint8_t* data, int64_t bytes);

}  // namespace k2quant
