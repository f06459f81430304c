// Latent attention of a few tokens as one job: norm, queries, cache, scores, values, output, all without coming back.
#include <cmath>

#include "layer/head_matrices.h"
#include "layer/layer.h"
#include "layer/matrix.h"
#include "layer/rows.h"
#include "pool/pool.h"

namespace k2quant {
namespace {

constexpr int64_t HEAD_PIECES = 16;
constexpr int64_t SERIAL_BYTES = 192 * 1024;  // of weights: below, waking other threads takes longer than the work

struct Attend {
    const k2quant_attention& a;
    const MultiplyVariant& multiply;
    const LayerVariant& layer;
    Pool& pool;
    float* x;        // [tokens, hidden]
    int64_t tokens;
    float* cache;    // [positions, latent + rope]
    int64_t position;
    const float* cosines;  // [tokens, rope / 2]
    const float* sines;
    Matrix q_a, q_b, kv_a, k_b, v_b, output;  // k_b and v_b are one head's

    Rows normed, low, queries, nope, latent_queries, taken, joined, heads_out, key_values, result;
    float* largest;  // [chunks, tokens * heads]
    float* total;
    bool failed = false;

    int64_t width() const { return a.latent + a.rope; }
    int64_t positions() const { return position + tokens; }
    int64_t chunks() const { return (positions() + CHUNK_POSITIONS - 1) / CHUNK_POSITIONS; }
    int64_t groups() const { return (a.heads + GROUP_HEADS - 1) / GROUP_HEADS; }
    int64_t rows() const { return tokens * a.heads; }
    int64_t head_pieces() const { return (a.heads + heads_of_piece() - 1) / heads_of_piece(); }
    int64_t heads_of_piece() const { return (a.heads + HEAD_PIECES - 1) / HEAD_PIECES; }
    int64_t end_of_heads(int64_t piece) const {
        const int64_t end = (piece + 1) * heads_of_piece();
        return end < a.heads ? end : a.heads;
    }

    void lay_out(Shelf& shelf) {
        normed = Rows::on(shelf, tokens, a.hidden);
        low = Rows::on(shelf, tokens, a.q_rank);
        queries = Rows::on(shelf, tokens, a.heads * (a.nope + a.rope));
        nope = Rows::on(shelf, rows(), a.nope);
        latent_queries = Rows::on(shelf, rows(), width());
        taken = Rows::on(shelf, chunks() * rows(), a.latent);
        joined = Rows::on(shelf, rows(), a.latent);
        heads_out = Rows::on(shelf, tokens, a.heads * a.value);
        key_values = Rows::on(shelf, tokens, width());
        result = Rows::on(shelf, tokens, a.hidden);
        largest = shelf.take<float>(chunks() * rows());
        total = shelf.take<float>(chunks() * rows());
    }
};

Attend& of(void* job) { return *static_cast<Attend*>(job); }

void norm_token(void* job, int64_t token, int) {
    Attend& s = of(job);
    s.layer.rms_norm(s.x + token * s.a.hidden, s.a.norm, s.a.hidden, s.a.eps, s.normed.row(token));
    s.normed.ready(s.multiply, token);
}

// Pieces of the matrices that take the normed hidden state: the queries' first one, then the keys' and values'.
void project(void* job, int64_t piece, int) {
    Attend& s = of(job);
    const bool low_rank = s.a.q_rank > 0;
    const Matrix& first = low_rank ? s.q_a : s.q_b;
    const Rows& out = low_rank ? s.low : s.queries;
    if (piece < first.pieces()) {
        multiply_piece(first, piece, s.normed.x, s.tokens, out.values, out.cols);
    } else {
        multiply_piece(s.kv_a, piece - first.pieces(), s.normed.x, s.tokens, s.key_values.values, s.key_values.cols);
    }
}

// Interleaved pairs (2i, 2i + 1), as the checkpoints have them.
void rotate(const Attend& s, int64_t token, const float* from, float* to) {
    const float* cosines = s.cosines + token * s.a.rope / 2;
    const float* sines = s.sines + token * s.a.rope / 2;
    for (int64_t i = 0; i < s.a.rope / 2; ++i) {
        const float even = from[2 * i], odd = from[2 * i + 1];
        to[2 * i] = even * cosines[i] - odd * sines[i];
        to[2 * i + 1] = odd * cosines[i] + even * sines[i];
    }
}

void write_cache(void* job, int64_t token, int) {
    Attend& s = of(job);
    const float* found = s.key_values.row(token);
    float* cached = s.cache + (s.position + token) * s.width();
    s.layer.rms_norm(found, s.a.kv_a_norm, s.a.latent, s.a.lora_eps, cached);
    rotate(s, token, found + s.a.latent, cached + s.a.latent);
    if (s.a.q_rank > 0) {
        s.layer.rms_norm(s.low.row(token), s.a.q_a_norm, s.a.q_rank, s.a.lora_eps, s.low.row(token));
        s.low.ready(s.multiply, token);
    }
}

void expand_queries(void* job, int64_t piece, int) {
    Attend& s = of(job);
    multiply_piece(s.q_b, piece, s.low.x, s.tokens, s.queries.values, s.queries.cols);
}

// A head's queries go into latent space; rows of a head lie together: row = head * tokens + token.
void absorb_head(Attend& s, int64_t head) {
    const int64_t first = head * s.tokens;
    for (int64_t token = 0; token < s.tokens; ++token) {
        const float* query = s.queries.row(token) + head * (s.a.nope + s.a.rope);
        __builtin_memcpy(s.nope.row(first + token), query, sizeof(float) * static_cast<size_t>(s.a.nope));
        s.nope.ready(s.multiply, first + token);
        rotate(s, token, query + s.a.nope, s.latent_queries.row(first + token) + s.a.latent);
    }
    const uint8_t* weights = s.k_b.data + head * s.k_b.bytes();
    s.k_b.kernels->few({weights, s.k_b.rows, s.k_b.cols, s.k_b.row_bytes, s.nope.x + first, s.tokens,
                        s.latent_queries.row(first), s.latent_queries.cols});
}

// Heads one after the other, as their matrices lie.
void absorb_heads(void* job, int64_t piece, int) {
    Attend& s = of(job);
    for (int64_t head = piece * s.heads_of_piece(); head < s.end_of_heads(piece); ++head) absorb_head(s, head);
}

void attend_piece(void* job, int64_t piece, int worker) {
    Attend& s = of(job);
    const int64_t chunk = piece / s.groups(), group = piece % s.groups();
    const int64_t first_head = group * GROUP_HEADS;
    const int64_t heads = s.a.heads - first_head < GROUP_HEADS ? s.a.heads - first_head : GROUP_HEADS;
    const int64_t count = heads * s.tokens, first = first_head * s.tokens;
    const int64_t start = chunk * CHUNK_POSITIONS;
    const int64_t positions = s.positions() - start < CHUNK_POSITIONS ? s.positions() - start : CHUNK_POSITIONS;
    const float* queries[GROUP_HEADS * MOST_TOKENS];
    int64_t visible[GROUP_HEADS * MOST_TOKENS];
    float* out[GROUP_HEADS * MOST_TOKENS];
    for (int64_t row = 0; row < count; ++row) {
        const int64_t seen = s.position + (first + row) % s.tokens + 1 - start;
        queries[row] = s.latent_queries.row(first + row);
        visible[row] = seen < 0 ? 0 : seen < positions ? seen : positions;
        out[row] = s.taken.row(chunk * s.rows() + first + row);
    }
    auto* scores = static_cast<float*>(
        worker_memory(s.pool, worker, sizeof(float) * static_cast<size_t>(count * CHUNK_POSITIONS)));
    if (!scores) {
        __atomic_store_n(&s.failed, true, __ATOMIC_RELAXED);
        return;
    }
    s.layer.attend_chunk({queries, visible, count, s.cache + start * s.width(), positions, s.a.latent, s.a.rope,
                          s.a.scale, scores, out, s.largest + chunk * s.rows() + first,
                          s.total + chunk * s.rows() + first});
}

void leave_head(Attend& s, int64_t head) {
    const int64_t first = head * s.tokens;
    for (int64_t row = first; row < first + s.tokens; ++row) {
        s.layer.join_chunks({s.taken.row(row), s.largest + row, s.total + row, s.chunks(), s.rows() * s.a.latent,
                             s.rows(), s.a.latent, s.joined.row(row)});
        s.joined.ready(s.multiply, row);
    }
    const uint8_t* weights = s.v_b.data + head * s.v_b.bytes();
    s.v_b.kernels->few({weights, s.v_b.rows, s.v_b.cols, s.v_b.row_bytes, s.joined.x + first, s.tokens,
                        s.heads_out.values + head * s.a.value, s.heads_out.cols});
}

void leave_heads(void* job, int64_t piece, int) {
    Attend& s = of(job);
    for (int64_t head = piece * s.heads_of_piece(); head < s.end_of_heads(piece); ++head) leave_head(s, head);
}

void ready_output(void* job, int64_t token, int) { of(job).heads_out.ready(of(job).multiply, token); }

void add_output(void* job, int64_t piece, int) {
    Attend& s = of(job);
    multiply_piece(s.output, piece, s.heads_out.x, s.tokens, s.result.values, s.result.cols);
    const int64_t first = piece * s.output.piece_rows();
    const int64_t last = first + s.output.piece_rows() < s.output.rows ? first + s.output.piece_rows() : s.output.rows;
    for (int64_t token = 0; token < s.tokens; ++token) {
        float* x = s.x + token * s.a.hidden;
        for (int64_t row = first; row < last; ++row) x[row] += s.result.row(token)[row];
    }
}

bool resolve_shaped(const MultiplyVariant& variant, const k2quant_matrix& given, int64_t rows, int64_t cols,
                    Matrix& out) {
    return given.rows == rows && given.cols == cols && resolve(variant, given, out);
}

bool fits(Attend& s) {
    const k2quant_attention& a = s.a;
    if (!head_sizes_fit(a) || !is_size(a.hidden) || a.q_rank < 0 || a.q_rank > MAX_SIZE) return false;
    if (!a.norm || !a.kv_a_norm || (a.q_rank > 0 && !a.q_a_norm)) return false;
    const int64_t from = a.q_rank > 0 ? a.q_rank : a.hidden;
    return (a.q_rank == 0 || resolve_shaped(s.multiply, a.q_a, a.q_rank, a.hidden, s.q_a)) &&
           resolve_shaped(s.multiply, a.q_b, a.heads * (a.nope + a.rope), from, s.q_b) &&
           resolve_shaped(s.multiply, a.kv_a, a.latent + a.rope, a.hidden, s.kv_a) &&
           resolve_head(s.multiply, a.k_b, a.latent, a.nope, a.heads, s.k_b) &&
           resolve_head(s.multiply, a.v_b, a.value, a.latent, a.heads, s.v_b) &&
           resolve_shaped(s.multiply, a.output, a.hidden, a.heads * a.value, s.output);
}

int run(Attend& s) {
    const Turn turn(s.pool);
    Shelf counted(nullptr);
    s.lay_out(counted);
    void* memory = job_memory(s.pool, counted.used());
    if (!memory) return K2QUANT_NO_MEMORY;
    Shelf shelf(memory);
    s.lay_out(shelf);
    const bool low_rank = s.a.q_rank > 0;
    const Phase phases[] = {
        {norm_token, s.tokens},
        {project, (low_rank ? s.q_a : s.q_b).pieces() + s.kv_a.pieces()},
        {write_cache, s.tokens},
        {expand_queries, low_rank ? s.q_b.pieces() : 0},
        {absorb_heads, s.head_pieces()},
        {attend_piece, s.chunks() * s.groups()},
        {leave_heads, s.head_pieces()},
        {ready_output, s.tokens},
        {add_output, s.output.pieces()},
    };
    const int64_t bytes = s.q_a.bytes() + s.q_b.bytes() + s.kv_a.bytes() + s.output.bytes() +
                          s.a.heads * (s.k_b.bytes() + s.v_b.bytes()) + s.positions() * s.width() * 4;
    const int helpers = bytes < SERIAL_BYTES ? 0 : pool_threads(s.pool) - 1;
    run_phases(s.pool, &s, phases, sizeof phases / sizeof phases[0], helpers);
    return s.failed ? K2QUANT_NO_MEMORY : K2QUANT_OK;
}

}  // namespace
}  // namespace k2quant

using namespace k2quant;

int k2quant_attend(int isa, void* pool, const k2quant_attention* attention, float* x, int64_t tokens, float* cache,
                   int64_t capacity, int64_t position, const float* cosines, const float* sines) {
    const MultiplyVariant* multiply = multiply_variant(isa);
    const LayerVariant* layer = layer_variant(isa);
    if (!multiply || !layer || !pool || !attention || !x || !cache) return K2QUANT_BAD_ARGUMENT;
    if (attention->rope && (!cosines || !sines)) return K2QUANT_BAD_ARGUMENT;
    if (tokens < 1 || tokens > MOST_TOKENS || position < 0 || capacity > MAX_WEIGHTS) return K2QUANT_BAD_ARGUMENT;
    if (position > capacity - tokens) return K2QUANT_BAD_ARGUMENT;
    Attend state = {*attention, *multiply, *layer, *static_cast<Pool*>(pool), x, tokens, cache, position, cosines, sines,
                    {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, nullptr, nullptr};
    return fits(state) ? run(state) : K2QUANT_BAD_ARGUMENT;
}
