// Sums of Dice and cross-entropy (or focal) losses over logits [B, K, S] or, channels last, [B, S, K], and the gradient
// with respect to the logits. Voxels are taken in tiles that stay in the first cache: a tile is read as rows of one
// class each, whatever the layout, so that every loop runs over voxels and none over the few classes. Sums are float
// within a tile and double beyond; tiles are grouped in the same way for any number of threads.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bfloat16.h"

namespace {

using i64 = int64_t;

// ---- elementary functions that compilers can vectorise; NaN stays NaN -------------------------------------------

// exp of x <= 0: x = n log 2 + r with |r| <= log(2) / 2, Taylor series of degree 7 in r (error 5e-9); below -87 it is 0
inline float exp_negative(float x) {
    constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    float shifted = x * 1.44269504f + ROUND, n = shifted - ROUND;
    float r = x - n * 0.693147181f;  // log 2 is 2e-9 off, which n takes to 4e-8 where exp(x) still counts beside 1
    float series = 1.0f / 5040;
    series = series * r + 1.0f / 720;
    series = series * r + 1.0f / 120;
    series = series * r + 1.0f / 24;
    series = series * r + 1.0f / 6;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    int32_t bits;
    std::memcpy(&bits, &shifted, 4);
    uint32_t power = uint32_t(bits - 0x4b400000 + 127) << 23;
    float scale;
    std::memcpy(&scale, &power, 4);
    return x < -87.0f ? 0.0f : series * scale;
}

// log of x > 0: x = 2^n m with m in [sqrt(1/2), sqrt(2)), log m = 2 artanh((m - 1) / (m + 1))
inline float log_positive(float x) {
    int32_t bits;
    std::memcpy(&bits, &x, 4);
    int32_t n = (bits - 0x3f3504f3) >> 23;
    bits -= int32_t(uint32_t(n) << 23);
    float m;
    std::memcpy(&m, &bits, 4);
    float s = (m - 1) / (m + 1), u = s * s;
    float series = 1 + u * (1.0f / 3 + u * (1.0f / 5 + u * (1.0f / 7 + u * (1.0f / 9))));
    float value = 2 * s * series + float(n) * 0.693147181f;
    return x == x ? value : x;
}

// log(1 + x) of 0 <= x <= 1, precise for tiny x as well: 2 artanh(x / (2 + x))
inline float log1p_unit(float x) {
    float s = x / (2 + x), u = s * s;
    float series = 1.0f / 15;
    series = series * u + 1.0f / 13;
    series = series * u + 1.0f / 11;
    series = series * u + 1.0f / 9;
    series = series * u + 1.0f / 7;
    series = series * u + 1.0f / 5;
    series = series * u + 1.0f / 3;
    series = series * u + 1.0f;
    return 2 * s * series;
}

// out = x^exponent for x in [0, 1] and exponent >= 0
void power(const float* x, float* out, i64 n, float exponent) {
    if (exponent == 0) std::fill(out, out + n, 1.0f);
    else if (exponent == 1) std::copy(x, x + n, out);
    else if (exponent == 2)
#pragma omp simd
        for (i64 i = 0; i < n; ++i) out[i] = x[i] * x[i];
    else
#pragma omp simd
        for (i64 i = 0; i < n; ++i) out[i] = x[i] > 0 ? exp_negative(exponent * log_positive(x[i])) : x[i];
}

// ---- tiles ------------------------------------------------------------------------------------------------------

constexpr i64 TILE = 4096;          // values of a tile, 16 KB
constexpr i64 LONGEST = 1024;       // voxels of a tile
constexpr i64 TILES_OF_GROUP = 16;  // one group is one task of a thread

struct Problem {
    const void* logits;
    const void* labels;
    const float* weights;  // [K]
    i64 B, K, S;
    i64 ignored;
    float gamma, smoothing;
    int kind, label_kind;  // bfloat16 or float; bytes of an integer, 1 is unsigned
    int ignore, sigmoid, last;

    i64 length() const { return std::max<i64>(16, std::min(LONGEST, TILE / K / 16 * 16)); }
    i64 groups() const { return (S + length() * TILES_OF_GROUP - 1) / (length() * TILES_OF_GROUP); }
};

// scratch of one thread: tiles of logits and of what is made of them, [K][n], and rows of one value a voxel
struct Scratch {
    std::vector<float> memory;
    float *z, *e;
    float *top, *sum, *own, *weight, *a, *b;
    std::vector<int32_t> y;

    explicit Scratch(const Problem& p) : memory(size_t(p.length() * (2 * p.K + 6))), y(size_t(p.length())) {
        i64 n = p.length();
        z = memory.data(), e = z + p.K * n;
        top = e + p.K * n, sum = top + n, own = sum + n, weight = own + n, a = weight + n, b = a + n;
    }
};

struct Range {
    i64 low = 0, high = 0;
};

// rows of K values to K rows of n values, and back; a constant K lets compilers unroll
template <i64 FIXED, class T> void from_last(const T* p, float* z, i64 n, i64 K) {
    const i64 classes = FIXED ? FIXED : K;
    for (i64 i = 0; i < n; ++i)
        for (i64 k = 0; k < classes; ++k) z[k * n + i] = load(p + i * classes + k);
}

template <i64 FIXED, class T> void to_last(const float* z, T* p, i64 n, i64 K) {
    const i64 classes = FIXED ? FIXED : K;
    for (i64 i = 0; i < n; ++i)
        for (i64 k = 0; k < classes; ++k) store(p + i * classes + k, z[k * n + i]);
}

template <class T> void read_tile(const Problem& p, i64 sample, i64 first, i64 n, float* z) {
    const T* base = static_cast<const T*>(p.logits) + sample * p.K * p.S + first * (p.last ? p.K : 1);
    if (p.last)
        return (p.K == 2   ? from_last<2, T>
                : p.K == 3 ? from_last<3, T>
                : p.K == 4 ? from_last<4, T>
                           : from_last<0, T>)(base, z, n, p.K);
    for (i64 k = 0; k < p.K; ++k)
#pragma omp simd
        for (i64 i = 0; i < n; ++i) z[k * n + i] = load(base + k * p.S + i);
}

template <class T> void write_tile(const Problem& p, void* to, i64 sample, i64 first, i64 n, const float* z) {
    T* base = static_cast<T*>(to) + sample * p.K * p.S + first * (p.last ? p.K : 1);
    if (p.last)
        return (p.K == 2   ? to_last<2, T>
                : p.K == 3 ? to_last<3, T>
                : p.K == 4 ? to_last<4, T>
                           : to_last<0, T>)(z, base, n, p.K);
    for (i64 k = 0; k < p.K; ++k)
#pragma omp simd
        for (i64 i = 0; i < n; ++i) store(base + k * p.S + i, z[k * n + i]);
}

// class of every voxel, -1 where it is ignored or (an error, seen in the range) has no class
template <class L> void read_labels(const Problem& p, i64 offset, i64 n, int32_t* y, Range& range) {
    const L* labels = static_cast<const L*>(p.labels) + offset;
    const L ignored = L(p.ignored);
    const bool ignore = p.ignore;
    L low = 0, high = 0;
#pragma omp simd reduction(min : low) reduction(max : high)
    for (i64 i = 0; i < n; ++i) {
        L label = labels[i];
        bool counts = !(ignore && label == ignored);
        L seen = counts ? label : L(0);
        low = seen < low ? seen : low;
        high = seen > high ? seen : high;
        y[i] = counts ? int32_t(label) : -1;
    }
    if (low < 0 || i64(high) >= p.K)
        for (i64 i = 0; i < n; ++i) y[i] = i64(labels[i]) >= 0 && i64(labels[i]) < p.K ? y[i] : -1;
    range.low = std::min(range.low, i64(low));
    range.high = std::max(range.high, i64(high));
}

void read(const Problem& p, i64 sample, i64 first, i64 n, Scratch& s, Range& range) {
    if (p.kind) read_tile<bf16>(p, sample, first, n, s.z);
    else read_tile<float>(p, sample, first, n, s.z);
    i64 offset = sample * p.S + first;
    if (p.label_kind == 1) read_labels<uint8_t>(p, offset, n, s.y.data(), range);
    else if (p.label_kind == 2) read_labels<int16_t>(p, offset, n, s.y.data(), range);
    else if (p.label_kind == 4) read_labels<int32_t>(p, offset, n, s.y.data(), range);
    else read_labels<i64>(p, offset, n, s.y.data(), range);
}

// ---- softmax ----------------------------------------------------------------------------------------------------

// z becomes z - max, e its exponential, sum that of the row; own is z - max of the voxel's class
void exponentials(i64 K, i64 n, Scratch& s) {
    const int32_t* y = s.y.data();
    float *top = s.top, *sum = s.sum, *own = s.own;
    std::copy(s.z, s.z + n, top);
    for (i64 k = 1; k < K; ++k) {
        const float* z = s.z + k * n;
#pragma omp simd
        for (i64 i = 0; i < n; ++i) top[i] = z[i] > top[i] ? z[i] : top[i];
    }
    std::fill(sum, sum + n, 0.0f);
    std::fill(own, own + n, 0.0f);
    for (i64 k = 0; k < K; ++k) {
        float *z = s.z + k * n, *e = s.e + k * n;
        const int32_t own_class = int32_t(k);
#pragma omp simd
        for (i64 i = 0; i < n; ++i) {
            float d = z[i] - top[i], x = exp_negative(d);
            z[i] = d;
            e[i] = x;
            sum[i] += x;
            own[i] = y[i] == own_class ? d : own[i];
        }
    }
}

void gather(const float* table, const int32_t* y, float* out, i64 n) {
#pragma omp simd
    for (i64 i = 0; i < n; ++i) out[i] = y[i] >= 0 ? table[y[i] >= 0 ? y[i] : 0] : 0.0f;
}

inline float one_minus(float p) {
    float q = 1 - p;
    return q < 0 ? 0.0f : q;  // rounding may take p beyond 1
}

void softmax_sums(const Problem& p, i64 n, Scratch& s, double* out) {
    exponentials(p.K, n, s);
    const int32_t* y = s.y.data();
    float *inverse = s.top, *log_sum = s.sum;
#pragma omp simd
    for (i64 i = 0; i < n; ++i) {
        inverse[i] = 1 / log_sum[i];
        log_sum[i] = log_positive(log_sum[i]);
    }
    gather(p.weights, y, s.weight, n);
    for (i64 k = 0; k < p.K; ++k) {
        const float* e = s.e + k * n;
        const int32_t own_class = int32_t(k);
        float intersection = 0, predicted = 0;
        int32_t present = 0;
#pragma omp simd reduction(+ : intersection, predicted, present)
        for (i64 i = 0; i < n; ++i) {
            float probability = e[i] * inverse[i];
            predicted += y[i] >= 0 ? probability : 0.0f;
            intersection += y[i] == own_class ? probability : 0.0f;
            present += y[i] == own_class ? 1 : 0;
        }
        out[k] += intersection, out[p.K + k] += predicted, out[2 * p.K + k] += present;
    }
    float* factor = s.b;
    if (p.gamma != 0) {
#pragma omp simd
        for (i64 i = 0; i < n; ++i) s.a[i] = one_minus(exp_negative(s.own[i]) * inverse[i]);
        power(s.a, factor, n, p.gamma);
    } else std::fill(factor, factor + n, 1.0f);
    const float *own = s.own, *weight = s.weight;
    float terms = 0, weights = 0;
#pragma omp simd reduction(+ : terms, weights)
    for (i64 i = 0; i < n; ++i) {
        terms += y[i] >= 0 ? weight[i] * factor[i] * (log_sum[i] - own[i]) : 0.0f;
        weights += weight[i];
    }
    out[3 * p.K] += double(1 - p.smoothing) * terms;
    out[3 * p.K + 1] += weights;
    if (p.smoothing == 0) return;
    for (i64 k = 0; k < p.K; ++k) {
        const float *z = s.z + k * n, *e = s.e + k * n;
        if (p.gamma != 0) {
#pragma omp simd
            for (i64 i = 0; i < n; ++i) s.a[i] = one_minus(e[i] * inverse[i]);
            power(s.a, factor, n, p.gamma);
        }
        float smooth = 0;
#pragma omp simd reduction(+ : smooth)
        for (i64 i = 0; i < n; ++i) smooth += y[i] >= 0 ? factor[i] * (log_sum[i] - z[i]) : 0.0f;
        out[3 * p.K] += double(p.smoothing) / p.K * p.weights[k] * smooth;
    }
}

struct Gradients {
    const float *intersection, *predicted;  // [K] of the sample
    float terms;
};

// out = d((1 - p)^g log p) / d(log p) = (1 - p)^(g - 1) (1 - p - g p log p); 1 for g = 0
void log_slopes(float gamma, const float* p, const float* log_p, float* out, i64 n) {
    if (gamma == 0) return std::fill(out, out + n, 1.0f), void();
#pragma omp simd
    for (i64 i = 0; i < n; ++i) out[i] = one_minus(p[i]);
    power(out, out, n, gamma - 1);
#pragma omp simd
    for (i64 i = 0; i < n; ++i) out[i] *= one_minus(p[i]) - gamma * p[i] * log_p[i];
}

// e becomes the gradient of the logits: p_j (a_j - sum_k (p_k a_k + h_k)) + h_j, with a_k the derivative of the result
// with respect to p_k and h_k with respect to log p_k in the voxel-wise term
void softmax_gradient(const Problem& p, i64 n, Scratch& s, const Gradients& g) {
    exponentials(p.K, n, s);
    const int32_t* y = s.y.data();
    const bool focal = p.gamma != 0, smoothed = p.smoothing != 0;
    float *own_p = s.top, *mean = s.sum, *own = s.own, *slope = s.a, *weight = s.weight;
    gather(p.weights, y, weight, n);
    gather(g.intersection, y, s.b, n);
#pragma omp simd
    for (i64 i = 0; i < n; ++i) {
        float inverse = 1 / s.sum[i];
        own_p[i] = exp_negative(own[i]) * inverse;
        s.b[i] *= own_p[i];
        slope[i] = inverse;
    }
    for (i64 k = 0; k < p.K; ++k) {
        float *e = s.e + k * n, *z = s.z + k * n;
#pragma omp simd
        for (i64 i = 0; i < n; ++i) e[i] *= slope[i];
        if (focal && smoothed)
#pragma omp simd
            for (i64 i = 0; i < n; ++i) z[i] -= log_positive(s.sum[i]);
    }
    if (focal)
#pragma omp simd
        for (i64 i = 0; i < n; ++i) own[i] -= log_positive(s.sum[i]);
    log_slopes(p.gamma, own_p, own, slope, n);
    const float hard = -g.terms * (1 - p.smoothing);
    float* at_own = s.b;
#pragma omp simd
    for (i64 i = 0; i < n; ++i) mean[i] = at_own[i] += hard * weight[i] * slope[i];
    for (i64 k = 0; k < p.K; ++k) {
        float *e = s.e + k * n, *z = s.z + k * n;
        const float predicted = g.predicted[k];
#pragma omp simd
        for (i64 i = 0; i < n; ++i) mean[i] += predicted * e[i];
        if (!smoothed) continue;
        const float soft = -g.terms * p.smoothing / float(p.K) * p.weights[k];
        log_slopes(p.gamma, e, z, slope, n);
#pragma omp simd
        for (i64 i = 0; i < n; ++i) mean[i] += z[i] = soft * slope[i];
    }
    for (i64 k = 0; k < p.K; ++k) {
        float *e = s.e + k * n, *z = s.z + k * n;
        const float predicted = g.predicted[k];
        const int32_t own_class = int32_t(k);
#pragma omp simd
        for (i64 i = 0; i < n; ++i) {
            float d = e[i] * (predicted - mean[i]);
            d += y[i] == own_class ? at_own[i] : 0.0f;
            d += smoothed ? z[i] : 0.0f;
            e[i] = y[i] >= 0 ? d : 0.0f;
        }
    }
}

// ---- sigmoid ----------------------------------------------------------------------------------------------------

// p = sigmoid(z) and q = 1 - p, both without cancellation; softplus is log(1 + exp(-|z|))
inline void sigmoid(float z, float& p, float& q, float& softplus) {
    float e = exp_negative(z < 0 ? z : -z), one = 1 / (1 + e), other = e * one;
    p = z < 0 ? other : one;
    q = z < 0 ? one : other;
    softplus = log1p_unit(e);
}

void sigmoid_sums(const Problem& p, i64 n, Scratch& s, double* out) {
    const int32_t* y = s.y.data();
    for (i64 k = 0; k < p.K; ++k) {
        const float* z = s.z + k * n;
        const int32_t own_class = int32_t(k);
        const float low = p.smoothing / 2, high = 1 - low;
        const bool focal = p.gamma != 0;
        float *probability = s.e, *rest = s.top, *softplus = s.sum, *up = s.a, *down = s.b;
#pragma omp simd
        for (i64 i = 0; i < n; ++i) sigmoid(z[i], probability[i], rest[i], softplus[i]);
        if (focal) power(rest, up, n, p.gamma), power(probability, down, n, p.gamma);
        else std::fill(up, up + n, 1.0f), std::fill(down, down + n, 1.0f);
        float intersection = 0, predicted = 0, terms = 0;
        int32_t present = 0, counted = 0;
#pragma omp simd reduction(+ : intersection, predicted, terms, present, counted)
        for (i64 i = 0; i < n; ++i) {
            bool counts = y[i] >= 0, is_own = y[i] == own_class;
            float target = is_own ? high : low;
            float minus_log_p = (z[i] < 0 ? -z[i] : 0.0f) + softplus[i];
            float minus_log_q = (z[i] > 0 ? z[i] : 0.0f) + softplus[i];
            float term = target * up[i] * minus_log_p + (1 - target) * down[i] * minus_log_q;
            predicted += counts ? probability[i] : 0.0f;
            intersection += is_own ? probability[i] : 0.0f;
            terms += counts ? term : 0.0f;
            present += is_own;
            counted += counts;
        }
        out[k] += intersection, out[p.K + k] += predicted, out[2 * p.K + k] += present;
        out[3 * p.K] += double(p.weights[k]) * terms;
        out[3 * p.K + 1] += double(p.weights[k]) * counted;
    }
}

void sigmoid_gradient(const Problem& p, i64 n, Scratch& s, const Gradients& g) {
    const int32_t* y = s.y.data();
    const bool focal = p.gamma != 0;
    const float low = p.smoothing / 2, high = 1 - low;
    for (i64 k = 0; k < p.K; ++k) {
        const float* z = s.z + k * n;
        float *e = s.e + k * n, *probability = s.top, *rest = s.sum, *softplus = s.own, *up = s.a, *down = s.b;
        const int32_t own_class = int32_t(k);
        const float predicted = g.predicted[k], both = predicted + g.intersection[k], weight = g.terms * p.weights[k];
#pragma omp simd
        for (i64 i = 0; i < n; ++i) sigmoid(z[i], probability[i], rest[i], softplus[i]);
        if (focal) {
            power(rest, up, n, p.gamma), power(probability, down, n, p.gamma);
#pragma omp simd
            for (i64 i = 0; i < n; ++i) {
                float minus_log_p = (z[i] < 0 ? -z[i] : 0.0f) + softplus[i];
                float minus_log_q = (z[i] > 0 ? z[i] : 0.0f) + softplus[i];
                up[i] *= p.gamma * probability[i] * minus_log_p + rest[i];
                down[i] *= p.gamma * rest[i] * minus_log_q + probability[i];
            }
        } else std::copy(rest, rest + n, up), std::copy(probability, probability + n, down);
#pragma omp simd
        for (i64 i = 0; i < n; ++i) {
            bool is_own = y[i] == own_class;
            float target = is_own ? high : low;
            float d = (is_own ? both : predicted) * probability[i] * rest[i];
            d += weight * ((1 - target) * down[i] - target * up[i]);
            e[i] = y[i] >= 0 ? d : 0.0f;
        }
    }
}

constexpr i64 SMALL = 1 << 14;  // logits that one thread has done before others are awake

}  // namespace

// intersection, predicted, present: [B, K]; terms: [2]; range: smallest and largest label that is not ignored, and 0
extern "C" void forward(const void* logits, const void* labels, const float* weights, float* intersection,
                        float* predicted, float* present, float* terms, i64* range, i64 B, i64 K, i64 S, i64 ignored,
                        float gamma, float smoothing, int kind, int label_kind, int ignore, int sigmoid, int last) {
    const Problem p{logits, labels, weights, B, K, S, ignored, gamma, smoothing, kind, label_kind, ignore, sigmoid, last};
    const i64 groups = p.groups(), length = p.length(), width = 3 * K + 2;
    std::vector<double> partial(size_t(B * groups * width), 0.0);
    std::vector<Range> ranges(size_t(B * groups));
#pragma omp parallel if (B * K * S > SMALL)
    {
        Scratch s(p);
#pragma omp for schedule(static)
        for (i64 task = 0; task < B * groups; ++task) {
            i64 sample = task / groups, begin = task % groups * length * TILES_OF_GROUP;
            i64 end = std::min(S, begin + length * TILES_OF_GROUP);
            double* out = partial.data() + task * width;
            for (i64 first = begin; first < end; first += length) {
                i64 n = std::min(length, end - first);
                read(p, sample, first, n, s, ranges[size_t(task)]);
                if (sigmoid) sigmoid_sums(p, n, s, out);
                else softmax_sums(p, n, s, out);
            }
        }
    }
    double both[2] = {0, 0};
    range[0] = range[1] = 0;
    for (i64 sample = 0; sample < B; ++sample) {
        std::vector<double> sums(size_t(width), 0.0);
        for (i64 task = sample * groups; task < (sample + 1) * groups; ++task) {
            for (i64 j = 0; j < width; ++j) sums[size_t(j)] += partial[size_t(task * width + j)];
            range[0] = std::min(range[0], ranges[size_t(task)].low);
            range[1] = std::max(range[1], ranges[size_t(task)].high);
        }
        for (i64 k = 0; k < K; ++k) {
            intersection[sample * K + k] = float(sums[size_t(k)]);
            predicted[sample * K + k] = float(sums[size_t(K + k)]);
            present[sample * K + k] = float(sums[size_t(2 * K + k)]);
        }
        both[0] += sums[size_t(3 * K)], both[1] += sums[size_t(3 * K + 1)];
    }
    terms[0] = float(both[0]), terms[1] = float(both[1]);
}

// gradients of the sums: intersection and predicted [B, K], the sum of terms; result: as the logits
extern "C" void backward(const void* logits, const void* labels, const float* weights, const float* intersection,
                         const float* predicted, float terms, void* result, i64 B, i64 K, i64 S, i64 ignored,
                         float gamma, float smoothing, int kind, int label_kind, int ignore, int sigmoid, int last) {
    const Problem p{logits, labels, weights, B, K, S, ignored, gamma, smoothing, kind, label_kind, ignore, sigmoid, last};
    const i64 groups = p.groups(), length = p.length();
#pragma omp parallel if (B * K * S > SMALL)
    {
        Scratch s(p);
        Range range;
#pragma omp for schedule(static)
        for (i64 task = 0; task < B * groups; ++task) {
            i64 sample = task / groups, begin = task % groups * length * TILES_OF_GROUP;
            i64 end = std::min(S, begin + length * TILES_OF_GROUP);
            const Gradients g{intersection + sample * K, predicted + sample * K, terms};
            for (i64 first = begin; first < end; first += length) {
                i64 n = std::min(length, end - first);
                read(p, sample, first, n, s, range);
                if (sigmoid) sigmoid_gradient(p, n, s, g);
                else softmax_gradient(p, n, s, g);
                if (kind) write_tile<bf16>(p, result, sample, first, n, s.e);
                else write_tile<float>(p, result, sample, first, n, s.e);
            }
        }
    }
}
