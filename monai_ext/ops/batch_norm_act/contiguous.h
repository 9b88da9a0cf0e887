// Contiguous tensors [N, C, S]: a channel of a sample is a run of S values. A thread takes a few channels of the whole
// batch, few enough to stay in its cache from the sweep that sums to the one that writes.
#pragma once
#include "lanes.h"

namespace {

constexpr i64 PIECE = 1 << 14;          // values of a channel that are summed in float
constexpr i64 BLOCK_BYTES = 512 << 10;  // of all tensors that a block of channels is read from; half a usual L2 cache

struct Sums { vec first = {}, second = {}; };

// f(index, first term, second term) sets what is to be summed: vectors or, for what is left, single values
template <class F> inline void add_terms(i64 n, Sums& sums, F f) {
    vec a[2] = {}, b[2] = {};
    i64 i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES)
        for (int k = 0; k < 2; ++k) {
            vec p, q;
            f(i + k * LANES, p, q);
            a[k] += p, b[k] += q;
        }
    for (; i + LANES <= n; i += LANES) {
        vec p, q;
        f(i, p, q);
        a[0] += p, b[0] += q;
    }
    float c = 0, d = 0;
    for (; i < n; ++i) {
        float p, q;
        f(i, p, q);
        c += p, d += q;
    }
    a[1][0] += c, b[1][0] += d;
    sums.first += a[0] + a[1], sums.second += b[0] + b[1];
}

template <class F> inline void sweep(i64 n, F f) {
    i64 i = 0;
    for (; i + LANES <= n; i += LANES) f(i, vec{});
    for (; i < n; ++i) f(i, 0.0f);
}

inline vec spread(float v, vec) { return v - vec{}; }
inline float spread(float v, float) { return v; }

struct Channel {
    Sums sums;
    float shift;
    double first = 0, second = 0;  // sums of deviations from `origin` and of their squares
    double origin, count = 0;
};

// merges what was summed around `shift`; the next piece is summed around the mean so far
inline void merge(Channel& c, double n) {
    double s1 = sum(c.sums.first), s2 = sum(c.sums.second), delta = double(c.shift) - c.origin;
    c.first += s1 + n * delta;
    c.second += s2 + delta * (2 * s1 + n * delta);
    c.count += n;
    c.sums = Sums();
    c.shift = float(c.origin + c.first / c.count);
}

inline i64 channels_of_block(i64 N, i64 C, i64 S, i64 bytes) {
    i64 fit = BLOCK_BYTES / std::max<i64>(1, N * S * bytes);
    return std::clamp<i64>(fit, 1, std::max<i64>(1, C / 32));
}

// visit(channel of the block, offset of a run of the tensors, its length), merge all channels after every PIECE values
template <class V, class M> inline void in_pieces(i64 c0, i64 count, i64 N, i64 C, i64 S, V visit, M merge_all) {
    i64 pending = 0;
    for (i64 n = 0; n < N; ++n)
        for (i64 s = 0; s < S; s += PIECE) {
            i64 length = std::min(PIECE, S - s);
            for (i64 c = 0; c < count; ++c) visit(c, (n * C + c0 + c) * S + s, length);
            pending += length;
            if (pending >= PIECE || (n == N - 1 && s + PIECE >= S)) {
                merge_all(double(pending));
                pending = 0;
            }
        }
}

template <class T>
void channel_statistics(const T* x, i64 c0, i64 count, i64 N, i64 C, i64 S, Channel* channels, float* mean,
                        float* var) {
    for (i64 c = 0; c < count; ++c) {
        const T* p = x + (c0 + c) * S;
        i64 n = std::min(S, NEAR);
        float total = 0;
        for (i64 i = 0; i < n; ++i) total += load(p + i);
        channels[c] = Channel();
        channels[c].shift = total / float(n);
        channels[c].origin = channels[c].shift;
    }
    in_pieces(c0, count, N, C, S,
        [&](i64 c, i64 at, i64 n) {
            const T* p = x + at;
            float k = channels[c].shift;
            add_terms(n, channels[c].sums, [&](i64 i, auto& d, auto& square) {
                d = As<std::decay_t<decltype(d)>>::of(p + i) - k;
                square = d * d;
            });
        },
        [&](double n) {
            for (i64 c = 0; c < count; ++c) merge(channels[c], n);
        });
    for (i64 c = 0; c < count; ++c) {
        const Channel& m = channels[c];
        mean[c0 + c] = float(m.origin + m.first / m.count);
        double v = (m.second - m.first * m.first / m.count) / m.count;
        var[c0 + c] = float(v < 0 ? 0 : v);
    }
}

template <class T, bool ADD, bool RELU>
void forward_contiguous(const T* x, const float* weight, const float* bias, const T* residual, T* y, float* mean,
                        float* var, i64 N, i64 C, i64 S, double eps, bool training) {
    i64 width = channels_of_block(N, C, S, (ADD ? 3 : 2) * sizeof(T)), blocks = (C + width - 1) / width;
#pragma omp parallel if (N * C * S > SMALL)
    {
        std::vector<Channel> channels(static_cast<size_t>(training ? width : 0));
#pragma omp for schedule(static)
        for (i64 block = 0; block < blocks; ++block) {
            i64 c0 = block * width, count = std::min(width, C - c0);
            if (training) channel_statistics(x, c0, count, N, C, S, channels.data(), mean, var);
            for (i64 n = N - 1; n >= 0; --n)
                for (i64 c = c0; c < c0 + count; ++c) {
                    i64 base = (n * C + c) * S;
                    float m = mean[c], a = reciprocal_deviation(var[c], eps) * weight[c], b = bias[c];
                    sweep(S, [&](i64 i, auto zero) {
                        i64 at = base + i;
                        apply_at<ADD, RELU>(x + at, ADD ? residual + at : nullptr, y + at, spread(m, zero),
                                            spread(a, zero), spread(b, zero));
                    });
                }
        }
    }
}

template <class T, bool ADD, bool RELU>
void backward_contiguous(const T* dy, const T* x, const T* y, const float* weight, const float* bias, const float* mean,
                         const float* var, T* dx, T* dr, float* dweight, float* dbias, i64 N, i64 C, i64 S, double eps,
                         bool training) {
    i64 width = channels_of_block(N, C, S, (ADD ? 5 : 3) * sizeof(T)), blocks = (C + width - 1) / width;
#pragma omp parallel if (N * C * S > SMALL)
    {
        std::vector<Channel> channels(static_cast<size_t>(width));
#pragma omp for schedule(static)
        for (i64 block = 0; block < blocks; ++block) {
            i64 c0 = block * width, count = std::min(width, C - c0);
            for (i64 c = 0; c < count; ++c) channels[c] = Channel();
            in_pieces(c0, count, N, C, S,
                [&](i64 c, i64 at, i64 n) {
                    float m = mean[c0 + c], b = bias[c0 + c];
                    float a = reciprocal_deviation(var[c0 + c], eps) * weight[c0 + c];
                    add_terms(n, channels[c].sums, [&](i64 i, auto& dz, auto& product) {
                        using V = std::decay_t<decltype(dz)>;
                        i64 j = at + i;
                        V d;
                        terms_at<ADD, RELU>(dy + j, x + j, ADD ? y + j : nullptr, spread(m, V{}), spread(a, V{}),
                                            spread(b, V{}), d, dz);
                        product = d * dz;
                        if (ADD) As<V>::put(dr + j, dz);
                        if (!training) As<V>::put(dx + j, dz * a);
                    });
                },
                [&](double) {
                    for (i64 c = 0; c < count; ++c) {
                        channels[c].first += sum(channels[c].sums.first);
                        channels[c].second += sum(channels[c].sums.second);
                        channels[c].sums = Sums();
                    }
                });
            for (i64 c = 0; c < count; ++c) {
                dbias[c0 + c] = float(channels[c].first);
                dweight[c0 + c] = float(channels[c].second * reciprocal_deviation(var[c0 + c], eps));
            }
            if (!training) continue;
            for (i64 n = N - 1; n >= 0; --n)
                for (i64 c = 0; c < count; ++c) {
                    i64 base = (n * C + c0 + c) * S;
                    float rstd = reciprocal_deviation(var[c0 + c], eps), m = mean[c0 + c], b = bias[c0 + c];
                    float a = rstd * weight[c0 + c];
                    double values = double(N) * double(S);
                    float flat = float(a * channels[c].first / values);
                    float sloped = float(double(a) * rstd * rstd * channels[c].second / values);
                    sweep(S, [&](i64 i, auto zero) {
                        using V = decltype(zero);
                        i64 j = base + i;
                        V d, dz;
                        // with a residual the masked gradient is written already
                        terms_at<false, RELU && !ADD>((ADD ? dr : dy) + j, x + j, (const T*)nullptr, spread(m, zero),
                                                      spread(a, zero), spread(b, zero), d, dz);
                        As<V>::put(dx + j, dz * a - flat - d * sloped);
                    });
                }
        }
    }
}

}  // namespace
