// The pool from inside: pieces, phases, callers, sleep and end. To be built with -fsanitize=thread, or address,undefined.
#include "pool/pool.h"

#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "check.h"

using namespace k2quant;

namespace {

// Plain counters: the sanitizer sees a piece that runs twice, and a phase that begins before the one before has ended.
struct Job {
    std::vector<std::vector<int>> runs;
    std::vector<std::atomic<int>>* workers = nullptr;
    int threads;
};

template <int PHASE>
void run_piece(void* data, int64_t piece, int worker) {
    Job& job = *static_cast<Job*>(data);
    CHECK(worker >= 0 && worker < job.threads);
    for (int before = 0; before < PHASE; ++before) {
        for (int count : job.runs[static_cast<size_t>(before)]) CHECK(count == 1);
    }
    ++job.runs[PHASE][static_cast<size_t>(piece)];
    if (job.workers) (*job.workers)[static_cast<size_t>(worker)].fetch_add(1);
}

void run_once(Pool& pool, const std::vector<int64_t>& pieces, int helpers, std::vector<std::atomic<int>>* workers) {
    Job job;
    job.threads = pool_threads(pool);
    job.workers = workers;
    for (int64_t count : pieces) job.runs.emplace_back(static_cast<size_t>(count));
    const Phase phases[] = {{run_piece<0>, pieces[0]}, {run_piece<1>, pieces[1]}, {run_piece<2>, pieces[2]}};
    run_phases(pool, &job, phases, 3, helpers);
    for (const auto& phase : job.runs) {
        for (int count : phase) CHECK(count == 1);
    }
}

void every_piece_runs_once_and_phases_follow_each_other() {
    for (int threads : {1, 2, 3, 8}) {
        for (int nodes : {0, 1, 2, 3}) {
            Pool* pool = open_pool(threads, nodes, nodes == 3);
            CHECK(pool && pool_threads(*pool) == threads);
            for (int helpers : {0, 1, threads, 100}) {
                for (const auto& pieces : {std::vector<int64_t>{0, 0, 0}, {1, 1, 1}, {1, 5, 2}, {7, 0, 100}, {64, 1, 3}}) {
                    std::vector<std::atomic<int>> workers(static_cast<size_t>(threads));
                    run_once(*pool, pieces, helpers, &workers);
                    for (size_t i = 1; helpers == 0 && i < workers.size(); ++i) CHECK(workers[i] == 0);
                }
            }
            close_pool(pool);
        }
    }
}

void many_short_jobs(int threads, int jobs) {
    Pool* pool = open_pool(threads, 1, false);
    for (int i = 0; i < jobs; ++i) {
        run_once(*pool, {i % 3, i % 5, i % 7}, i % (threads + 1), nullptr);
        if (i % 97 == 0) std::this_thread::sleep_for(std::chrono::microseconds(i % 300));
    }
    close_pool(pool);
}

// Where threads move away from each other and fetch who stands still.
void short_jobs_beside_busy_neighbours() {
    std::atomic<bool> stop{false};
    std::vector<std::thread> neighbours;
    for (unsigned i = 0; i < std::thread::hardware_concurrency(); ++i) {
        neighbours.emplace_back([&stop] {
            while (!stop.load(std::memory_order_relaxed)) {
            }
        });
    }
    many_short_jobs(2, 1000);
    stop.store(true);
    for (auto& neighbour : neighbours) neighbour.join();
}

void sleep_a_little(void* workers, int64_t, int worker) {
    (*static_cast<std::vector<std::atomic<int>>*>(workers))[static_cast<size_t>(worker)].fetch_add(1);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
}

void all_threads_take_part(int nodes) {
    Pool* pool = open_pool(4, nodes, false);
    std::vector<std::atomic<int>> workers(4);
    const Phase phase = {sleep_a_little, 12};
    run_phases(*pool, &workers, &phase, 1, 3);
    for (const auto& count : workers) CHECK(count > 0);
    close_pool(pool);
}

void fill_memory(void* memory, int64_t piece, int) {
    int64_t* values = static_cast<int64_t*>(memory);
    for (int64_t i = piece * 100; i < piece * 100 + 100; ++i) values[i] = i;
}

void callers_take_turns() {
    Pool* pool = open_pool(3, 1, false);
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller) {
        callers.emplace_back([pool, caller] {
            for (int i = 0; i < 200; ++i) {
                run_once(*pool, {caller, 9, i % 4}, 2, nullptr);
                const Turn turn(*pool);
                int64_t* values = static_cast<int64_t*>(job_memory(*pool, 8 * 1000));
                const Phase phase = {fill_memory, 10};
                run_phases(*pool, values, &phase, 1, 2);
                for (int64_t j = 0; j < 1000; ++j) CHECK(values[j] == j);
                std::memset(values, 0xFF, 8 * 1000);
            }
        });
    }
    for (auto& caller : callers) caller.join();
    close_pool(pool);
}

void memory_is_aligned_and_kept() {
    Pool* pool = open_pool(2, 1, false);
    for (size_t bytes : {size_t{1}, size_t{1000}, size_t{3} << 20, size_t{40} << 20}) {
        for (int worker : {0, 1}) {
            char* memory = static_cast<char*>(worker_memory(*pool, worker, bytes));
            CHECK(memory && reinterpret_cast<uintptr_t>(memory) % 64 == 0);
            memory[0] = memory[bytes - 1] = 1;
            CHECK(worker_memory(*pool, worker, bytes) == memory && worker_memory(*pool, worker, bytes / 2) == memory);
        }
        CHECK(worker_memory(*pool, 0, bytes) != worker_memory(*pool, 1, bytes));
    }
    CHECK(!job_memory(*pool, SIZE_MAX / 2));
    CHECK(job_memory(*pool, 100));
    close_pool(pool);
}

double processor_seconds() {
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

void waiting_is_quiet() {
    Pool* pool = open_pool(8, 1, false);
    run_once(*pool, {20, 20, 20}, 7, nullptr);
    const double before = processor_seconds();
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    CHECK(processor_seconds() - before < 0.03);
    close_pool(pool);
}

void it_ends_at_any_time() {
    for (int i = 0; i < 60; ++i) {
        Pool* pool = open_pool(1 + i % 6, 1 + i % 2, false);
        if (i % 3) run_once(*pool, {4, 4, 4}, 5, nullptr);
        if (i % 4 == 3) std::this_thread::sleep_for(std::chrono::microseconds(40 * i));
        close_pool(pool);
    }
    close_pool(nullptr);
    for (int threads : {0, -1, 1 << 20}) CHECK(!open_pool(threads, 1, false));
    CHECK(!open_pool(1, -1, false) && !open_pool(1, 1000, false));
}

void a_child_of_fork_computes_and_closes() {
    Pool* pool = open_pool(3, 1, false);
    run_once(*pool, {5, 5, 5}, 2, nullptr);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(20);
        run_once(*pool, {5, 5, 5}, 2, nullptr);
        close_pool(pool);
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    run_once(*pool, {5, 5, 5}, 2, nullptr);
    close_pool(pool);
}

}  // namespace

int main() {
    every_piece_runs_once_and_phases_follow_each_other();
    many_short_jobs(2, 5000);
    many_short_jobs(5, 3000);
    many_short_jobs(16, 500);
    many_short_jobs(70, 60);  // more threads than runs
    short_jobs_beside_busy_neighbours();
    all_threads_take_part(1);
    all_threads_take_part(2);
    callers_take_turns();
    memory_is_aligned_and_kept();
    waiting_is_quiet();
    it_ends_at_any_time();
    a_child_of_fork_computes_and_closes();
    std::puts("pool: ok");
}
