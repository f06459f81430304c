// Several experts' gated products and their weighted sum in one job: gate and up of all experts, then down of all.
//
// Many tokens go in waves, so that what lies between the two phases stays bounded. A sum's order is that of the experts
// and of their tokens, whatever the waves and the threads.
#include "jobs/expert_list.h"
#include "jobs/jobs.h"

namespace k2quant {

namespace {

constexpr int64_t WAVE_VALUES = int64_t{8} << 20;  // hidden values of a wave, some 5 bytes each
constexpr int64_t ROW_COST_VALUES = 32;            // what a hidden row takes beside its values
constexpr int64_t DOWN_STEP = 8;
constexpr int64_t STEP = SCALE_GROUP;  // of rows: gate's and up's rows are down's columns, quantized group by group

// An expert's tokens, or some of them, in a wave.
struct Slice {
    const ListedExpert* expert;
    int64_t first_token, tokens;
    int64_t rows_of_piece, first_piece;  // of the wave's gate and up
    Activations* x;                      // [tokens]
    float* hidden;                       // [tokens, ff]
    VectorSet vectors;                   // of `hidden`
    size_t x_at, hidden_at;

    int64_t ff() const { return expert->gate.rows; }
    const float* scales() const { return expert->scales + first_token; }
    const int64_t* token_ids() const { return expert->token_ids + first_token; }
};

struct Experts {
    Pool* pool;
    const MultiplyVariant* variant;
    ExpertsCall call;
    VectorSet x;
    int64_t vectors_of_piece;
    ListedExpert* experts;
    Slice* slices;
    int64_t count;  // of slices
    bool add;
    int64_t down_rows_of_piece;
    size_t up_bytes, result_bytes, worker_bytes;  // of a worker: the up or down products come first, then scratch

    void quantize(int64_t piece) const;
    void gate_and_up(int64_t piece, int worker) const;
    void down(int64_t piece, int worker) const;
};

void Experts::quantize(int64_t piece) const {
    const int64_t first = piece * vectors_of_piece, last = first + vectors_of_piece;
    for (int64_t i = first; i < last && i < x.count; ++i) x.quantize(*variant, i);
}

void Experts::gate_and_up(int64_t piece, int worker) const {
    int64_t low = 0, high = count;  // the last slice that begins at or before the piece
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        (slices[middle].first_piece <= piece ? low : high) = middle;
    }
    const Slice& slice = slices[low];
    const ListedExpert& expert = *slice.expert;
    const int64_t first = (piece - slice.first_piece) * slice.rows_of_piece, ff = slice.ff();
    const int64_t rows = ff - first < slice.rows_of_piece ? ff - first : slice.rows_of_piece;
    char* memory = static_cast<char*>(worker_memory(*pool, worker, worker_bytes));
    float* up = reinterpret_cast<float*>(memory);
    multiply_rows(expert.gate, first, rows, slice.x, slice.tokens, slice.hidden + first, ff, memory + up_bytes);
    multiply_rows(expert.up, first, rows, slice.x, slice.tokens, up, rows, memory + up_bytes);
    for (int64_t t = 0; t < slice.tokens; ++t) {
        variant->gated(slice.hidden + t * ff + first, up + t * rows, rows);
        if (expert.down.takes_levels()) slice.vectors.quantize_some(*variant, t, first, rows);
    }
}

void Experts::down(int64_t piece, int worker) const {
    const int64_t first = piece * down_rows_of_piece, hidden = call.hidden;
    const int64_t rows = hidden - first < down_rows_of_piece ? hidden - first : down_rows_of_piece;
    char* memory = static_cast<char*>(worker_memory(*pool, worker, worker_bytes));
    float* results = reinterpret_cast<float*>(memory);
    for (int64_t t = 0; t < call.tokens && !add; ++t) {
        __builtin_memset(call.y + t * hidden + first, 0, static_cast<size_t>(rows) * sizeof(float));
    }
    for (int64_t i = 0; i < count; ++i) {
        const Slice& slice = slices[i];
        multiply_rows(slice.expert->down, first, rows, slice.vectors.x, slice.tokens, results, rows,
                      memory + result_bytes);
        for (int64_t t = 0; t < slice.tokens; ++t) {
            const float scale = slice.scales()[t];
            const float* result = results + t * rows;
            float* sum = call.y + slice.token_ids()[t] * hidden + first;
            for (int64_t row = 0; row < rows; ++row) sum[row] += scale * result[row];
        }
    }
}

void quantize_piece(void* job, int64_t piece, int) { static_cast<const Experts*>(job)->quantize(piece); }
void gate_and_up_piece(void* job, int64_t piece, int worker) {
    static_cast<const Experts*>(job)->gate_and_up(piece, worker);
}
void down_piece(void* job, int64_t piece, int worker) { static_cast<const Experts*>(job)->down(piece, worker); }

// Where the next wave begins: an expert and one of its tokens.
struct Place {
    int64_t expert = 0, token = 0;
};

// Puts as many tokens as fit into a wave, experts in order, and says where the next one begins.
Place fill_wave(Experts& job, Place place) {
    int64_t left = WAVE_VALUES;
    for (job.count = 0; place.expert < job.call.count; ++place.expert, place.token = 0) {
        const ListedExpert& expert = job.experts[place.expert];
        const int64_t wanted = expert.tokens - place.token, of_row = expert.gate.rows + ROW_COST_VALUES;
        if (wanted <= 0) continue;
        int64_t fitting = left / of_row;
        if (fitting < 1 && job.count == 0) fitting = 1;
        // Cut only where a whole wave is too small: results must not depend on who else is in the call, and kernels for
        // few tokens round otherwise than those for many.
        if (fitting < wanted && job.count > 0) break;
        const int64_t tokens = wanted < fitting ? wanted : fitting;
        Slice& slice = job.slices[job.count++];
        slice.expert = &expert;
        slice.first_token = place.token;
        slice.tokens = tokens;
        left -= tokens * of_row;
        if (tokens < wanted) {
            place.token += tokens;
            break;
        }
    }
    return place;
}

void reserve_wave(Slice* slices, int64_t count, Layout& layout) {
    for (int64_t i = 0; i < count; ++i) {
        Slice& slice = slices[i];
        const size_t values = static_cast<size_t>(slice.tokens * slice.ff());
        slice.x_at = layout.add(static_cast<size_t>(slice.tokens) * sizeof(Activations));
        slice.hidden_at = layout.add(values * sizeof(float));
        slice.vectors.reserve(layout, slice.tokens, slice.ff(), slice.expert->down.takes_levels());
    }
}

void place_wave(const Experts& job, char* memory) {
    for (int64_t i = 0; i < job.count; ++i) {
        Slice& slice = job.slices[i];
        slice.x = reinterpret_cast<Activations*>(memory + slice.x_at);
        slice.hidden = reinterpret_cast<float*>(memory + slice.hidden_at);
        slice.vectors.place(memory);
        for (int64_t t = 0; t < slice.tokens; ++t) {
            slice.x[t] = job.x.x[slice.token_ids()[t]];
            slice.vectors.set(t, slice.hidden + t * slice.ff());
        }
    }
}

size_t larger(size_t a, size_t b) { return a > b ? a : b; }

size_t lines(int64_t values) { return (static_cast<size_t>(values) * sizeof(float) + 63) / 64 * 64; }

// The pieces of both phases and the memory that workers need for them. Returns what the wave costs.
double cut_wave(Experts& job, int64_t& gate_pieces, int64_t& down_pieces) {
    double gate_cost = 0, down_row_cost = 0;
    int64_t most_tokens = 0, gate_rows = 0;
    bool many = false;
    for (int64_t i = 0; i < job.count; ++i) {
        const Slice& slice = job.slices[i];
        const ListedExpert& expert = *slice.expert;
        const double row_cost = expert.gate.row_cost(slice.tokens) + expert.up.row_cost(slice.tokens);
        gate_cost += row_cost * static_cast<double>(slice.ff());
        gate_rows += slice.ff();
        down_row_cost += expert.down.row_cost(slice.tokens);
        most_tokens = slice.tokens > most_tokens ? slice.tokens : most_tokens;
        many = many || expert.down.takes_many(slice.tokens);
    }
    const double down_cost = down_row_cost * static_cast<double>(job.call.hidden);
    const int64_t down_step = many ? many_step(job.call.hidden) : DOWN_STEP;
    job.down_rows_of_piece = rows_of_piece(job.call.hidden, down_row_cost, down_cost, down_step, job.count);
    down_pieces = pieces_of(job.call.hidden, job.down_rows_of_piece);
    job.result_bytes = lines(most_tokens * job.down_rows_of_piece);
    job.up_bytes = 0;
    gate_pieces = 0;
    size_t gate_scratch = 0, down_scratch = 0;
    for (int64_t i = 0; i < job.count; ++i) {
        Slice& slice = job.slices[i];
        const ListedExpert& expert = *slice.expert;
        const double row_cost = expert.gate.row_cost(slice.tokens) + expert.up.row_cost(slice.tokens);
        const bool takes_many = expert.gate.takes_many(slice.tokens) || expert.up.takes_many(slice.tokens);
        const int64_t step = takes_many ? many_step(gate_rows) : STEP;
        slice.rows_of_piece = rows_of_piece(slice.ff(), row_cost, gate_cost, step);
        slice.first_piece = gate_pieces;
        gate_pieces += pieces_of(slice.ff(), slice.rows_of_piece);
        job.up_bytes = larger(job.up_bytes, lines(slice.tokens * slice.rows_of_piece));
        gate_scratch = larger(gate_scratch, scratch_bytes(*job.variant, expert.gate, slice.tokens));
        gate_scratch = larger(gate_scratch, scratch_bytes(*job.variant, expert.up, slice.tokens));
        down_scratch = larger(down_scratch, scratch_bytes(*job.variant, expert.down, slice.tokens));
    }
    job.worker_bytes = larger(job.up_bytes + gate_scratch, job.result_bytes + down_scratch);
    return gate_cost + down_cost;
}

bool run_wave(Experts& job, int64_t x_pieces) {
    int64_t gate_pieces, down_pieces;
    const double cost = cut_wave(job, gate_pieces, down_pieces);
    if (!reserve_workers(*job.pool, job.worker_bytes)) return false;
    const Phase phases[] = {
        {quantize_piece, x_pieces}, {gate_and_up_piece, gate_pieces}, {down_piece, down_pieces}};
    run_phases(*job.pool, &job, phases, 3, helpers_for(cost, *job.pool));
    return true;
}

}  // namespace

bool experts_job(Pool& pool, const MultiplyVariant& variant, const ExpertsCall& call) {
    if (call.tokens == 0) return true;
    const Turn turn(pool);
    Experts job = {};
    job.pool = &pool;
    job.variant = &variant;
    job.call = call;
    job.add = call.add;
    job.vectors_of_piece = vectors_of_piece(call.hidden);
    const size_t count = static_cast<size_t>(call.count) + 1;
    const bool with_levels = any_takes_levels(variant, call);
    Layout fixed;
    const size_t experts_at = fixed.add(count * sizeof(ListedExpert)), slices_at = fixed.add(count * sizeof(Slice));
    job.x.reserve(fixed, call.tokens, call.hidden, with_levels);
    size_t most = fixed.bytes();
    // First only how much memory the largest wave takes: a memory that grows forgets what is in it.
    for (int pass = 0; pass < 2; ++pass) {
        const bool measuring = pass == 0;
        char* memory = static_cast<char*>(job_memory(pool, most));
        if (!memory) return false;
        job.experts = reinterpret_cast<ListedExpert*>(memory + experts_at);
        job.slices = reinterpret_cast<Slice*>(memory + slices_at);
        list_experts(variant, call, job.experts);
        job.x.place(memory);
        for (int64_t t = 0; t < call.tokens; ++t) job.x.set(t, call.x + t * call.hidden);
        int64_t x_pieces = with_levels ? pieces_of(call.tokens, job.vectors_of_piece) : 0;
        Place place;
        do {
            place = fill_wave(job, place);
            Layout layout = fixed;
            reserve_wave(job.slices, job.count, layout);
            most = larger(most, layout.bytes());
            if (measuring) continue;
            place_wave(job, memory);
            if (!run_wave(job, x_pieces)) return false;
            x_pieces = 0;
            job.add = true;
        } while (place.expert < call.count);
    }
    return true;
}

}  // namespace k2quant
