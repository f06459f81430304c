// The cores that this process may use, and the parts of the machine that they lie in.
#pragma once

#include <pthread.h>

#include <cstdint>

namespace k2quant {

constexpr int MOST_NODES = 16;
constexpr int MOST_CORES = 1024;

struct Machine {
    int cores = 0;  // logical ones that the process may run on; 0: unknown
    int nodes = 0;  // with such cores
    int order[MOST_CORES];      // the cores' numbers, node after node, in each node one of every physical core first
    int first[MOST_NODES + 1];  // where a node begins in `order`
};

void ask_machine(Machine& machine);

// Let `thread` run on these cores of `order` only. Where the system has no such thing or refuses, nothing happens.
void bind_thread(pthread_t thread, const Machine& machine, int first, int last);

// The system's number of the calling thread. The functions below do nothing for one that has ended.
int current_thread();

// Processor time of a thread so far, in ns; -1 if unknown.
int64_t processor_time(int thread);

// Move a thread to a core, or away from one, if it may run there. The system may move it again at any time.
void bring_to_core(int thread, int core);
void take_from_core(int thread, int core);

// The core that the calling thread runs on now, -1 if unknown, and its node.
int current_core();
int current_node(const Machine& machine);

}  // namespace k2quant
