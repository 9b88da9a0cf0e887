// Patches sampled from stored volumes at affine positions: rows of the patch are independent. Of every row, the part
// whose taps all lie in the volume is known beforehand from integers, so that its loops hold no test.
//
// Positions are fixed point, 2^32 a voxel, of which the fraction keeps 24 bits. In chunks that stay in the L1 cache,
// cells and weights are computed first, then the neighbours are copied together by plain loads (gather instructions
// are slower on most processors), then everything is interpolated in vectors.
#include <cstdint>
#include <cstring>
#include <limits>
#include <omp.h>
#include <type_traits>

namespace {

constexpr int CHUNK = 128, GROUP = 8;  // voxels; all buffers together 10 KB
constexpr int64_t ONE = int64_t(1) << 32, PARALLEL = 1 << 15;
constexpr int64_t VOTE = 1 << 20;  // weights of votes are integers: products of three are exact, so that ties are, too
typedef float Four __attribute__((vector_size(16)));

struct Half {
    uint16_t bits;
};

inline float as_float(float value) { return value; }
inline float as_float(uint8_t value) { return value; }
inline float as_float(int16_t value) { return value; }
inline float as_float(Half half) {
    const uint32_t wide = uint32_t(half.bits & 0x7fff) << 13;
    float value;
    std::memcpy(&value, &wide, 4);
    value *= 0x1p112f;  // the difference of the exponents' biases; subnormals become normal
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits |= (wide >= 0x0f800000u ? 0x7f800000u : 0u) | uint32_t(half.bits & 0x8000) << 16;
    std::memcpy(&value, &bits, 4);
    return value;
}

struct Volume {
    int64_t channels, shape[3], channel, stride[2];  // strides in voxels; x neighbours are adjacent
};

struct Affine {
    int64_t origin[3], step[3][3];  // of voxel (0, 0, 0), and of coordinate [i] along patch axis [j]
};

struct Span {
    int64_t begin, end;
};

inline float fraction(int64_t position) { return float(int32_t(uint32_t(position) >> 8)) * 0x1p-24f; }
inline bool on_voxel(int64_t position) { return uint32_t(position) >> 8 == 0; }
inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }  // b > 0

// Part of `span` where low <= start + x * step < high; an empty one lies at its begin.
Span within(Span span, int64_t start, int64_t step, int64_t low, int64_t high) {
    if (step < 0) return within(span, -start, -step, 1 - high, 1 - low);
    const Span none = {span.begin, span.begin};
    // most rows lie inside: divisions are saved
    if (start + span.begin * step >= low && start + (span.end - 1) * step < high) return span;
    if (step == 0) return start >= low && start < high ? span : none;
    const int64_t first = floor_div(low - start + step - 1, step), end = floor_div(high - 1 - start, step) + 1;
    const Span part = {first > span.begin ? first : span.begin, end < span.end ? end : span.end};
    return part.begin < part.end ? part : none;
}

// One row of the patch. Taps of a position go from `before` left of its cell to `after` right of it.
struct Row {
    int64_t start[3], step[3];
    bool flat[2];  // depth, height: the row runs on voxels, which weigh 1 there, and needs no neighbours
    Span touching, inside;  // some taps, or all, are in the volume

    Row(const Affine& a, int64_t z, int64_t y, int64_t n, const int64_t* shape, int before, int after, int64_t shift) {
        touching = inside = {0, n};
        for (int i = 0; i < 3; ++i) {
            start[i] = a.origin[i] + a.step[i][0] * z + a.step[i][1] * y + shift;
            step[i] = a.step[i][2];
            const bool one = i < 2 && step[i] == 0 && on_voxel(start[i]);
            if (i < 2) flat[i] = one;
            const int64_t left = one ? 0 : before, right = one ? 0 : after, edge = shape[i];
            inside = within(inside, start[i], step[i], left * ONE, (edge - right) * ONE);
            touching = within(touching, start[i], step[i], -right * ONE, (edge + left) * ONE);
        }
        if (inside.begin == inside.end) inside = {touching.end, touching.end};
    }
    int64_t at(int axis, int64_t x) const { return start[axis] + x * step[axis]; }
};

template <typename Index>
struct Cells {
    Index at[CHUNK];
    float weight[3][CHUNK];

    void locate(const Row& row, int64_t first, int n, const Volume& v) {
        const int64_t z0 = row.at(0, first), y0 = row.at(1, first), x0 = row.at(2, first);
        const Index dz = Index(v.stride[0]), dy = Index(v.stride[1]);
#pragma omp simd
        for (int i = 0; i < n; ++i) {
            const int64_t z = z0 + i * row.step[0], y = y0 + i * row.step[1], x = x0 + i * row.step[2];
            at[i] = Index(z >> 32) * dz + Index(y >> 32) * dy + Index(x >> 32);
            weight[0][i] = fraction(z);
            weight[1][i] = fraction(y);
            weight[2][i] = fraction(x);
        }
    }
};

template <typename Value, typename T>
inline Value converted(T value) {
    if constexpr (std::is_same_v<Value, float>) return as_float(value);
    else return value;
}

// The value of an integer position, `outside` beyond the volume.
template <typename T, typename Value>
inline Value voxel(const T* data, const Volume& v, int64_t z, int64_t y, int64_t x, Value outside) {
    const bool in = z >= 0 && z < v.shape[0] && y >= 0 && y < v.shape[1] && x >= 0 && x < v.shape[2];
    if (!in) return outside;
    return converted<Value>(data[z * v.stride[0] + y * v.stride[1] + x]);
}

// The 2 x 2 neighbours along depth and height of every cell, each with its right one.
template <typename T, typename Index>
inline void collect(const T* data, const Index* at, int n, int64_t dz, int64_t dy, T (*pair)[2 * CHUNK]) {
    for (int i = 0; i < n; ++i) {
        const T* p = data + at[i];
        std::memcpy(pair[0] + 2 * i, p, 2 * sizeof(T));
        std::memcpy(pair[1] + 2 * i, p + dy, 2 * sizeof(T));
        if (dz) {
            std::memcpy(pair[2] + 2 * i, p + dz, 2 * sizeof(T));
            std::memcpy(pair[3] + 2 * i, p + dz + dy, 2 * sizeof(T));
        }
    }
}

inline float mix(float a, float b, float weight) { return a + weight * (b - a); }

struct Linear {
    static constexpr int before = 0, after = 1;

    template <typename T, typename Index>
    static void run(const T* data, const Cells<Index>& cells, int n, int64_t dz, int64_t dy, float* out) {
        T pair[4][2 * CHUNK];
        collect(data, cells.at, n, dz, dy, pair);
        const float *wz = cells.weight[0], *wy = cells.weight[1], *wx = cells.weight[2];
        if (dz == 0) {
#pragma omp simd
            for (int i = 0; i < n; ++i) out[i] = plane(pair[0], pair[1], i, wy[i], wx[i]);
        } else {
#pragma omp simd
            for (int i = 0; i < n; ++i)
                out[i] = mix(plane(pair[0], pair[1], i, wy[i], wx[i]), plane(pair[2], pair[3], i, wy[i], wx[i]), wz[i]);
        }
    }
    template <typename T>
    static inline float plane(const T* low, const T* high, int i, float wy, float wx) {
        return mix(mix(as_float(low[2 * i]), as_float(low[2 * i + 1]), wx),
                   mix(as_float(high[2 * i]), as_float(high[2 * i + 1]), wx), wy);
    }
    static void weigh(float w, float* out) { out[0] = 1 - w, out[1] = w; }
};

struct Cubic {
    static constexpr int before = 1, after = 2;

    template <typename T, typename Index>
    static void run(const T* data, const Cells<Index>& cells, int n, int64_t dz, int64_t dy, float* out) {
        for (int i = 0; i < n; ++i) {
            float wz[4], wy[4], wx[4];
            weigh(cells.weight[0][i], wz), weigh(cells.weight[1][i], wy), weigh(cells.weight[2][i], wx);
            const T* p = data + cells.at[i] - dz - dy - 1;
            Four sum = {0, 0, 0, 0};
            if (dz == 0) {
                sum = plane(p, dy, wy);
            } else {
                for (int a = 0; a < 4; ++a) sum += wz[a] * plane(p + a * dz, dy, wy);
            }
            out[i] = sum[0] * wx[0] + sum[1] * wx[1] + (sum[2] * wx[2] + sum[3] * wx[3]);
        }
    }
    template <typename T>
    static inline Four plane(const T* p, int64_t dy, const float* wy) {
        return wy[0] * line(p) + wy[1] * line(p + dy) + (wy[2] * line(p + 2 * dy) + wy[3] * line(p + 3 * dy));
    }
    template <typename T>
    static inline Four line(const T* p) {
        if constexpr (std::is_same_v<T, float>) {
            Four values;
            std::memcpy(&values, p, sizeof values);
            return values;
        } else {
            return Four{as_float(p[0]), as_float(p[1]), as_float(p[2]), as_float(p[3])};
        }
    }
    static inline void weigh(float w, float* out) {
        const float v = 1 - w;
        out[0] = -0.5f * w * v * v;
        out[1] = 1 + w * w * (1.5f * w - 2.5f);
        out[2] = 1 + v * v * (1.5f * v - 2.5f);
        out[3] = -0.5f * v * w * w;
    }
};

// A voxel whose taps partly lie outside.
template <typename Kernel, typename T>
float edge_value(const T* data, const Volume& v, const Row& row, int64_t x, float fill) {
    constexpr int taps = Kernel::before + Kernel::after + 1;
    float weight[3][taps], total = 0;
    for (int i = 0; i < 3; ++i) Kernel::weigh(fraction(row.at(i, x)), weight[i]);
    const int64_t z = (row.at(0, x) >> 32) - Kernel::before, y = (row.at(1, x) >> 32) - Kernel::before;
    for (int a = 0; a < taps; ++a)
        for (int b = 0; b < taps; ++b)
            for (int c = 0; c < taps; ++c) {
                const float w = weight[0][a] * weight[1][b] * weight[2][c];
                // taps without weight are not read: fill and voxels may be infinite
                if (w != 0)
                    total += w * voxel(data, v, z + a, y + b, (row.at(2, x) >> 32) - Kernel::before + c, fill);
            }
    return total;
}

template <typename T>
T vote(const T* corner, int64_t wz, int64_t wy, int64_t wx) {
    int64_t share[8], total[8];
    for (int k = 0; k < 8; ++k)
        share[k] = (k & 4 ? wz : VOTE - wz) * (k & 2 ? wy : VOTE - wy) * (k & 1 ? wx : VOTE - wx);
    for (int k = 0; k < 8; ++k) total[k] = 0;
    for (int other = 0; other < 8; ++other)
        for (int k = 0; k < 8; ++k) total[k] += corner[other] == corner[k] ? share[other] : 0;
    int best = 0;
    for (int k = 1; k < 8; ++k)
        if (total[k] > total[best] || (total[k] == total[best] && corner[k] < corner[best])) best = k;
    return corner[best];
}

// The larger of the smallest and the largest class of `GROUP` cells, and whether a third one may hold as much. All
// numbers are of one width, and whole groups are taken: compilers make vectors of that.
void count(const int64_t (*corner)[GROUP], const int64_t (*weight)[GROUP], int64_t* winner, int64_t* open) {
#pragma omp simd
    for (int j = 0; j < GROUP; ++j) {
        int64_t low = corner[0][j], high = low;
        for (int k = 1; k < 8; ++k) {
            low = corner[k][j] < low ? corner[k][j] : low;
            high = corner[k][j] > high ? corner[k][j] : high;
        }
        const int64_t z = weight[0][j], y = weight[1][j], x = weight[2][j], both = z * y;
        const int64_t rows[4] = {VOTE * VOTE - (z + y) * VOTE + both, y * VOTE - both, z * VOTE - both, both};
        int64_t lows = 0, highs = 0;
        for (int r = 0; r < 4; ++r) {
            const int64_t right = rows[r] * x, left = rows[r] * VOTE - right;
            lows += (corner[2 * r][j] == low ? left : 0) + (corner[2 * r + 1][j] == low ? right : 0);
            highs += (corner[2 * r][j] == high ? left : 0) + (corner[2 * r + 1][j] == high ? right : 0);
        }
        const int64_t most = highs > lows ? highs : lows;
        winner[j] = highs > lows ? high : low;
        open[j] = VOTE * VOTE * VOTE - lows - highs >= most ? 1 : 0;
    }
}

// Votes of the voxels `list`, whose cells hold more than one class. The smallest and the largest class are counted in
// vectors; a third one needs a look only where it holds as much as these two, which few cells have.
template <typename T>
void vote_list(const T (*pair)[2 * CHUNK], int far, const float (*weight)[CHUNK], const int* list, int n, T* out) {
    int64_t corner[8][GROUP] = {}, w[3][GROUP] = {}, winner[GROUP], open[GROUP];
    const T* row[4] = {pair[0], pair[1], pair[far], pair[far + 1]};
    for (int group = 0; group < n; group += GROUP) {
        const int m = n - group < GROUP ? n - group : GROUP;
        for (int j = 0; j < m; ++j) {
            const int i = list[group + j];
            for (int k = 0; k < 8; ++k) corner[k][j] = row[k >> 1][2 * i + (k & 1)];
            for (int axis = 0; axis < 3; ++axis) w[axis][j] = int32_t(weight[axis][i] * VOTE);
        }
        count(corner, w, winner, open);
        for (int j = 0; j < m; ++j) {
            out[list[group + j]] = T(winner[j]);
            if (!open[j]) continue;
            T own[8];
            for (int k = 0; k < 8; ++k) own[k] = T(corner[k][j]);
            out[list[group + j]] = vote(own, w[0][j], w[1][j], w[2][j]);
        }
    }
}

template <typename T, typename Index>
void vote_chunk(const T* data, const Cells<Index>& cells, int n, int64_t dz, int64_t dy, T* out) {
    T pair[4][2 * CHUNK];
    uint8_t mixed[CHUNK];
    int list[CHUNK], number = 0;
    collect(data, cells.at, n, dz, dy, pair);
    const int far = dz ? 2 : 0;
    const T *p = pair[0], *q = pair[1], *r = pair[far], *s = pair[far + 1];
#pragma omp simd
    for (int i = 0; i < n; ++i) {
        const T a = p[2 * i];
        out[i] = a;
        mixed[i] = (p[2 * i + 1] != a) | (q[2 * i] != a) | (q[2 * i + 1] != a) | (r[2 * i] != a) |
                   (r[2 * i + 1] != a) | (s[2 * i] != a) | (s[2 * i + 1] != a);
    }
    for (int i = 0; i < n; ++i) {
        list[number] = i;
        number += mixed[i];
    }
    if (number) vote_list(pair, far, cells.weight, list, number, out);
}

template <typename T>
T edge_vote(const T* data, const Volume& v, const Row& row, int64_t x, T pad) {
    T corner[8];
    const int64_t at[3] = {row.at(0, x) >> 32, row.at(1, x) >> 32, row.at(2, x) >> 32};
    for (int k = 0; k < 8; ++k) corner[k] = voxel(data, v, at[0] + (k >> 2), at[1] + (k >> 1 & 1), at[2] + (k & 1), pad);
    int64_t weight[3];
    for (int i = 0; i < 3; ++i) weight[i] = int32_t(fraction(row.at(i, x)) * VOTE);
    return vote(corner, weight[0], weight[1], weight[2]);
}

// Whether the patch is the voxels themselves, in order or mirrored.
bool is_copy(const Affine& a) {
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j)
            if (i == j ? a.step[i][j] != ONE && a.step[i][j] != -ONE : a.step[i][j] != 0) return false;
    return on_voxel(a.origin[0]) && on_voxel(a.origin[1]) && on_voxel(a.origin[2]);
}

// `set(row, z * size[1] + y)` for all rows of the patch.
template <typename Set>
void each_row(const Volume& v, const Affine& a, const int64_t* size, int before, int after, int64_t shift, Set set) {
    const int64_t rows = size[0] * size[1];
    const bool parallel = omp_get_max_threads() > 1 && rows * size[2] >= PARALLEL;
#pragma omp parallel for schedule(static) if (parallel)
    for (int64_t r = 0; r < rows; ++r) set(Row(a, r / size[1], r % size[1], size[2], v.shape, before, after, shift), r);
}

// The voxels themselves, in order or mirrored.
template <typename T, typename Value>
void copy(const T* data, const Volume& v, const Affine& a, const int64_t* size, Value outside, Value* out) {
    Span in[3];
    int64_t first[3], step[3];
    for (int i = 0; i < 3; ++i) {
        in[i] = within({0, size[i]}, a.origin[i], a.step[i][i], 0, v.shape[i] * ONE);
        first[i] = a.origin[i] >> 32;
        step[i] = a.step[i][i] >> 32;
    }
    const int64_t n = size[2], begin = in[2].begin, end = in[2].end, planes = v.channels * size[0];
#pragma omp parallel for schedule(static) if (omp_get_max_threads() > 1 && planes * size[1] * n >= PARALLEL)
    for (int64_t p = 0; p < planes; ++p) {
        const int64_t z = p % size[0];
        const T* plane = data + p / size[0] * v.channel + (first[0] + z * step[0]) * v.stride[0] + first[2];
        for (int64_t y = 0; y < size[1]; ++y) {
            const T* line = plane + (first[1] + y * step[1]) * v.stride[1];
            Value* target = out + (p * size[1] + y) * n;
            if (z < in[0].begin || z >= in[0].end || y < in[1].begin || y >= in[1].end || begin == end) {
                for (int64_t x = 0; x < n; ++x) target[x] = outside;
                continue;
            }
            for (int64_t x = 0; x < begin; ++x) target[x] = outside;
            if (step[2] < 0)
                for (int64_t x = begin; x < end; ++x) target[x] = converted<Value>(line[-x]);
            else if (std::is_same_v<T, Value>) std::memcpy(target + begin, line + begin, (end - begin) * sizeof(T));
            else
                for (int64_t x = begin; x < end; ++x) target[x] = converted<Value>(line[x]);
            for (int64_t x = end; x < n; ++x) target[x] = outside;
        }
    }
}

template <typename T>
void nearest(const T* data, const Volume& v, const Affine& a, const int64_t* size, T outside, T* out) {
    each_row(v, a, size, 0, 0, ONE / 2, [&](const Row& row, int64_t r) {
        for (int64_t x = 0; x < size[2]; ++x)
            out[r * size[2] + x] =
                voxel(data, v, row.at(0, x) >> 32, row.at(1, x) >> 32, row.at(2, x) >> 32, outside);
    });
}

// `edge(source, row, x)` and `chunk(source, cells, n, dz, dy, target)` give the values of the two parts of a row.
template <typename Index, typename T, typename Value, typename Edge, typename Chunk>
void sample(const T* data, const Volume& v, const Affine& a, const int64_t* size, int before, int after, Value outside,
            Value* out, Edge edge, Chunk chunk) {
    const int64_t n = size[2], patch = size[0] * size[1] * n;
    each_row(v, a, size, before, after, 0, [&](const Row& row, int64_t r) {
        Cells<Index> cells;
        const Span in = row.inside, near = row.touching;
        for (int64_t c = 0; c < v.channels; ++c) {
            const T* source = data + c * v.channel;
            Value* target = out + c * patch + r * n;
            for (int64_t x = 0; x < near.begin; ++x) target[x] = outside;
            for (int64_t x = near.begin; x < in.begin; ++x) target[x] = edge(source, row, x);
            for (int64_t x = in.end; x < near.end; ++x) target[x] = edge(source, row, x);
            for (int64_t x = near.end; x < n; ++x) target[x] = outside;
        }
        for (int64_t x = in.begin; x < in.end; x += CHUNK) {
            const int m = int(in.end - x < CHUNK ? in.end - x : CHUNK);
            cells.locate(row, x, m, v);
            for (int64_t c = 0; c < v.channels; ++c)
                chunk(data + c * v.channel, cells, m, row.flat[0] ? 0 : v.stride[0], row.flat[1] ? 0 : v.stride[1],
                      out + c * patch + r * n + x);
        }
    });
}

template <typename Kernel, typename T>
void sample_image(const T* data, const Volume& v, const Affine& a, const int64_t* size, float fill, float* out) {
    const auto edge = [&](const T* source, const Row& row, int64_t x) {
        return edge_value<Kernel>(source, v, row, x, fill);
    };
    const auto chunk = [](const T* source, const auto& cells, int n, int64_t dz, int64_t dy, float* target) {
        Kernel::run(source, cells, n, dz, dy, target);
    };
    const int before = Kernel::before, after = Kernel::after;
    if (v.shape[0] * v.stride[0] <= std::numeric_limits<int32_t>::max())
        sample<int32_t>(data, v, a, size, before, after, fill, out, edge, chunk);
    else sample<int64_t>(data, v, a, size, before, after, fill, out, edge, chunk);
}

template <typename T>
void image(const void* data, const Volume& v, const Affine& a, const int64_t* size, int order, float fill, float* out) {
    const T* voxels = static_cast<const T*>(data);
    if (is_copy(a)) copy(voxels, v, a, size, fill, out);
    else if (order == 1) sample_image<Linear>(voxels, v, a, size, fill, out);
    else sample_image<Cubic>(voxels, v, a, size, fill, out);
}

template <typename T>
void label(const void* data, const Volume& v, const Affine& a, const int64_t* size, bool take_nearest, int64_t pad,
           void* out) {
    const T *voxels = static_cast<const T*>(data), outside = T(pad);
    T* target = static_cast<T*>(out);
    if (is_copy(a)) return copy(voxels, v, a, size, outside, target);
    if (take_nearest) return nearest(voxels, v, a, size, outside, target);
    const auto edge = [&](const T* source, const Row& row, int64_t x) { return edge_vote(source, v, row, x, outside); };
    const auto chunk = [](const T* source, const auto& cells, int n, int64_t dz, int64_t dy, T* result) {
        vote_chunk(source, cells, n, dz, dy, result);
    };
    if (v.shape[0] * v.stride[0] <= std::numeric_limits<int32_t>::max())
        sample<int32_t>(voxels, v, a, size, 0, 1, outside, target, edge, chunk);
    else sample<int64_t>(voxels, v, a, size, 0, 1, outside, target, edge, chunk);
}

}  // namespace

// `layout`: channels, depth, height, width, strides of channel, depth and height in voxels. `affine`: origin[3],
// step[3][3]. Types are numbered as in cpu.py.
extern "C" void patch_affine_image(const void* data, int type, const int64_t* layout, const int64_t* affine,
                                   const int64_t* size, int order, float fill, float* out) {
    const Volume& v = *reinterpret_cast<const Volume*>(layout);
    const Affine& a = *reinterpret_cast<const Affine*>(affine);
    if (type == 0) image<float>(data, v, a, size, order, fill, out);
    if (type == 1) image<Half>(data, v, a, size, order, fill, out);
    if (type == 2) image<uint8_t>(data, v, a, size, order, fill, out);
    if (type == 3) image<int16_t>(data, v, a, size, order, fill, out);
}

extern "C" void patch_affine_label(const void* data, int type, const int64_t* layout, const int64_t* affine,
                                   const int64_t* size, int take_nearest, int64_t pad, void* out) {
    const Volume& v = *reinterpret_cast<const Volume*>(layout);
    const Affine& a = *reinterpret_cast<const Affine*>(affine);
    if (type == 2) label<uint8_t>(data, v, a, size, take_nearest, pad, out);
    if (type == 3) label<int16_t>(data, v, a, size, take_nearest, pad, out);
    if (type == 4) label<int32_t>(data, v, a, size, take_nearest, pad, out);
    if (type == 5) label<int64_t>(data, v, a, size, take_nearest, pad, out);
    if (type == 6) label<int8_t>(data, v, a, size, take_nearest, pad, out);
}
