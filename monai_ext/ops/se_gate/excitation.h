// The two small layers of a squeeze-and-excitation gate and their gradients, all float, rows of C or H values.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

using i64 = int64_t;

constexpr i64 SMALL = 1 << 15;  // values that one thread has done before others are awake

struct Layers {
    const float *w1, *b1, *w2, *b2;  // [H, C], [H], [C, H], [C]
    i64 C, H;
};

// four products at a time keep four sums in flight; `count` of them are asked for
inline void products(const float* rows, i64 length, i64 count, const float* vector, float* out) {
    if (count == 4) {
        const float *r0 = rows, *r1 = rows + length, *r2 = r1 + length, *r3 = r2 + length;
        float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
        for (i64 i = 0; i < length; ++i) {
            s0 += r0[i] * vector[i];
            s1 += r1[i] * vector[i];
            s2 += r2[i] * vector[i];
            s3 += r3[i] * vector[i];
        }
        out[0] = s0, out[1] = s1, out[2] = s2, out[3] = s3;
        return;
    }
    for (i64 k = 0; k < count; ++k) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (i64 i = 0; i < length; ++i) sum += rows[k * length + i] * vector[i];
        out[k] = sum;
    }
}

// hidden [N, H] and gate [N, C] of squeezed [N, C]
inline void excite(const Layers& l, const float* squeezed, float* hidden, float* gate, i64 N) {
    bool large = N * l.C * l.H > SMALL;
#pragma omp parallel for schedule(static) if (large)
    for (i64 h = 0; h < l.H; h += 4)
        for (i64 n = 0; n < N; ++n) {
            float sums[4];
            i64 count = std::min<i64>(4, l.H - h);
            products(l.w1 + h * l.C, l.C, count, squeezed + n * l.C, sums);
            for (i64 k = 0; k < count; ++k) {
                float z = sums[k] + l.b1[h + k];
                hidden[n * l.H + h + k] = z < 0 ? 0 : z;  // a NaN stays one
            }
        }
#pragma omp parallel for schedule(static) if (large)
    for (i64 c = 0; c < l.C; c += 4)
        for (i64 n = 0; n < N; ++n) {
            float sums[4];
            i64 count = std::min<i64>(4, l.C - c);
            products(l.w2 + c * l.H, l.H, count, hidden + n * l.H, sums);
            for (i64 k = 0; k < count; ++k) gate[n * l.C + c + k] = 1 / (1 + std::exp(-(sums[k] + l.b2[c + k])));
        }
}

struct LayerGradients {
    float *w1, *b1, *w2, *b2;
};

// From dz [N, C], the gradient before the sigmoid: those of the layers and of squeezed [N, C]. Sums have a fixed order.
inline void excite_backward(const Layers& l, const float* squeezed, const float* hidden, const float* dz,
                            const LayerGradients& d, float* dsqueezed, i64 N) {
    constexpr i64 BLOCK = 64;
    i64 C = l.C, H = l.H, blocks = (C + BLOCK - 1) / BLOCK;
    bool large = N * C * H > SMALL;
    std::vector<float> partial(size_t(blocks * N * H), 0.0f), dhidden(size_t(N * H), 0.0f);
#pragma omp parallel for schedule(static) if (large)
    for (i64 block = 0; block < blocks; ++block) {
        float* sums = partial.data() + block * N * H;
        for (i64 c = block * BLOCK; c < std::min(C, (block + 1) * BLOCK); ++c) {
            const float* w = l.w2 + c * H;
            float *row = d.w2 + c * H, bias = 0;
            std::fill(row, row + H, 0.0f);
            for (i64 n = 0; n < N; ++n) {
                const float* value = hidden + n * H;
                float *sum = sums + n * H, g = dz[n * C + c];
                bias += g;
#pragma omp simd
                for (i64 h = 0; h < H; ++h) {
                    row[h] += g * value[h];
                    sum[h] += g * w[h];
                }
            }
            d.b2[c] = bias;
        }
    }
    for (i64 block = 0; block < blocks; ++block)
#pragma omp simd
        for (i64 i = 0; i < N * H; ++i) dhidden[i] += partial[block * N * H + i];
    std::fill(d.b1, d.b1 + H, 0.0f);
    for (i64 i = 0; i < N * H; ++i) {
        if (hidden[i] <= 0) dhidden[i] = 0;
        d.b1[i % H] += dhidden[i];
    }
    std::fill(dsqueezed, dsqueezed + N * C, 0.0f);
#pragma omp parallel for schedule(static) if (large)
    for (i64 block = 0; block < blocks; ++block) {
        i64 first = block * BLOCK, width = std::min(BLOCK, C - first);
        for (i64 h = 0; h < H; ++h) {
            const float* w = l.w1 + h * C + first;
            float* row = d.w1 + h * C + first;
            std::fill(row, row + width, 0.0f);
            for (i64 n = 0; n < N; ++n) {
                const float* value = squeezed + n * C + first;
                float *sum = dsqueezed + n * C + first, g = dhidden[n * H + h];
#pragma omp simd
                for (i64 c = 0; c < width; ++c) {
                    row[c] += g * value[c];
                    sum[c] += g * w[c];
                }
            }
        }
    }
}
