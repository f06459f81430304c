// A token through some layers in one call, in memory of exactly its size, is what the single calls make of it.
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "check.h"
#include "k2quant_layer.h"

namespace {

constexpr int64_t HIDDEN = 24, HEADS = 2, NOPE = 6, ROPE = 4, LATENT = 16, VALUE = 5, RANK = 12, FF = 10;
constexpr int64_t EXPERTS = 7, USED = 3, WIDTH = LATENT + ROPE, CAPACITY = 3;

struct Numbers {
    std::vector<std::vector<float>> kept;
    unsigned seed = 1;

    const float* some(int64_t count) {
        kept.emplace_back();
        for (int64_t i = 0; i < count; ++i) {
            seed = seed * 1664525u + 1013904223u;
            kept.back().push_back(static_cast<float>(seed >> 8) / 8388608.0f - 1.0f);
        }
        return kept.back().data();
    }
    k2quant_matrix matrix(int64_t rows, int64_t cols) {
        return {reinterpret_cast<const uint8_t*>(some(rows * cols)), rows, cols, K2QUANT_F32, 0};
    }
    k2quant_expert expert() {
        const auto bytes = [&](int64_t count) { return reinterpret_cast<const uint8_t*>(some(count)); };
        return {bytes(FF * HIDDEN), bytes(FF * HIDDEN), bytes(HIDDEN * FF), FF, HIDDEN, K2QUANT_F32, K2QUANT_F32, K2QUANT_F32, 0};
    }
};

// A dense layer and two with experts, of which the last has a shared one.
struct Model {
    Numbers numbers;
    k2quant_attention attention[3] = {};
    k2quant_router router[3] = {};
    k2quant_expert shared;
    std::vector<k2quant_expert> experts[3];
    k2quant_layer layers[3] = {};
    const float *cosines, *sines;

    Model() {
        cosines = numbers.some(ROPE / 2);
        sines = numbers.some(ROPE / 2);
        shared = numbers.expert();
        for (int i = 0; i < 3; ++i) {
            attention[i] = {HIDDEN, HEADS, NOPE, ROPE, LATENT, VALUE, RANK, 1e-5f, 1e-6f, 0.3f, 0,
                            numbers.some(HIDDEN), numbers.some(RANK), numbers.some(LATENT),
                            numbers.matrix(RANK, HIDDEN), numbers.matrix(HEADS * (NOPE + ROPE), RANK),
                            numbers.matrix(WIDTH, HIDDEN), numbers.matrix(HEADS * LATENT, NOPE),
                            numbers.matrix(HEADS * VALUE, LATENT), numbers.matrix(HIDDEN, HEADS * VALUE)};
            router[i] = {HIDDEN, EXPERTS, USED, 1, 1, 0, 1, 2.5f, 1e-5f,
                         numbers.some(HIDDEN), numbers.some(EXPERTS * HIDDEN), numbers.some(EXPERTS)};
            for (int64_t e = 0; e < (i ? EXPERTS : 1); ++e) experts[i].push_back(numbers.expert());
            layers[i] = {&attention[i], i ? &router[i] : nullptr, experts[i].data(), i == 2 ? &shared : nullptr,
                         i ? nullptr : numbers.some(HIDDEN), 1e-5f, 0};
        }
    }
};

struct Run {
    std::vector<float> x = std::vector<float>(HIDDEN, 0.5f), scratch = std::vector<float>(3 * HIDDEN);
    std::vector<float> cache[3];
    std::vector<int64_t> ids = std::vector<int64_t>(3 * USED, -1), times = std::vector<int64_t>(9, -1);
    std::vector<float> weights = std::vector<float>(USED, -1);
    int64_t reached = -1;
    float* caches[3];

    Run() {
        for (int i = 0; i < 3; ++i) {
            cache[i].assign(CAPACITY * WIDTH, 0.25f);
            caches[i] = cache[i].data();
        }
    }
    int pass(int isa, void* pool, const Model& model, int64_t position = 1, int64_t most_used = USED, int64_t first = 0,
             int64_t guess = 0) {
        return k2quant_pass(isa, pool, model.layers, 3, first, x.data(), HIDDEN, caches, CAPACITY, position,
                            model.cosines, model.sines, scratch.data(), ids.data(), weights.data(), most_used, guess,
                            times.data(), &reached);
    }
    // What the caller does in front of whose experts a pass ended.
    void do_experts(int isa, void* pool, const std::vector<k2quant_expert>& experts, const k2quant_expert* shared) {
        std::vector<float> sum(HIDDEN);
        int64_t outcome[3];
        const int64_t* found = ids.data() + reached * USED;
        CHECK(k2quant_dispatch(isa, pool, scratch.data(), HIDDEN, experts.data(), EXPERTS, found, weights.data(), USED, 0,
                               shared, sum.data(), outcome) == K2QUANT_OK);
        CHECK(outcome[0] == USED && outcome[1] == 0 && outcome[2] >= 0);
        for (size_t k = 0; k < x.size(); ++k) x[k] += sum[k];
    }
    void step_by_step(int isa, void* pool, const Model& model) {
        std::vector<float> normed(HIDDEN), sum(HIDDEN), weights(USED + 1);
        for (int i = 0; i < 3; ++i) {
            const k2quant_layer& layer = model.layers[i];
            CHECK(k2quant_attend(isa, pool, layer.attention, x.data(), 1, caches[i], CAPACITY, 1, model.cosines,
                                 model.sines) == K2QUANT_OK);
            std::vector<k2quant_expert> chosen;
            if (layer.router) {
                int64_t* found = ids.data() + i * USED;
                CHECK(k2quant_route(isa, pool, layer.router, x.data(), 1, normed.data(), found, weights.data()) == K2QUANT_OK);
                for (int64_t k = 0; k < USED; ++k) chosen.push_back(layer.experts[found[k]]);
                if (layer.shared) chosen.push_back(*layer.shared);
                weights[USED] = 1;
            } else {
                CHECK(k2quant_rms_norm(isa, pool, x.data(), layer.norm, 1, HIDDEN, layer.eps, normed.data()) == K2QUANT_OK);
                chosen.push_back(layer.experts[0]);
                weights[0] = 1;
            }
            const int64_t count = static_cast<int64_t>(chosen.size());
            const std::vector<int64_t> once(chosen.size(), 1), first(chosen.size(), 0);
            CHECK(k2quant_experts(isa, pool, normed.data(), 1, HIDDEN, chosen.data(), count, once.data(), first.data(),
                                  weights.data(), sum.data(), 0) == K2QUANT_OK);
            for (size_t k = 0; k < x.size(); ++k) x[k] += sum[k];
        }
    }
};

void a_pass_is_what_the_single_calls_make(int isa, int threads) {
    void* pool = nullptr;
    CHECK(k2quant_pool_open(isa, threads, 1, 0, &pool) == K2QUANT_OK);
    const Model model;
    Run found, expected;
    CHECK(found.pass(isa, pool, model) == K2QUANT_OK);
    expected.step_by_step(isa, pool, model);
    CHECK(found.x == expected.x);
    for (int i = 0; i < 3; ++i) CHECK(found.cache[i] == expected.cache[i]);
    CHECK(std::vector<int64_t>(found.ids.begin() + USED, found.ids.end()) ==
          std::vector<int64_t>(expected.ids.begin() + USED, expected.ids.end()));
    for (int64_t time : found.times) CHECK(time >= 0);
    CHECK(found.reached == 3);
    k2quant_pool_close(isa, pool);
}

void a_pass_waits_for_what_is_not_here(int isa, int threads) {
    void* pool = nullptr;
    CHECK(k2quant_pool_open(isa, threads, 1, 0, &pool) == K2QUANT_OK);
    Model model;
    Run whole;
    CHECK(whole.pass(isa, pool, model) == K2QUANT_OK);
    const std::vector<k2quant_expert> all[] = {model.experts[0], model.experts[1], model.experts[2]};
    // Of every expert of the last two layers: who is missing stops the pass where somebody wants it, or with a guess one
    // layer before.
    for (int layer = 1; layer < 3; ++layer) {
        const int64_t* chosen = whole.ids.data() + layer * USED;
        for (int64_t expert = 0; expert < EXPERTS; ++expert) {
            const bool wanted = chosen[0] == expert || chosen[1] == expert || chosen[2] == expert;
            for (int64_t guess : {int64_t{0}, USED}) {
                model.experts[layer][expert] = {};
                Run run;
                CHECK(run.pass(isa, pool, model, 1, USED, 0, guess) == K2QUANT_OK);
                CHECK(guess || run.reached == (wanted ? layer : 3));
                if (run.reached < 3) {
                    const int at = static_cast<int>(run.reached);
                    CHECK(at == layer || (guess && at == layer - 1));
                    model.experts[layer] = all[layer];
                    run.do_experts(isa, pool, model.experts[at], model.layers[at].shared);
                    CHECK(run.pass(isa, pool, model, 1, USED, run.reached + 1) == K2QUANT_OK);
                }
                CHECK(run.reached == 3 && run.x == whole.x);
                model.experts[layer] = all[layer];
            }
        }
    }
    k2quant_pool_close(isa, pool);
}

void experts_are_multiplied_as_far_as_they_are_here(int isa) {
    void* pool = nullptr;
    CHECK(k2quant_pool_open(isa, 2, 1, 0, &pool) == K2QUANT_OK);
    Model model;
    const std::vector<k2quant_expert> all = model.experts[2];
    std::vector<k2quant_expert> some = all;
    const std::vector<float> x(HIDDEN, 0.5f), weights = {0.5f, 0.25f, 2.0f};
    const int64_t ids[] = {4, 0, 6}, fewer[] = {4, 6};
    const float fewer_weights[] = {0.5f, 2.0f};
    std::vector<float> y(HIDDEN, 7), expected(HIDDEN, 7);
    int64_t outcome[3];
    const auto dispatch = [&](const k2quant_expert* table, int64_t count, const int64_t* of, const float* scales, int64_t used,
                              int leave_out, float* to) {
        return k2quant_dispatch(isa, pool, x.data(), HIDDEN, table, count, of, scales, used, leave_out, &model.shared, to,
                                outcome);
    };
    some[0] = {};
    CHECK(dispatch(some.data(), EXPERTS, ids, weights.data(), 3, 1, y.data()) == K2QUANT_OK);
    CHECK(outcome[0] == 2 && outcome[1] == 1 && y == expected);  // nothing was touched
    some[0].elsewhere = 1;
    CHECK(dispatch(some.data(), EXPERTS, ids, weights.data(), 3, 0, y.data()) == K2QUANT_OK);
    CHECK(outcome[0] == 2 && outcome[1] == 1 && y == expected);
    CHECK(dispatch(some.data(), EXPERTS, ids, weights.data(), 3, 1, y.data()) == K2QUANT_OK);
    CHECK(outcome[0] == 2 && outcome[1] == 0);
    CHECK(dispatch(all.data(), EXPERTS, fewer, fewer_weights, 2, 0, expected.data()) == K2QUANT_OK);
    CHECK(y == expected);
    CHECK(dispatch(all.data(), EXPERTS, ids, weights.data(), 0, 0, y.data()) == K2QUANT_OK);
    CHECK(outcome[0] == 0 && outcome[1] == 0);
    const int64_t bad[] = {4, EXPERTS, 0}, negative[] = {-1, 0, 0};
    CHECK(dispatch(all.data(), EXPERTS, bad, weights.data(), 3, 0, y.data()) == K2QUANT_BAD_ARGUMENT);
    CHECK(dispatch(all.data(), EXPERTS, negative, weights.data(), 3, 0, y.data()) == K2QUANT_BAD_ARGUMENT);
    CHECK(dispatch(all.data(), EXPERTS, ids, weights.data(), 65, 0, y.data()) == K2QUANT_BAD_ARGUMENT);
    CHECK(dispatch(nullptr, EXPERTS, ids, weights.data(), 3, 0, y.data()) == K2QUANT_BAD_ARGUMENT);
    k2quant_pool_close(isa, pool);
}

// A driver of one card, whose recordings are functions: `in_front` packs a token's way, `beside` counts.
struct Driver {
    std::vector<float> there, packed, sum;
    int launched = 0, copied = 0, recorded = 0, waited = 0, fail_at = -1, asked = 0;

    bool fails() { return asked++ == fail_at; }
};
Driver* driver = nullptr;

int launch(void* graph, void*) {
    if (driver->fails()) return 719;
    ++driver->launched;
    if (graph) driver->packed = driver->there;
    return 0;
}
int copy(uint64_t to, uint64_t from, size_t bytes, void*) {
    if (driver->fails()) return 719;
    ++driver->copied;
    std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
    return 0;
}
int record(void*, void*) { return driver->fails() ? 719 : (++driver->recorded, 0); }
int wait_for(void*) { return driver->fails() ? 719 : (++driver->waited, 0); }

void a_card_is_asked_and_its_experts_are_left_out(int isa) {
    void* pool = nullptr;
    CHECK(k2quant_pool_open(isa, 2, 1, 0, &pool) == K2QUANT_OK);
    Model model;
    std::vector<k2quant_expert> some = model.experts[2];
    some[6] = {};
    some[6].elsewhere = 1;
    Driver made;
    driver = &made;
    made.there.assign(2 * HIDDEN + 2 * USED, 0.25f);
    const float weights[] = {0.5f, 0.25f, 2.0f}, numbers[] = {4, 0, 6};
    std::memcpy(made.there.data() + 2 * HIDDEN, weights, sizeof weights);
    std::memcpy(made.there.data() + 2 * HIDDEN + USED, numbers, sizeof numbers);
    made.packed.assign(made.there.size(), 0);
    made.sum.assign(HIDDEN, 0);
    std::vector<float> packed_here(made.there.size()), sum_here(HIDDEN), expected(HIDDEN);
    const k2quant_card card = {launch, copy, record, wait_for, nullptr, nullptr,
                               reinterpret_cast<uintptr_t>(made.packed.data()), packed_here.data(),
                               reinterpret_cast<uintptr_t>(made.sum.data()), sum_here.data()};
    const k2quant_card_layer layers[] = {{&made, nullptr, nullptr, 0, 0, 0},
                                         {&made, nullptr, some.data(), EXPERTS, 1, 0},
                                         {&made, nullptr, some.data(), EXPERTS, 0, 0}};
    std::vector<int64_t> ids(3 * USED), outcomes(9), reached(2);
    const auto pass = [&](int64_t count, int64_t first) {
        return k2quant_card_pass(isa, pool, &card, layers, count, first, HIDDEN, USED, ids.data(), outcomes.data(), reached.data());
    };
    CHECK(pass(3, 0) == K2QUANT_OK);
    CHECK(reached[0] == 2 && reached[1] == 0);  // the last layer's card has nothing of its own
    CHECK(made.launched == 6 && made.copied == 3 && made.recorded == 2 && made.waited == 2);
    CHECK(outcomes[3] == 2 && outcomes[4] == 0 && outcomes[6] == 2 && outcomes[7] == 1);
    CHECK(ids[USED] == 4 && ids[USED + 1] == 0 && ids[USED + 2] == 6);
    const std::vector<float> x(HIDDEN, 0.25f);
    const int64_t fewer[] = {4, 0};
    int64_t outcome[3];
    CHECK(k2quant_dispatch(isa, pool, x.data(), HIDDEN, some.data(), EXPERTS, fewer, weights, 2, 0, nullptr, expected.data(),
                           outcome) == K2QUANT_OK);
    CHECK(made.sum == expected);
    for (int at = 0; at < 8; ++at) {
        made.fail_at = made.asked + at;
        CHECK(pass(2, 0) == K2QUANT_OK && reached[1] == 719);
    }
    made.fail_at = -1;
    made.there[2 * HIDDEN + USED] = EXPERTS;  // no expert's number
    CHECK(pass(2, 1) == K2QUANT_BAD_ARGUMENT);
    CHECK(pass(2, 3) == K2QUANT_BAD_ARGUMENT);
    driver = nullptr;
    k2quant_pool_close(isa, pool);
}

void what_does_not_fit_is_refused() {
    void* pool = nullptr;
    CHECK(k2quant_pool_open(K2QUANT_PORTABLE, 1, 1, 0, &pool) == K2QUANT_OK);
    Model model;
    const auto refused = [&](int64_t position, int64_t most_used) {
        Run run;
        return run.pass(K2QUANT_PORTABLE, pool, model, position, most_used) == K2QUANT_BAD_ARGUMENT;
    };
    CHECK(!refused(2, USED));
    CHECK(refused(CAPACITY, USED));
    CHECK(refused(-1, USED));
    CHECK(refused(0, USED - 1));
    for (int64_t first : {-1, 4}) {
        Run run;
        CHECK(run.pass(K2QUANT_PORTABLE, pool, model, 0, USED, first) == K2QUANT_BAD_ARGUMENT);
    }
    model.layers[0].norm = nullptr;
    CHECK(refused(0, USED));
    model.layers[0].norm = model.numbers.some(HIDDEN);
    model.router[1].hidden = HIDDEN + 1;
    CHECK(refused(0, USED));
    model.router[1].hidden = HIDDEN;
    model.layers[2].attention = nullptr;
    CHECK(refused(0, USED));
    k2quant_pool_close(K2QUANT_PORTABLE, pool);
}

}  // namespace

int main() {
    for (int isa = K2QUANT_PORTABLE; isa <= K2QUANT_AVX512VNNI; ++isa) {
        for (int threads : {1, 3}) {
            if (!k2quant_isa_works(isa)) continue;
            a_pass_is_what_the_single_calls_make(isa, threads);
            a_pass_waits_for_what_is_not_here(isa, threads);
        }
        if (!k2quant_isa_works(isa)) continue;
        experts_are_multiplied_as_far_as_they_are_here(isa);
        a_card_is_asked_and_its_experts_are_left_out(isa);
    }
    what_does_not_fit_is_refused();
    std::puts("pass: ok");
}
