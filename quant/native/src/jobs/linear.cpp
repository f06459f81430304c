// A matrix, or one for each head, times activations.
#include "jobs/jobs.h"

namespace k2quant {

namespace {

constexpr int64_t ROW_STEP = 8;

// Pieces are some heads, or some rows of one head.
struct Heads {
    Pool* pool;
    const MultiplyVariant* variant;
    HeadsCall call;
    VectorSet vectors;  // [heads, tokens]
    int64_t vectors_of_piece;
    int64_t rows_of_piece, row_pieces, heads_of_piece;
    size_t scratch;

    void quantize(int64_t piece) const {
        const int64_t first = piece * vectors_of_piece, last = first + vectors_of_piece;
        for (int64_t i = first; i < last && i < vectors.count; ++i) vectors.quantize(*variant, i);
    }

    void multiply(int64_t piece, int worker) const {
        void* memory = scratch ? worker_memory(*pool, worker, scratch) : nullptr;
        const int64_t first_head = piece / row_pieces * heads_of_piece, first_row = piece % row_pieces * rows_of_piece;
        const int64_t rows = call.first.rows - first_row < rows_of_piece ? call.first.rows - first_row : rows_of_piece;
        for (int64_t head = first_head; head < first_head + heads_of_piece && head < call.heads; ++head) {
            BlockMatrix w = call.first;
            w.data += head * w.rows * w.row_bytes;
            multiply_rows(w, first_row, rows, vectors.x + head * call.tokens, call.tokens,
                          call.y + head * w.rows + first_row, call.heads * w.rows, memory);
        }
    }
};

void quantize_piece(void* job, int64_t piece, int) { static_cast<const Heads*>(job)->quantize(piece); }
void multiply_piece(void* job, int64_t piece, int worker) { static_cast<const Heads*>(job)->multiply(piece, worker); }

}  // namespace

bool heads_job(Pool& pool, const MultiplyVariant& variant, const HeadsCall& call) {
    const BlockMatrix& w = call.first;
    if (call.tokens == 0 || call.heads == 0 || w.rows == 0) return true;
    const Turn turn(pool);
    Heads job = {};
    job.pool = &pool;
    job.variant = &variant;
    job.call = call;
    Layout layout;
    job.vectors.reserve(layout, call.heads * call.tokens, w.cols, w.takes_levels());
    void* memory = job_memory(pool, layout.bytes());
    job.scratch = scratch_bytes(variant, w, call.tokens);
    if (!memory || !reserve_workers(pool, job.scratch)) return false;
    job.vectors.place(memory);
    for (int64_t head = 0; head < call.heads; ++head) {
        for (int64_t t = 0; t < call.tokens; ++t) {
            job.vectors.set(head * call.tokens + t, call.x + t * call.token_stride + head * call.head_stride);
        }
    }
    const double row_cost = w.row_cost(call.tokens);
    const double head_cost = static_cast<double>(w.rows) * row_cost;
    const double cost = head_cost * static_cast<double>(call.heads);
    const int64_t step = w.takes_many(call.tokens) ? many_step(w.rows * call.heads) : ROW_STEP;
    job.rows_of_piece = rows_of_piece(w.rows, row_cost, cost, step);
    job.row_pieces = pieces_of(w.rows, job.rows_of_piece);
    job.heads_of_piece = job.row_pieces > 1 ? 1 : rows_of_piece(call.heads, head_cost, cost, 1);
    job.vectors_of_piece = vectors_of_piece(w.cols);
    const Phase phases[] = {
        {quantize_piece, w.takes_levels() ? pieces_of(job.vectors.count, job.vectors_of_piece) : 0},
        {multiply_piece, pieces_of(call.heads, job.heads_of_piece) * job.row_pieces},
    };
    run_phases(pool, &job, phases, 2, helpers_for(cost, pool));
    return true;
}

bool linear_job(Pool& pool, const MultiplyVariant& variant, const BlockMatrix& w, const float* x, int64_t tokens,
                float* y) {
    return heads_job(pool, variant, {w, 1, x, w.cols, 0, tokens, y});
}

}  // namespace k2quant
