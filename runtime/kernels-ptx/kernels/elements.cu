// Functions of every element with their gradients, dropout, and steps of optimisers: one reading and one writing of memory.
//
// The functions are those of runtime/ops/src/{activations,dropout,optim}.rs, which says what they are.
#include "numbers.cuh"

// Twice the square root of 2 / pi, and 0.044715 of it.
#define GELU_1 1.5957691216057308f
#define GELU_3 0.0713548162726f
// Squares are cut there: the sigmoid is 0 or 1 long before, and infinity times 0 isn't a number.
#define SQUARE_MAX 1e4f

static __device__ inline float logistic(float x) { return 1.0f / (1.0f + expf(-x)); }

// Φ(x).
static __device__ inline float normal(float x) { return 0.5f * erfcf(-x * 0.70710678118654752f); }

struct Gelu {
    static __device__ float of(float x) {
        float square = fminf(x * x, SQUARE_MAX);
        return x * logistic(x * (square * GELU_3 + GELU_1));
    }
    static __device__ float gradient(float x, float grad) {
        float square = fminf(x * x, SQUARE_MAX);
        float s = logistic(x * (square * GELU_3 + GELU_1));
        return grad * (x * (square * (3.0f * GELU_3) + GELU_1) * (1.0f - s) * s + s);
    }
};

struct GeluErf {
    static __device__ float of(float x) { return x * normal(x); }
    static __device__ float gradient(float x, float grad) {
        float density = expf(-0.5f * fminf(x * x, SQUARE_MAX)) * 0.3989422804014327f;
        return grad * (x * density + normal(x));
    }
};

struct Silu {
    static __device__ float of(float x) { return x * logistic(x); }
    static __device__ float gradient(float x, float grad) {
        float s = logistic(x);
        return grad * (x * (1.0f - s) * s + s);
    }
};

// By the argument; the others by the result.
struct Relu {
    static __device__ float of(float x) { return x < 0.0f ? 0.0f : x; }
    static __device__ float gradient(float x, float grad) { return x > 0.0f ? grad : 0.0f; }
};

struct Tanh {
    static __device__ float of(float x) { return tanhf(x); }
    static __device__ float gradient(float y, float grad) { return grad * ((1.0f - y) * (1.0f + y)); }
};

struct Sigmoid {
    static __device__ float of(float x) { return logistic(x); }
    static __device__ float gradient(float y, float grad) { return grad * y * (1.0f - y); }
};

template <typename F, int W, typename T> __device__ void map_packs(const T *x, T *y, uint64_t count) {
    for (uint64_t at = place(); at < count / W; at += places()) {
        Pack<T, W> from = read<W>(x, at), to;
        for (int i = 0; i < W; i++)
            to.of[i] = narrow<T>(F::of(wide(from.of[i])));
        write<W>(y, at, to);
    }
}

template <typename F, typename T> __device__ void map(const T *x, T *y, uint64_t count) {
    uint64_t packed = fits(x) && fits(y) ? count / WIDEST<T> * WIDEST<T> : 0;
    map_packs<F, WIDEST<T>>(x, y, packed);
    map_packs<F, 1>(x + packed, y + packed, count - packed);
}

template <typename F, int W, typename T>
__device__ void gradient_packs(const T *known, const T *grad, T *to, uint64_t count) {
    for (uint64_t at = place(); at < count / W; at += places()) {
        Pack<T, W> of_known = read<W>(known, at), of_grad = read<W>(grad, at), made;
        for (int i = 0; i < W; i++)
            made.of[i] = narrow<T>(F::gradient(wide(of_known.of[i]), wide(of_grad.of[i])));
        write<W>(to, at, made);
    }
}

template <typename F, typename T> __device__ void map_gradient(const T *known, const T *grad, T *to, uint64_t count) {
    uint64_t packed = fits(known) && fits(grad) && fits(to) ? count / WIDEST<T> * WIDEST<T> : 0;
    gradient_packs<F, WIDEST<T>>(known, grad, to, packed);
    gradient_packs<F, 1>(known + packed, grad + packed, to + packed, count - packed);
}

// The finaliser of SplitMix64, cut to its high half.
static __device__ inline uint32_t mixed(uint64_t seed) {
    uint64_t z = seed + 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

static __device__ inline uint32_t lowbias(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

// Whether an element stays: the same for a seed and a place as on the CPU.
static __device__ inline bool stays(uint64_t at, uint32_t seed_key, uint32_t dropped) {
    uint32_t key = seed_key ^ mixed(at >> 32);
    uint32_t turned = key << 16 | key >> 16;
    return lowbias(lowbias((uint32_t)at ^ key) + turned) >> 1 >= dropped;
}

template <int W, typename T>
__device__ void drop_packs(const T *x, T *y, uint64_t start, uint64_t count, uint32_t key, uint32_t dropped, float scale) {
    for (uint64_t at = place(); at < count / W; at += places()) {
        Pack<T, W> from = read<W>(x + start, at), to;
        for (int i = 0; i < W; i++)
            to.of[i] = narrow<T>(stays(start + at * W + i, key, dropped) ? wide(from.of[i]) * scale : 0.0f);
        write<W>(y + start, at, to);
    }
}

template <typename T>
__device__ void drop(const T *x, T *y, uint64_t count, uint64_t seed, uint64_t dropped, float scale) {
    uint64_t packed = fits(x) && fits(y) ? count / WIDEST<T> * WIDEST<T> : 0;
    uint32_t key = mixed(seed);
    drop_packs<WIDEST<T>>(x, y, 0, packed, key, (uint32_t)dropped, scale);
    drop_packs<1>(x, y, packed, count - packed, key, (uint32_t)dropped, scale);
}

#define FUNCTION(NAME, F, SUFFIX, T)                                                                                         \
    extern "C" __global__ void NAME##_##SUFFIX(const T *x, T *y, uint64_t count) { map<F>(x, y, count); }                    \
    extern "C" __global__ void NAME##_gradient_##SUFFIX(const T *known, const T *grad, T *to, uint64_t count) {              \
        map_gradient<F>(known, grad, to, count);                                                                             \
    }                                                                                                                        \
    EXPORTED(NAME##_##SUFFIX)                                                                                                \
    EXPORTED(NAME##_gradient_##SUFFIX)

#define OF_TYPE(SUFFIX, T)                                                                                                   \
    FUNCTION(gelu, Gelu, SUFFIX, T)                                                                                          \
    FUNCTION(gelu_erf, GeluErf, SUFFIX, T)                                                                                   \
    FUNCTION(silu, Silu, SUFFIX, T)                                                                                          \
    FUNCTION(relu, Relu, SUFFIX, T)                                                                                          \
    FUNCTION(tanh, Tanh, SUFFIX, T)                                                                                          \
    FUNCTION(sigmoid, Sigmoid, SUFFIX, T)                                                                                    \
    extern "C" __global__ void dropout_##SUFFIX(const T *x, T *y, uint64_t count, uint64_t seed, uint64_t dropped,           \
                                                float scale) {                                                               \
        drop(x, y, count, seed, dropped, scale);                                                                             \
    }                                                                                                                        \
    EXPORTED(dropout_##SUFFIX)

OF_TYPE(f32, float)
OF_TYPE(bf16, __nv_bfloat16)
OF_TYPE(f16, __half)

extern "C" __global__ void adamw_f32(float *param, const float *grad, float *first, float *second, uint64_t count,
                                     float scale, float beta1, float new1, float beta2, float new2, float root_scale,
                                     float eps, float kept, float step) {
    for (uint64_t at = place(); at < count; at += places()) {
        float g = grad[at] * scale;
        float mean = first[at] * beta1 + g * new1;
        float square = second[at] * beta2 + g * g * new2;
        first[at] = mean;
        second[at] = square;
        param[at] = param[at] * kept - mean * step / (sqrtf(square) * root_scale + eps);
    }
}
EXPORTED(adamw_f32)

extern "C" __global__ void sgd_f32(float *param, const float *grad, float *velocity, uint64_t count, float scale,
                                   float decay, float momentum, float rate, uint64_t nesterov) {
    for (uint64_t at = place(); at < count; at += places()) {
        float g = grad[at] * scale + param[at] * decay;
        float next = velocity[at] * momentum + g;
        velocity[at] = next;
        param[at] -= rate * (nesterov ? g + next * momentum : next);
    }
}
EXPORTED(sgd_f32)
