// Targets of a mask head from label maps.
//
// The mean over a bin's samples of a linear interpolation is a product of one weight per axis. Each bin has a run of
// pixels with weights along each axis; the pixels of a row are summed over the columns of every bin first, then the rows.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <omp.h>
#include <vector>

namespace {

using i64 = int64_t;

constexpr double LARGEST_SIDE = 1048576;
constexpr double MARGIN = 2e-5;
constexpr i64 GRAIN = 16384;  // pixels a thread; below, starting threads costs more

// what each pixel of an axis counts in the sum over each bin's samples
struct Axis {
    std::vector<i64> first, count, offset;  // of each bin: first pixel, number of pixels, where its weights begin
    std::vector<float> weights;
    i64 low, high;   // pixels that any bin needs
    double samples;  // of a bin

    bool set(double from, double to, i64 size, i64 extent, i64 sampling) {
        const double length = to - from;
        if (!(length > 0) || !(length <= LARGEST_SIDE) || extent < 1) return false;
        const i64 n = sampling ? sampling : i64(std::ceil(length / double(size)));
        const double bin = length / double(size), step = bin / double(n), last = double(extent - 1);
        samples = double(n);
        first.assign(size, 0);
        count.assign(size, 0);
        offset.assign(size, 0);
        weights.clear();
        low = extent;
        high = 0;
        for (i64 p = 0; p < size; ++p) {
            const double start = from - 0.5 + double(p) * bin;
            const double begin = clamped(start + 0.5 * step, last), end = clamped(start + (double(n) - 0.5) * step, last);
            // one pixel more, since the last sample may round to the next
            first[p] = i64(begin);
            count[p] = std::min(i64(end) + 2, extent - 1) - first[p] + 1;
            offset[p] = i64(weights.size());
            weights.resize(weights.size() + count[p], 0.f);
            float* w = weights.data() + offset[p];
            bool any = false;
            for (i64 i = 0; i < n; ++i) {
                const double place = start + (double(i) + 0.5) * step;
                if (!(place >= -1 && place <= double(extent))) continue;
                const double inside = clamped(place, last), before = std::floor(inside);
                const i64 at = std::max<i64>(i64(before) - first[p], 0);
                w[at] += float(1 - (inside - before));
                if (at + 1 < count[p]) w[at + 1] += float(inside - before);
                any = true;
            }
            while (count[p] && (!any || w[count[p] - 1] == 0)) --count[p];
            if (!count[p]) continue;
            low = std::min(low, first[p]);
            high = std::max(high, first[p] + count[p]);
        }
        return low < high;
    }

    static double clamped(double place, double last) { return std::min(std::max(place, 0.), last); }
};

struct Scratch {
    Axis rows, columns;
    std::vector<float> sums, line, match;
};

void target(const int32_t* labels, i64 height, i64 width, const double* box, int32_t id, i64 size, i64 sampling,
            Scratch& s, float* out) {
    std::fill(out, out + size * size, 0.f);
    if (!s.rows.set(box[1], box[3], size, height, sampling)) return;
    if (!s.columns.set(box[0], box[2], size, width, sampling)) return;
    const i64 lines = s.rows.high - s.rows.low, across = s.columns.high - s.columns.low;
    s.sums.assign(lines * size, 0.f);
    s.line.resize(size);
    s.match.resize(across);
    for (i64 y = 0; y < lines; ++y) {
        const int32_t* row = labels + (s.rows.low + y) * width + s.columns.low;
        float* match = s.match.data();
        int found = 0;
#pragma omp simd reduction(| : found)
        for (i64 x = 0; x < across; ++x) {
            const int same = row[x] == id;
            match[x] = float(same);
            found |= same;
        }
        if (!found) continue;
        for (i64 q = 0; q < size; ++q) {
            const float* w = s.columns.weights.data() + s.columns.offset[q];
            const float* m = match + (s.columns.first[q] - s.columns.low);
            const i64 n = s.columns.count[q];
            float sum = 0;
            if (n <= 4) {
                for (i64 x = 0; x < n; ++x) sum += w[x] * m[x];
            } else {
#pragma omp simd reduction(+ : sum)
                for (i64 x = 0; x < n; ++x) sum += w[x] * m[x];
            }
            s.sums[y * size + q] = sum;
        }
    }
    const float half = float((0.5 - MARGIN) * s.rows.samples * s.columns.samples);
    float* line = s.line.data();
    for (i64 p = 0; p < size; ++p) {
        std::fill(line, line + size, 0.f);
        for (i64 y = 0; y < s.rows.count[p]; ++y) {
            const float weight = s.rows.weights[s.rows.offset[p] + y];
            const float* sums = s.sums.data() + (s.rows.first[p] - s.rows.low + y) * size;
#pragma omp simd
            for (i64 q = 0; q < size; ++q) line[q] += weight * sums[q];
        }
#pragma omp simd
        for (i64 q = 0; q < size; ++q) out[p * size + q] = line[q] >= half ? 1.f : 0.f;
    }
}

}  // namespace

extern "C" void mask_targets(const int32_t* labels, i64 images, i64 height, i64 width, const double* rois,
                             const int32_t* ids, i64 count, i64 size, i64 sampling, float* out) {
    double pixels = 0;
    for (i64 r = 0; r < count; ++r) {
        const double* roi = rois + 5 * r;
        const double area = (roi[3] - roi[1]) * (roi[4] - roi[2]);
        pixels += double(size * size) + (area > 0 ? std::min(area, double(height * width)) : 0);
    }
    const double wanted = std::min(pixels / double(GRAIN), double(omp_get_max_threads()));
    const int threads = std::max(int(std::min(wanted, double(count))), 1);
#pragma omp parallel num_threads(threads)
    {
        Scratch scratch;
#pragma omp for schedule(dynamic)
        for (i64 r = 0; r < count; ++r) {
            const double* roi = rois + 5 * r;
            float* to = out + r * size * size;
            if (ids[r] <= 0 || !(roi[0] >= 0 && roi[0] < double(images))) {
                std::fill(to, to + size * size, 0.f);
                continue;
            }
            target(labels + i64(roi[0]) * height * width, height, width, roi + 1, ids[r], size, sampling, scratch, to);
        }
    }
}
