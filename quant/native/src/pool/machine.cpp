#include "pool/machine.h"

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>

namespace k2quant {

namespace {

// Calls take(n) for each number of the system's lists, as in "0-3,8".
template <class Take>
bool read_list(const char* path, Take take) {
    FILE* file = std::fopen(path, "re");
    if (!file) return false;
    int first = 0;
    while (std::fscanf(file, "%d", &first) == 1) {
        int last = first, mark = std::fgetc(file);
        if (mark == '-' && std::fscanf(file, "%d", &last) == 1) mark = std::fgetc(file);
        for (int number = first; number <= last && number < MOST_CORES; ++number) take(number);
        if (mark != ',') break;
    }
    std::fclose(file);
    return true;
}

// Whether no thread of the same physical core has a lower number.
bool is_first_of_core(int cpu) {
    char path[96];
    std::snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    int lowest = cpu;
    read_list(path, [&](int number) { lowest = number < lowest ? number : lowest; });
    return lowest == cpu;
}

struct CoreSet {
    bool has[MOST_CORES];
};

void add_node(const CoreSet& node, Machine& machine) {
    const int before = machine.cores;
    machine.first[machine.nodes] = before;
    for (int first_ones = 1; first_ones >= 0; --first_ones) {
        for (int cpu = 0; cpu < MOST_CORES; ++cpu) {
            if (node.has[cpu] && is_first_of_core(cpu) == (first_ones == 1)) machine.order[machine.cores++] = cpu;
        }
    }
    if (machine.cores > before) machine.first[++machine.nodes] = machine.cores;
}

// A set that the thread is not in moves it, once: that it may return needs no second move.
void move_through(int thread, const cpu_set_t& set, const cpu_set_t& allowed) {
    if (sched_setaffinity(thread, sizeof set, &set) == 0) (void)sched_setaffinity(thread, sizeof allowed, &allowed);
}

}  // namespace

void ask_machine(Machine& machine) {
    machine.cores = machine.nodes = machine.first[0] = 0;
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    CoreSet rest;
    for (int cpu = 0; cpu < MOST_CORES; ++cpu) rest.has[cpu] = CPU_ISSET(cpu, &allowed);
    int numbers[MOST_NODES], found = 0;
    read_list("/sys/devices/system/node/online", [&](int number) {
        if (found < MOST_NODES) numbers[found++] = number;
    });
    for (int i = 0; i < found && machine.nodes < MOST_NODES - 1; ++i) {
        char path[96];
        std::snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", numbers[i]);
        CoreSet node = {};
        read_list(path, [&](int cpu) {
            node.has[cpu] = rest.has[cpu];
            rest.has[cpu] = false;
        });
        add_node(node, machine);
    }
    add_node(rest, machine);  // all, where the system does not speak of nodes
}

void bind_thread(pthread_t thread, const Machine& machine, int first, int last) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int i = first; i < last; ++i) CPU_SET(machine.order[i], &set);
    if (first < last) (void)pthread_setaffinity_np(thread, sizeof set, &set);
}

int current_thread() {
    static thread_local int number = 0;
    if (number == 0) number = static_cast<int>(syscall(SYS_gettid));
    return number;
}

int64_t processor_time(int thread) {
    const clockid_t clock = static_cast<clockid_t>(~static_cast<unsigned>(thread) << 3 | 6);  // as the kernel numbers them
    timespec t;
    return clock_gettime(clock, &t) == 0 ? int64_t{1'000'000'000} * t.tv_sec + t.tv_nsec : -1;
}

void bring_to_core(int thread, int core) {
    cpu_set_t allowed;
    if (core < 0 || core >= CPU_SETSIZE || sched_getaffinity(thread, sizeof allowed, &allowed) != 0) return;
    if (!CPU_ISSET(core, &allowed)) return;
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(core, &only);
    move_through(thread, only, allowed);
}

void take_from_core(int thread, int core) {
    cpu_set_t allowed;
    if (core < 0 || core >= CPU_SETSIZE || sched_getaffinity(thread, sizeof allowed, &allowed) != 0) return;
    cpu_set_t others = allowed;
    CPU_CLR(core, &others);
    if (CPU_COUNT(&others) > 0) move_through(thread, others, allowed);
}

int current_core() { return sched_getcpu(); }

int current_node(const Machine& machine) {
    const int cpu = sched_getcpu();
    for (int node = 0; node < machine.nodes; ++node) {
        for (int i = machine.first[node]; i < machine.first[node + 1]; ++i) {
            if (machine.order[i] == cpu) return node;
        }
    }
    return 0;
}

}  // namespace k2quant

#else
#include <unistd.h>

namespace k2quant {

void ask_machine(Machine& machine) {
    const long count = sysconf(_SC_NPROCESSORS_ONLN);
    machine.cores = count > 0 && count < MOST_CORES ? static_cast<int>(count) : 0;
    machine.nodes = 1;
    machine.first[0] = 0;
    machine.first[1] = machine.cores;
    for (int i = 0; i < machine.cores; ++i) machine.order[i] = i;
}

void bind_thread(pthread_t, const Machine&, int, int) {}
int current_thread() { return 0; }
int64_t processor_time(int) { return -1; }
void bring_to_core(int, int) {}
void take_from_core(int, int) {}
int current_core() { return -1; }
int current_node(const Machine&) { return 0; }

}  // namespace k2quant
#endif
