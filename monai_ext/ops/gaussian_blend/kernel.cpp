// Weighted sums of overlapping windows, and what is made of them: logits or labels.
//
// Scores are addressed by rows along the last axis: row (class, plane, line) starts at
// class * class_stride + plane * plane_stride + line * line_stride, or, where a table is given, at
// class * class_stride + table[plane, line] * line_stride. Every thread owns whole planes of a class (or whole rows of
// all classes), so no two write the same value, and which thread does not depend on how often it is called: what one
// window left in a core's cache is found there by the next.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <omp.h>

#include "bfloat16.h"

namespace {

using i64 = int64_t;

constexpr float TINY = std::numeric_limits<float>::min();  // weights that underflow stay positive
constexpr i64 GRAIN = 16384;                               // values a thread; below, starting threads costs more

int threads_for(i64 values) { return int(std::clamp<i64>(values / GRAIN, 1, omp_get_max_threads())); }

struct Rows {
    float* base;
    const int32_t* table;  // [planes, lines], or null
    i64 table_stride, class_stride, plane_stride, line_stride;
    i64 extent[3];

    float* row(i64 plane, i64 line) const {
        if (!table) return base + plane * plane_stride + line * line_stride;
        i64 place = table[plane * table_stride + line];
        return place < 0 ? nullptr : base + place * line_stride;
    }
};

template <typename T, bool REVERSED, bool WRITE>
inline void blend(float* __restrict s, const T* __restrict o, const float* __restrict w, float across, i64 count) {
#pragma omp simd
    for (i64 x = 0; x < count; ++x) {
        float weighted = std::max(across * w[x], TINY) * load(REVERSED ? o - x : o + x);
        s[x] = WRITE ? weighted : s[x] + weighted;
    }
}

// what the caller packs into 64-bit numbers, since that costs it less than a list of arguments
struct Window {
    const void* output;
    i64 start[3], fresh[3];
    i64 flips;  // bit of every mirrored axis
};

struct Windows {
    i64 table_stride, class_stride, plane_stride, line_stride, extent[3];  // of the sums
    i64 classes, count, is_bf16, roi[3];
    const float* weights[3];
    i64 steps[3];  // from the weights of one window to those of the next

    const Window& operator[](i64 n) const { return reinterpret_cast<const Window*>(this + 1)[n]; }
};
static_assert(sizeof(Windows) == 19 * 8 && sizeof(Window) == 8 * 8, "packed as the caller packs them");

// rows of one plane of one class that lie in a window
template <typename T, bool REVERSED>
void add_plane(const Rows& sums, const Windows& all, i64 n, i64 k, i64 z) {
    const Window& window = all[n];
    const i64* roi = all.roi;
    const i64 x0 = std::max<i64>(window.start[2], 0), x1 = std::min(window.start[2] + roi[2], sums.extent[2]);
    const i64 y0 = std::max<i64>(window.start[1], 0), y1 = std::min(window.start[1] + roi[1], sums.extent[1]);
    if (x1 <= x0) return;
    const i64 inner_z = z - window.start[0], inner_x = x0 - window.start[2];
    const i64 from_z = window.flips & 1 ? roi[0] - 1 - inner_z : inner_z;
    const T* plane = static_cast<const T*>(window.output) + (k * roi[0] + from_z) * roi[1] * roi[2];
    const float* wy = all.weights[1] + n * all.steps[1];
    const float* wx = all.weights[2] + n * all.steps[2] + inner_x;
    const float wz = all.weights[0][n * all.steps[0] + inner_z];
    for (i64 y = y0; y < y1; ++y) {
        float* s = sums.row(z, y);
        if (!s) continue;
        s += k * sums.class_stride + x0;
        const i64 inner_y = y - window.start[1];
        const T* o = plane + (window.flips & 2 ? roi[1] - 1 - inner_y : inner_y) * roi[2];
        o += REVERSED ? roi[2] - 1 - inner_x : inner_x;
        const float across = wz * wy[inner_y];
        const bool fresh = z >= window.fresh[0] && y >= window.fresh[1];
        const i64 added = fresh ? std::clamp(window.fresh[2] - x0, i64(0), x1 - x0) : x1 - x0;
        blend<T, REVERSED, false>(s, o, wx, across, added);
        blend<T, REVERSED, true>(s + added, REVERSED ? o - added : o + added, wx + added, across, x1 - x0 - added);
    }
}

template <typename T>
void accumulate_windows(const Rows& sums, const Windows& windows) {
    i64 low = sums.extent[0], high = 0;
    for (i64 n = 0; n < windows.count; ++n) {
        low = std::min(low, std::max<i64>(windows[n].start[0], 0));
        high = std::max(high, std::min(windows[n].start[0] + windows.roi[0], sums.extent[0]));
    }
    const i64 planes = high - low, values = windows.roi[1] * windows.roi[2] * windows.count;
    if (planes <= 0) return;
#pragma omp parallel for schedule(static) num_threads(threads_for(windows.classes * planes * values))
    for (i64 task = 0; task < windows.classes * planes; ++task) {
        const i64 k = task / planes, z = low + task % planes;
        for (i64 n = 0; n < windows.count; ++n) {
            if (z < windows[n].start[0] || z >= windows[n].start[0] + windows.roi[0]) continue;
            if (windows[n].flips & 4) add_plane<T, true>(sums, windows, n, k, z);
            else add_plane<T, false>(sums, windows, n, k, z);
        }
    }
}

constexpr i64 BLOCK = 256;  // values of a row taken at once; their maxima and labels stay in the first cache

inline bool is_nan(float value) { return value != value; }

// the first of equal values wins; NaN counts as largest, as in torch
template <typename L>
void label_row(const float* s, i64 class_stride, const float* factor, float across, i64 count, i64 classes, L* labels) {
    float best[BLOCK];
    int32_t label[BLOCK];
    for (i64 x0 = 0; x0 < count; x0 += BLOCK) {
        const i64 n = std::min(BLOCK, count - x0);
        const float* row = s + x0;
#pragma omp simd
        for (i64 x = 0; x < n; ++x) {
            best[x] = factor ? row[x] * (across * factor[x0 + x]) : row[x];
            label[x] = 0;
        }
        for (i64 k = 1; k < classes; ++k) {
            row += class_stride;
#pragma omp simd
            for (i64 x = 0; x < n; ++x) {
                float value = factor ? row[x] * (across * factor[x0 + x]) : row[x];
                bool better = !(value <= best[x]) & !is_nan(best[x]);
                best[x] = better ? value : best[x];
                label[x] = better ? int32_t(k) : label[x];
            }
        }
#pragma omp simd
        for (i64 x = 0; x < n; ++x) labels[x0 + x] = L(label[x]);
    }
}

// work(row, across) for every row, with the factor of its plane and line
template <typename F>
void each_row(const Rows& sums, i64 classes, const float* const* factors, F work) {
    const i64 planes = sums.extent[0], lines = sums.extent[1];
#pragma omp parallel for schedule(static) num_threads(threads_for(classes * planes * lines * sums.extent[2]))
    for (i64 task = 0; task < planes * lines; ++task) {
        const i64 z = task / lines, y = task % lines;
        float* row = sums.row(z, y);
        if (row) work(row, factors ? factors[0][z] * factors[1][y] : 1.f, z, y);
    }
}

template <typename L>
void label(const Rows& sums, i64 classes, const float* const* factors, L* labels, const i64* strides) {
    const float* last = factors ? factors[2] : nullptr;
    each_row(sums, classes, factors, [&](float* row, float across, i64 z, i64 y) {
        L* to = labels + z * strides[0] + y * strides[1];
        label_row(row, sums.class_stride, last, across, sums.extent[2], classes, to);
    });
}

Rows rows_of(float* base, const int32_t* table, const i64* layout) {
    return {base, table, layout[0], layout[1], layout[2], layout[3], {layout[4], layout[5], layout[6]}};
}

}  // namespace

extern "C" void accumulate(float* base, const int32_t* table, const Windows* windows) {
    const Rows sums = rows_of(base, table, &windows->table_stride);
    (windows->is_bf16 ? accumulate_windows<bf16> : accumulate_windows<float>)(sums, *windows);
}

// layout: stride of the table; strides of classes, planes and lines; sizes of planes, lines and rows
extern "C" void scale(float* base, const i64* layout, i64 classes, const float* const* factors) {
    const Rows sums = rows_of(base, nullptr, layout);
    each_row(sums, classes, factors, [&](float* row, float across, i64, i64) {
        for (i64 k = 0; k < classes; ++k) {
            float* s = row + k * sums.class_stride;
#pragma omp simd
            for (i64 x = 0; x < sums.extent[2]; ++x) s[x] *= across * factors[2][x];
        }
    });
}

extern "C" void argmax(float* base, const int32_t* table, const i64* layout, i64 classes, const float* const* factors,
                       void* labels, int bytes, const i64* strides) {
    const Rows sums = rows_of(base, table, layout);
    if (bytes == 1) label(sums, classes, factors, static_cast<uint8_t*>(labels), strides);
    else if (bytes == 2) label(sums, classes, factors, static_cast<int16_t*>(labels), strides);
    else label(sums, classes, factors, static_cast<int64_t*>(labels), strides);
}
