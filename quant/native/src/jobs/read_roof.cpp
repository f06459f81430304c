// All threads read memory as fast as they can: what products of large matrices are measured against.
#include <atomic>

#include "jobs/jobs.h"
#include "k2quant.h"

namespace k2quant {

namespace {

constexpr int64_t PIECE = 1 << 20;
constexpr int64_t UNROLLED = 8;

// Eight sums side by side, so that no read waits for an addition. Written once, compiled for each width.
template <class Vector>
[[gnu::always_inline]] inline uint64_t sum_of(const uint8_t* data, int64_t bytes) {
    constexpr int64_t STEP = UNROLLED * static_cast<int64_t>(sizeof(Vector));
    Vector sums[UNROLLED] = {};
    int64_t at = 0;
    for (; at + STEP <= bytes; at += STEP) {
        for (int64_t i = 0; i < UNROLLED; ++i) {
            Vector v;
            __builtin_memcpy(&v, data + at + i * static_cast<int64_t>(sizeof v), sizeof v);
            sums[i] += v;
        }
    }
    uint64_t total = 0;
    for (const Vector& sum : sums) {
        for (size_t i = 0; i < sizeof(Vector) / sizeof(uint64_t); ++i) total += sum[i];
    }
    for (; at < bytes; at += 8) {
        uint64_t word = 0;
        __builtin_memcpy(&word, data + at, static_cast<size_t>(bytes - at < 8 ? bytes - at : 8));
        total += word;
    }
    return total;
}

using Narrow = uint64_t __attribute__((vector_size(16)));
uint64_t sum_plain(const uint8_t* data, int64_t bytes) { return sum_of<Narrow>(data, bytes); }

#if defined(__x86_64__)
using Wide = uint64_t __attribute__((vector_size(32)));
using Widest = uint64_t __attribute__((vector_size(64)));
[[gnu::target("avx2")]] uint64_t sum_avx2(const uint8_t* data, int64_t bytes) { return sum_of<Wide>(data, bytes); }
[[gnu::target("avx512f")]] uint64_t sum_avx512(const uint8_t* data, int64_t bytes) {
    return sum_of<Widest>(data, bytes);
}
#endif

struct Read {
    uint64_t (*sum)(const uint8_t* data, int64_t bytes);
    const uint8_t* data;
    int64_t bytes;
    std::atomic<uint64_t> total;
};

void read_piece(void* job, int64_t piece, int) {
    Read& read = *static_cast<Read*>(job);
    const int64_t start = piece * PIECE, rest = read.bytes - start;
    read.total.fetch_add(read.sum(read.data + start, rest < PIECE ? rest : PIECE), std::memory_order_relaxed);
}

}  // namespace

uint64_t read_roof_job(Pool& pool, int isa, const uint8_t* data, int64_t bytes) {
    Read read = {sum_plain, data, bytes, {}};
#if defined(__x86_64__)
    if (isa == K2QUANT_AVX2) read.sum = sum_avx2;
    if (isa == K2QUANT_AVX512 || isa == K2QUANT_AVX512VNNI) read.sum = sum_avx512;
#else
    (void)isa;
#endif
    const Phase phase = {read_piece, pieces_of(bytes, PIECE)};
    run_phases(pool, &read, &phase, 1, pool_threads(pool) - 1);
    return read.total.load(std::memory_order_relaxed);
}

}  // namespace k2quant
