// Products by several threads through the C interface: the same bits whatever their number, from several callers at once.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "check.h"
#include "k2quant.h"

namespace {

using Floats = std::vector<float>;

Floats random_floats(size_t count, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    Floats values(count);
    for (float& v : values) v = normal(generator);
    return values;
}

// Q8_0 blocks whose scales are small halves.
std::vector<uint8_t> random_blocks(int64_t weights, unsigned seed) {
    std::mt19937 generator(seed);
    std::vector<uint8_t> blocks(static_cast<size_t>(weights / 32 * 34));
    for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<uint8_t>(generator());
    for (size_t block = 0; block < blocks.size(); block += 34) blocks[block + 1] = 0x20;
    return blocks;
}

struct Samples {
    static constexpr int64_t HIDDEN = 256, FF = 352, HEADS = 3, ROWS = 301;
    int64_t tokens;
    Floats x;
    std::vector<uint8_t> matrix;
    std::vector<std::vector<uint8_t>> slabs;
    std::vector<k2quant_expert> experts;
    std::vector<int64_t> counts, ids;
    Floats scales;

    explicit Samples(int64_t asked) : tokens(asked) {
        x = random_floats(static_cast<size_t>(tokens * HIDDEN * HEADS), 1);
        matrix = random_blocks(ROWS * HIDDEN * HEADS, 2);
        for (unsigned i = 0; i < 4; ++i) {
            for (unsigned part = 0; part < 3; ++part) slabs.push_back(random_blocks(FF * HIDDEN, 10 * i + part));
            const uint8_t *gate = slabs[3 * i].data(), *up = slabs[3 * i + 1].data(), *down = slabs[3 * i + 2].data();
            experts.push_back({gate, up, down, FF, HIDDEN, K2QUANT_Q8_0, K2QUANT_Q8_0, K2QUANT_Q8_0, 0});
            const int64_t first = i % 2;
            counts.push_back(i == 2 ? 0 : tokens > first ? tokens - first : 0);
            for (int64_t t = 0; t < counts.back(); ++t) ids.push_back(tokens - 1 - t);
        }
        scales = random_floats(ids.size(), 3);
    }

    // All three products, one after the other.
    Floats products(void* pool, int isa) const {
        const size_t rows = static_cast<size_t>(tokens * ROWS), sums = static_cast<size_t>(tokens * HIDDEN);
        Floats y(rows * HEADS + rows + sums, 7);
        float *of_heads = y.data(), *of_matrix = of_heads + rows * HEADS, *of_experts = of_matrix + rows;
        CHECK(k2quant_heads(isa, pool, K2QUANT_Q8_0, matrix.data(), HEADS, ROWS, HIDDEN, x.data(), HEADS * HIDDEN,
                            HIDDEN, tokens, of_heads) == K2QUANT_OK);
        CHECK(k2quant_linear(isa, pool, K2QUANT_Q8_0, matrix.data(), ROWS, HIDDEN, x.data(), tokens, of_matrix) ==
              K2QUANT_OK);
        CHECK(k2quant_experts(isa, pool, x.data(), tokens, HIDDEN, experts.data(), 4, counts.data(), ids.data(),
                              scales.data(), of_experts, 0) == K2QUANT_OK);
        return y;
    }
};

bool same(const Floats& a, const Floats& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void* open(int threads, int nodes) {
    void* pool = nullptr;
    CHECK(k2quant_pool_open(K2QUANT_PORTABLE, threads, nodes, 0, &pool) == K2QUANT_OK);
    return pool;
}

void results_do_not_depend_on_threads(int isa, int64_t tokens) {
    const Samples samples(tokens);
    Floats expected;
    for (int threads : {1, 2, 3, 5}) {
        for (int nodes : {1, 2}) {
            void* pool = open(threads, nodes);
            for (int repeat = 0; repeat < 2; ++repeat) {
                const Floats found = samples.products(pool, isa);
                for (float v : found) CHECK(std::isfinite(v));
                if (expected.empty()) expected = found;
                CHECK(same(found, expected));
            }
            k2quant_pool_close(isa, pool);
        }
    }
}

void callers_get_their_own_results(int isa) {
    void* pool = open(3, 1);
    std::vector<std::thread> callers;
    for (int64_t tokens : {1, 2, 5}) {
        callers.emplace_back([=] {
            const Samples samples(tokens);
            const Floats expected = samples.products(pool, isa);
            for (int i = 0; i < 5; ++i) CHECK(same(samples.products(pool, isa), expected));
        });
    }
    for (auto& caller : callers) caller.join();
    k2quant_pool_close(isa, pool);
}

}  // namespace

int main() {
    for (int isa = K2QUANT_PORTABLE; isa <= K2QUANT_AVX512VNNI; ++isa) {
        if (!k2quant_isa_works(isa)) continue;
        for (int64_t tokens : {1, 3, 20}) results_do_not_depend_on_threads(isa, tokens);
        callers_get_their_own_results(isa);
    }
    std::puts("jobs: ok");
}
