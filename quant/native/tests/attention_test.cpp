// Attention of many tokens, and norms, in memory of exactly its size: with the address sanitizer a value that is read or written
// beyond it ends the program, with that of threads a race does. Results are compared with the portable ones.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>

#include "check.h"
#include "k2quant_layer.h"

namespace {

struct Sizes {
    int64_t heads, nope, rope, latent, value;
};

// Numbers between -1 and 1.
void fill(float* values, int64_t count, unsigned seed) {
    for (int64_t i = 0; i < count; ++i) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = static_cast<float>(seed >> 8) / 8388608.0f - 1.0f;
    }
}

std::unique_ptr<float[]> numbers(int64_t count, unsigned seed) {
    std::unique_ptr<float[]> values(new float[static_cast<size_t>(count)]);
    fill(values.get(), count, seed);
    return values;
}

struct Sample {
    Sizes sizes;
    int64_t tokens, position;
    std::unique_ptr<float[]> k_b, v_b, queries, cache, cosines, sines, out;
    k2quant_attention attention = {};

    Sample(const Sizes& s, int64_t count, int64_t start) : sizes(s), tokens(count), position(start) {
        k_b = numbers(s.heads * s.latent * s.nope, 1);
        v_b = numbers(s.heads * s.value * s.latent, 2);
        queries = numbers(tokens * s.heads * (s.nope + s.rope), 3);
        cache = numbers(capacity() * (s.latent + s.rope), 4);
        cosines = numbers(tokens * s.rope / 2, 5);
        sines = numbers(tokens * s.rope / 2, 6);
        out = numbers(results(), 7);
        attention.heads = s.heads;
        attention.nope = s.nope;
        attention.rope = s.rope;
        attention.latent = s.latent;
        attention.value = s.value;
        attention.scale = 0.3f;
        attention.k_b = {reinterpret_cast<const uint8_t*>(k_b.get()), s.heads * s.latent, s.nope, K2QUANT_F32, 0};
        attention.v_b = {reinterpret_cast<const uint8_t*>(v_b.get()), s.heads * s.value, s.latent, K2QUANT_F32, 0};
    }

    int64_t capacity() const { return position + tokens; }
    int64_t results() const { return tokens * sizes.heads * sizes.value; }
    int attend(int isa, void* pool) const {
        return k2quant_attend_heads(isa, pool, &attention, queries.get(), tokens, cache.get(), capacity(), position,
                                    cosines.get(), sines.get(), out.get());
    }
};

void* open(int threads) {
    void* pool = nullptr;
    CHECK(k2quant_pool_open(K2QUANT_PORTABLE, threads, 1, 0, &pool) == K2QUANT_OK);
    return pool;
}

void instruction_sets_agree(const Sizes& sizes, int64_t tokens, int64_t position) {
    const Sample expected(sizes, tokens, position);
    void* pool = open(2);
    CHECK(expected.attend(K2QUANT_PORTABLE, pool) == K2QUANT_OK);
    for (int isa = K2QUANT_AVX2; isa <= K2QUANT_AVX512VNNI; ++isa) {
        if (!k2quant_isa_works(isa)) continue;
        const Sample found(sizes, tokens, position);
        CHECK(found.attend(isa, pool) == K2QUANT_OK);
        for (int64_t i = 0; i < found.results(); ++i) {
            const float limit = 2e-5f * static_cast<float>(sizes.latent);
            CHECK(std::fabs(found.out[static_cast<size_t>(i)] - expected.out[static_cast<size_t>(i)]) <= limit);
        }
    }
    k2quant_pool_close(K2QUANT_PORTABLE, pool);
}

void threads_do_not_change_the_bits(int isa) {
    const Sample once({5, 20, 6, 40, 24}, 70, 100);
    void* alone = open(1);
    CHECK(once.attend(isa, alone) == K2QUANT_OK);
    k2quant_pool_close(isa, alone);
    for (int threads : {2, 3, 7}) {
        const Sample found({5, 20, 6, 40, 24}, 70, 100);
        void* pool = open(threads);
        CHECK(found.attend(isa, pool) == K2QUANT_OK);
        CHECK(!std::memcmp(found.out.get(), once.out.get(), static_cast<size_t>(once.results()) * sizeof(float)));
        k2quant_pool_close(isa, pool);
    }
}

void norms_agree(int64_t tokens, int64_t cols) {
    void* pool = open(3);
    const auto x = numbers(tokens * cols, 1), weight = numbers(cols, 2), expected = numbers(tokens * cols, 3);
    CHECK(k2quant_rms_norm(K2QUANT_PORTABLE, pool, x.get(), weight.get(), tokens, cols, 1e-3f, expected.get()) == K2QUANT_OK);
    for (int isa = K2QUANT_AVX2; isa <= K2QUANT_AVX512VNNI; ++isa) {
        if (!k2quant_isa_works(isa)) continue;
        const auto found = numbers(tokens * cols, 4);
        CHECK(k2quant_rms_norm(isa, pool, x.get(), weight.get(), tokens, cols, 1e-3f, found.get()) == K2QUANT_OK);
        for (int64_t i = 0; i < tokens * cols; ++i) {
            const size_t at = static_cast<size_t>(i);
            CHECK(std::fabs(found[at] - expected[at]) <= 1e-5f * (1 + std::fabs(expected[at])));
        }
    }
    CHECK(k2quant_rms_norm(K2QUANT_PORTABLE, pool, x.get(), weight.get(), tokens, 0, 1e-3f, expected.get()) ==
          K2QUANT_BAD_ARGUMENT);
    k2quant_pool_close(K2QUANT_PORTABLE, pool);
}

void what_does_not_fit_is_refused() {
    void* pool = open(1);
    Sample sample({2, 16, 4, 16, 16}, 4, 4);
    const auto refused = [&] { return sample.attend(K2QUANT_PORTABLE, pool) == K2QUANT_BAD_ARGUMENT; };
    CHECK(!refused());
    ++sample.attention.k_b.rows;
    CHECK(refused());
    --sample.attention.k_b.rows;
    ++sample.attention.v_b.cols;
    CHECK(refused());
    --sample.attention.v_b.cols;
    sample.attention.rope = 3;
    CHECK(refused());
    sample.attention.rope = 4;
    sample.attention.heads = int64_t{1} << 40;
    CHECK(refused());
    sample.attention.heads = 2;
    CHECK(k2quant_attend_heads(K2QUANT_PORTABLE, pool, &sample.attention, sample.queries.get(), 4, sample.cache.get(), 7,
                               4, sample.cosines.get(), sample.sines.get(), sample.out.get()) == K2QUANT_BAD_ARGUMENT);
    CHECK(!refused());
    k2quant_pool_close(K2QUANT_PORTABLE, pool);
}

}  // namespace

int main() {
    const Sizes shapes[] = {{1, 1, 2, 1, 1}, {3, 17, 6, 33, 15}, {2, 64, 0, 64, 64}, {2, 100, 28, 70, 90}};
    for (const Sizes& sizes : shapes) {
        for (int64_t tokens : {1, 15, 16, 17, 63, 64, 65, 130}) {
            for (int64_t position : {0, 1, 127, 128, 200}) instruction_sets_agree(sizes, tokens, position);
        }
    }
    instruction_sets_agree({1, 4, 2, 4, 4}, 1100, 3);
    for (int isa = K2QUANT_PORTABLE; isa <= K2QUANT_AVX512VNNI; ++isa) {
        if (k2quant_isa_works(isa)) threads_do_not_change_the_bits(isa);
    }
    for (int64_t cols : {1, 15, 16, 33, 7168}) {
        for (int64_t tokens : {1, 2, 19}) norms_agree(tokens, cols);
    }
    what_does_not_fit_is_refused();
    std::puts("attention: ok");
}
