// RoIAlign of channels-last maps, forward and backward.
//
// A bin is the same weighted sum of pixels for every channel, and its weights are products of one factor an axis: taps
// of samples that share a pixel are merged along each axis first. Backward, tasks own bands of rows of the maps and add
// the regions in their order, so that nothing is shared and the sums have the same bits with any number of threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "bfloat16.h"

namespace {

using i64 = int64_t;
constexpr i64 WIDE = 256, LANES = 64;  // channels whose sums stay in registers
constexpr i64 MOST_SAMPLES = 1024;
constexpr i64 BAND_ROWS = 8;

struct Tap { i64 pixel; float weight; };

// Pixels and weights of the bins along one axis; those of bin b are taps[ends[b - 1]] to taps[ends[b]].
struct Axis {
    std::vector<Tap> taps;
    std::vector<int> ends;
    i64 lowest, highest;

    void build(double from, double to, i64 bins, i64 size, i64 sampling, bool aligned) {
        taps.clear(), ends.clear();
        lowest = size, highest = -1;
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
        lowest = std::min(lowest, pixel), highest = std::max(highest, pixel);
    }
};

struct Maps {
    i64 levels, batch, channels;
    const i64* sizes;  // height and width of each
    const double* scales;
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

// out[c] = sum over the taps of weight * map[pixel, c]; the sums stay in registers, and the pixel after the next is asked
// for meanwhile, since maps are larger than caches
template <class T, i64 WIDTH>
inline void sum_pixels(const T* const* pixels, const float* weights, int count, i64 c, T* out) {
    constexpr i64 LINE = 64 / sizeof(T);
    float sum[WIDTH] = {};
    for (int k = 0; k < count; ++k) {
        const T *from = pixels[k] + c, *ahead = pixels[std::min(k + 2, count - 1)] + c;
        float weight = weights[k];
        for (i64 i = 0; i < WIDTH; i += LINE) __builtin_prefetch(ahead + i);
#pragma omp simd
        for (i64 i = 0; i < WIDTH; ++i) sum[i] += weight * load(from + i);
    }
    for (i64 i = 0; i < WIDTH; ++i) store(out + c + i, sum[i]);
}

template <class T>
inline void sum_rest(const T* const* pixels, const float* weights, int count, i64 c, i64 C, T* out) {
    float sum[LANES] = {};
    for (int k = 0; k < count; ++k)
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
    auto map_of = [&](i64 r) { return bins.levels[r] * maps.batch + i64(bins.rois[r * 5]); };
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
            for (i64 p = 0; p < bins.rows; ++p)
                for (i64 q = 0; q < bins.columns; ++q, to += C) {
                    pixels.clear(), weights.clear();
                    for (int j = y.begin(p); j < y.ends[p]; ++j)
                        for (int i = x.begin(q); i < x.ends[q]; ++i) {
                            pixels.push_back(map + (y.taps[j].pixel * W + x.taps[i].pixel) * C);
                            weights.push_back(y.taps[j].weight * x.taps[i].weight);
                        }
                    int count = int(pixels.size());
                    i64 c = 0;
                    for (; c + WIDE <= C; c += WIDE) sum_pixels<T, WIDE>(pixels.data(), weights.data(), count, c, to);
                    for (; c + LANES <= C; c += LANES)
                        sum_pixels<T, LANES>(pixels.data(), weights.data(), count, c, to);
                    if (c < C) sum_rest(pixels.data(), weights.data(), count, c, C, to);
                }
        }
    }
}

struct Task { i64 level, image, first, rows; };

inline float* band_of(float* to, std::vector<float>&, i64) { return to; }
inline float* band_of(bf16*, std::vector<float>& own, i64 values) {
    own.resize(values);
    return own.data();
}

template <class T> void backward(const T* dy, const Maps& maps, const Bins& bins, T* const* data) {
    i64 C = maps.channels, per = bins.rows * bins.columns * C;
    std::vector<Axis> y(bins.count), x(bins.count);
#pragma omp parallel for schedule(dynamic, 16)
    for (i64 r = 0; r < bins.count; ++r) bins.axes(maps, r, y[r], x[r]);
    std::vector<std::vector<i64>> members(maps.levels * maps.batch);
    for (i64 r = 0; r < bins.count; ++r) members[bins.levels[r] * maps.batch + i64(bins.rois[r * 5])].push_back(r);
    std::vector<Task> tasks;
    for (i64 level = 0; level < maps.levels; ++level)
        for (i64 image = 0; image < maps.batch; ++image)
            for (i64 h = 0, H = maps.sizes[2 * level]; h < H; h += BAND_ROWS)
                tasks.push_back({level, image, h, std::min(BAND_ROWS, H - h)});
#pragma omp parallel
    {
        std::vector<float> own;
#pragma omp for schedule(dynamic, 1)
        for (size_t t = 0; t < tasks.size(); ++t) {
            const Task& task = tasks[t];
            i64 W = maps.sizes[2 * task.level + 1], H = maps.sizes[2 * task.level], values = task.rows * W * C;
            T* to = data[task.level] + (task.image * H + task.first) * W * C;
            float* band = band_of(to, own, values);
            std::fill(band, band + values, 0.0f);
            for (i64 r : members[task.level * maps.batch + task.image]) {
                if (y[r].highest < task.first || y[r].lowest >= task.first + task.rows) continue;
                for (i64 p = 0; p < bins.rows; ++p)
                    for (int j = y[r].begin(p); j < y[r].ends[p]; ++j) {
                        i64 h = y[r].taps[j].pixel - task.first;
                        if (h < 0 || h >= task.rows) continue;
                        for (i64 q = 0; q < bins.columns; ++q) {
                            const T* from = dy + r * per + (p * bins.columns + q) * C;
                            for (int i = x[r].begin(q); i < x[r].ends[q]; ++i) {
                                float weight = y[r].taps[j].weight * x[r].taps[i].weight;
                                float* at = band + (h * W + x[r].taps[i].pixel) * C;
#pragma omp simd
                                for (i64 c = 0; c < C; ++c) at[c] += weight * load(from + c);
                            }
                        }
                    }
            }
            if constexpr (sizeof(T) != sizeof(float))
                for (i64 i = 0; i < values; ++i) store(to + i, band[i]);
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
