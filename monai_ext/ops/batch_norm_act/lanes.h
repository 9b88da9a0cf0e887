// Values of one type or another, 16 at once or one by one, and what is done to each of them.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "bfloat16.h"

namespace {

using i64 = int64_t;

// 16 values at once; compilers lower the type to what the processor has
typedef float vec __attribute__((vector_size(64)));
typedef uint32_t wide_bits __attribute__((vector_size(64)));
typedef uint16_t half_bits __attribute__((vector_size(32)));
constexpr i64 LANES = 16;

constexpr i64 SMALL = 1 << 15;  // values that one thread has done before others are awake
constexpr i64 NEAR = 64;        // values whose mean is near enough to that of all

// one way to read and write for vectors and for the single values that are left
template <class V> struct As;
template <> struct As<float> {
    template <class T> static float of(const T* p) { return load(p); }
    template <class T> static void put(T* p, float v) { store(p, v); }
};
template <> struct As<vec> {
    static vec of(const float* p) { vec v; std::memcpy(&v, p, 64); return v; }
    static vec of(const bf16* p) {
        half_bits h;
        std::memcpy(&h, p, 32);
        wide_bits w = __builtin_convertvector(h, wide_bits) << 16;
        vec v;
        std::memcpy(&v, &w, 64);
        return v;
    }
    static void put(float* p, vec v) { std::memcpy(p, &v, 64); }
    static void put(bf16* p, vec v) {
        wide_bits w;
        std::memcpy(&w, &v, 64);
        wide_bits rounded = (w + 0x7fff + ((w >> 16) & 1)) >> 16, nan = (w >> 16) | 0x40;
        half_bits h = __builtin_convertvector((w & 0x7fffffff) > 0x7f800000 ? nan : rounded, half_bits);
        std::memcpy(p, &h, 32);
    }
};

// a NaN is not below zero: it stays, and so does its gradient
template <class V> inline V rectified(V z) { return z < 0 ? V{} : z; }
template <class V> inline V passed(V z, V gradient) { return z <= 0 ? V{} : gradient; }

inline double sum(vec v) {
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; ++i) v[i] += v[i + half];
    return double(v[0]);
}

// of the variance as it is handed out, so that backward has the bits of forward and masks agree
inline float reciprocal_deviation(float var, double eps) { return float(1 / __builtin_sqrt(double(var) + eps)); }

template <bool ADD, bool RELU, class V, class T> inline void apply_at(const T* x, const T* r, T* y, V m, V a, V b) {
    V z = (As<V>::of(x) - m) * a + b;
    if (ADD) z += As<V>::of(r);
    As<V>::put(y, RELU ? rectified(z) : z);
}

// Deviation from the mean and gradient before the ReLU. With ADD the mask comes from the output y.
template <bool ADD, bool RELU, class V, class T>
inline void terms_at(const T* dy, const T* x, const T* y, V m, V a, V b, V& d, V& dz) {
    d = As<V>::of(x) - m;
    dz = As<V>::of(dy);
    if (RELU) dz = passed(ADD ? As<V>::of(y) : d * a + b, dz);
}

}  // namespace
