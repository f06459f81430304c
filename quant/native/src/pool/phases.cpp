#include <time.h>

#include "pool/pool_state.h"

namespace k2quant {

namespace {

constexpr int64_t MOVE_NS = 5'000'000;  // between two moves of a thread to another core
constexpr int64_t STILL_NS = 5'000;      // a thread that runs gets on in this time

int64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return int64_t{1'000'000'000} * t.tv_sec + t.tv_nsec;
}

void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

}  // namespace

void Pool::run(void* job, const Phase* phases, int count, int helpers) {
    int64_t most = 0;
    for (int i = 0; i < count; ++i) most = phases[i].pieces > most ? phases[i].pieces : most;
    lock();
    if (helpers <= 0 || threads_ == 1 || most <= 1 || is_child()) {
        run_alone(job, phases, count);
        unlock();
        return;
    }
    job_ = job;
    phases_ = phases;
    next_ = 0;
    count_ = count;
    helpers_ = helpers < threads_ - 1 ? helpers : threads_ - 1;
    ended_.store(false, std::memory_order_relaxed);
    workers_[0].system_number.store(current_thread(), std::memory_order_relaxed);
    if (bound_) workers_[0].run = run_of(first_of_node(current_node(machine_) % nodes_));
    if (open_next(0)) {
        for (;;) {
            const uint32_t seen = opened_.load(std::memory_order_acquire);
            if (ended_.load(std::memory_order_acquire)) break;
            take_pieces(0);
            if (ended_.load(std::memory_order_acquire)) break;
            wait(0, seen);
        }
    }
    unlock();
}

void Pool::run_alone(void* job, const Phase* phases, int count) {
    for (int i = 0; i < count; ++i) {
        for (int64_t piece = 0; piece < phases[i].pieces; ++piece) phases[i].run(job, piece, 0);
    }
}

// By the caller at first, then by who ended the last piece of a phase. False when the job has ended.
bool Pool::open_next(int worker) {
    for (; next_ < count_; ++next_) {
        const Phase& phase = phases_[next_];
        if (phase.pieces == 1) phase.run(job_, 0, worker);
        if (phase.pieces <= 1) continue;
        ++next_;
        publish(phase);
        return true;
    }
    ended_.store(true, std::memory_order_release);
    opened_.fetch_add(1, std::memory_order_seq_cst);
    if (worker != 0) workers_[0].sleeper.wake();
    return false;
}

void Pool::publish(const Phase& phase) {
    phase_ = phase;
    const int64_t pieces = phase.pieces;
    // Once its pieces can be seen, the phase may end and the next one or another job may begin: no look at them then.
    const int wanted = pieces - 1 < helpers_ ? static_cast<int>(pieces - 1) : helpers_;
    unfinished_.store(pieces, std::memory_order_relaxed);
    const uint64_t number = opened_.load(std::memory_order_relaxed) + uint32_t{1};
    // Where memory belongs to nodes all runs are there, so that each node has its own pieces, however few are woken.
    const int threads = threads_ < MOST_RUNS ? threads_ : MOST_RUNS;
    const int count = nodes_ > 1 || wanted + 1 > threads ? threads : wanted + 1;
    run_count_.store(count, std::memory_order_relaxed);
    for (int i = 0; i < count; ++i) {
        const int64_t first = pieces * i / count, end = pieces * (i + 1) / count;
        runs_[i].end = end;
        runs_[i].word.store(number << 32 | static_cast<uint64_t>(end - first), std::memory_order_release);
    }
    opened_.fetch_add(1, std::memory_order_seq_cst);
    workers_[0].sleeper.wake();
    wake(wanted);
}

void Pool::take_pieces(int worker) {
    Worker& self = workers_[worker];
    self.core.store(current_core(), std::memory_order_relaxed);
    int64_t done = 0;
    for (;;) {
        const int64_t piece = claim(self.run);
        if (piece >= 0) {  // while it is not reported, the phase stays
            if (done++ == 0) self.has_pieces.store(true, std::memory_order_relaxed);
            phase_.run(job_, piece, worker);
            continue;
        }
        self.has_pieces.store(false, std::memory_order_relaxed);
        if (done == 0 || unfinished_.fetch_sub(done, std::memory_order_acq_rel) != done) return;
        if (!open_next(worker)) return;
        done = 0;
    }
}

// A piece that is now the caller's, of its own run while that lasts; -1 when all are taken. A run of which this phase has
// none is empty.
int64_t Pool::claim(int own) {
    const int count = run_count_.load(std::memory_order_relaxed);
    for (int i = 0; i < count; ++i) {
        Run& run = runs_[(own + i) % count];
        uint64_t word = run.word.load(std::memory_order_acquire);
        while (static_cast<uint32_t>(word) != 0) {
            if (run.word.compare_exchange_weak(word, word - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
                return run.end - static_cast<int64_t>(static_cast<uint32_t>(word));
            }
        }
    }
    return -1;
}

// A thread that shares its core with another of the pool keeps it from what it waits for: it goes to sleep at once. One
// that waits for a thread which the system has put aside, for a neighbour process say, lets it have its own core.
void Pool::wait(int worker, uint32_t seen) {
    const int core = current_core(), lowest = lowest_on_core(core, worker);
    const int64_t start = now_ns();
    if (lowest < worker) step_aside(workers_[worker], core, start);
    const int64_t end = lowest < threads_ ? 0 : start + spin_ns_;
    do {
        for (int i = 0; i < 32; ++i) {
            if (opened_.load(std::memory_order_acquire) != seen) return;
            pause();
        }
    } while (now_ns() < end);
    if (unfinished_.load(std::memory_order_relaxed) > 0) fetch_who_stands_still(worker);
    workers_[worker].sleeper.sleep(opened_, seen);
}

// Where a neighbour process has the other core the system leaves two threads together, each with half of one.
void Pool::step_aside(Worker& worker, int core, int64_t now) {
    if (spin_ns_ != SPIN_NS || now - worker.moved_ns < MOVE_NS) return;
    if (moving_.exchange(true, std::memory_order_acquire)) return;
    take_from_core(worker.system_number.load(std::memory_order_relaxed), core);
    worker.moved_ns = now;
    moving_.store(false, std::memory_order_release);
}

void Pool::fetch_who_stands_still(int worker) {
    if (spin_ns_ != SPIN_NS) return;
    for (int i = 0; i < threads_; ++i) {
        if (i == worker || !workers_[i].has_pieces.load(std::memory_order_relaxed)) continue;
        const int thread = workers_[i].system_number.load(std::memory_order_relaxed);
        const int64_t before = processor_time(thread), start = now_ns();
        while (now_ns() - start < STILL_NS) pause();
        if (before < 0 || processor_time(thread) != before) continue;
        if (moving_.exchange(true, std::memory_order_acquire)) return;
        bring_to_core(thread, current_core());
        moving_.store(false, std::memory_order_release);
        return;
    }
}

// The first other thread that was last seen on this core; the number of threads where there is none.
int Pool::lowest_on_core(int core, int worker) const {
    for (int i = 0; i < threads_ && core >= 0; ++i) {
        if (i != worker && workers_[i].core.load(std::memory_order_relaxed) == core) return i;
    }
    return threads_;
}

void Pool::wake(int workers) {
    for (int i = 1; i <= workers; ++i) workers_[i].sleeper.wake();
}

void run_phases(Pool& pool, void* job, const Phase* phases, int count, int helpers) {
    pool.run(job, phases, count, helpers);
}

Turn::Turn(Pool& pool) : pool_(pool) { pool_.lock(); }
Turn::~Turn() { pool_.unlock(); }

void* worker_memory(Pool& pool, int worker, size_t bytes) { return pool.memory_of(worker).at_least(bytes); }
void* job_memory(Pool& pool, size_t bytes) { return pool.job_memory.at_least(bytes); }

}  // namespace k2quant
