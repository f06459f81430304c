// The pool from inside: its threads (threads.cpp) and the phases of a job (phases.cpp).
//
// A phase's pieces lie in runs, one for each thread as far as there are enough: a thread takes one piece after the other
// of its own run, which memory is read from faster than here and there, and of the others' when that is done.
//
// Those of a run are counted down in one word, next to the phase's number, so that a thread that comes late
// cannot take a piece of a phase that it knows nothing of. Who ends a phase's last piece opens the next phase, whichever
// thread that is: nobody waits for a thread that the system has put aside unless it holds a piece.
#pragma once

#include <pthread.h>

#include <atomic>

#include "pool/arena.h"
#include "pool/machine.h"
#include "pool/pool.h"
#include "pool/sleeper.h"

namespace k2quant {

constexpr int64_t SPIN_NS = 300'000;        // longer than what lies between two jobs of a token, code that left the caches included
constexpr int64_t CROWDED_SPIN_NS = 2'000;  // with more threads than cores: who is waited for may need this core

constexpr int MOST_RUNS = 64;

// Pieces of a phase that lie together. `word` is the phase's number above how many are not taken yet.
struct alignas(64) Run {
    std::atomic<uint64_t> word{0};
    int64_t end = 0;
};

struct alignas(64) Worker {
    Pool* pool = nullptr;
    int number = 0;
    int node = 0;
    int run = 0;
    std::atomic<int> core{-1};  // where it last looked for pieces
    std::atomic<int> system_number{0};
    std::atomic<bool> has_pieces{false};
    int64_t moved_ns = 0;
    pthread_t thread;
    Sleeper sleeper;
    Arena memory;
};

class Pool {
public:
    bool open(int threads, int nodes, bool pin);
    void close();
    int threads() const { return threads_; }
    void run(void* job, const Phase* phases, int count, int helpers);
    void lock();
    void unlock();

    Arena& memory_of(int worker) { return workers_[worker].memory; }
    Arena job_memory;

private:
    static void* serve_thread(void* worker);
    void serve(int worker);
    bool start(int worker, bool pin);
    void bind(const Worker& worker, bool pin) const;
    bool is_child() const;  // of fork: the other threads are not there

    void run_alone(void* job, const Phase* phases, int count);
    bool open_next(int worker);
    void publish(const Phase& phase);
    void take_pieces(int worker);
    int64_t claim(int own);
    // The threads of a node come one after the other, in the order of nodes: the place of the first one.
    int first_of_node(int node) const { return node * (threads_ / nodes_) + (node < threads_ % nodes_ ? node : threads_ % nodes_); }
    int run_of(int place) const { return threads_ <= MOST_RUNS ? place : place * MOST_RUNS / threads_; }
    void wait(int worker, uint32_t seen);
    int lowest_on_core(int core, int worker) const;
    void step_aside(Worker& worker, int core, int64_t now);
    void fetch_who_stands_still(int worker);
    void wake(int workers);  // the first so many

    Worker* workers_ = nullptr;
    int threads_ = 0, started_ = 1;
    int nodes_ = 1;
    bool bound_ = false;
    uint32_t forks_ = 0;
    int64_t spin_ns_ = 0;
    Machine machine_;
    pthread_mutex_t turn_;

    // The job, written by the caller before the first phase and then by who opens the next one.
    void* job_ = nullptr;
    const Phase* phases_ = nullptr;
    int next_ = 0, count_ = 0, helpers_ = 0;
    Phase phase_ = {};

    alignas(64) std::atomic<uint32_t> opened_{0};  // counts what is worth looking for: phases, ends of jobs, the end
    std::atomic<bool> ended_{false}, closing_{false};
    std::atomic<bool> moving_{false};  // a thread is just moved by another: one at a time
    alignas(64) std::atomic<int64_t> unfinished_{0};
    std::atomic<int> run_count_{1};  // of the phase
    Run runs_[MOST_RUNS];
};

}  // namespace k2quant
