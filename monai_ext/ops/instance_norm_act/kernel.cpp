// Instance/group norm + affine + residual + LeakyReLU, forward and backward, contiguous [N, C, S] or channels last
// [N, S, C]. Every chunk of a channel is read into the cache once for mean and squared deviation (two sweeps there, so
// that nothing cancels); chunks are merged in double (Chan, Golub and LeVeque 1983).
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "bfloat16.h"

namespace {

using i64 = int64_t;

// 16 channels of a row at once; compilers lower the type to what the processor has
typedef float vec __attribute__((vector_size(64)));
typedef uint32_t wide_bits __attribute__((vector_size(64)));
typedef uint16_t half_bits __attribute__((vector_size(32)));
constexpr i64 LANES = 16;

inline vec load16(const float* p) { vec v; std::memcpy(&v, p, 64); return v; }
inline vec load16(const bf16* p) {
    half_bits h;
    std::memcpy(&h, p, 32);
    wide_bits w = __builtin_convertvector(h, wide_bits) << 16;
    vec v;
    std::memcpy(&v, &w, 64);
    return v;
}
inline void store16(float* p, vec v) { std::memcpy(p, &v, 64); }
inline void store16(bf16* p, vec v) {
    wide_bits w;
    std::memcpy(&w, &v, 64);
    wide_bits rounded = (w + 0x7fff + ((w >> 16) & 1)) >> 16, nan = (w >> 16) | 0x40;
    half_bits h = __builtin_convertvector((w & 0x7fffffff) > 0x7f800000 ? nan : rounded, half_bits);
    std::memcpy(p, &h, 32);
}
inline vec activated(vec z, vec by, float slope) { return z > 0 ? by : by * slope; }

constexpr i64 SMALL = 1 << 15;  // values that one thread has done before others are awake
constexpr i64 CHUNK = 4096;   // values of a contiguous channel; 16 KB
constexpr i64 CHUNK_BYTES = 64 << 10;  // of rows in channels last

struct Moments { double count = 0, mean = 0, squares = 0; };

inline void merge(Moments& all, double count, double mean, double squares) {
    if (count == 0) return;
    double total = all.count + count, delta = mean - all.mean;
    all.squares += squares + delta * delta * all.count * count / total;
    all.mean += delta * count / total;
    all.count = total;
}

inline void statistics(const Moments& m, double eps, float& mean, float& rstd) {
    mean = float(m.mean);
    double variance = m.count > 0 ? m.squares / m.count : 0;
    rstd = float(1 / __builtin_sqrt(variance + eps));
}

inline i64 rows_of_chunk(i64 C, i64 size) { return std::max<i64>(16, CHUNK_BYTES / std::max<i64>(1, C * size)); }

// ---- contiguous: one channel of one sample is a run of S values -------------------------------------------------

template <class T> void channel_moments(const T* x, i64 S, Moments& out) {
    for (i64 first = 0; first < S; first += CHUNK) {
        i64 n = std::min(CHUNK, S - first);
        const T* p = x + first;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (i64 i = 0; i < n; ++i) sum += load(p + i);
        float mean = sum / float(n), squares = 0, rest = 0;
#pragma omp simd reduction(+ : squares, rest)
        for (i64 i = 0; i < n; ++i) {
            float d = load(p + i) - mean;
            squares += d * d;
            rest += d;  // what rounding left out of the mean
        }
        merge(out, double(n), double(mean) + double(rest) / n, squares);
    }
}

template <class T, bool ADD> void apply_channel(const T* x, const T* r, T* y, i64 S, float a, float m, float b, float slope) {
#pragma omp simd
    for (i64 i = 0; i < S; ++i) {
        float z = (load(x + i) - m) * a + b;
        if (ADD) z += load(r + i);
        store(y + i, z > 0 ? z : z * slope);
    }
}

// what the normalised value and the gradient before the activation are, from what was kept
template <class T, bool ADD, bool OUT> struct Backward {
    const T *dy, *kept, *r;
    float slope, inverse_slope;
    inline void at(i64 i, float mean, float rstd, float w, float b, float inverse_w, float& u, float& dz) const {
        float z;
        if (OUT) {
            float y = load(kept + i);
            z = y > 0 ? y : y * inverse_slope;
            u = ((ADD ? z - load(r + i) : z) - b) * inverse_w;
        } else {
            u = (load(kept + i) - mean) * rstd;
            z = u * w + b;
            if (ADD) z += load(r + i);
        }
        float g = load(dy + i);
        dz = z > 0 ? g : g * slope;
    }
    inline void at16(i64 i, vec mean, vec rstd, vec w, vec b, vec inverse_w, vec& u, vec& dz) const {
        vec z;
        if (OUT) {
            vec y = load16(kept + i);
            z = y > 0 ? y : y * inverse_slope;
            u = ((ADD ? z - load16(r + i) : z) - b) * inverse_w;
        } else {
            u = (load16(kept + i) - mean) * rstd;
            z = u * w + b;
            if (ADD) z += load16(r + i);
        }
        dz = activated(z, load16(dy + i), slope);
    }
};

struct Constants {
    vec mean, rstd, w, b, inverse_w;
    Constants(const float* mu, const float* rs, const float* weight, const float* bias, const float* iw)
        : mean(load16(mu)), rstd(load16(rs)), w(load16(weight)), b(load16(bias)), inverse_w(load16(iw)) {}
};

inline float inverse_or_zero(float w) { return w != 0 ? 1 / w : 0; }

template <class T, bool ADD, bool OUT>
void backward_contiguous(const T* dy, const T* kept, const float* weight, const float* bias, const T* residual,
                         const float* mean, const float* rstd, T* dx, T* dr, float* sums, i64 N, i64 C, i64 S, i64 G,
                         float slope) {
    i64 per = C / G;
#pragma omp parallel for schedule(static) if (N * C * S > SMALL)
    for (i64 task = 0; task < N * G; ++task) {
        i64 n = task / G, g = task % G;
        double m1 = 0, m2 = 0;
        float mu = mean[task], rs = rstd[task];
        for (i64 c = g * per; c < (g + 1) * per; ++c) {
            i64 base = (n * C + c) * S;
            Backward<T, ADD, OUT> f{dy + base, kept + base, ADD ? residual + base : nullptr, slope, 1 / slope};
            float w = weight[c], b = bias[c], iw = inverse_or_zero(w);
            double s1 = 0, s2 = 0;
            for (i64 first = 0; first < S; first += CHUNK) {
                i64 stop = std::min(S, first + CHUNK);
                float a1 = 0, a2 = 0;
#pragma omp simd reduction(+ : a1, a2)
                for (i64 i = first; i < stop; ++i) {
                    float u, dz;
                    f.at(i, mu, rs, w, b, iw, u, dz);
                    a1 += dz;
                    a2 += dz * u;
                }
                s1 += a1, s2 += a2;
            }
            sums[(n * C + c) * 2] = float(s1), sums[(n * C + c) * 2 + 1] = float(s2);
            m1 += w * s1, m2 += w * s2;
        }
        double count = double(per) * double(S);
        float t = float(-rs * m1 / count), q = float(-rs * m2 / count);
        for (i64 c = g * per; c < (g + 1) * per; ++c) {
            i64 base = (n * C + c) * S;
            Backward<T, ADD, OUT> f{dy + base, kept + base, ADD ? residual + base : nullptr, slope, 1 / slope};
            float w = weight[c], b = bias[c], iw = inverse_or_zero(w), p = rs * w;
            T *out = dx + base, *added = ADD ? dr + base : nullptr;
#pragma omp simd
            for (i64 i = 0; i < S; ++i) {
                float u, dz;
                f.at(i, mu, rs, w, b, iw, u, dz);
                store(out + i, p * dz + q * u + t);
                if (ADD) store(added + i, dz);
            }
        }
    }
}

// ---- channels last: rows of C values; constants are vectors ------------------------------------------------------

// Calls f(first channel, vectors) for blocks of 32 and 16 channels; returns the first channel that is left.
template <class F> i64 by_vectors(i64 C, F f) {
    i64 c = 0;
    for (; c + 2 * LANES <= C; c += 2 * LANES) f(c, std::integral_constant<int, 2>());
    for (; c + LANES <= C; c += LANES) f(c, std::integral_constant<int, 1>());
    return c;
}

template <class T>
void rows_moments(const T* x, i64 rows, i64 C, float* mean, float* squares, float* rest) {
    i64 left = by_vectors(C, [&](i64 first, auto vectors) {
        constexpr int K = vectors.value;
        vec m[K] = {}, q[K] = {}, r[K] = {};
        for (i64 s = 0; s < rows; ++s)
            for (int k = 0; k < K; ++k) m[k] += load16(x + s * C + first + k * LANES);
        for (int k = 0; k < K; ++k) m[k] /= float(rows);
        for (i64 s = 0; s < rows; ++s)
            for (int k = 0; k < K; ++k) {
                vec d = load16(x + s * C + first + k * LANES) - m[k];
                q[k] += d * d, r[k] += d;
            }
        for (int k = 0; k < K; ++k) {
            i64 c = first + k * LANES;
            store16(mean + c, m[k]), store16(squares + c, q[k]), store16(rest + c, r[k]);
        }
    });
    for (i64 c = left; c < C; ++c) mean[c] = squares[c] = rest[c] = 0;
    for (i64 s = 0; s < rows; ++s)
#pragma omp simd
        for (i64 c = left; c < C; ++c) mean[c] += load(x + s * C + c);
    for (i64 c = left; c < C; ++c) mean[c] /= float(rows);
    for (i64 s = 0; s < rows; ++s)
#pragma omp simd
        for (i64 c = left; c < C; ++c) {
            float d = load(x + s * C + c) - mean[c];
            squares[c] += d * d;
            rest[c] += d;
        }
}

template <class T, bool ADD>
void forward_channels_last(const T* x, const float* weight, const float* bias, const T* residual, T* y, float* mean,
                           float* rstd, i64 N, i64 C, i64 S, i64 G, double eps, float slope) {
    i64 rows = rows_of_chunk(C, sizeof(T)), chunks = (S + rows - 1) / rows, per = C / G;
    std::vector<float> partial(size_t(N * chunks * C * 3));
    std::vector<float> constants(size_t(N * C * 3));
#pragma omp parallel for schedule(static) if (N * C * S > SMALL)
    for (i64 task = 0; task < N * chunks; ++task) {
        i64 n = task / chunks, first = (task % chunks) * rows, count = std::min(rows, S - first);
        float* p = partial.data() + task * C * 3;
        rows_moments(x + (n * S + first) * C, count, C, p, p + C, p + 2 * C);
    }
    for (i64 n = 0; n < N; ++n)
        for (i64 g = 0; g < G; ++g) {
            Moments m;
            for (i64 k = 0; k < chunks; ++k) {
                double count = double(std::min(rows, S - k * rows));
                const float* p = partial.data() + (n * chunks + k) * C * 3;
                for (i64 c = g * per; c < (g + 1) * per; ++c)
                    merge(m, count, double(p[c]) + double(p[2 * C + c]) / count, p[C + c]);
            }
            statistics(m, eps, mean[n * G + g], rstd[n * G + g]);
            for (i64 c = g * per; c < (g + 1) * per; ++c) {
                float* k = constants.data() + n * C * 3;
                k[c] = rstd[n * G + g] * weight[c], k[C + c] = mean[n * G + g], k[2 * C + c] = bias[c];
            }
        }
#pragma omp parallel for schedule(static) if (N * C * S > SMALL)
    for (i64 task = 0; task < N * chunks; ++task) {
        i64 n = task / chunks, first = (task % chunks) * rows, count = std::min(rows, S - first);
        const float *a = constants.data() + n * C * 3, *m = a + C, *b = a + 2 * C;
        i64 left = by_vectors(C, [&](i64 c0, auto vectors) {
            constexpr int K = vectors.value;
            vec va[K], vm[K], vb[K];
            for (int k = 0; k < K; ++k) {
                i64 c = c0 + k * LANES;
                va[k] = load16(a + c), vm[k] = load16(m + c), vb[k] = load16(b + c);
            }
            for (i64 s = first; s < first + count; ++s)
                for (int k = 0; k < K; ++k) {
                    i64 at = (n * S + s) * C + c0 + k * LANES;
                    vec z = (load16(x + at) - vm[k]) * va[k] + vb[k];
                    if (ADD) z += load16(residual + at);
                    store16(y + at, activated(z, z, slope));
                }
        });
        for (i64 s = first; left < C && s < first + count; ++s) {
            i64 base = (n * S + s) * C;
#pragma omp simd
            for (i64 c = left; c < C; ++c) {
                float z = (load(x + base + c) - m[c]) * a[c] + b[c];
                if (ADD) z += load(residual + base + c);
                store(y + base + c, z > 0 ? z : z * slope);
            }
        }
    }
}

template <class T, bool ADD, bool OUT>
void backward_channels_last(const T* dy, const T* kept, const float* weight, const float* bias, const T* residual,
                            const float* mean, const float* rstd, T* dx, T* dr, float* sums, i64 N, i64 C, i64 S, i64 G,
                            float slope) {
    i64 rows = rows_of_chunk(C, 2 * sizeof(T)), chunks = (S + rows - 1) / rows, per = C / G;
    std::vector<float> partial(size_t(N * chunks * C * 2)), constants(size_t(N * C * 6));
    for (i64 n = 0; n < N; ++n) {
        float* k = constants.data() + n * C * 6;
        for (i64 c = 0; c < C; ++c) {
            k[c] = mean[n * G + c / per], k[C + c] = rstd[n * G + c / per];
            k[2 * C + c] = inverse_or_zero(weight[c]);
        }
    }
#pragma omp parallel for schedule(static) if (N * C * S > SMALL)
    for (i64 task = 0; task < N * chunks; ++task) {
        i64 n = task / chunks, first = (task % chunks) * rows, count = std::min(rows, S - first);
        const float *mu = constants.data() + n * C * 6, *rs = mu + C, *iw = mu + 2 * C;
        float *a1 = partial.data() + task * C * 2, *a2 = a1 + C;
        i64 left = by_vectors(C, [&](i64 c0, auto vectors) {
            constexpr int K = vectors.value;
            vec s1[K] = {}, s2[K] = {};
            for (i64 s = first; s < first + count; ++s)
                for (int k = 0; k < K; ++k) {
                    i64 c = c0 + k * LANES, base = (n * S + s) * C + c;
                    Backward<T, ADD, OUT> f{dy + base, kept + base, ADD ? residual + base : nullptr, slope, 1 / slope};
                    Constants v(mu + c, rs + c, weight + c, bias + c, iw + c);
                    vec u, dz;
                    f.at16(0, v.mean, v.rstd, v.w, v.b, v.inverse_w, u, dz);
                    s1[k] += dz, s2[k] += dz * u;
                }
            for (int k = 0; k < K; ++k) store16(a1 + c0 + k * LANES, s1[k]), store16(a2 + c0 + k * LANES, s2[k]);
        });
        for (i64 c = left; c < C; ++c) a1[c] = a2[c] = 0;
        for (i64 s = first; left < C && s < first + count; ++s) {
            i64 base = (n * S + s) * C;
            Backward<T, ADD, OUT> f{dy + base, kept + base, ADD ? residual + base : nullptr, slope, 1 / slope};
#pragma omp simd
            for (i64 c = left; c < C; ++c) {
                float u, dz;
                f.at(c, mu[c], rs[c], weight[c], bias[c], iw[c], u, dz);
                a1[c] += dz;
                a2[c] += dz * u;
            }
        }
    }
    for (i64 n = 0; n < N; ++n) {
        float* k = constants.data() + n * C * 6;
        for (i64 g = 0; g < G; ++g) {
            double m1 = 0, m2 = 0, count = double(per) * double(S);
            for (i64 c = g * per; c < (g + 1) * per; ++c) {
                double s1 = 0, s2 = 0;
                for (i64 j = 0; j < chunks; ++j) {
                    const float* p = partial.data() + (n * chunks + j) * C * 2;
                    s1 += p[c], s2 += p[C + c];
                }
                sums[(n * C + c) * 2] = float(s1), sums[(n * C + c) * 2 + 1] = float(s2);
                m1 += weight[c] * s1, m2 += weight[c] * s2;
            }
            float rs = rstd[n * G + g];
            for (i64 c = g * per; c < (g + 1) * per; ++c)
                k[3 * C + c] = rs * weight[c], k[4 * C + c] = float(-rs * m2 / count), k[5 * C + c] = float(-rs * m1 / count);
        }
    }
#pragma omp parallel for schedule(static) if (N * C * S > SMALL)
    for (i64 task = 0; task < N * chunks; ++task) {
        i64 n = task / chunks, first = (task % chunks) * rows, count = std::min(rows, S - first);
        const float *mu = constants.data() + n * C * 6, *rs = mu + C, *iw = mu + 2 * C;
        const float *p = mu + 3 * C, *q = mu + 4 * C, *t = mu + 5 * C;
        i64 left = by_vectors(C, [&](i64 c0, auto vectors) {
            constexpr int K = vectors.value;
            for (i64 s = first; s < first + count; ++s)
                for (int k = 0; k < K; ++k) {
                    i64 c = c0 + k * LANES, base = (n * S + s) * C + c;
                    Backward<T, ADD, OUT> f{dy + base, kept + base, ADD ? residual + base : nullptr, slope, 1 / slope};
                    Constants v(mu + c, rs + c, weight + c, bias + c, iw + c);
                    vec u, dz;
                    f.at16(0, v.mean, v.rstd, v.w, v.b, v.inverse_w, u, dz);
                    store16(dx + base, load16(p + c) * dz + load16(q + c) * u + load16(t + c));
                    if (ADD) store16(dr + base, dz);
                }
        });
        for (i64 s = first; left < C && s < first + count; ++s) {
            i64 base = (n * S + s) * C;
            Backward<T, ADD, OUT> f{dy + base, kept + base, ADD ? residual + base : nullptr, slope, 1 / slope};
            T *out = dx + base, *added = ADD ? dr + base : nullptr;
#pragma omp simd
            for (i64 c = left; c < C; ++c) {
                float u, dz;
                f.at(c, mu[c], rs[c], weight[c], bias[c], iw[c], u, dz);
                store(out + c, p[c] * dz + q[c] * u + t[c]);
                if (ADD) store(added + c, dz);
            }
        }
    }
}

template <class T, bool ADD>
void forward(const T* x, const float* weight, const float* bias, const T* residual, T* y, float* mean, float* rstd,
             i64 N, i64 C, i64 S, i64 G, double eps, float slope, bool last) {
    if (last) return forward_channels_last<T, ADD>(x, weight, bias, residual, y, mean, rstd, N, C, S, G, eps, slope);
    i64 per = C / G;
#pragma omp parallel for schedule(static) if (N * C * S > SMALL)
    for (i64 task = 0; task < N * G; ++task) {
        i64 n = task / G, g = task % G;
        Moments m;
        for (i64 c = g * per; c < (g + 1) * per; ++c) channel_moments(x + (n * C + c) * S, S, m);
        statistics(m, eps, mean[task], rstd[task]);
        for (i64 c = g * per; c < (g + 1) * per; ++c) {
            i64 base = (n * C + c) * S;
            apply_channel<T, ADD>(x + base, ADD ? residual + base : nullptr, y + base, S, rstd[task] * weight[c],
                                  mean[task], bias[c], slope);
        }
    }
}

template <class T, bool ADD, bool OUT, class... A> void backward(bool last, A... a) {
    if (last) backward_channels_last<T, ADD, OUT>(a...);
    else backward_contiguous<T, ADD, OUT>(a...);
}

}  // namespace

#define FORWARD(NAME, T)                                                                                               \
    extern "C" void NAME(const T* x, const float* w, const float* b, const T* r, T* y, float* mean, float* rstd, i64 N, \
                         i64 C, i64 S, i64 G, double eps, float slope, int last) {                                     \
        if (r) forward<T, true>(x, w, b, r, y, mean, rstd, N, C, S, G, eps, slope, last);                              \
        else forward<T, false>(x, w, b, r, y, mean, rstd, N, C, S, G, eps, slope, last);                               \
    }

#define BACKWARD(NAME, T)                                                                                              \
    extern "C" void NAME(const T* dy, const T* kept, const float* w, const float* b, const T* r, const float* mean,    \
                         const float* rstd, T* dx, T* dr, float* sums, i64 N, i64 C, i64 S, i64 G, float slope,        \
                         int output, int last) {                                                                       \
        if (r && output) backward<T, true, true>(last, dy, kept, w, b, r, mean, rstd, dx, dr, sums, N, C, S, G, slope); \
        else if (r) backward<T, true, false>(last, dy, kept, w, b, r, mean, rstd, dx, dr, sums, N, C, S, G, slope);    \
        else if (output) backward<T, false, true>(last, dy, kept, w, b, r, mean, rstd, dx, dr, sums, N, C, S, G, slope); \
        else backward<T, false, false>(last, dy, kept, w, b, r, mean, rstd, dx, dr, sums, N, C, S, G, slope);          \
    }

FORWARD(forward_float, float)
FORWARD(forward_bfloat16, bf16)
BACKWARD(backward_float, float)
BACKWARD(backward_bfloat16, bf16)
