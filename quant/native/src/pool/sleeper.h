// Where one thread sleeps until another wakes it: a futex, or where there is none a condition variable.
#pragma once

#include <atomic>
#include <cstdint>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <pthread.h>
#endif

namespace k2quant {

class alignas(64) Sleeper {
public:
#if !defined(__linux__)
    Sleeper() {
        pthread_mutex_init(&mutex_, nullptr);
        pthread_cond_init(&woken_, nullptr);
    }
    ~Sleeper() {
        pthread_cond_destroy(&woken_);
        pthread_mutex_destroy(&mutex_);
    }
#endif

    // By its owner: sleep, unless `word` no longer has the value that was seen. Who changes the word wakes after it.
    void sleep(const std::atomic<uint32_t>& word, uint32_t seen) {
        state_.store(ASLEEP, std::memory_order_seq_cst);
        if (word.load(std::memory_order_seq_cst) != seen) {
            state_.store(AWAKE, std::memory_order_seq_cst);
            return;
        }
        block();
    }

    // By others. Cheap when it is awake.
    void wake() {
        uint32_t expected = ASLEEP;
        if (state_.load(std::memory_order_seq_cst) != ASLEEP) return;
        if (state_.compare_exchange_strong(expected, AWAKE, std::memory_order_seq_cst)) unblock();
    }

private:
    static constexpr uint32_t AWAKE = 0, ASLEEP = 1;
    std::atomic<uint32_t> state_{AWAKE};

#if defined(__linux__)
    void block() {
        while (state_.load(std::memory_order_acquire) == ASLEEP) {
            syscall(SYS_futex, &state_, FUTEX_WAIT_PRIVATE, ASLEEP, nullptr, nullptr, 0);
        }
    }
    void unblock() { syscall(SYS_futex, &state_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0); }
#else
    pthread_mutex_t mutex_;
    pthread_cond_t woken_;

    void block() {
        pthread_mutex_lock(&mutex_);
        while (state_.load(std::memory_order_acquire) == ASLEEP) pthread_cond_wait(&woken_, &mutex_);
        pthread_mutex_unlock(&mutex_);
    }
    void unblock() {
        pthread_mutex_lock(&mutex_);
        pthread_cond_signal(&woken_);
        pthread_mutex_unlock(&mutex_);
    }
#endif
};

}  // namespace k2quant
