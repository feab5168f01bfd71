// f16 as the emulator has it.
#pragma once
#include <cmath>
#include <cstdint>

struct __half {
    uint16_t bits;
};

static inline float __half2float(__half x) {
    int exponent = x.bits >> 10 & 31, mantissa = x.bits & 1023;
    float size = exponent == 31  ? (mantissa ? NAN : INFINITY)
                 : exponent == 0 ? std::ldexp((float)mantissa, -24)
                                 : std::ldexp((float)(1024 + mantissa), exponent - 25);
    return x.bits >> 15 ? -size : size;
}

// To the nearest, of two equally near ones to the even one.
static inline __half __float2half(float x) {
    uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    float size = std::fabs(x);
    if (std::isnan(x))
        return {0x7fff};
    // From there on the nearest would be 65536, which is no f16.
    if (size >= 65520.0f)
        return {(uint16_t)(sign | 0x7c00)};
    int exponent = 0;
    std::frexp(size, &exponent);
    // The step between neighbours: 2^-24 below 2^-14.
    int step = size < 6.103515625e-05f ? -24 : exponent - 11;
    auto steps = (uint32_t)std::nearbyint(std::ldexp(size, -step));
    if (step == -24)
        return {(uint16_t)(sign | steps)};
    // 1024 steps are the leading bit, which is not written; 2048 go on to the next exponent by themselves.
    return {(uint16_t)(sign | (((uint32_t)(step + 25) << 10) + (steps - 1024)))};
}
