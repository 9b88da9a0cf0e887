// RoIAlign of channels-last maps, forward and backward.
//
// A bin is the same weighted sum of pixels for every channel, and its weights are products of one factor an axis: taps
// of samples that share a pixel are merged along each axis first. Backward, threads own whole rows of the maps and add
// what rows of bins give to them in the regions' order, so that the sums have the same bits with any number of threads;
// a row and the gradients of the bins around it stay in a core's own cache.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "bfloat16.h"

namespace {

using i64 = int64_t;
constexpr i64 WIDE = 256, LANES = 64;  // channels whose sums stay in registers
constexpr i64 MOST_SAMPLES = 1024;
constexpr i64 AHEAD = 4;  // pixels; farther ones do not wait less, nearer ones do not come in time
constexpr i64 NEAR_ROWS = 8;  // that a thread does one after the other

struct Tap { i64 pixel; float weight; };

// Pixels and weights of the bins along one axis; those of bin b are taps[ends[b - 1]] to taps[ends[b]].
struct Axis {
    std::vector<Tap> taps;
    std::vector<int> ends;

    void build(double from, double to, i64 bins, i64 size, i64 sampling, bool aligned) {
        taps.clear(), ends.clear();
        double extent = aligned ? to - from : std::max(to - from, 1.0);
        if (!aligned && std::isnan(to - from)) extent = to - from;
        double width = extent / double(bins);
        i64 samples = sampling;
        if (!sampling) samples = width > 0 ? i64(std::min(std::ceil(width), double(MOST_SAMPLES))) : 0;
        for (i64 bin = 0; bin < bins; ++bin) {
            size_t first = taps.size();
            for (i64 i = 0; i < samples; ++i) {
                double at = from + (double(bin) + (double(i) + 0.5) / double(samples)) * width;
                if (!(at >= -1.0 && at <= double(size))) continue;
                at = std::min(std::max(at, 0.0), double(size - 1));
                double low = std::floor(at), part = at - low;
                add(first, i64(low), (1.0 - part) / double(samples));
                if (part > 0) add(first, i64(low) + 1, part / double(samples));
            }
            ends.push_back(int(taps.size()));
        }
    }
    int begin(i64 bin) const { return bin ? ends[bin - 1] : 0; }

private:
    // samples follow one another, so that a pixel met before is among the last three
    void add(size_t first, i64 pixel, double weight) {
        for (size_t k = taps.size(), back = 0; k > first && back < 3; --k, ++back)
            if (taps[k - 1].pixel == pixel) {
                taps[k - 1].weight += float(weight);
                return;
            }
        taps.push_back({pixel, float(weight)});
    }
};

struct Maps {
    i64 levels, batch, channels;
    const i64* sizes;  // height and width of each
    const double* scales;

    i64 number(i64 level, double image) const { return level * batch + i64(image); }
};

struct Bins {
    const double* rois;
    const i64* levels;
    i64 count, rows, columns, sampling;
    bool aligned;

    void axes(const Maps& maps, i64 r, Axis& y, Axis& x) const {
        const double* box = rois + r * 5;
        i64 level = levels[r];
        double scale = maps.scales[level], offset = aligned ? 0.5 : 0.0;
        y.build(box[2] * scale - offset, box[4] * scale - offset, rows, maps.sizes[2 * level], sampling, aligned);
        x.build(box[1] * scale - offset, box[3] * scale - offset, columns, maps.sizes[2 * level + 1], sampling, aligned);
    }
};

// out[c] = sum over the taps of weight * map[pixel, c]; the sums stay in registers, and a later one of the `known`
// pixels is asked for meanwhile, since maps are larger than caches
template <class T, i64 WIDTH>
inline void sum_pixels(const T* const* pixels, const float* weights, i64 count, i64 known, i64 c, T* out) {
    constexpr i64 LINE = 64 / sizeof(T);
    float sum[WIDTH] = {};
    for (i64 k = 0; k < count; ++k) {
        const T *from = pixels[k] + c, *ahead = pixels[std::min(k + AHEAD, known - 1)] + c;
        float weight = weights[k];
        for (i64 i = 0; i < WIDTH; i += LINE) __builtin_prefetch(ahead + i);
#pragma omp simd
        for (i64 i = 0; i < WIDTH; ++i) sum[i] += weight * load(from + i);
    }
    for (i64 i = 0; i < WIDTH; ++i) store(out + c + i, sum[i]);
}

template <class T>
inline void sum_rest(const T* const* pixels, const float* weights, i64 count, i64 c, i64 C, T* out) {
    float sum[LANES] = {};
    for (i64 k = 0; k < count; ++k)
        for (i64 i = c; i < C; ++i) sum[i - c] += weights[k] * load(pixels[k] + i);
    for (i64 i = c; i < C; ++i) store(out + i, sum[i - c]);
}

// Regions by map, then from top to bottom: what one has read the next finds in the cache.
std::vector<i64> sweep(const Maps& maps, const Bins& bins) {
    std::vector<i64> order(bins.count);
    std::vector<double> key(bins.count);
    for (i64 r = 0; r < bins.count; ++r) {
        const double* box = bins.rois + r * 5;
        double centre = 0.5 * (box[2] + box[4]);
        order[r] = r, key[r] = std::isfinite(centre) ? centre : 0.0;
    }
    auto map_of = [&](i64 r) { return maps.number(bins.levels[r], bins.rois[r * 5]); };
    std::sort(order.begin(), order.end(), [&](i64 a, i64 b) {
        i64 first = map_of(a), second = map_of(b);
        return first != second ? first < second : key[a] != key[b] ? key[a] < key[b] : a < b;
    });
    return order;
}

template <class T> void forward(const T* const* data, const Maps& maps, const Bins& bins, T* out) {
    i64 C = maps.channels;
    std::vector<i64> order = sweep(maps, bins);
#pragma omp parallel
    {
        Axis y, x;
        std::vector<const T*> pixels;
        std::vector<float> weights;
#pragma omp for schedule(dynamic, 4)
        for (i64 at = 0; at < bins.count; ++at) {
            i64 r = order[at];
            bins.axes(maps, r, y, x);
            i64 level = bins.levels[r], H = maps.sizes[2 * level], W = maps.sizes[2 * level + 1];
            const T* map = data[level] + i64(bins.rois[r * 5]) * H * W * C;
            T* to = out + r * bins.rows * bins.columns * C;
            for (i64 p = 0; p < bins.rows; ++p) {
                i64 lines = y.ends[p] - y.begin(p), known = lines * i64(x.taps.size()), k = 0;
                pixels.resize(known), weights.resize(known);
                for (i64 q = 0; q < bins.columns; ++q)
                    for (int j = y.begin(p); j < y.ends[p]; ++j) {
                        const T* line = map + y.taps[j].pixel * W * C;
                        for (int i = x.begin(q); i < x.ends[q]; ++i, ++k) {
                            pixels[k] = line + x.taps[i].pixel * C;
                            weights[k] = y.taps[j].weight * x.taps[i].weight;
                        }
                    }
                const T* const* from = pixels.data();
                const float* weight = weights.data();
                for (i64 q = 0; q < bins.columns; ++q, to += C) {
                    i64 count = lines * (x.ends[q] - x.begin(q)), c = 0;
                    for (; c + WIDE <= C; c += WIDE) sum_pixels<T, WIDE>(from, weight, count, known, c, to);
                    for (; c + LANES <= C; c += LANES) sum_pixels<T, LANES>(from, weight, count, known, c, to);
                    if (c < C) sum_rest(from, weight, count, c, C, to);
                    from += count, weight += count, known -= count;
                }
            }
        }
    }
}

inline float* line_of(float* to, std::vector<float>&, i64) { return to; }
inline float* line_of(bf16*, std::vector<float>& own, i64 values) {
    own.resize(values);
    return own.data();
}

// What a row of bins gives to a row of a map.
struct Share { i64 region, bin; float weight; };

template <class T> void backward(const T* dy, const Maps& maps, const Bins& bins, T* const* data) {
    i64 C = maps.channels, count = maps.levels * maps.batch;
    std::vector<Axis> y(bins.count), x(bins.count);
#pragma omp parallel for schedule(dynamic, 16)
    for (i64 r = 0; r < bins.count; ++r) bins.axes(maps, r, y[r], x[r]);
    std::vector<i64> above(count + 1);  // rows of the maps before each, and of all
    for (i64 map = 0; map < count; ++map) above[map + 1] = above[map] + maps.sizes[2 * (map / maps.batch)];
    // shares by row, and of a row in the order of regions: those of row h are shares[ends[h - 1]] to shares[ends[h]]
    std::vector<i64> ends(above.back() + 1);
    auto row_of = [&](i64 r, const Tap& tap) {
        return above[maps.number(bins.levels[r], bins.rois[r * 5])] + tap.pixel;
    };
    for (i64 r = 0; r < bins.count; ++r)
        for (const Tap& tap : y[r].taps) ++ends[row_of(r, tap) + 1];
    std::partial_sum(ends.begin(), ends.end(), ends.begin());
    std::vector<Share> shares(ends.back());
    for (i64 r = 0; r < bins.count; ++r)
        for (i64 p = 0; p < bins.rows; ++p)
            for (int j = y[r].begin(p); j < y[r].ends[p]; ++j)
                shares[ends[row_of(r, y[r].taps[j])]++] = {r, p, y[r].taps[j].weight};
#pragma omp parallel
    {
        std::vector<float> own;
#pragma omp for schedule(dynamic, NEAR_ROWS)
        for (i64 row = 0; row < above.back(); ++row) {
            i64 map = std::upper_bound(above.begin(), above.end(), row) - above.begin() - 1, level = map / maps.batch;
            i64 H = maps.sizes[2 * level], W = maps.sizes[2 * level + 1];
            T* to = data[level] + (map % maps.batch * H + row - above[map]) * W * C;
            float* line = line_of(to, own, W * C);
            std::fill(line, line + W * C, 0.0f);
            for (i64 s = row ? ends[row - 1] : 0; s < ends[row]; ++s) {
                const Share& share = shares[s];
                const Axis& across = x[share.region];
                const T* from = dy + (share.region * bins.rows + share.bin) * bins.columns * C;
                for (i64 q = 0; q < bins.columns; ++q, from += C)
                    for (int i = across.begin(q); i < across.ends[q]; ++i) {
                        float weight = share.weight * across.taps[i].weight;
                        float* at = line + across.taps[i].pixel * C;
#pragma omp simd
                        for (i64 c = 0; c < C; ++c) at[c] += weight * load(from + c);
                    }
            }
            if constexpr (sizeof(T) != sizeof(float))
                for (i64 i = 0; i < W * C; ++i) store(to + i, line[i]);
        }
    }
}

}  // namespace

#define SIZES                                                                                                          \
    const double *rois, const i64 *levels, const i64 *sizes, const double *scales, i64 L, i64 N, i64 C, i64 R, i64 P,  \
        i64 Q, i64 sampling, int aligned
#define MAPS {L, N, C, sizes, scales}
#define BINS {rois, levels, R, P, Q, sampling, aligned != 0}

extern "C" void forward_float(const float* const* maps, float* out, SIZES) { forward<float>(maps, MAPS, BINS, out); }
extern "C" void forward_bfloat16(const bf16* const* maps, bf16* out, SIZES) { forward<bf16>(maps, MAPS, BINS, out); }
extern "C" void backward_float(float* const* maps, const float* dy, SIZES) { backward<float>(dy, MAPS, BINS, maps); }
extern "C" void backward_bfloat16(bf16* const* maps, const bf16* dy, SIZES) { backward<bf16>(dy, MAPS, BINS, maps); }
