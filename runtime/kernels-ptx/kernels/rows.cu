// Softmax, norms and cross-entropy of the last dimension's rows, with their gradients.
//
// What they are is said in runtime/ops/src/{softmax,norm,loss}.rs. A row's numbers are read again where they are needed again:
// they are in the cache by then. Sums are made in an order that depends on shapes alone, and nothing is added atomically.
#include "numbers.cuh"

// Calls `BODY` with packs as wide as the row and its neighbours allow.
#define BY_WIDTH(BODY, FITS, T, ...)                                                                                         \
    if (width % WIDEST<T> == 0 && (FITS))                                                                                    \
        BODY<WIDEST<T>>(__VA_ARGS__);                                                                                        \
    else                                                                                                                     \
        BODY<1>(__VA_ARGS__)

enum Softmax { PLAIN = 0, LOGARITHM = 1, MASKED = 2 };

// How many numbers of a row count: all, or with `queries` those that a query of attention sees under the causal mask.
static __device__ inline uint64_t seen(uint64_t row, uint64_t width, uint64_t queries) {
    if (queries == 0)
        return width;
    uint64_t most = row % queries + 1 + width;
    most = most > queries ? most - queries : 0;
    return most < width ? most : width;
}

template <int W, typename T>
__device__ void softmax_row(const T *x, T *y, uint64_t width, uint64_t counted, float scale, uint64_t kind) {
    Exponentials found = Exponentials::none();
    for (uint64_t at = threadIdx.x; at * W < counted; at += blockDim.x) {
        Pack<T, W> from = read<W>(x, at);
        for (int i = 0; i < W; i++)
            if (at * W + i < counted)
                found.add(wide(from.of[i]) * scale);
    }
    found = together(found);
    bool shut = kind == MASKED && found.most == -INFINITY;
    float part = 1.0f / found.sum, less = logf(found.sum);
    for (uint64_t at = threadIdx.x; at * W < width; at += blockDim.x) {
        Pack<T, W> from = read<W>(x, at), to;
        for (int i = 0; i < W; i++) {
            float over = wide(from.of[i]) * scale - found.most;
            float made = kind == LOGARITHM ? over - less : expf(over) * part;
            to.of[i] = narrow<T>(shut || at * W + i >= counted ? 0.0f : made);
        }
        write<W>(y, at, to);
    }
}

template <typename T>
__device__ void softmax(const T *x, T *y, uint64_t rows, uint64_t width, float scale, uint64_t queries, uint64_t kind) {
    uint64_t row = own_row();
    if (row >= rows)
        return;
    x += row * width;
    y += row * width;
    BY_WIDTH(softmax_row, fits(x) && fits(y), T, x, y, width, seen(row, width, queries), scale, kind);
}

template <int W, typename T>
__device__ void softmax_gradient_row(const T *y, const T *grad, T *to, uint64_t width, float scale, bool logarithm) {
    Sum found = Sum::none();
    for (uint64_t at = threadIdx.x; at * W < width; at += blockDim.x) {
        Pack<T, W> of_y = read<W>(y, at), of_grad = read<W>(grad, at);
        for (int i = 0; i < W; i++)
            found.sum += logarithm ? wide(of_grad.of[i]) : wide(of_y.of[i]) * wide(of_grad.of[i]);
    }
    float sum = together(found).sum;
    for (uint64_t at = threadIdx.x; at * W < width; at += blockDim.x) {
        Pack<T, W> of_y = read<W>(y, at), of_grad = read<W>(grad, at), made;
        for (int i = 0; i < W; i++) {
            float g = wide(of_grad.of[i]), own = wide(of_y.of[i]);
            made.of[i] = narrow<T>(logarithm ? g - expf(own) * sum : own * (g - sum) * scale);
        }
        write<W>(to, at, made);
    }
}

template <typename T>
__device__ void softmax_gradient(const T *y, const T *grad, T *to, uint64_t rows, uint64_t width, float scale, uint64_t kind) {
    uint64_t row = own_row();
    if (row >= rows)
        return;
    y += row * width;
    grad += row * width;
    to += row * width;
    BY_WIDTH(softmax_gradient_row, fits(y) && fits(grad) && fits(to), T, y, grad, to, width, scale, kind == LOGARITHM);
}

// What makes a row normal.
struct Normal {
    float mean, scale;
    __device__ float of(float x) const { return (x - mean) * scale; }
};

template <int W, typename T> __device__ Normal normal_of(const T *x, uint64_t width, float eps, bool centred) {
    float count = (float)width, mean = 0.0f;
    if (centred) {
        Sum all = Sum::none();
        for (uint64_t at = threadIdx.x; at * W < width; at += blockDim.x) {
            Pack<T, W> from = read<W>(x, at);
            for (int i = 0; i < W; i++)
                all.sum += wide(from.of[i]);
        }
        mean = together(all).sum / count;
    }
    Sum squares = Sum::none();
    for (uint64_t at = threadIdx.x; at * W < width; at += blockDim.x) {
        Pack<T, W> from = read<W>(x, at);
        for (int i = 0; i < W; i++) {
            float less = wide(from.of[i]) - mean;
            squares.sum += less * less;
        }
    }
    return {mean, 1.0f / sqrtf(together(squares).sum / count + eps)};
}

template <int W, typename T>
__device__ void norm_row(const T *x, const T *weight, const T *bias, T *y, uint64_t width, float eps, bool centred) {
    Normal normal = normal_of<W>(x, width, eps, centred);
    for (uint64_t at = threadIdx.x; at * W < width; at += blockDim.x) {
        Pack<T, W> from = read<W>(x, at), by = read<W>(weight, at), to;
        for (int i = 0; i < W; i++)
            to.of[i] = narrow<T>(normal.of(wide(from.of[i])) * wide(by.of[i]) + (bias ? wide(bias[at * W + i]) : 0.0f));
        write<W>(y, at, to);
    }
}

template <typename T>
__device__ void norm(const T *x, const T *weight, const T *bias, T *y, uint64_t rows, uint64_t width, float eps, bool centred) {
    uint64_t row = own_row();
    if (row >= rows)
        return;
    x += row * width;
    y += row * width;
    BY_WIDTH(norm_row, fits(x) && fits(y) && fits(weight), T, x, weight, bias, y, width, eps, centred);
}

template <int W, typename T>
__device__ Normal norm_gradient_row(const T *x, const T *weight, const T *grad, T *to, uint64_t width, float eps, bool centred) {
    Normal normal = normal_of<W>(x, width, eps, centred);
    Sums all = Sums::none();
    for (uint64_t at = threadIdx.x; at * W < width; at += blockDim.x) {
        Pack<T, W> from = read<W>(x, at), by = read<W>(weight, at), of_grad = read<W>(grad, at);
        for (int i = 0; i < W; i++) {
            float g = wide(by.of[i]) * wide(of_grad.of[i]);
            all.one += normal.of(wide(from.of[i])) * g;
            all.two += g;
        }
    }
    all = together(all);
    float along = all.one / (float)width, mean = centred ? all.two / (float)width : 0.0f;
    for (uint64_t at = threadIdx.x; at * W < width; at += blockDim.x) {
        Pack<T, W> from = read<W>(x, at), by = read<W>(weight, at), of_grad = read<W>(grad, at), made;
        for (int i = 0; i < W; i++) {
            float g = wide(by.of[i]) * wide(of_grad.of[i]);
            made.of[i] = narrow<T>((g - mean - normal.of(wide(from.of[i])) * along) * normal.scale);
        }
        write<W>(to, at, made);
    }
    return normal;
}

// Gradient of x; what made the rows normal is kept for `norm_columns`.
template <typename T>
__device__ void norm_gradient(const T *x, const T *weight, const T *grad, T *to, Normal *normals, uint64_t rows,
                              uint64_t width, float eps, bool centred) {
    uint64_t row = own_row();
    if (row >= rows)
        return;
    x += row * width;
    grad += row * width;
    to += row * width;
    bool fit = fits(x) && fits(grad) && fits(to) && fits(weight);
    Normal normal = width % WIDEST<T> == 0 && fit
                        ? norm_gradient_row<WIDEST<T>>(x, weight, grad, to, width, eps, centred)
                        : norm_gradient_row<1>(x, weight, grad, to, width, eps, centred);
    if (threadIdx.x == 0)
        normals[row] = normal;
}

#define COLUMNS 32
#define LINES 8

// Gradients of weight and bias, of a part of the rows: a block is 32 columns wide, and 8 of its rows go at once. `parts` is
// [2, parts, width].
template <typename T>
__device__ void norm_columns(const T *x, const T *grad, const Normal *normals, float *parts, uint64_t rows, uint64_t width) {
    __shared__ float sums[2][LINES][COLUMNS];
    uint64_t column = (uint64_t)blockIdx.x * COLUMNS + threadIdx.x;
    uint64_t each = (rows + gridDim.y - 1) / gridDim.y, first = blockIdx.y * each;
    uint64_t end = first + each < rows ? first + each : rows;
    float by_weight = 0.0f, by_bias = 0.0f;
    for (uint64_t row = first + threadIdx.y; column < width && row < end; row += LINES) {
        float g = wide(grad[row * width + column]);
        by_weight += g * normals[row].of(wide(x[row * width + column]));
        by_bias += g;
    }
    sums[0][threadIdx.y][threadIdx.x] = by_weight;
    sums[1][threadIdx.y][threadIdx.x] = by_bias;
    __syncthreads();
    if (threadIdx.y >= 2 || column >= width)
        return;
    float all = 0.0f;
    for (int line = 0; line < LINES; line++)
        all += sums[threadIdx.y][line][threadIdx.x];
    parts[(threadIdx.y * (uint64_t)gridDim.y + blockIdx.y) * width + column] = all;
}

// Sums of columns, of a part of the rows: as above. `parts` is [parts, width].
template <typename T> __device__ void column_sums(const T *x, float *parts, uint64_t rows, uint64_t width) {
    __shared__ float sums[LINES][COLUMNS];
    uint64_t column = (uint64_t)blockIdx.x * COLUMNS + threadIdx.x;
    uint64_t each = (rows + gridDim.y - 1) / gridDim.y, first = blockIdx.y * each;
    uint64_t end = first + each < rows ? first + each : rows;
    float all = 0.0f;
    for (uint64_t row = first + threadIdx.y; column < width && row < end; row += LINES)
        all += wide(x[row * width + column]);
    sums[threadIdx.y][threadIdx.x] = all;
    __syncthreads();
    if (threadIdx.y > 0 || column >= width)
        return;
    for (int line = 1; line < LINES; line++)
        all += sums[line][threadIdx.x];
    parts[blockIdx.y * width + column] = all;
}

// Adds parts up: `to` is [planes, width], such as gradients of weight and of bias, `parts` [planes, parts, width].
template <typename T>
__device__ void parts_added(const float *parts, T *to, uint64_t count, uint64_t width, uint64_t planes) {
    for (uint64_t at = place(); at < planes * width; at += places()) {
        const float *own = parts + at / width * count * width + at % width;
        float all = 0.0f;
        for (uint64_t part = 0; part < count; part++)
            all += own[part * width];
        to[at] = narrow<T>(all);
    }
}

template <int W, typename T> __device__ void biased_row(const T *x, const T *bias, T *y, uint64_t width) {
    for (uint64_t at = threadIdx.x; at * W < width; at += blockDim.x) {
        Pack<T, W> from = read<W>(x, at), by = read<W>(bias, at), to;
        for (int i = 0; i < W; i++)
            to.of[i] = narrow<T>(wide(from.of[i]) + wide(by.of[i]));
        write<W>(y, at, to);
    }
}

// A row of numbers added to each row.
template <typename T> __device__ void biased(const T *x, const T *bias, T *y, uint64_t rows, uint64_t width) {
    uint64_t row = own_row();
    if (row >= rows)
        return;
    x += row * width;
    y += row * width;
    BY_WIDTH(biased_row, fits(x) && fits(y) && fits(bias), T, x, bias, y, width);
}

// What a row's label costs. A label that is no class makes the loss no number: nobody waits here to be told.
template <int W, typename T>
__device__ void cost_of_row(const T *x, int64_t label, const float *weights, Exponentials *kept, float *cost, float *counted,
                            uint64_t width, float smoothing) {
    Exponentials found = Exponentials::none();
    for (uint64_t at = threadIdx.x; at * W < width; at += blockDim.x) {
        Pack<T, W> from = read<W>(x, at);
        for (int i = 0; i < W; i++)
            found.add(wide(from.of[i]));
    }
    found = together(found);
    float ln = logf(found.sum);
    Sum every = Sum::none();
    if (smoothing > 0.0f) {
        for (uint64_t at = threadIdx.x; at * W < width; at += blockDim.x) {
            Pack<T, W> from = read<W>(x, at);
            for (int i = 0; i < W; i++)
                every.sum += (found.most - wide(from.of[i]) + ln) * (weights ? weights[at * W + i] : 1.0f);
        }
        every = together(every);
    }
    if (threadIdx.x > 0)
        return;
    bool known = label >= 0 && (uint64_t)label < width;
    float weight = !known ? NAN : weights ? weights[label] : 1.0f;
    float own = known ? found.most - wide(x[label]) + ln : NAN;
    *kept = {found.most, ln};
    *cost = (1.0f - smoothing) * weight * own + smoothing / (float)width * every.sum;
    *counted = weight;
}

// Costs, weights and logarithms of sums of rows; rows with the label that is ignored cost and weigh nothing.
template <typename T>
__device__ void costs(const T *x, const int64_t *labels, const float *weights, Exponentials *kept, float *cost,
                      float *counted, uint64_t rows, uint64_t width, float smoothing, uint64_t ignores, int64_t ignored) {
    uint64_t row = own_row();
    if (row >= rows)
        return;
    if (ignores && labels[row] == ignored) {
        if (threadIdx.x == 0) {
            kept[row] = Exponentials::none();
            cost[row] = 0.0f;
            counted[row] = 0.0f;
        }
        return;
    }
    x += row * width;
    BY_WIDTH(cost_of_row, fits(x), T, x, labels[row], weights, kept + row, cost + row, counted + row, width, smoothing);
}

// The mean of costs by weights, and the sum of weights, by one block; 0 where no row counts.
template <typename T> __device__ void mean_cost(const float *cost, const float *counted, uint64_t rows, T *mean, float *total) {
    // A long sum of numbers of one sign: rounded in f32 at each step it would lose digits.
    double of_cost = 0.0, of_weight = 0.0;
    for (uint64_t row = threadIdx.x; row < rows; row += blockDim.x) {
        of_cost += cost[row];
        of_weight += counted[row];
    }
    __shared__ double sums[2][1024];
    sums[0][threadIdx.x] = of_cost;
    sums[1][threadIdx.x] = of_weight;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            sums[0][threadIdx.x] += sums[0][threadIdx.x + half];
            sums[1][threadIdx.x] += sums[1][threadIdx.x + half];
        }
    }
    if (threadIdx.x == 0) {
        double weight = sums[1][0] == 0.0 ? 1.0 : sums[1][0];
        *mean = narrow<T>((float)(sums[0][0] / weight));
        *total = (float)weight;
    }
}

template <typename T>
__device__ void cost_gradient(const T *x, const int64_t *labels, const float *weights, const Exponentials *kept,
                              const float *total, const T *grad, T *to, uint64_t rows, uint64_t width, float smoothing,
                              float all_weights, uint64_t ignores, int64_t ignored) {
    uint64_t row = own_row();
    if (row >= rows)
        return;
    int64_t label = labels[row];
    bool counts = !(ignores && label == ignored), known = label >= 0 && (uint64_t)label < width;
    float weight = !known ? NAN : weights ? weights[label] : 1.0f;
    float own = (1.0f - smoothing) * weight / *total * wide(*grad);
    float every = smoothing / (float)width / *total * wide(*grad);
    float scale = own + every * all_weights, most = kept[row].most, ln = kept[row].sum;
    for (uint64_t at = threadIdx.x; at < width; at += blockDim.x) {
        float slope = expf(wide(x[row * width + at]) - most - ln) * scale;
        slope -= every * (weights ? weights[at] : 1.0f);
        if (known && at == (uint64_t)label)
            slope -= own;
        to[row * width + at] = narrow<T>(counts ? slope : 0.0f);
    }
}

#define OF_TYPE(SUFFIX, T)                                                                                                   \
    extern "C" __global__ void softmax_##SUFFIX(const T *x, T *y, uint64_t rows, uint64_t width, float scale,                \
                                                uint64_t queries, uint64_t kind) {                                           \
        softmax(x, y, rows, width, scale, queries, kind);                                                                    \
    }                                                                                                                        \
    extern "C" __global__ void softmax_gradient_##SUFFIX(const T *y, const T *grad, T *to, uint64_t rows, uint64_t width,    \
                                                         float scale, uint64_t kind) {                                       \
        softmax_gradient(y, grad, to, rows, width, scale, kind);                                                             \
    }                                                                                                                        \
    extern "C" __global__ void norm_##SUFFIX(const T *x, const T *weight, const T *bias, T *y, uint64_t rows,                \
                                             uint64_t width, float eps, uint64_t centred) {                                  \
        norm(x, weight, bias, y, rows, width, eps, centred);                                                                 \
    }                                                                                                                        \
    extern "C" __global__ void norm_gradient_##SUFFIX(const T *x, const T *weight, const T *grad, T *to, Normal *normals,    \
                                                      uint64_t rows, uint64_t width, float eps, uint64_t centred) {          \
        norm_gradient(x, weight, grad, to, normals, rows, width, eps, centred);                                              \
    }                                                                                                                        \
    extern "C" __global__ void norm_columns_##SUFFIX(const T *x, const T *grad, const Normal *normals, float *parts,         \
                                                     uint64_t rows, uint64_t width) {                                        \
        norm_columns(x, grad, normals, parts, rows, width);                                                                  \
    }                                                                                                                        \
    extern "C" __global__ void column_sums_##SUFFIX(const T *x, float *parts, uint64_t rows, uint64_t width) {               \
        column_sums(x, parts, rows, width);                                                                                  \
    }                                                                                                                        \
    extern "C" __global__ void parts_added_##SUFFIX(const float *parts, T *to, uint64_t count, uint64_t width,               \
                                                    uint64_t planes) {                                                       \
        parts_added(parts, to, count, width, planes);                                                                        \
    }                                                                                                                        \
    extern "C" __global__ void biased_##SUFFIX(const T *x, const T *bias, T *y, uint64_t rows, uint64_t width) {             \
        biased(x, bias, y, rows, width);                                                                                     \
    }                                                                                                                        \
    extern "C" __global__ void costs_##SUFFIX(const T *x, const int64_t *labels, const float *weights, Exponentials *kept,   \
                                              float *cost, float *counted, uint64_t rows, uint64_t width, float smoothing,   \
                                              uint64_t ignores, int64_t ignored) {                                           \
        costs(x, labels, weights, kept, cost, counted, rows, width, smoothing, ignores, ignored);                            \
    }                                                                                                                        \
    extern "C" __global__ void mean_cost_##SUFFIX(const float *cost, const float *counted, uint64_t rows, T *mean,           \
                                                  float *total) {                                                            \
        mean_cost(cost, counted, rows, mean, total);                                                                         \
    }                                                                                                                        \
    extern "C" __global__ void cost_gradient_##SUFFIX(const T *x, const int64_t *labels, const float *weights,               \
                                                      const Exponentials *kept, const float *total, const T *grad, T *to,    \
                                                      uint64_t rows, uint64_t width, float smoothing, float all_weights,     \
                                                      uint64_t ignores, int64_t ignored) {                                   \
        cost_gradient(x, labels, weights, kept, total, grad, to, rows, width, smoothing, all_weights, ignores, ignored);     \
    }                                                                                                                        \
    EXPORTED(softmax_##SUFFIX)                                                                                               \
    EXPORTED(softmax_gradient_##SUFFIX)                                                                                      \
    EXPORTED(norm_##SUFFIX)                                                                                                  \
    EXPORTED(norm_gradient_##SUFFIX)                                                                                         \
    EXPORTED(norm_columns_##SUFFIX)                                                                                          \
    EXPORTED(column_sums_##SUFFIX)                                                                                           \
    EXPORTED(parts_added_##SUFFIX)                                                                                           \
    EXPORTED(biased_##SUFFIX)                                                                                                \
    EXPORTED(costs_##SUFFIX)                                                                                                 \
    EXPORTED(mean_cost_##SUFFIX)                                                                                             \
    EXPORTED(cost_gradient_##SUFFIX)

OF_TYPE(f32, float)
OF_TYPE(bf16, __nv_bfloat16)
OF_TYPE(f16, __half)
