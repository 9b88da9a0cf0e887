// Greedy suppression of boxes that come by group, then by descending score.
//
// A block of boxes is decided first, one after another; those that are kept then strike out all that follow, 16 at a
// time: the followers stay in registers while the kept ones go by, until none of the 16 is left.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using i64 = int64_t;

// 16 values at once; compilers lower the types to what the processor has
typedef float vec __attribute__((vector_size(64)));
typedef int32_t mask __attribute__((vector_size(64)));
constexpr i64 LANES = 16;
constexpr i64 BLOCK = 64;      // boxes decided before they strike out others
constexpr i64 LONG = 8192;     // followers from which a second thread is worth waking within a group
constexpr i64 MANY = 2048;     // boxes from which groups are shared among threads

inline vec load(const float* p) { vec v; std::memcpy(&v, p, 64); return v; }
inline mask load(const int32_t* p) { mask m; std::memcpy(&m, p, 64); return m; }
inline void store(int32_t* p, mask m) { std::memcpy(p, &m, 64); }
inline bool any(mask m) {
    int64_t parts[8], all = 0;
    std::memcpy(parts, &m, 64);
    for (int64_t part : parts) all |= part;
    return all != 0;
}

// one array an edge; past the last box are zeros, whose overlap with anything is nothing
struct Boxes {
    std::vector<float> values;
    std::vector<int32_t> alive;  // -1 or 0
    const float *x0, *y0, *x1, *y1, *area;

    Boxes(const float* boxes, i64 count) : values(5 * (count + LANES)), alive(count + LANES, -1) {
        float *edges = values.data(), *areas = edges + 4 * (count + LANES);
        x0 = edges, y0 = x0 + count + LANES, x1 = y0 + count + LANES, y1 = x1 + count + LANES, area = areas;
        for (i64 i = 0; i < count; ++i) {
            const float* b = boxes + 4 * i;
            for (int k = 0; k < 4; ++k) edges[k * (count + LANES) + i] = b[k];
            float width = b[2] - b[0], height = b[3] - b[1];
            // not std::max: a NaN must stay
            areas[i] = (width < 0 ? 0 : width) * (height < 0 ? 0 : height);
        }
    }
};

struct One {
    float x0, y0, x1, y1, area;
    One(const Boxes& b, i64 i) : x0(b.x0[i]), y0(b.y0[i]), x1(b.x1[i]), y1(b.y1[i]), area(b.area[i]) {}
};

// The selection stands between product and difference, so that they are not contracted, and all forms round alike. A
// NaN edge may be lost by min and max, but not in the area.
inline mask overlap(const One& a, vec x0, vec y0, vec x1, vec y1, vec area, float threshold) {
    vec left = x0 > a.x0 ? x0 : a.x0 + vec{}, right = x1 < a.x1 ? x1 : a.x1 + vec{};
    vec top = y0 > a.y0 ? y0 : a.y0 + vec{}, bottom = y1 < a.y1 ? y1 : a.y1 + vec{};
    vec width = right - left, height = bottom - top;
    vec shared = (width > 0) & (height > 0) ? width * height : vec{};
    return shared > threshold * (a.area + area - shared);
}

// strikes out of the boxes from `first` to `stop` what the kept ones overlap
inline void strike(Boxes& b, const One* kept, i64 count, i64 first, i64 stop, float threshold) {
    for (i64 j = first; j < stop; j += LANES) {
        mask alive = load(b.alive.data() + j);
        // the last vector may reach into the next group, which is another thread's
        i64 lanes = std::min(LANES, stop - j);
        if (lanes < LANES)
            for (i64 k = lanes; k < LANES; ++k) alive[k] = 0;
        if (!any(alive)) continue;
        vec x0 = load(b.x0 + j), y0 = load(b.y0 + j), x1 = load(b.x1 + j), y1 = load(b.y1 + j), area = load(b.area + j);
        for (i64 i = 0; i < count; ++i) {
            alive &= ~overlap(kept[i], x0, y0, x1, y1, area, threshold);
            if ((i & 7) == 7 && !any(alive)) break;
        }
        if (lanes == LANES) store(b.alive.data() + j, alive);
        else
            for (i64 k = 0; k < lanes; ++k) b.alive[j + k] = alive[k];
    }
}

void decide(Boxes& b, i64 begin, i64 end, float threshold) {
    std::vector<One> kept;
    kept.reserve(BLOCK);
    for (i64 first = begin; first < end; first += BLOCK) {
        i64 stop = std::min(first + BLOCK, end);
        kept.clear();
        for (i64 i = first; i < stop; ++i)
            if (b.alive[i]) {
                kept.emplace_back(b, i);
                strike(b, &kept.back(), 1, i + 1, stop, threshold);
            }
        i64 left = end - stop;
        if (left < LONG) {
            strike(b, kept.data(), i64(kept.size()), stop, end, threshold);
            continue;
        }
        constexpr i64 PART = 1024;
#pragma omp parallel for schedule(static)
        for (i64 part = 0; part < (left + PART - 1) / PART; ++part)
            strike(b, kept.data(), i64(kept.size()), stop + part * PART, std::min(stop + (part + 1) * PART, end), threshold);
    }
}

}  // namespace

// boxes [N, 4]; groups [N] ascending or null; kept [N] receives 0 or 1
extern "C" void suppress(const float* boxes, const i64* groups, uint8_t* kept, i64 count, float threshold) {
    Boxes b(boxes, count);
    std::vector<i64> starts{0};
    for (i64 i = 1; groups && i < count; ++i)
        if (groups[i] != groups[i - 1]) starts.push_back(i);
    starts.push_back(count);
    i64 runs = i64(starts.size()) - 1;
    if (runs == 1) decide(b, 0, count, threshold);
    else {
#pragma omp parallel for schedule(dynamic) if (count > MANY)
        for (i64 run = 0; run < runs; ++run) decide(b, starts[run], starts[run + 1], threshold);
    }
    for (i64 i = 0; i < count; ++i) kept[i] = b.alive[i] != 0;
}
