// Masks painted into a label map, or one into a window.
//
// Every thread owns bands of rows and goes through all masks in order, so that the first one wins without any lock.
// Along both axes a mask is padded by one cell of zeros: place p lies between the padded cells p and p + 1.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#include <vector>

#include "bfloat16.h"

namespace {

using i64 = int64_t;

constexpr i64 GRAIN = 16384;  // pixels a thread; below, starting threads costs more
constexpr i64 BANDS = 4;      // bands a thread, since objects are not spread evenly

struct Window {
    i64 top = 0, bottom = 0, left = 0, right = 0;
};

Window window_of(const double* box, i64 height, i64 width) {
    const double x0 = box[0], y0 = box[1], x1 = box[2], y1 = box[3];
    if (!std::isfinite(x0 + y0 + x1 + y1) || !(x1 > x0) || !(y1 > y0)) return {};
    // cut while still floating, where nothing overflows
    const double top = std::max(std::floor(y0), 0.), bottom = std::min(std::ceil(y1), double(height));
    const double left = std::max(std::floor(x0), 0.), right = std::min(std::ceil(x1), double(width));
    if (!(bottom > top) || !(right > left)) return {};
    return {i64(top), i64(bottom), i64(left), i64(right)};
}

// padded cell before the centre of a pixel, and the fraction of the way to the next
inline void place(i64 pixel, double low, double high, i64 cells, int32_t& cell, float& fraction) {
    double where = (double(pixel) + 0.5 - low) / (high - low) * double(cells) - 0.5;
    where = std::min(std::max(where, -1.), double(cells));
    const double before = std::min(std::floor(where), double(cells - 1));
    cell = int32_t(before) + 1;
    fraction = float(where - before);
}

// a + f (b - a): equal neighbours give their value to the last bit, however it is rounded
inline float between(float a, float b, float f) { return a + f * (b - a); }

template <typename T>
class Painter {
public:
    Painter(i64 rows, i64 columns) : rows_(rows), columns_(columns), line_(columns + 2) {}

    // write(row, interpolated values of [left, right)) for the rows [top, bottom) of a window
    template <typename F>
    void paint(const T* mask, const double* box, const Window& window, i64 top, i64 bottom, F write) {
        const i64 count = window.right - window.left;
        if (i64(cells_.size()) < count) {
            cells_.resize(count);
            fractions_.resize(count);
            values_.resize(count);
        }
        for (i64 x = 0; x < count; ++x) place(window.left + x, box[0], box[2], columns_, cells_[x], fractions_[x]);
        line_.front() = line_.back() = 0;
        for (i64 y = top; y < bottom; ++y) {
            int32_t cell;
            float fraction;
            place(y, box[1], box[3], rows_, cell, fraction);
            const T* upper = cell > 0 ? mask + (cell - 1) * columns_ : nullptr;
            const T* lower = cell < rows_ ? mask + cell * columns_ : nullptr;
            for (i64 x = 0; x < columns_; ++x) {
                const float a = upper ? load(upper + x) : 0.f, b = lower ? load(lower + x) : 0.f;
                line_[x + 1] = between(a, b, fraction);
            }
            const float* line = line_.data();
            const int32_t* cells = cells_.data();
            const float* fractions = fractions_.data();
            float* values = values_.data();
#pragma omp simd
            for (i64 x = 0; x < count; ++x) values[x] = between(line[cells[x]], line[cells[x] + 1], fractions[x]);
            write(y, values);
        }
    }

private:
    i64 rows_, columns_;
    std::vector<float> line_, fractions_, values_;
    std::vector<int32_t> cells_;
};

template <typename T>
void paint_all(const T* masks, const double* boxes, i64 count, i64 rows, i64 columns, i64 height, i64 width,
               float threshold, int32_t* labels) {
    std::vector<Window> windows(count);
    i64 pixels = height * width / 8;  // what clearing them costs
    for (i64 r = 0; r < count; ++r) {
        const Window& w = windows[r] = window_of(boxes + 4 * r, height, width);
        pixels += (w.bottom - w.top) * (w.right - w.left);
    }
    const int threads = int(std::clamp<i64>(pixels / GRAIN, 1, omp_get_max_threads()));
    const i64 bands = threads == 1 ? 1 : std::min<i64>(threads * BANDS, std::max<i64>(height, 1));
#pragma omp parallel num_threads(threads)
    {
        Painter<T> painter(rows, columns);
#pragma omp for schedule(dynamic)
        for (i64 band = 0; band < bands; ++band) {
            const i64 first = height * band / bands, stop = height * (band + 1) / bands;
            std::memset(labels + first * width, 0, size_t((stop - first) * width) * sizeof(int32_t));
            for (i64 r = 0; r < count; ++r) {
                const Window& w = windows[r];
                const i64 top = std::max(w.top, first), bottom = std::min(w.bottom, stop);
                if (top >= bottom) continue;
                const int32_t label = int32_t(r + 1);
                painter.paint(masks + r * rows * columns, boxes + 4 * r, w, top, bottom, [&](i64 y, const float* p) {
                    int32_t* row = labels + y * width + w.left;
                    const i64 n = w.right - w.left;
#pragma omp simd
                    for (i64 x = 0; x < n; ++x) row[x] = (row[x] == 0) & (p[x] >= threshold) ? label : row[x];
                });
            }
        }
    }
}

template <typename T>
void paint_one(const T* mask, const double* box, i64 rows, i64 columns, const i64* bounds, float threshold,
               uint8_t* out) {
    const Window w = {bounds[0], bounds[1], bounds[2], bounds[3]};
    const i64 n = w.right - w.left;
    Painter<T>(rows, columns).paint(mask, box, w, w.top, w.bottom, [&](i64 y, const float* p) {
        uint8_t* row = out + (y - w.top) * n;
#pragma omp simd
        for (i64 x = 0; x < n; ++x) row[x] = p[x] >= threshold;
    });
}

}  // namespace

extern "C" void paste_masks(const void* masks, const double* boxes, i64 count, i64 rows, i64 columns, i64 height,
                            i64 width, float threshold, int is_bf16, int32_t* labels) {
    if (is_bf16)
        paint_all(static_cast<const bf16*>(masks), boxes, count, rows, columns, height, width, threshold, labels);
    else
        paint_all(static_cast<const float*>(masks), boxes, count, rows, columns, height, width, threshold, labels);
}

// bounds: first row, stop row, first column, stop column
extern "C" void paste_mask(const void* mask, const double* box, i64 rows, i64 columns, const i64* bounds,
                           float threshold, int is_bf16, uint8_t* out) {
    if (is_bf16) paint_one(static_cast<const bf16*>(mask), box, rows, columns, bounds, threshold, out);
    else paint_one(static_cast<const float*>(mask), box, rows, columns, bounds, threshold, out);
}
