// Boxes from deltas and anchors, clipped to the image, in one pass.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <omp.h>

namespace {

using i64 = int64_t;

constexpr i64 GRAIN = 16384;                                  // boxes a thread; below, starting threads costs more
constexpr float MAX_LOG_SCALE = 4.1351665567423560f;          // log(1000 / 16)
constexpr float MIN_LOG_SCALE = -86.0f;                       // a box of no width in float32
constexpr float LARGEST = std::numeric_limits<float>::max();  // finite is what is not above

// exp on [-86, 5] to 2 units in the last place, in steps that vectorise: 2^n times a polynomial around 0
inline float exponential(float x) {
    float n = std::nearbyint(x * 1.44269504088896341f);
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = (int32_t(n) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, 4);
    return p * scale;
}

inline float within(float value, float low, float high) {
    value = value < high ? value : high;
    return value > low ? value : low;
}

}  // namespace

// weights: wx, wy, ww, wh
extern "C" void decode(const float* deltas, const float* anchors, float* boxes, uint8_t* valid, i64 count, float height,
                       float width, const float* weights, float min_size) {
    const float wx = weights[0], wy = weights[1], ww = weights[2], wh = weights[3];
    const int threads = int(std::clamp<i64>(count / GRAIN, 1, omp_get_max_threads()));
#pragma omp parallel for simd schedule(static) num_threads(threads)
    for (i64 k = 0; k < count; ++k) {
        const float *t = deltas + 4 * k, *a = anchors + 4 * k;
        const float tx = t[0], ty = t[1], tw = t[2], th = t[3];
        const float wa = a[2] - a[0], ha = a[3] - a[1];
        const float x = tx / wx * wa + (a[0] + 0.5f * wa), y = ty / wy * ha + (a[1] + 0.5f * ha);
        const float half_w = 0.5f * exponential(within(tw / ww, MIN_LOG_SCALE, MAX_LOG_SCALE)) * wa;
        const float half_h = 0.5f * exponential(within(th / wh, MIN_LOG_SCALE, MAX_LOG_SCALE)) * ha;
        float x0 = x - half_w, y0 = y - half_h, x1 = x + half_w, y1 = y + half_h;
        // bitwise and, since a branch would not vectorise; comparisons with NaN are false
        const bool finite = bool((std::fabs(x0) <= LARGEST) & (std::fabs(y0) <= LARGEST) & (std::fabs(x1) <= LARGEST) &
                                 (std::fabs(y1) <= LARGEST) & (std::fabs(tw) <= LARGEST) & (std::fabs(th) <= LARGEST));
        x0 = finite ? within(x0, 0, width) : 0, x1 = finite ? within(x1, 0, width) : 0;
        y0 = finite ? within(y0, 0, height) : 0, y1 = finite ? within(y1, 0, height) : 0;
        boxes[4 * k] = x0, boxes[4 * k + 1] = y0, boxes[4 * k + 2] = x1, boxes[4 * k + 3] = y1;
        valid[k] = uint8_t(finite & (x1 - x0 > min_size) & (y1 - y0 > min_size));
    }
}
