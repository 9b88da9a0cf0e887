// Channels last, [N * S, C]: rows of C values, constants are vectors. Threads take runs of rows, and the sweep that
// writes goes backwards, since the cache holds what was read last.
#pragma once
#include "lanes.h"

namespace {

constexpr int TILE = 8;   // vectors of channels whose sums stay in registers
constexpr i64 ROWS = 64;  // of a piece in channels last, at most

inline i64 rows_of_piece(i64 rows) { return std::clamp<i64>(rows / 32, 8, ROWS); }

// f(row, channel, zero of the type to compute in), in the order of memory, which is what processors fetch ahead
template <class F> inline void over_rows(i64 first, i64 rows, i64 C, F f) {
    for (i64 row = first; row < first + rows; ++row) {
        i64 c = 0;
        for (; c + LANES <= C; c += LANES) f(row, c, vec{});
        for (; c < C; ++c) f(row, c, 0.0f);
    }
}

// K vectors of channels, whose sums stay in registers
template <int K, class F> inline void sum_columns(i64 first, i64 rows, i64 c0, float* s1, float* s2, F f) {
    vec p[K] = {}, q[K] = {};
    for (i64 row = first; row < first + rows; ++row)
        for (int k = 0; k < K; ++k) f(row, c0 + k * LANES, p[k], q[k]);
    for (int k = 0; k < K; ++k) As<vec>::put(s1 + c0 + k * LANES, p[k]), As<vec>::put(s2 + c0 + k * LANES, q[k]);
}

// f(row, channel, first sum, second sum) adds to the sums of a piece of rows. Rows that are only read are read in
// columns; where f writes as well, that costs more than loading and storing the sums.
template <bool WRITES, class F> inline void sum_rows(i64 first, i64 rows, i64 C, float* s1, float* s2, F f) {
    i64 c = 0;
    if (!WRITES) {
        for (; c + TILE * LANES <= C; c += TILE * LANES) sum_columns<TILE>(first, rows, c, s1, s2, f);
        for (; c + LANES <= C; c += LANES) sum_columns<1>(first, rows, c, s1, s2, f);
        if (c == C) return;
    }
    for (i64 row = first; row < first + rows; ++row) {
        i64 k = c;
        for (; k + LANES <= C; k += LANES) {
            vec p = As<vec>::of(s1 + k), q = As<vec>::of(s2 + k);
            f(row, k, p, q);
            As<vec>::put(s1 + k, p), As<vec>::put(s2 + k, q);
        }
        for (; k < C; ++k) f(row, k, s1[k], s2[k]);
    }
}

// means of rows from all over the batch, near to those of all rows
template <class T> void near_means(const T* x, i64 M, i64 C, float* shift) {
    i64 count = std::min(M, NEAR);
    std::fill(shift, shift + C, 0.0f);
    for (i64 i = 0; i < count; ++i) {
        const T* row = x + i * M / count * C;
#pragma omp simd
        for (i64 c = 0; c < C; ++c) shift[c] += load(row + c);
    }
    for (i64 c = 0; c < C; ++c) shift[c] /= float(count);
}

// adds up the two sums of every piece, [pieces, 2, C], and calls f(channel, first, second)
template <class F> void merge_pieces(const std::vector<float>& partial, i64 pieces, i64 C, F f) {
#pragma omp parallel for schedule(static) if (pieces * C > SMALL)
    for (i64 c0 = 0; c0 < C; c0 += LANES) {
        i64 width = std::min(LANES, C - c0);
        double first[LANES] = {}, second[LANES] = {};
        for (i64 piece = 0; piece < pieces; ++piece) {
            const float* p = partial.data() + piece * C * 2 + c0;
#pragma omp simd
            for (i64 c = 0; c < width; ++c) first[c] += p[c], second[c] += p[C + c];
        }
        for (i64 c = 0; c < width; ++c) f(c0 + c, first[c], second[c]);
    }
}

template <class T>
void rows_statistics(const T* x, i64 M, i64 C, i64 rows, i64 pieces, float* mean, float* var) {
    std::vector<float> partial(static_cast<size_t>(pieces * C * 2)), near(static_cast<size_t>(C));
    float* shift = near.data();
    near_means(x, M, C, shift);
#pragma omp parallel for schedule(static) if (M * C > SMALL)
    for (i64 piece = 0; piece < pieces; ++piece) {
        i64 first = piece * rows, count = std::min(rows, M - first);
        float *s1 = partial.data() + piece * C * 2, *s2 = s1 + C;
        sum_rows<false>(first, count, C, s1, s2, [&](i64 row, i64 c, auto& p, auto& q) {
            using V = std::decay_t<decltype(p)>;
            V d = As<V>::of(x + row * C + c) - As<V>::of(shift + c);
            p += d, q += d * d;
        });
    }
    merge_pieces(partial, pieces, C, [&](i64 c, double first, double second) {
        double v = (second - first * first / double(M)) / double(M);
        mean[c] = float(double(shift[c]) + first / double(M));
        var[c] = float(v < 0 ? 0 : v);
    });
}

template <class T, bool ADD, bool RELU>
void forward_channels_last(const T* x, const float* weight, const float* bias, const T* residual, T* y, float* mean,
                           float* var, i64 N, i64 C, i64 S, double eps, bool training) {
    i64 M = N * S, rows = rows_of_piece(M), pieces = (M + rows - 1) / rows;
    if (training) rows_statistics(x, M, C, rows, pieces, mean, var);
    std::vector<float> factors(static_cast<size_t>(C));
    float* a = factors.data();
    for (i64 c = 0; c < C; ++c) a[c] = reciprocal_deviation(var[c], eps) * weight[c];
#pragma omp parallel for schedule(static) if (M * C > SMALL)
    for (i64 task = 0; task < pieces; ++task) {
        i64 first = (pieces - 1 - task) * rows, count = std::min(rows, M - first);
        over_rows(first, count, C, [&](i64 row, i64 c, auto zero) {
            using V = decltype(zero);
            i64 at = row * C + c;
            apply_at<ADD, RELU>(x + at, ADD ? residual + at : nullptr, y + at, As<V>::of(mean + c), As<V>::of(a + c),
                                As<V>::of(bias + c));
        });
    }
}

template <class T, bool ADD, bool RELU>
void backward_channels_last(const T* dy, const T* x, const T* y, const float* weight, const float* bias,
                            const float* mean, const float* var, T* dx, T* dr, float* dweight, float* dbias, i64 N,
                            i64 C, i64 S, double eps, bool training) {
    i64 M = N * S, rows = rows_of_piece(M), pieces = (M + rows - 1) / rows;
    std::vector<float> partial(static_cast<size_t>(pieces * C * 2)), factors(static_cast<size_t>(3 * C));
    float *a = factors.data(), *flat = a + C, *sloped = flat + C;
    for (i64 c = 0; c < C; ++c) a[c] = reciprocal_deviation(var[c], eps) * weight[c];
    auto sum_up = [&](auto writes) {
#pragma omp parallel for schedule(static) if (M * C > SMALL)
        for (i64 piece = 0; piece < pieces; ++piece) {
            i64 first = piece * rows, count = std::min(rows, M - first);
            float *s1 = partial.data() + piece * C * 2, *s2 = s1 + C;
            sum_rows<writes.value>(first, count, C, s1, s2, [&](i64 row, i64 c, auto& p, auto& q) {
                using V = std::decay_t<decltype(p)>;
                i64 at = row * C + c;
                V va = As<V>::of(a + c), d, dz;
                terms_at<ADD, RELU>(dy + at, x + at, ADD ? y + at : nullptr, As<V>::of(mean + c), va,
                                    As<V>::of(bias + c), d, dz);
                p += dz, q += d * dz;
                if (ADD) As<V>::put(dr + at, dz);
                if (writes.value && !training) As<V>::put(dx + at, dz * va);
            });
        }
    };
    if (ADD || !training) sum_up(std::true_type());
    else sum_up(std::false_type());
    merge_pieces(partial, pieces, C, [&](i64 c, double first, double second) {
        float rstd = reciprocal_deviation(var[c], eps);
        dbias[c] = float(first), dweight[c] = float(second * rstd);
        flat[c] = float(a[c] * first / double(M));
        sloped[c] = float(double(a[c]) * rstd * rstd * second / double(M));
    });
    if (!training) return;
#pragma omp parallel for schedule(static) if (M * C > SMALL)
    for (i64 task = 0; task < pieces; ++task) {
        i64 start = (pieces - 1 - task) * rows, count = std::min(rows, M - start);
        over_rows(start, count, C, [&](i64 row, i64 c, auto zero) {
            using V = decltype(zero);
            i64 at = row * C + c;
            V va = As<V>::of(a + c), d, dz;
            // with a residual the masked gradient is written already
            terms_at<false, RELU && !ADD>((ADD ? dr : dy) + at, x + at, (const T*)nullptr, As<V>::of(mean + c), va,
                                          As<V>::of(bias + c), d, dz);
            As<V>::put(dx + at, dz * va - As<V>::of(flat + c) - d * As<V>::of(sloped + c));
        });
    }
}

}  // namespace
