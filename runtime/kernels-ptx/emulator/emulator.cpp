// Runs our kernels on the processor, for tests on machines without a GPU: a driver of the tests calls `emulated_kernel` and
// `emulated_launch` in the place of a GPU's. Of candle's kernels and of cuBLAS those few are here that the tests need around ours.
#include "emulator.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <ucontext.h>
#include <vector>

#include "../kernels/elements.cu"
#undef OF_TYPE
#include "../kernels/rows.cu"
#undef OF_TYPE

emulator::Dim gridDim, blockDim, blockIdx, threadIdx;

namespace emulator {
static std::map<std::string, void (*)(void **)> &kernels() {
    static std::map<std::string, void (*)(void **)> all;
    return all;
}

void known(const char *name, void (*run)(void **)) { kernels()[name] = run; }

struct Barrier {
    unsigned arrived, turn;
};

struct Fiber {
    jmp_buf at;
    Dim index;
    bool is_begun, is_done;
};

// One launch at a time.
static std::mutex only;
static constexpr size_t STACK = 64 << 10;
static constexpr size_t THREADS_MAX = 1024;
static std::vector<Fiber> fibers(THREADS_MAX);
static std::vector<char> stacks(THREADS_MAX *STACK);
// Of a block.
static size_t threads;
static jmp_buf scheduler;
static ucontext_t beginning;
static Fiber *current;
static Barrier of_block, of_warp[32];
static uint64_t warp_slots[32][32];
static uint64_t progress;
// 32 threads that do not come until nothing goes on without them: others write early what these read late. Others after each
// barrier of a block.
static size_t asleep, sleeps;
static void (*running)(void **);
static void **arguments;

static unsigned number() { return threadIdx.z * blockDim.y * blockDim.x + threadIdx.y * blockDim.x + threadIdx.x; }
unsigned lane() { return number() % 32; }
uint64_t *slots() { return warp_slots[number() / 32]; }

// To the scheduler. By jumps: a context that is swapped asks the system for its signals each time.
static void leave() {
    if (_setjmp(current->at) == 0)
        _longjmp(scheduler, 1);
}

static void wait(Barrier &barrier, unsigned expected) {
    unsigned turn = barrier.turn;
    progress++;
    if (++barrier.arrived == expected) {
        barrier.arrived = 0;
        barrier.turn++;
        if (&barrier == &of_block)
            asleep = sleeps++ % ((threads + 31) / 32);
        return;
    }
    while (barrier.turn == turn)
        leave();
}

void wait_for_block() { wait(of_block, (unsigned)threads); }
void wait_for_warp() { wait(of_warp[number() / 32], 32); }

// A fiber's whole life: one thread after the other.
static void live() {
    for (;;) {
        running(arguments);
        current->is_done = true;
        progress++;
        leave();
    }
}

static void go_on(Fiber &fiber) {
    current = &fiber;
    threadIdx = fiber.index;
    if (_setjmp(scheduler) != 0)
        return;
    if (fiber.is_begun)
        _longjmp(fiber.at, 1);
    fiber.is_begun = true;
    getcontext(&beginning);
    beginning.uc_stack.ss_sp = stacks.data() + (&fiber - fibers.data()) * STACK;
    beginning.uc_stack.ss_size = STACK;
    beginning.uc_link = nullptr;
    makecontext(&beginning, live, 0);
    setcontext(&beginning);
}

static void prepare() {
    std::memset(&of_block, 0, sizeof of_block);
    std::memset(of_warp, 0, sizeof of_warp);
    unsigned x = blockDim.x, y = blockDim.y;
    for (size_t i = 0; i < threads; i++) {
        fibers[i].index = {(unsigned)i % x, (unsigned)i / x % y, (unsigned)i / (x * y)};
        fibers[i].is_done = false;
    }
}

// All threads of a block, in their order or in the opposite one.
static void run_block(bool backwards) {
    prepare();
    asleep = sleeps++ % ((threads + 31) / 32);
    for (size_t left = threads; left > 0;) {
        uint64_t before = progress;
        for (size_t i = 0; i < threads; i++) {
            size_t own = backwards ? threads - 1 - i : i;
            Fiber &fiber = fibers[own];
            if (fiber.is_done || own / 32 == asleep)
                continue;
            go_on(fiber);
            left -= fiber.is_done;
        }
        if (progress == before && asleep < 32) {
            asleep = 32;
        } else if (progress == before) {
            std::fprintf(stderr, "threads of a block wait for others that do not come\n");
            std::abort();
        }
    }
}
} // namespace emulator

extern "C" const void *emulated_kernel(const char *name) {
    auto found = emulator::kernels().find(name);
    return found == emulator::kernels().end() ? nullptr : reinterpret_cast<const void *>(found->second);
}

extern "C" void emulated_launch(const void *kernel, const unsigned *grid, const unsigned *block, void **given) {
    using namespace emulator;
    std::lock_guard<std::mutex> lock(only);
    static bool backwards;
    backwards = !backwards;
    running = reinterpret_cast<void (*)(void **)>(const_cast<void *>(kernel));
    arguments = given;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    threads = (size_t)block[0] * block[1] * block[2];
    if (threads == 0 || threads > THREADS_MAX || grid[0] == 0 || grid[1] == 0 || grid[2] == 0) {
        std::fprintf(stderr, "a launch of no blocks, or of blocks that no GPU takes\n");
        std::abort();
    }
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                blockIdx = {x, y, z};
                run_block(backwards);
            }
}

// candle's: sizes and strides of a tensor that does not lie in a row come as numbers on the "GPU".
static size_t strided(size_t at, size_t dims, const size_t *sizes, const size_t *strides) {
    size_t offset = 0;
    for (size_t dim = dims; dim-- > 0; at /= sizes[dim])
        offset += at % sizes[dim] * strides[dim];
    return offset;
}

template <typename T> static T added(T one, T two) { return narrow<T>(wide(one) + wide(two)); }
template <typename T> static T multiplied(T one, T two) { return narrow<T>(wide(one) * wide(two)); }

#define BINARY(NAME, OF, T)                                                                                                  \
    static void NAME(size_t count, size_t dims, const size_t *info, const T *one, const T *two, T *to) {                     \
        for (size_t at = place(); at < count; at += places())                                                                \
            to[at] = info ? OF(one[strided(at, dims, info, info + dims)], two[strided(at, dims, info, info + 2 * dims)])     \
                          : OF(one[at], two[at]);                                                                            \
    }                                                                                                                        \
    EXPORTED(NAME)

#define OF_TYPE(SUFFIX, T)                                                                                                   \
    BINARY(badd_##SUFFIX, added, T)                                                                                          \
    BINARY(bmul_##SUFFIX, multiplied, T)                                                                                     \
    static void const_set_##SUFFIX(size_t count, size_t dims, const size_t *info, T value, T *to) {                          \
        for (size_t at = place(); at < count; at += places())                                                                \
            to[info ? strided(at, dims, info, info + dims) : at] = value;                                                    \
    }                                                                                                                        \
    static void ucopy_##SUFFIX(size_t count, size_t dims, const size_t *info, const T *from, T *to) {                        \
        for (size_t at = place(); at < count; at += places())                                                                \
            to[at] = from[info ? strided(at, dims, info, info + dims) : at];                                                 \
    }                                                                                                                        \
    static void affine_##SUFFIX(size_t count, size_t dims, const size_t *info, const T *from, T *to, T factor, T added) {    \
        for (size_t at = place(); at < count; at += places())                                                                \
            to[at] = narrow<T>(wide(from[info ? strided(at, dims, info, info + dims) : at]) * wide(factor) + wide(added));   \
    }                                                                                                                        \
    static void cast_f32_##SUFFIX(size_t count, size_t dims, const size_t *info, const float *from, T *to) {                 \
        for (size_t at = place(); at < count; at += places())                                                                \
            to[at] = narrow<T>(from[info ? strided(at, dims, info, info + dims) : at]);                                      \
    }                                                                                                                        \
    EXPORTED(affine_##SUFFIX)                                                                                                \
    EXPORTED(cast_f32_##SUFFIX)                                                                                              \
    EXPORTED(const_set_##SUFFIX)                                                                                             \
    EXPORTED(ucopy_##SUFFIX)

OF_TYPE(f32, float)
OF_TYPE(bf16, __nv_bfloat16)
OF_TYPE(f16, __half)

// A product of column-major matrices as candle asks cuBLAS for it: the numbers 1 and 0 for alpha and beta, sums in f32.
template <typename T>
static void product(bool turns_a, bool turns_b, int m, int n, int k, const T *a, int lda, const T *b, int ldb, T *c, int ldc) {
    for (int column = 0; column < n; column++)
        for (int row = 0; row < m; row++) {
            float sum = 0.0f;
            for (int at = 0; at < k; at++)
                sum += wide(a[turns_a ? at + (size_t)row * lda : row + (size_t)at * lda]) *
                       wide(b[turns_b ? column + (size_t)at * ldb : at + (size_t)column * ldb]);
            c[row + (size_t)column * ldc] = narrow<T>(sum);
        }
}

enum { R_32F = 0, R_16F = 2, R_16BF = 14, NOT_SUPPORTED = 15 };

extern "C" int cublasGemmStridedBatchedEx(void *, int turns_a, int turns_b, int m, int n, int k, const void *, const void *a,
                                          int type, int lda, long long stride_a, const void *b, int, int ldb,
                                          long long stride_b, const void *, void *c, int, int ldc, long long stride_c,
                                          int batches, int, int) {
    auto every = [&](auto *a, auto *b, auto *c) {
        for (int at = 0; at < batches; at++)
            product(turns_a, turns_b, m, n, k, a + at * stride_a, lda, b + at * stride_b, ldb, c + at * stride_c, ldc);
        return 0;
    };
    if (type == R_32F)
        return every((const float *)a, (const float *)b, (float *)c);
    if (type == R_16F)
        return every((const __half *)a, (const __half *)b, (__half *)c);
    if (type == R_16BF)
        return every((const __nv_bfloat16 *)a, (const __nv_bfloat16 *)b, (__nv_bfloat16 *)c);
    return NOT_SUPPORTED;
}

static void cast_u32_i64(size_t count, size_t dims, const size_t *info, const uint32_t *from, int64_t *to) {
    for (size_t at = place(); at < count; at += places())
        to[at] = from[info ? strided(at, dims, info, info + dims) : at];
}
EXPORTED(cast_u32_i64)
