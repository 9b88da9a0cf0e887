// Best object of every anchor and best anchors of every object.
//
// Anchors are taken in blocks of BLOCK, which lie near each other on the grid: most objects miss the box around a block
// and cost one comparison. What is kept for the rescue is one number per block and object that may be the best, not
// one per anchor.
//
// Products must not be fused into sums: all forms round the IoU alike, or ties would not be ties.
#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif
#include <algorithm>
#include <cstdint>
#include <limits>
#include <omp.h>
#include <vector>

namespace {

using i64 = int64_t;

constexpr int BLOCK = 128;
constexpr i64 GRAIN = 1 << 19;  // pairs a thread; below, starting threads costs more

struct Block {
    alignas(64) float x0[BLOCK], y0[BLOCK], x1[BLOCK], y1[BLOCK], area[BLOCK];
    float low_x, low_y, high_x, high_y;

    void load(const float* anchors, i64 count) {
        constexpr float INF = std::numeric_limits<float>::infinity();
        float lx = INF, ly = INF, hx = -INF, hy = -INF;
#pragma omp simd reduction(min : lx, ly) reduction(max : hx, hy)
        for (i64 j = 0; j < count; ++j) {
            float a = anchors[4 * j], b = anchors[4 * j + 1], c = anchors[4 * j + 2], d = anchors[4 * j + 3];
            x0[j] = a, y0[j] = b, x1[j] = c, y1[j] = d;
            area[j] = (c - a) * (d - b);
            lx = a < lx ? a : lx, ly = b < ly ? b : ly, hx = c > hx ? c : hx, hy = d > hy ? d : hy;
        }
        for (i64 j = count; j < BLOCK; ++j) x0[j] = y0[j] = x1[j] = y1[j] = area[j] = 0;
        low_x = lx, low_y = ly, high_x = hx, high_y = hy;
    }

    bool meets(const float* g) const { return g[0] < high_x && g[2] > low_x && g[1] < high_y && g[3] > low_y; }

    // not a number where a coordinate is none: a comparison with it is false
    float iou(int j, const float* g, float g_area) const {
        float right = x1[j] < g[2] ? x1[j] : g[2], left = x0[j] > g[0] ? x0[j] : g[0];
        float below = y1[j] < g[3] ? y1[j] : g[3], above = y0[j] > g[1] ? y0[j] : g[1];
        float w = right - left, h = below - above;
        w = w > 0 ? w : 0, h = h > 0 ? h : 0;
        float shared = w * h;
        return shared / (g_area + area[j] - shared);
    }
};

struct Candidate {
    i64 block, object;
    float value;
};

}  // namespace

extern "C" void match(const float* gt, i64 objects, const float* anchors, i64 count, float high, float low, int rescue,
                      i64* matched, int8_t* states) {
    const i64 blocks = (count + BLOCK - 1) / BLOCK;
    std::vector<float> top(objects, 0.0f);
    const int threads = int(std::clamp<i64>(count * objects / GRAIN, 1, omp_get_max_threads()));
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> mine(objects, 0.0f);
        std::vector<Candidate> candidates;
        Block block;
#pragma omp for schedule(static)
        for (i64 k = 0; k < blocks; ++k) {
            const i64 first = k * BLOCK, length = std::min<i64>(count - first, BLOCK);
            alignas(64) float best[BLOCK] = {};
            alignas(64) int32_t index[BLOCK] = {};
            block.load(anchors + 4 * first, length);
            for (i64 i = 0; i < objects; ++i) {
                const float* g = gt + 4 * i;
                if (!block.meets(g)) continue;
                const float g_area = (g[2] - g[0]) * (g[3] - g[1]);
                const int32_t object = int32_t(i);
                float highest = 0;
#pragma omp simd reduction(max : highest)
                for (int j = 0; j < BLOCK; ++j) {
                    float value = block.iou(j, g, g_area);
                    index[j] = value > best[j] ? object : index[j];
                    best[j] = value > best[j] ? value : best[j];
                    highest = value > highest ? value : highest;
                }
                if (rescue && highest > 0 && highest >= mine[i]) {
                    mine[i] = highest;
                    candidates.push_back({k, i, highest});
                }
            }
            for (i64 j = 0; j < length; ++j) {
                matched[first + j] = index[j];
                states[first + j] = best[j] >= high ? 1 : best[j] < low ? 0 : -1;
            }
        }
        if (rescue) {
#pragma omp critical
            for (i64 i = 0; i < objects; ++i) top[i] = std::max(top[i], mine[i]);
#pragma omp barrier
            i64 loaded = -1;
            for (const Candidate& candidate : candidates) {
                if (candidate.value != top[candidate.object]) continue;
                const i64 first = candidate.block * BLOCK, length = std::min<i64>(count - first, BLOCK);
                if (loaded != candidate.block) block.load(anchors + 4 * first, length);
                loaded = candidate.block;
                const float* g = gt + 4 * candidate.object;
                const float g_area = (g[2] - g[0]) * (g[3] - g[1]);
                for (int j = 0; j < length; ++j)
                    if (block.iou(j, g, g_area) == candidate.value) states[first + j] = 1;
            }
        }
    }
}
