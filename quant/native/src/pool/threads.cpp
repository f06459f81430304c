#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <new>

#include "pool/pool_state.h"

namespace k2quant {

namespace {

constexpr int MOST_THREADS = 1024;

std::atomic<uint32_t> forks{0};  // that led to this process

__attribute__((constructor)) void count_forks() {
    pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
}

}  // namespace

bool Pool::open(int threads, int nodes, bool pin) {
    pthread_mutexattr_t recursive;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&turn_, &recursive);
    pthread_mutexattr_destroy(&recursive);
    ask_machine(machine_);
    nodes_ = nodes > 0 ? nodes : machine_.nodes;
    nodes_ = nodes_ < 1 ? 1 : nodes_ > threads ? threads : nodes_;
    bound_ = nodes_ > 1 && nodes_ <= machine_.nodes;
    threads_ = threads;
    forks_ = forks.load(std::memory_order_relaxed);
    spin_ns_ = machine_.cores > 0 && machine_.cores < threads ? CROWDED_SPIN_NS : SPIN_NS;
    void* memory = std::aligned_alloc(alignof(Worker), sizeof(Worker) * static_cast<size_t>(threads));
    if (!memory) return false;
    workers_ = static_cast<Worker*>(memory);
    for (int i = 0; i < threads; ++i) {
        Worker* worker = new (workers_ + i) Worker;
        worker->pool = this;
        worker->number = i;
        worker->node = i % nodes_;
        worker->run = run_of(first_of_node(worker->node) + i / nodes_);
    }
    for (int i = 1; i < threads; ++i) {
        if (!start(i, pin)) return false;
    }
    return true;
}

bool Pool::start(int worker, bool pin) {
    sigset_t all, before;  // signals go to the threads of the program
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const bool works = pthread_create(&workers_[worker].thread, nullptr, serve_thread, workers_ + worker) == 0;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (!works) return false;
    ++started_;
    bind(workers_[worker], pin);
    return true;
}

void Pool::bind(const Worker& worker, bool pin) const {
    if (!bound_ && !pin) return;
    const int first = bound_ ? machine_.first[worker.node] : 0;
    const int cores = (bound_ ? machine_.first[worker.node + 1] : machine_.cores) - first;
    if (cores <= 0) return;
    const int place = first + (bound_ ? worker.number / nodes_ : worker.number) % cores;
    bind_thread(worker.thread, machine_, pin ? place : first, pin ? place + 1 : first + cores);
}

bool Pool::is_child() const { return forks.load(std::memory_order_relaxed) != forks_; }

void Pool::close() {
    if (!is_child()) {
        lock();
        closing_.store(true, std::memory_order_release);
        opened_.fetch_add(1, std::memory_order_seq_cst);
        wake(started_ - 1);
        for (int i = 1; i < started_; ++i) pthread_join(workers_[i].thread, nullptr);
        unlock();
        pthread_mutex_destroy(&turn_);
    }
    for (int i = 0; workers_ && i < threads_; ++i) workers_[i].~Worker();
    std::free(workers_);
}

void Pool::lock() {
    if (!is_child()) pthread_mutex_lock(&turn_);
}

void Pool::unlock() {
    if (!is_child()) pthread_mutex_unlock(&turn_);
}

void* Pool::serve_thread(void* worker) {
    Worker& self = *static_cast<Worker*>(worker);
#if defined(__linux__)
    char name[16];
    std::snprintf(name, sizeof name, "k2quant-%d", self.number);
    pthread_setname_np(pthread_self(), name);
#endif
    self.pool->serve(self.number);
    return nullptr;
}

void Pool::serve(int worker) {
    workers_[worker].system_number.store(current_thread(), std::memory_order_relaxed);
    for (;;) {
        const uint32_t seen = opened_.load(std::memory_order_acquire);
        if (closing_.load(std::memory_order_acquire)) return;
        take_pieces(worker);
        wait(worker, seen);
    }
}

Pool* open_pool(int threads, int nodes, bool pin) {
    if (threads < 1 || threads > MOST_THREADS || nodes < 0 || nodes > MOST_NODES) return nullptr;
    void* memory = std::aligned_alloc(alignof(Pool), sizeof(Pool));
    if (!memory) return nullptr;
    Pool* pool = new (memory) Pool;
    if (pool->open(threads, nodes, pin)) return pool;
    close_pool(pool);
    return nullptr;
}

void close_pool(Pool* pool) {
    if (!pool) return;
    pool->close();
    pool->~Pool();
    std::free(pool);
}

int pool_threads(const Pool& pool) { return pool.threads(); }

}  // namespace k2quant
