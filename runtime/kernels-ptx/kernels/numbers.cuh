// Numbers of any dtype, several at a time, and what the threads of a row find together.
//
// Arithmetic is in f32; f16 and bf16 are what is read and written.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

// Makes a kernel known to the emulator of the tests, which compiles these files for a processor.
#ifndef EXPORTED
#define EXPORTED(NAME)
#endif

static __device__ inline float wide(float x) { return x; }
static __device__ inline float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
static __device__ inline float wide(__half x) { return __half2float(x); }

template <typename T> __device__ inline T narrow(float x);
template <> __device__ inline float narrow<float>(float x) { return x; }
template <> __device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) { return __float2bfloat16(x); }
template <> __device__ inline __half narrow<__half>(float x) { return __float2half(x); }

// So many numbers that are read or written at once.
template <typename T, int W> struct alignas(sizeof(T) * W) Pack {
    T of[W];
};

// As many as one access takes.
template <typename T> constexpr int WIDEST = 16 / sizeof(T);

template <int W, typename T> __device__ inline Pack<T, W> read(const T *from, uint64_t place) {
    return reinterpret_cast<const Pack<T, W> *>(from)[place];
}

template <int W, typename T> __device__ inline void write(T *to, uint64_t place, Pack<T, W> pack) {
    reinterpret_cast<Pack<T, W> *>(to)[place] = pack;
}

// Whether packs of the widest kind begin there; true of nothing, too.
static __device__ inline bool fits(const void *pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// Number of this thread among all of a launch, and of all.
static __device__ inline uint64_t place() { return (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; }
static __device__ inline uint64_t places() { return (uint64_t)gridDim.x * blockDim.x; }

// Rows: a block has threads of one row, or, 32 threads to each, of several.
static __device__ inline uint64_t own_row() { return (uint64_t)blockIdx.x * blockDim.y + threadIdx.y; }

// What all threads of a row have together, for each of them. `V` has `with`, and begins as what changes nothing. Called by all
// threads of a block where a row has more than 32.
template <typename V> __device__ V together(V value) {
    for (int apart = 16; apart > 0; apart /= 2)
        value.with(value.across(apart));
    if (blockDim.x <= 32)
        return value;
    __shared__ V parts[32];
    // What was there before has been read by all.
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = value;
    __syncthreads();
    value = threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : V::none();
    for (int apart = 16; apart > 0; apart /= 2)
        value.with(value.across(apart));
    return value;
}

static __device__ inline float of_lane(float value, int apart) { return __shfl_xor_sync(0xffffffffu, value, apart); }

struct Sum {
    float sum;
    static __device__ Sum none() { return {0.0f}; }
    __device__ void with(Sum other) { sum += other.sum; }
    __device__ Sum across(int apart) const { return {of_lane(sum, apart)}; }
};

struct Sums {
    float one, two;
    static __device__ Sums none() { return {0.0f, 0.0f}; }
    __device__ void with(Sums other) {
        one += other.one;
        two += other.two;
    }
    __device__ Sums across(int apart) const { return {of_lane(one, apart), of_lane(two, apart)}; }
};

// The largest number so far, and the sum of e^(x - that): softmax in one reading.
struct Exponentials {
    float most, sum;
    static __device__ Exponentials none() { return {-INFINITY, 0.0f}; }
    __device__ void add(float x) {
        if (x > most) {
            sum = sum * expf(most - x) + 1.0f;
            most = x;
        } else if (x != -INFINITY) {
            // What is no number comes here, too, and stays.
            sum += expf(x - most);
        }
    }
    __device__ void with(Exponentials other) {
        float larger = fmaxf(most, other.most);
        float own = most == larger ? sum : sum * expf(most - larger);
        sum = own + (other.most == larger ? other.sum : other.sum * expf(other.most - larger));
        most = larger;
    }
    __device__ Exponentials across(int apart) const { return {of_lane(most, apart), of_lane(sum, apart)}; }
};
