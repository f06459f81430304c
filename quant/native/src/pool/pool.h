// Threads that share the pieces of a job and sleep between two jobs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace k2quant {

// A step of a job: `run` is called once for each piece 0..pieces-1, from any thread; `worker` numbers the thread, for
// memory of its own. A phase begins when all pieces of the one before have ended. Fewer than 2^31 pieces.
struct Phase {
    void (*run)(void* job, int64_t piece, int worker);
    int64_t pieces;
};

class Pool;

// `threads` in all, the caller of run_phases included; `nodes` parts of the machine with memory of their own, between
// which pieces are divided in runs (0: ask the system); `pin` binds each thread but the caller's to a core. Null without
// memory or threads. A child of fork computes in the calling thread, and may close.
Pool* open_pool(int threads, int nodes, bool pin);
void close_pool(Pool* pool);
int pool_threads(const Pool& pool);

// Runs all phases and returns when the last piece has ended. One job at a time: a second caller waits. At most
// `helpers` threads are woken beside the caller; 0 computes everything in the calling thread.
void run_phases(Pool& pool, void* job, const Phase* phases, int count, int helpers);

// Held by one thread at a time, for a job that uses job_memory or that is several calls of run_phases. run_phases takes
// it by itself where the caller has not; it may be taken again by the thread that holds it.
class Turn {
public:
    explicit Turn(Pool& pool);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

private:
    Pool& pool_;
};

// Memory that stays with the pool between jobs and grows as needed, aligned to 64: the worker's own, and one for the
// whole job, for who holds the turn. Null without memory. Contents do not outlive the job, nor a call for more.
void* worker_memory(Pool& pool, int worker, size_t bytes);
void* job_memory(Pool& pool, size_t bytes);

}  // namespace k2quant
