// Attention of many tokens, a piece for each head: its keys and values are expanded from the cached latents, chunk by
// chunk, and every tile of queries takes from them what it may see.
#include <cmath>

#include "jobs/products.h"
#include "layer/head_matrices.h"
#include "layer/layer.h"
#include "layer/matrix.h"
#include "layer/rows.h"
#include "pool/pool.h"

namespace k2quant {
namespace {

constexpr int64_t BLOCK_QUERIES = 1024;    // at a time: what a head keeps of them stays bounded
constexpr int64_t ROWS_TOGETHER = 16;      // of v_b, which is turned
constexpr int64_t SERIAL_WORK = 1 << 20;   // multiplications: below, waking other threads takes longer than the work

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t parts_of(int64_t count, int64_t of_part) { return (count + of_part - 1) / of_part; }

// What a worker has for the head it is at.
struct Scratch {
    float* up;        // keys' and values' matrix in panels, [panels][latent][PANEL_COLS]
    float* rows;      // [ROWS_TOGETHER][the longer of latent and nope]
    float* expanded;  // [HEAD_POSITIONS][panels * PANEL_COLS]
    float* scores;    // [HEAD_POSITIONS][PANEL_COLS]
    float* queries;   // [tiles][nope + rope][PANEL_COLS]
    float* out;       // [tiles][value][PANEL_COLS]
    float* largest;   // [tiles][PANEL_COLS]
    float* total;     // [tiles][PANEL_COLS]
};

struct AttendHeads {
    const k2quant_attention& a;
    const MultiplyVariant& multiply;
    const LayerVariant& layer;
    Pool& pool;
    const float* queries;  // [tokens, heads * (nope + rope)]
    int64_t tokens;
    const float* cache;  // [positions, latent + rope]
    int64_t position;
    const float* cosines;  // [tokens, rope / 2]
    const float* sines;
    float* out;  // [tokens, heads * value]
    Matrix k_b, v_b;  // one head's
    int64_t first = 0, count = 0;  // tokens of the block

    int64_t key_width() const { return a.nope + a.rope; }
    int64_t panels() const { return parts_of(a.nope + a.value, PANEL_COLS); }
    int64_t tiles() const { return parts_of(count, PANEL_COLS); }

    Scratch lay_out(Shelf& shelf) const {
        return {shelf.take<float>(panels() * a.latent * PANEL_COLS),
                shelf.take<float>(ROWS_TOGETHER * (a.latent > a.nope ? a.latent : a.nope)),
                shelf.take<float>(HEAD_POSITIONS * panels() * PANEL_COLS),
                shelf.take<float>(HEAD_POSITIONS * PANEL_COLS),
                shelf.take<float>(tiles() * key_width() * PANEL_COLS),
                shelf.take<float>(tiles() * a.value * PANEL_COLS),
                shelf.take<float>(tiles() * PANEL_COLS),
                shelf.take<float>(tiles() * PANEL_COLS)};
    }
    size_t scratch_bytes() const {
        Shelf counted(nullptr);
        lay_out(counted);
        return counted.used();
    }

    void put_up(const float* values, int64_t row, int64_t col, int64_t cols, const Scratch& s) const;
    void unpack(int64_t head, const Scratch& s) const;
    void turn_queries(int64_t head, const Scratch& s) const;
    void attend(int64_t start, const Scratch& s) const;
    void put_results(int64_t head, const Scratch& s) const;
};

// Values of a row of the matrix in panels.
void AttendHeads::put_up(const float* values, int64_t row, int64_t col, int64_t cols, const Scratch& s) const {
    for (int64_t done = 0; done < cols;) {
        const int64_t lane = (col + done) % PANEL_COLS, count = smaller(PANEL_COLS - lane, cols - done);
        float* place = s.up + ((col + done) / PANEL_COLS * a.latent + row) * PANEL_COLS + lane;
        __builtin_memcpy(place, values + done, sizeof(float) * static_cast<size_t>(count));
        done += count;
    }
}

// k_b [latent, nope] as it is and v_b [value, latent] turned, side by side.
void AttendHeads::unpack(int64_t head, const Scratch& s) const {
    const int64_t last = (panels() - 1) * a.latent * PANEL_COLS;
    __builtin_memset(s.up + last, 0, sizeof(float) * static_cast<size_t>(a.latent * PANEL_COLS));
    const uint8_t* keys = k_b.data + head * k_b.bytes();
    for (int64_t row = 0; row < a.latent; ++row) {
        k_b.kernels->decode(keys + row * k_b.row_bytes, a.nope, s.rows);
        put_up(s.rows, row, 0, a.nope, s);
    }
    const uint8_t* values = v_b.data + head * v_b.bytes();
    for (int64_t row = 0; row < a.value; row += ROWS_TOGETHER) {
        const int64_t rows = smaller(a.value - row, ROWS_TOGETHER);
        for (int64_t i = 0; i < rows; ++i) {
            v_b.kernels->decode(values + (row + i) * v_b.row_bytes, a.latent, s.rows + i * a.latent);
        }
        for (int64_t l = 0; l < a.latent; ++l) {
            float turned[ROWS_TOGETHER];
            for (int64_t i = 0; i < rows; ++i) turned[i] = s.rows[i * a.latent + l];
            put_up(turned, l, a.nope + row, rows, s);
        }
    }
}

// The head's queries as lanes of tiles, scaled, their rotary parts rotated: interleaved pairs, as checkpoints have them.
void AttendHeads::turn_queries(int64_t head, const Scratch& s) const {
    for (int64_t q = 0; q < tiles() * PANEL_COLS; ++q) {
        float* lane = s.queries + q / PANEL_COLS * key_width() * PANEL_COLS + q % PANEL_COLS;
        if (q >= count) {
            for (int64_t d = 0; d < key_width(); ++d) lane[d * PANEL_COLS] = 0;
            continue;
        }
        const float* query = queries + ((first + q) * a.heads + head) * key_width();
        for (int64_t d = 0; d < a.nope; ++d) lane[d * PANEL_COLS] = query[d] * a.scale;
        const float *rotary = query + a.nope, *cosine = cosines + (first + q) * a.rope / 2;
        const float* sine = sines + (first + q) * a.rope / 2;
        lane += a.nope * PANEL_COLS;
        for (int64_t i = 0; i < a.rope / 2; ++i) {
            const float even = rotary[2 * i] * a.scale, odd = rotary[2 * i + 1] * a.scale;
            lane[2 * i * PANEL_COLS] = even * cosine[i] - odd * sine[i];
            lane[(2 * i + 1) * PANEL_COLS] = odd * cosine[i] + even * sine[i];
        }
    }
}

// All tiles to the chunk of the cache that begins at `start`.
void AttendHeads::attend(int64_t start, const Scratch& s) const {
    const int64_t width = a.latent + a.rope, expanded_step = panels() * PANEL_COLS;
    const int64_t positions = smaller(position + first + count - start, HEAD_POSITIONS);
    const float* cached = cache + start * width;
    layer.expand_positions({cached, width, positions, a.latent, s.up, a.nope + a.value, s.expanded});
    for (int64_t tile = 0; tile < tiles(); ++tile) {
        const int64_t before = tile * PANEL_COLS, queries_left = smaller(count - before, PANEL_COLS);
        const int64_t visible = position + first + before + 1 - start;
        if (visible + queries_left - 1 <= 0) continue;
        TileCall call;
        call.queries = s.queries + before * key_width();
        call.vectors = static_cast<int>(parts_of(queries_left, 16));
        call.keys = s.expanded;
        call.key_step = call.value_step = expanded_step;
        call.key_width = a.nope;
        call.rotated = cached + a.latent;
        call.rotated_step = width;
        call.rotated_width = a.rope;
        call.values = s.expanded + a.nope;
        call.value_width = a.value;
        call.positions = positions;
        call.visible = visible;
        call.scores = s.scores;
        call.largest = s.largest + before;
        call.total = s.total + before;
        call.out = s.out + before * a.value;
        layer.attend_tile(call);
    }
}

void AttendHeads::put_results(int64_t head, const Scratch& s) const {
    for (int64_t q = 0; q < count; ++q) {
        const float* lane = s.out + q / PANEL_COLS * a.value * PANEL_COLS + q % PANEL_COLS;
        const float factor = 1.0f / s.total[q];
        float* result = out + ((first + q) * a.heads + head) * a.value;
        for (int64_t d = 0; d < a.value; ++d) result[d] = lane[d * PANEL_COLS] * factor;
    }
}

void attend_head(void* job, int64_t head, int worker) {
    const AttendHeads& job_of_all = *static_cast<const AttendHeads*>(job);
    Shelf shelf(worker_memory(job_of_all.pool, worker, job_of_all.scratch_bytes()));
    const Scratch s = job_of_all.lay_out(shelf);
    const int64_t lanes = job_of_all.tiles() * PANEL_COLS;
    for (int64_t q = 0; q < lanes; ++q) {
        s.largest[q] = -INFINITY;
        s.total[q] = 0;
    }
    __builtin_memset(s.out, 0, sizeof(float) * static_cast<size_t>(lanes * job_of_all.a.value));
    job_of_all.unpack(head, s);
    job_of_all.turn_queries(head, s);
    const int64_t positions = job_of_all.position + job_of_all.first + job_of_all.count;
    for (int64_t start = 0; start < positions; start += HEAD_POSITIONS) job_of_all.attend(start, s);
    job_of_all.put_results(head, s);
}

bool fits(AttendHeads& s) {
    const k2quant_attention& a = s.a;
    return head_sizes_fit(a) && product_fits(s.tokens, a.heads * (a.nope + a.rope)) &&
           product_fits(s.tokens, a.heads * a.value) && product_fits(s.position + s.tokens, a.latent + a.rope) &&
           resolve_head(s.multiply, a.k_b, a.latent, a.nope, a.heads, s.k_b) &&
           resolve_head(s.multiply, a.v_b, a.value, a.latent, a.heads, s.v_b);
}

int run(AttendHeads& s) {
    const Turn turn(s.pool);
    for (s.first = 0; s.first < s.tokens; s.first += BLOCK_QUERIES) {
        s.count = smaller(s.tokens - s.first, BLOCK_QUERIES);
        if (!reserve_workers(s.pool, s.scratch_bytes())) return K2QUANT_NO_MEMORY;
        const int64_t work = (s.position + s.first + s.count) * s.a.latent * (s.a.nope + s.a.value);
        const Phase phase = {attend_head, s.a.heads};
        run_phases(s.pool, &s, &phase, 1, work < SERIAL_WORK / s.a.heads ? 0 : pool_threads(s.pool) - 1);
    }
    return K2QUANT_OK;
}

}  // namespace
}  // namespace k2quant

using namespace k2quant;

int k2quant_attend_heads(int isa, void* pool, const k2quant_attention* attention, const float* queries, int64_t tokens,
                         const float* cache, int64_t capacity, int64_t position, const float* cosines,
                         const float* sines, float* out) {
    const MultiplyVariant* multiply = multiply_variant(isa);
    const LayerVariant* layer = layer_variant(isa);
    if (!multiply || !layer || !pool || !attention || !queries || !cache || !out) return K2QUANT_BAD_ARGUMENT;
    if (attention->rope && (!cosines || !sines)) return K2QUANT_BAD_ARGUMENT;
    if (tokens < 1 || position < 0 || capacity > MAX_WEIGHTS || position > capacity - tokens) return K2QUANT_BAD_ARGUMENT;
    AttendHeads state = {*attention, *multiply, *layer, *static_cast<Pool*>(pool), queries, tokens, cache, position,
                         cosines, sines, out, {}, {}};
    return fits(state) ? run(state) : K2QUANT_BAD_ARGUMENT;
}
