// What CUDA's language has beyond C++, for a processor. A block's threads are fibers that take turns, and change at each
// barrier: a barrier that is missing, or not reached by all, shows.
//
// Included before the kernels. Not here: speed, and memory that other blocks write at the same time.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#define __global__
#define __device__
// Blocks run one after the other.
#define __shared__ static

namespace emulator {
struct Dim {
    unsigned x, y, z;
};

void wait_for_block();
void wait_for_warp();
unsigned lane();
uint64_t *slots();

void known(const char *name, void (*run)(void **));

template <auto F> struct Caller;
template <typename... A, void (*F)(A...)> struct Caller<F> {
    template <size_t... I> static void spread(void **arguments, std::index_sequence<I...>) {
        F(*static_cast<std::remove_reference_t<A> *>(arguments[I])...);
    }
    static void run(void **arguments) { spread(arguments, std::index_sequence_for<A...>{}); }
};

struct Known {
    Known(const char *name, void (*run)(void **)) { known(name, run); }
};
} // namespace emulator

extern emulator::Dim gridDim, blockDim, blockIdx, threadIdx;

#define EXPORTED(NAME) static emulator::Known known_##NAME(#NAME, emulator::Caller<NAME>::run);

static inline void __syncthreads() { emulator::wait_for_block(); }

template <typename T> T __shfl_xor_sync(unsigned, T value, int apart) {
    static_assert(sizeof(T) <= 8, "a register");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    emulator::slots()[emulator::lane()] = bits;
    emulator::wait_for_warp();
    std::memcpy(&value, &emulator::slots()[emulator::lane() ^ apart], sizeof(T));
    emulator::wait_for_warp();
    return value;
}
