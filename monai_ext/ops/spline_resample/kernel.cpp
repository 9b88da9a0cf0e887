// Separable resampling of volumes by banded weights, row by row; see reference.py for what it means.
//
// Along x the neighbouring outputs of a register read few inputs: two registers hold them, and a permutation picks
// each tap.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
constexpr int SLACK = 3 * LANES;  // floats that may be read, not used, behind a row
constexpr float INF = std::numeric_limits<float>::infinity();

typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t UintVec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int64_t Corners __attribute__((vector_size(64)));
typedef double Shares __attribute__((vector_size(64)));
typedef uint16_t ShortVec __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

struct Bfloat16 { uint16_t bits; };
struct Float16 { uint16_t bits; };

inline Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }

inline Vec load(const Bfloat16* p) {
    return (Vec)(__builtin_convertvector(*reinterpret_cast<const ShortVec*>(p), UintVec) << 16);
}

inline Vec load(const Float16* p) {
    const UintVec bits = __builtin_convertvector(*reinterpret_cast<const ShortVec*>(p), UintVec);
    const UintVec magnitude = (bits & 0x7fffu) << 13;
    const UintVec finite = (UintVec)((Vec)magnitude * 0x1p112f);  // moves the exponent, subnormals included
    return (Vec)((magnitude >= (0x7c00u << 13) ? magnitude | 0x7f800000u : finite) | ((bits & 0x8000u) << 16));
}

// Fewer than LANES, then the last one again.
template <typename In>
inline Vec load_some(const In* p, int64_t count) {
    In part[LANES];
    for (int i = 0; i < LANES; ++i) part[i] = p[std::min<int64_t>(i, count - 1)];
    return load(part);
}

struct Span { int64_t start, stop; };

// Output i reads weights[i, t] of input first[i] + t.
struct Axis {
    int64_t n_in, n_out, taps;
    const int64_t* first;
    const float* weights;

    const float* of(int64_t i) const { return weights + i * taps; }
};

Span inputs(const Axis& axis, Span outputs) {
    return {axis.first[outputs.start], axis.first[outputs.stop - 1] + axis.taps};
}

// Starts of groups of output slices, and the end: `size` of them, or all equal ones where z has one tap.
template <typename AnyAxis>
std::vector<int64_t> slice_groups(const AnyAxis& z, int64_t size) {
    std::vector<int64_t> starts;
    for (int64_t o = 0; o < z.n_out; ++o)
        if (z.taps > 1 ? o % size == 0 : o == 0 || z.first[o] != z.first[o - 1]) starts.push_back(o);
    starts.push_back(z.n_out);
    return starts;
}

// Values p[index], and 0 where the weight is 0, so that 0 * inf makes no NaN; one or two registers hold them.
#if defined(__AVX512F__)
template <bool TWO>
inline Vec pick(const float* p, const int32_t* index, Vec weight) {
    const __m512i at = _mm512_loadu_si512(index), bits = _mm512_castps_si512((__m512)weight);
    const __mmask16 used = _mm512_test_epi32_mask(bits, bits);
    if (!TWO) return (Vec)_mm512_maskz_permutexvar_ps(used, at, _mm512_loadu_ps(p));
    return (Vec)_mm512_maskz_permutex2var_ps(used, _mm512_loadu_ps(p), at, _mm512_loadu_ps(p + LANES));
}
#elif defined(__AVX2__)
template <bool TWO>
inline Vec pick(const float* p, const int32_t* index, Vec weight) {
    const __m256i at = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index));
    const __m256 used = _mm256_cmp_ps((__m256)weight, _mm256_setzero_ps(), _CMP_NEQ_UQ);
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(p), at);
    if (!TWO) return (Vec)_mm256_and_ps(used, low);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(p + LANES), at);
    const __m256 in_high = _mm256_castsi256_ps(_mm256_slli_epi32(at, 28));  // the bit of 8 becomes the sign
    return (Vec)_mm256_and_ps(used, _mm256_blendv_ps(low, high, in_high));
}
#endif

// The axis x, a register of outputs at a time.
class Columns {
public:
    explicit Columns(const Axis& x) : x(x), base((x.n_out + LANES - 1) / LANES) {
        const int64_t chunks = base.size();
        lane.resize(chunks * LANES);
        weight.resize(chunks * LANES * x.taps);
        for (int64_t c = 0; c < chunks; ++c) {
            base[c] = x.first[c * LANES];
            for (int i = 0; i < LANES; ++i) {
                const int64_t o = std::min(c * LANES + i, x.n_out - 1);
                lane[c * LANES + i] = int32_t(x.first[o] - base[c]);
                reach = std::max(reach, lane[c * LANES + i]);
                for (int64_t t = 0; t < x.taps; ++t) weight[(c * x.taps + t) * LANES + i] = x.of(o)[t];
            }
        }
    }

    // Outputs at ... at + LANES, `at` a multiple of LANES, of N rows, `width` apart.
    template <int N>
    void apply(const float* row, int64_t width, int64_t at, Vec* out) const {
#if defined(__AVX2__)
        if (reach < LANES) return permute<N, false>(row, width, at / LANES, out);
        if (reach < 2 * LANES) return permute<N, true>(row, width, at / LANES, out);
#endif
        for (int r = 0; r < N; ++r)
            for (int i = 0; i < LANES; ++i) {
                const int64_t o = std::min(at + i, x.n_out - 1);
                const float *from = row + r * width + x.first[o], *taps = x.of(o);
                float sum = 0;
#pragma omp simd reduction(+ : sum)
                for (int64_t t = 0; t < x.taps; ++t) sum += taps[t] != 0 ? taps[t] * from[t] : 0.0f;
                out[r][i] = sum;
            }
    }

private:
#if defined(__AVX2__)
    template <int N, bool TWO>
    void permute(const float* row, int64_t width, int64_t chunk, Vec* out) const {
        const float *from = row + base[chunk], *taps = &weight[chunk * x.taps * LANES];
        Vec sum[N] = {};
        for (int64_t t = 0; t < x.taps; ++t) {
            const Vec tap = load(taps + t * LANES);
            for (int r = 0; r < N; ++r) sum[r] += tap * pick<TWO>(from + r * width + t, &lane[chunk * LANES], tap);
        }
        for (int r = 0; r < N; ++r) out[r] = sum[r];
    }
#endif

    const Axis& x;
    int32_t reach = 0;
    std::vector<int64_t> base;
    std::vector<int32_t> lane;
    std::vector<float> weight;
};

// OUT sums of the same `count` rows, weights [OUT, count].
template <int OUT, int WIDE, typename In>
inline void sums_at(float* const* out, const In* const* rows, const float* weights, int64_t count, int64_t x) {
    Vec sum[OUT][WIDE] = {};
    for (int64_t r = 0; r < count; ++r)
        for (int v = 0; v < WIDE; ++v) {
            const Vec value = load(rows[r] + x + v * LANES);
            for (int o = 0; o < OUT; ++o) sum[o][v] += weights[o * count + r] * value;
        }
    for (int o = 0; o < OUT; ++o)
        for (int v = 0; v < WIDE; ++v) store(out[o] + x + v * LANES, sum[o][v]);
}

template <int OUT, typename In>
void sums(float* const* out, const In* const* rows, const float* weights, int64_t count, int64_t n) {
    constexpr int WIDE = OUT == 1 ? 4 : 2;
    int64_t x = 0;
    for (; x + WIDE * LANES <= n; x += WIDE * LANES) sums_at<OUT, WIDE>(out, rows, weights, count, x);
    for (; x + LANES <= n; x += LANES) sums_at<OUT, 1>(out, rows, weights, count, x);
    if (x == n) return;
    if (n >= LANES) return sums_at<OUT, 1>(out, rows, weights, count, n - LANES);  // some of them again
    for (int o = 0; o < OUT; ++o) {
        Vec sum = {};
        for (int64_t r = 0; r < count; ++r) sum += weights[o * count + r] * load_some(rows[r], n);
        store(out[o], sum);  // `out` has slack
    }
}

// Up to four neighbouring outputs of an axis, which share most of their inputs: weights [outputs, count] of the inputs
// first ... first + count, without those that no output reads (0 * inf would be NaN).
struct Group {
    int64_t outputs = 0, first = 0, count = 0;
    std::vector<float> weights;

    void set(const Axis& axis, int64_t start, int64_t stop) {
        outputs = stop - start;
        first = axis.first[start];
        int64_t end = axis.first[stop - 1] + axis.taps;
        while (axis.of(start)[first - axis.first[start]] == 0) ++first;
        while (axis.of(stop - 1)[end - 1 - axis.first[stop - 1]] == 0) --end;
        count = end - first;
        weights.assign(outputs * count, 0.0f);
        for (int64_t o = start; o < stop; ++o)
            for (int64_t t = 0; t < axis.taps; ++t) {
                const int64_t input = axis.first[o] + t - first;
                if (input >= 0 && input < count) weights[(o - start) * count + input] = axis.of(o)[t];
            }
    }

    template <typename In>
    void apply(float* const* out, const In* const* rows, int64_t n) const {
        if (outputs == 4) return sums<4>(out, rows, weights.data(), count, n);
        for (int64_t o = 0; o < outputs; ++o) sums<1>(out + o, rows, &weights[o * count], count, n);
    }
};

// ---- images and logits, every channel apart ----

struct Limits {
    const float *low, *high;  // one value, or one per slice of the input along `axis`
    int64_t axis;
};

// Along z, then y, then x. Input rows combined along z wait in a ring for the outputs that read them.
template <typename In>
class Rows {
public:
    // `size`: outputs that are made at once along z and y, 4 or 1.
    Rows(const Axis* axes, const Columns& columns, const Limits& limits, int64_t size)
        : z(axes[0]), y(axes[1]), x(axes[2]), columns(columns), limits(limits), size(size), width(x.n_in + SLACK) {
        for (int64_t yo = 0; yo < y.n_out; ++yo)
            held = std::max(held, y.first[std::min(yo + size, y.n_out) - 1] + y.taps - y.first[yo]);
        ring.resize((z.taps > 1 ? size : 1) * held * width);
        lines.resize(size * width);
        held_rows.resize(held);
    }

    // Outputs z0 ... z1, a group, and y0 ... y1 of one channel.
    void make(const In* channel, int64_t stride_z, int64_t stride_y, float* out, Span zs, Span ys) {
        slices.set(z, zs.start, z.taps > 1 ? zs.stop : zs.start + 1);
        int64_t ready = 0;
        for (int64_t yo = ys.start; yo < ys.stop; yo += size) {
            band.set(y, yo, std::min(yo + size, ys.stop));
            for (ready = std::max(ready, band.first); ready < band.first + band.count; ++ready)
                fill_ring(channel + ready * stride_y, stride_z, ready);
            for (int64_t j = 0; j < slices.outputs; ++j) {
                float* targets[4];
                for (int64_t r = 0; r < band.count; ++r) held_rows[r] = slot(j, band.first + r);
                for (int64_t o = 0; o < band.outputs; ++o) targets[o] = &lines[o * width];
                band.apply(targets, held_rows.data(), x.n_in);
                float* row = out + ((zs.start + j) * y.n_out + yo) * x.n_out;
                if (band.outputs == 4)
                    finish<4>(row, zs.start + j, yo);
                else
                    for (int64_t o = 0; o < band.outputs; ++o) finish<1>(row, zs.start + j, yo, o);
                for (int64_t zo = zs.start + slices.outputs; zo < zs.stop; ++zo)
                    std::memcpy(row + (zo - zs.start) * y.n_out * x.n_out, row, band.outputs * x.n_out * sizeof(float));
            }
        }
    }

private:
    float* slot(int64_t j, int64_t source_y) { return &ring[(j * held + source_y % held) * width]; }

    void fill_ring(const In* row, int64_t stride_z, int64_t source_y) {
        sources.resize(slices.count);
        for (int64_t s = 0; s < slices.count; ++s) sources[s] = row + (slices.first + s) * stride_z;
        float* targets[4];
        for (int64_t j = 0; j < slices.outputs; ++j) targets[j] = slot(j, source_y);
        slices.apply(targets, sources.data(), x.n_in);
    }

    // Output rows yo + o ... yo + o + N, from lines o ... o + N.
    template <int N>
    void finish(float* out, int64_t zo, int64_t yo, int64_t o = 0) {
        for (int64_t at = 0; at < x.n_out; at += LANES) {
            Vec values[N];
            columns.apply<N>(&lines[o * width], width, at, values);
            const int64_t n = std::min<int64_t>(LANES, x.n_out - at);
            for (int r = 0; r < N; ++r) {
                const int64_t slice = limits.axis == 0 ? z.first[zo] : limits.axis == 1 ? y.first[yo + o + r] : 0;
                Vec value = values[r], low = Vec{} + limits.low[slice], high = Vec{} + limits.high[slice];
                for (int64_t i = 0; i < n && limits.axis == 2; ++i)
                    low[i] = limits.low[x.first[at + i]], high[i] = limits.high[x.first[at + i]];
                value = value < low ? low : value;
                value = value > high ? high : value;
                float* row = out + (o + r) * x.n_out + at;
                if (n == LANES)
                    store(row, value);
                else
                    std::memcpy(row, &value, n * sizeof(float));
            }
        }
    }

    const Axis &z, &y, &x;
    const Columns& columns;
    const Limits& limits;
    const int64_t size, width;
    int64_t held = 0;
    Group slices, band;
    std::vector<float> ring, lines;
    std::vector<const float*> held_rows;
    std::vector<const In*> sources;
};

constexpr int64_t BAND = 32;  // output rows of a slice that one thread makes at once, or more

// Channels [C, d, h, w]: strides of the first three axes in elements, the last one is dense.
template <typename In>
void channels(const void* data, int64_t count, const int64_t* strides, const Axis* axes, const Limits& limits,
              int64_t size, float* out, int threads) {
    const int64_t height = axes[1].n_out;
    const Columns columns(axes[2]);
    const std::vector<int64_t> starts = slice_groups(axes[0], size);
    const int64_t groups = int64_t(starts.size()) - 1;
    // every band reads its margin again, so there are bands only where groups are few
    const int64_t bands = std::clamp<int64_t>(4 * threads / (groups * count), 1, (height + BAND - 1) / BAND);
#pragma omp parallel num_threads(threads)
    {
        Rows<In> rows(axes, columns, limits, size);
#pragma omp for schedule(dynamic, 1)
        for (int64_t unit = 0; unit < count * groups * bands; ++unit) {
            const int64_t channel = unit / bands / groups, group = unit / bands % groups, band = unit % bands;
            rows.make(static_cast<const In*>(data) + channel * strides[0], strides[1], strides[2],
                      out + channel * axes[0].n_out * height * axes[2].n_out, {starts[group], starts[group + 1]},
                      {height * band / bands, height * (band + 1) / bands});
        }
    }
}

// ---- the largest logit ----

struct Range { float low, high; };

template <typename In, typename Out>
class Argmax {
public:
    Argmax(const In* logits, int64_t classes, const int64_t* strides, const Axis* axes, const Columns& columns,
           Out* out)
        : logits(logits), classes(classes), strides(strides), axes(axes), columns(columns), out(out), ranges(classes) {}

    void tile(Span z, Span y, Span x) {
        read(inputs(axes[0], z), inputs(axes[1], y), inputs(axes[2], x));
        find_candidates();
        const int64_t count = candidates.size();
        if (count > 1) grow(planes, count * rows * width), grow(lines, count * width + SLACK);
        for (int64_t zo = z.start; zo < z.stop; ++zo) {
            if (count > 1) combine(0, zo, window.data(), true, depth, rows * width, planes.data());
            for (int64_t yo = y.start; yo < y.stop; ++yo) {
                Out* target = out + (zo * axes[1].n_out + yo) * axes[2].n_out;
                if (count == 1) {
                    std::fill(target + x.start, target + x.stop, Out(candidates[0]));
                    continue;
                }
                combine(1, yo, planes.data(), false, rows, width, lines.data());
                for (int64_t at = x.start; at < x.stop; at += LANES) {
                    const IntVec index = odd ? largest<true>(at) : largest<false>(at);
                    Out narrow[LANES];
                    for (int i = 0; i < LANES; ++i) narrow[i] = Out(index[i]);
                    std::memcpy(target + at, narrow, std::min<int64_t>(LANES, x.stop - at) * sizeof(Out));
                }
            }
        }
    }

private:
    // All classes of a tile's inputs as float32 [K, depth, rows, width], side by side: strides of powers of two, as
    // volumes have them, would all fall into the same few lines of the cache.
    void read(Span z, Span y, Span x) {
        from[0] = z.start, from[1] = y.start, from[2] = x.start;
        const int64_t n = x.stop - x.start;
        depth = z.stop - z.start, rows = y.stop - y.start, width = (n + LANES - 1) / LANES * LANES;
        grow(window, classes * depth * rows * width);
        odd = false;
        for (int64_t k = 0; k < classes; ++k) {
            Vec low = Vec{} + INF, high = Vec{} - INF;
            IntVec nan = {};
            float* target = &window[k * depth * rows * width];
            for (int64_t a = z.start; a < z.stop; ++a)
                for (int64_t b = y.start; b < y.stop; ++b, target += width) {
                    const In* row = logits + k * strides[0] + a * strides[1] + b * strides[2] + x.start;
                    for (int64_t i = 0; i < n; i += LANES) {
                        const Vec v = i + LANES <= n ? load(row + i) : load_some(row + i, n - i);
                        store(target + i, v);
                        low = v < low ? v : low;
                        high = v > high ? v : high;
                        nan |= v != v;
                    }
                }
            ranges[k] = {INF, -INF};
            for (int i = 0; i < LANES; ++i) {
                ranges[k].low = std::min(ranges[k].low, low[i]);
                ranges[k].high = std::max(ranges[k].high, high[i]);
                odd |= nan[i] != 0 || high[i] == INF;
            }
        }
    }

    // Interpolation stays within the range of the window: who cannot reach another's minimum is out.
    void find_candidates() {
        const auto lower = [](const Range& a, const Range& b) { return a.low < b.low; };
        const Range& best = *std::max_element(ranges.begin(), ranges.end(), lower);
        candidates.clear();
        for (int64_t k = 0; k < classes; ++k) {
            // the margin is above the rounding errors of both, so that leaving classes out changes nothing
            const float margin = 1e-6f * (magnitude(ranges[k]) + magnitude(best));
            if (odd || !(ranges[k].high < best.low - margin)) candidates.push_back(int32_t(k));
        }
    }

    static float magnitude(const Range& range) { return std::max(std::abs(range.low), std::abs(range.high)); }

    // Output `o` of an axis of the candidates: [count, n, row] to [count, row]. `all`: `in` holds the others too.
    void combine(int axis, int64_t o, const float* in, bool all, int64_t n, int64_t row, float* result) {
        group.set(axes[axis], o, o + 1);
        for (size_t c = 0; c < candidates.size(); ++c, result += row) {
            const float* source = in + ((all ? candidates[c] : c) * n + group.first - from[axis]) * row;
            const float* taps[2] = {source, source + (group.count - 1) * row};
            sums<1>(&result, taps, group.weights.data(), group.count, row);
        }
    }

    // The first of equals; a NaN keeps all classes after it from winning.
    template <bool ODD>
    IntVec largest(int64_t at) const {
        const float* line = lines.data() - from[2];
        Vec best = {}, values[4];
        IntVec index = {};
        const int64_t count = candidates.size();
        for (int64_t c = 0; c < count; ++c) {
            if (c % 4 == 0 && c + 4 <= count) columns.apply<4>(line + c * width, width, at, values);
            if (c >= count / 4 * 4) columns.apply<1>(line + c * width, width, at, values + c % 4);
            const Vec value = values[c % 4];
            const IntVec wins = c ? value > best : IntVec{} - 1;
            index = wins ? IntVec{} + candidates[c] : index;
            best = wins ? value : best;
            if (ODD) best = value != value ? Vec{} + INF : best;
        }
        return index;
    }

    static void grow(std::vector<float>& buffer, size_t size) {
        if (buffer.size() < size) buffer.resize(size);
    }

    const In* logits;
    const int64_t classes, *strides;
    const Axis* axes;
    const Columns& columns;
    Out* out;
    int64_t from[3], depth = 0, rows = 0, width = 0;
    bool odd = false;  // the window holds a NaN, or +inf, which may become one
    std::vector<Range> ranges;
    std::vector<int32_t> candidates;
    std::vector<float> window, planes, lines;
    Group group;
};

// Outputs made at once, from about `inputs` of the axis.
int64_t step(const Axis& axis, int64_t inputs) {
    return std::clamp<int64_t>(inputs * axis.n_out / axis.n_in, 1, axis.n_out);
}

template <typename In, typename Out>
void argmax(const void* logits, int64_t classes, const int64_t* strides, const Axis* axes, void* out, int threads) {
    const Axis &z = axes[0], &y = axes[1], &x = axes[2];
    const int64_t dz = step(z, 4), dy = step(y, 8);
    const int64_t columns_of_x = std::clamp<int64_t>((1 << 18) / (classes * 45), 16, 64);  // a window of a megabyte
    const int64_t dx = (step(x, columns_of_x) + LANES - 1) / LANES * LANES;
    const int64_t layers = (z.n_out + dz - 1) / dz, bands = (y.n_out + dy - 1) / dy;
    const Columns columns(x);
#pragma omp parallel num_threads(threads)
    {
        Argmax<In, Out> work(static_cast<const In*>(logits), classes, strides, axes, columns, static_cast<Out*>(out));
#pragma omp for schedule(dynamic, 1)
        for (int64_t unit = 0; unit < layers * bands; ++unit) {
            const int64_t z0 = unit / bands * dz, y0 = unit % bands * dy;
            for (int64_t x0 = 0; x0 < x.n_out; x0 += dx)
                work.tile({z0, std::min(z0 + dz, z.n_out)}, {y0, std::min(y0 + dy, y.n_out)},
                          {x0, std::min(x0 + dx, x.n_out)});
        }
    }
}

// ---- label maps ----

struct LabelAxis {
    int64_t n_in, n_out, taps;
    const int64_t* first;
    const int64_t* weights;  // sum to UNIT
};

constexpr int64_t UNIT = 1 << 17;  // as in axis_weights.py

template <typename T>
class LabelRows {
public:
    LabelRows(const T* labels, const LabelAxis* axes, T* out)
        : labels(labels), z(axes[0]), y(axes[1]), x(axes[2]), out(out), mixed(x.n_in + 8, 0), begin(x.n_in + 1) {
        for (int64_t column = 0; column <= x.n_in; ++column)
            begin[column] = std::lower_bound(x.first, x.first + x.n_out, column) - x.first;
    }

    void make(int64_t zo, int64_t yo) {
        gather(zo, yo);
        const int64_t columns = x.n_in - x.taps + 1;
        find_mixed(columns);
        T* target = row(zo, yo);
        for (int64_t o = 0; o < x.n_out;) {
            const int64_t column = next_mixed(x.first[o], columns);
            const int64_t stop = column < columns ? begin[column] : x.n_out;
            std::fill(target + o, target + stop, rows[0][x.first[o]]);
            o = stop;
            if (o == x.n_out) break;
            o = column < columns ? begin[column + 1] : x.n_out;
            if (o > stop) vote(column, target, stop, o);
        }
    }

    T* row(int64_t zo, int64_t yo) { return out + (zo * y.n_out + yo) * x.n_out; }

private:
    void gather(int64_t zo, int64_t yo) {
        count = 0;
        for (int64_t a = 0; a < z.taps; ++a)
            for (int64_t b = 0; b < y.taps; ++b) {
                const int64_t weight = z.weights[zo * z.taps + a] * y.weights[yo * y.taps + b];
                if (weight == 0) continue;
                weights[count] = weight;
                rows[count++] = labels + ((z.first[zo] + a) * y.n_in + y.first[yo] + b) * x.n_in;
            }
    }

    // Columns (input x and its successor) whose corners are not all equal; also behind the last one. With one tap too:
    // a run of equal values ends there.
    void find_mixed(int64_t columns) {
        const T *a = rows[0], *b = rows[1 % count], *c = rows[2 % count], *d = rows[3 % count];
        uint8_t* flags = mixed.data();
#pragma omp simd
        for (int64_t i = 0; i < x.n_in - 1; ++i) {
            const T v = a[i];
            const T column = (v ^ b[i]) | (v ^ c[i]) | (v ^ d[i]);
            flags[i] = (column | (v ^ a[i + 1]) | (v ^ b[i + 1]) | (v ^ c[i + 1]) | (v ^ d[i + 1])) != 0;
        }
        std::fill(flags + std::min(columns, x.n_in - 1), flags + columns + 8, 1);
    }

    int64_t next_mixed(int64_t column, int64_t columns) const {
        for (; column < columns; column += 8) {
            uint64_t eight;
            std::memcpy(&eight, &mixed[column], 8);
            if (eight) return std::min<int64_t>(column + __builtin_ctzll(eight) / 8, columns);
        }
        return columns;
    }

    // All outputs start ... stop between the inputs `column` and `column + 1`: the class with the largest share.
    void vote(int64_t column, T* target, int64_t start, int64_t stop) const {
        const int64_t right = column + x.taps - 1, second = x.taps - 1;
        const T a = rows[0][column];
        T b = a;
        for (int r = 0; r < count; ++r) {
            b = rows[r][column] != a ? rows[r][column] : b;
            b = rows[r][right] != a ? rows[r][right] : b;
        }
        bool more = false;
        int64_t left_share = 0, right_share = 0;  // of class b
        for (int r = 0; r < count; ++r) {
            const T left = rows[r][column], next = rows[r][right];
            more |= (left != a && left != b) || (next != a && next != b);
            left_share += left == b ? weights[r] : 0;
            right_share += next == b ? weights[r] : 0;
        }
        if (more) return vote_of_many(column, target, start, stop);
        const bool smaller = b < a;
        for (int64_t o = start; o < stop; ++o) {
            const int64_t to_right = second ? x.weights[2 * o + 1] : 0;
            const int64_t share = 2 * (left_share * (UNIT - to_right) + right_share * to_right);
            target[o] = share + smaller > UNIT * UNIT * UNIT ? b : a;
        }
    }

    // Every corner stands for its class here, so that nothing has to be searched. Doubles, exact up to UNIT ** 3.
    void vote_of_many(int64_t column, T* target, int64_t start, int64_t stop) const {
        const T *a = rows[0] + column, *b = rows[1 % count] + column, *c = rows[2 % count] + column,
                *d = rows[3 % count] + column;
        const int64_t second = x.taps - 1;
        const Corners classes = {a[0], b[0], c[0], d[0], a[second], b[second], c[second], d[second]};
        Shares left = {}, right = {};
        for (int r = 0; r < count; ++r) {
            const Shares weight = Shares{} + double(weights[r]);
            left += classes == int64_t(rows[r][column]) ? weight : Shares{};
            right += classes == int64_t(rows[r][column + second]) ? weight : Shares{};
        }
        for (int64_t o = start; o < stop; ++o) {
            const double to_right = second ? double(x.weights[2 * o + 1]) : 0.0;
            const Shares shares = left * (UNIT - to_right) + right * to_right;
            double best[8];
            int64_t winner[8];
            std::memcpy(best, &shares, sizeof best);
            std::memcpy(winner, &classes, sizeof winner);
            for (int half = 4; half; half /= 2)
                for (int i = 0; i < half; ++i) {
                    const double other = best[half + i];
                    const int64_t of_other = winner[half + i];
                    const bool wins = (other > best[i]) | ((other == best[i]) & (of_other < winner[i]));
                    best[i] = wins ? other : best[i];
                    winner[i] = wins ? of_other : winner[i];
                }
            target[o] = T(winner[0]);
        }
    }

    const T* labels;
    const LabelAxis &z, &y, &x;
    T* out;
    std::vector<uint8_t> mixed;
    std::vector<int64_t> begin;
    const T* rows[4];
    int64_t weights[4];
    int count = 0;
};

template <typename T>
void vote_all(const void* labels, const LabelAxis* axes, void* out, int threads) {
    const LabelAxis &z = axes[0], &y = axes[1], &x = axes[2];
    const std::vector<int64_t> groups = slice_groups(z, 1);
    const int64_t bands = (y.n_out + BAND - 1) / BAND, units = (int64_t(groups.size()) - 1) * bands;
#pragma omp parallel num_threads(threads)
    {
        LabelRows<T> work(static_cast<const T*>(labels), axes, static_cast<T*>(out));
#pragma omp for schedule(dynamic, 1)
        for (int64_t unit = 0; unit < units; ++unit) {
            const int64_t z0 = groups[unit / bands], z1 = groups[unit / bands + 1];
            const int64_t y0 = unit % bands * BAND, y1 = std::min(y0 + BAND, y.n_out);
            for (int64_t zo = z0; zo < z1; ++zo)
                if (z.taps > 1 || zo == z0)
                    for (int64_t yo = y0; yo < y1; ++yo) work.make(zo, yo);
                else
                    std::memcpy(work.row(zo, y0), work.row(z0, y0), (y1 - y0) * x.n_out * sizeof(T));
        }
    }
}

}  // namespace

extern "C" {

void resample_image(const float* image, const Axis* axes, const float* low, const float* high, int64_t limited_axis,
                    float* out, int threads) {
    const int64_t strides[3] = {0, axes[1].n_in * axes[2].n_in, axes[2].n_in};
    channels<float>(image, 1, strides, axes, {low, high, limited_axis}, 4, out, threads);
}

// Element types of labels: 0 int8, 1 uint8, 2 int16, 3 uint16, 4 32 bits, 5 64 bits.
void resample_labels(const void* labels, int type, const LabelAxis* axes, void* out, int threads) {
    using Work = decltype(&vote_all<uint8_t>);
    static const Work works[] = {vote_all<int8_t>,   vote_all<uint8_t>, vote_all<int16_t>,
                                 vote_all<uint16_t>, vote_all<int32_t>, vote_all<int64_t>};
    works[type](labels, axes, out, threads);
}

// Element types of logits: 0 float32, 1 bfloat16, 2 float16.
void resample_logits(const void* data, int type, int64_t classes, const int64_t* strides, const Axis* axes, float* out,
                     int threads) {
    const float low = -INF, high = INF;
    const auto work = type == 0 ? channels<float> : type == 1 ? channels<Bfloat16> : channels<Float16>;
    work(data, classes, strides, axes, {&low, &high, -1}, 1, out, threads);
}

void resample_logits_argmax(const void* data, int type, int64_t classes, const int64_t* strides, const Axis* axes,
                            void* out, int threads) {
    using Work = decltype(&argmax<float, uint8_t>);
    static const Work small[] = {argmax<float, uint8_t>, argmax<Bfloat16, uint8_t>, argmax<Float16, uint8_t>};
    static const Work large[] = {argmax<float, uint16_t>, argmax<Bfloat16, uint16_t>, argmax<Float16, uint16_t>};
    (classes <= 256 ? small : large)[type](data, classes, strides, axes, out, threads);
}
}
