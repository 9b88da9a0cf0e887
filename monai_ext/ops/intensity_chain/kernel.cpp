// Chains of intensity augmentations, one channel at a time. Pointwise steps wait until a step needs statistics of the
// channel (or its neighbourhoods); then all of them run block by block in the first-level cache, in one sweep that can
// also gather minimum, maximum, mean and squared deviations. Steps that keep or scale the statistics carry them on.
#if defined(__AVX512F__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("prefer-vector-width=512")  // by itself GCC takes 256: gamma and noise are 1.3 times slower
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

namespace {

enum Kind { NOISE, BLUR, BRIGHTNESS, CONTRAST_MEAN, CONTRAST_ZERO, LOW_RESOLUTION, GAMMA };

constexpr int64_t BLOCK = 2048;  // floats: two of them fit the first-level cache
constexpr int64_t GROUP = 64;    // voxels made by 16 counters of the generator
constexpr int64_t ROWS = 8;      // rows blurred along y before they are blurred along x
constexpr double TINY = 1e-7;    // keeps a constant channel constant
constexpr float INF = std::numeric_limits<float>::infinity();

inline int32_t bits_of(float x) {
    int32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float float_of(int32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// log2 of a positive normal number, relative error 1e-7: Chebyshev fit of log2(1 + f) / f for 1 + f in [0.7, 1.42)
inline float log2_of(float x) {
    const int32_t bits = bits_of(x), exponent = (bits - 0x3f3504f3) >> 23;
    const float f = float_of(bits - exponent * (1 << 23)) - 1.0f;
    float p = 0.12614846229553223f;
    p = p * f - 0.20742103457450867f;
    p = p * f + 0.21566985547542572f;
    p = p * f - 0.23892034590244293f;
    p = p * f + 0.2879183292388916f;
    p = p * f - 0.36070483922958374f;
    p = p * f + 0.48091059923171997f;
    p = p * f - 0.7213473320007324f;
    p = p * f + 1.4426950216293335f;
    return static_cast<float>(exponent) + f * p;
}

// 2^y for y <= 1, relative error 1e-7, 0 below 2^-126: Chebyshev fit on [-1/2, 1/2]
inline float exp2_of(float y) {
    const float whole = y < -126.0f ? -126.0f : y;
    const float shifted = whole + 12582912.0f;  // 1.5 * 2^23: the nearest integer is in the low bits
    const float f = whole - (shifted - 12582912.0f);
    float p = 0.00015469732170458883f;
    p = p * f + 0.0013400432653725147f;
    p = p * f + 0.00961802527308464f;
    p = p * f + 0.05550327152013779f;
    p = p * f + 0.24022650718688965f;
    p = p * f + 0.6931471824645996f;
    p = p * f + 1.0f;
    const float power = float_of(static_cast<int32_t>(static_cast<uint32_t>(bits_of(shifted) - 0x4b400000 + 127) << 23));
    return y < -126.0f ? 0.0f : p * power;
}

// Two standard normal numbers of two random words (Box and Muller, Ann. Math. Stat. 29, 1958). 24 bits each are exact
// in float32, so that every form computes the same ones.
inline void box_muller(uint32_t a, uint32_t b, float& first, float& second) {
    const float u = static_cast<float>(static_cast<int32_t>(a >> 8) + 1) * 0x1p-24f;  // (0, 1]
    const float radius = std::sqrt(-1.3862943611198906f * log2_of(u));               // -2 ln u
    const float turn = static_cast<float>(static_cast<int32_t>(b >> 8)) * 0x1p-22f;   // quarter turns, [0, 4)
    const float shifted = turn + 12582912.0f;
    const int32_t quadrant = bits_of(shifted);
    const float y = turn - (shifted - 12582912.0f), z = y * y;
    float s = -0.00460216f, c = 9.03629886e-04f;
    s = s * z + 0.07968022f;
    s = s * z - 0.64596348f;
    s = (s * z + 1.57079632f) * y;
    c = c * z - 2.08600704e-02f;
    c = c * z + 2.53669204e-01f;
    c = c * z - 1.23370054f;
    c = c * z + 1.0f;
    const bool swapped = quadrant & 1;
    const float cosine = swapped ? s : c, sine = swapped ? c : s;
    first = ((quadrant + 1) & 2 ? -radius : radius) * cosine;
    second = (quadrant & 2 ? -radius : radius) * sine;
}

// Philox 4x32-10 (Salmon et al., SC 2011). Voxel i of a channel takes word (i % 64) / 16 of counter
// (i / 64 * 16 + i % 16, channel), so that 16 lanes write runs of 16 voxels.
inline void add_noise_to_group(const float* x, float* out, int64_t group, uint32_t channel, uint32_t key0,
                               uint32_t key1, float std) {
#pragma omp simd
    for (int lane = 0; lane < 16; ++lane) {
        const uint64_t counter = static_cast<uint64_t>(group) * 16;
        uint32_t c0 = static_cast<uint32_t>(counter) + static_cast<uint32_t>(lane);
        uint32_t c1 = static_cast<uint32_t>(counter >> 32), c2 = channel, c3 = 0, k0 = key0, k1 = key1;
        for (int round = 0; round < 10; ++round) {
            const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0, p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
            const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
            const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
            c1 = static_cast<uint32_t>(p1);
            c3 = static_cast<uint32_t>(p0);
            c0 = n0;
            c2 = n2;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        float z0, z1, z2, z3;
        box_muller(c0, c1, z0, z1);
        box_muller(c2, c3, z2, z3);
        out[lane] = x[lane] + std * z0;
        out[lane + 16] = x[lane + 16] + std * z1;
        out[lane + 32] = x[lane + 32] + std * z2;
        out[lane + 48] = x[lane + 48] + std * z3;
    }
}

struct Stats {
    int64_t count = 0;
    float low = INF, high = -INF;
    double mean = 0, squares = 0;  // squared deviations from the mean, summed
    bool range_known = false, moments_known = false;

    // One block: sums in float32 about a value among the block's, 4 x 8 or 16 at a time; blocks are joined in float64.
    void add(const float* x, int64_t n) {
        const int64_t quarter = n / 4;
        double centre = 0;
        for (int i = 0; i < 8; ++i) centre += x[n * i / 8] / 8.0;
        const float shift = static_cast<float>(centre);
        float lo = low, hi = high, s0 = 0, s1 = 0, s2 = 0, s3 = 0, q0 = 0, q1 = 0, q2 = 0, q3 = 0;
        const float *x1 = x + quarter, *x2 = x1 + quarter, *x3 = x2 + quarter;
#pragma omp simd reduction(min : lo) reduction(max : hi) reduction(+ : s0, s1, s2, s3, q0, q1, q2, q3)
        for (int64_t i = 0; i < quarter; ++i) {
            const float a = x[i], b = x1[i], c = x2[i], d = x3[i];
            const float ab_lo = a < b ? a : b, cd_lo = c < d ? c : d, ab_hi = a > b ? a : b, cd_hi = c > d ? c : d;
            const float all_lo = ab_lo < cd_lo ? ab_lo : cd_lo, all_hi = ab_hi > cd_hi ? ab_hi : cd_hi;
            lo = all_lo < lo ? all_lo : lo;
            hi = all_hi > hi ? all_hi : hi;
            const float da = a - shift, db = b - shift, dc = c - shift, dd = d - shift;
            s0 += da, s1 += db, s2 += dc, s3 += dd;
            q0 += da * da, q1 += db * db, q2 += dc * dc, q3 += dd * dd;
        }
        for (int64_t i = 4 * quarter; i < n; ++i) {
            lo = x[i] < lo ? x[i] : lo;
            hi = x[i] > hi ? x[i] : hi;
            s0 += x[i] - shift;
            q0 += (x[i] - shift) * (x[i] - shift);
        }
        low = lo, high = hi;
        const double sum = double(s0) + s1 + s2 + s3, square = double(q0) + q1 + q2 + q3;
        join(n, shift + sum / n, std::max(0.0, square - sum * sum / n), square);
    }

    void join(int64_t n, double block_mean, double block_squares, double checked) {
        const double delta = block_mean - mean, total = static_cast<double>(count + n);
        mean += delta * (n / total);
        // std::max above would hide a NaN
        squares += (checked == checked ? block_squares : checked) + delta * delta * (count * (n / total));
        count += n;
    }

    // Squares beyond float32's range are summed again in float64; a NaN spreads to all statistics.
    void finish(const float* x) {
        if (!std::isfinite(squares) && std::isfinite(low) && std::isfinite(high)) {
            double sum = 0, square = 0;
            for (int64_t i = 0; i < count; ++i) sum += x[i];
            mean = sum / count;
            for (int64_t i = 0; i < count; ++i) square += (x[i] - mean) * (x[i] - mean);
            squares = square;
        }
        if (std::isnan(mean)) low = high = std::numeric_limits<float>::quiet_NaN();
        range_known = moments_known = true;
    }

    // x becomes clamp(a x + b): the range is known exactly, the moments if nothing is cut.
    void stretch(float a, float b, float from, float to) {
        float ends[2] = {a * low + b, a * high + b};
        if (a < 0) std::swap(ends[0], ends[1]);
        const bool cut = !(ends[0] >= from && ends[1] <= to);
        low = std::min(std::max(ends[0], from), to);
        high = std::min(std::max(ends[1], from), to);
        moments_known = moments_known && range_known && !cut;
        mean = a * mean + b;
        squares *= double(a) * a;
    }
};

// A pointwise step: x + a n (NOISE), clamp(a x + b) (CONTRAST_*, BRIGHTNESS), clamp((x - a) b, 0, 1) ^ c (GAMMA).
struct Pointwise {
    Kind kind;
    float a = 0, b = 0, c = 0, low = -INF, high = INF;
    uint32_t key0 = 0, key1 = 0, channel = 0;

    // `out` may be `x`
    void apply(const float* x, float* out, int64_t begin, int64_t n) const {
        if (kind == NOISE) return add_noise(x, out, begin, n);
        if (kind == GAMMA) {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                float t = (x[i] - a) * b;
                t = t <= 0.0f ? 0.0f : t;  // no -0 either: its bits would make an exponent out of range
                t = t > 1.0f ? 1.0f : t;
                const float power = exp2_of(c * log2_of(t));
                out[i] = t > 0.0f ? power : 0.0f;
            }
            return;
        }
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            float v = a * x[i] + b;
            v = v < low ? low : v;
            out[i] = v > high ? high : v;
        }
    }

    void add_noise(const float* x, float* out, int64_t begin, int64_t n) const {
        int64_t i = 0;
        for (; i + GROUP <= n; i += GROUP)
            add_noise_to_group(x + i, out + i, (begin + i) / GROUP, channel, key0, key1, a);
        if (i == n) return;
        float rest[GROUP] = {};
        std::memcpy(rest, x + i, (n - i) * sizeof(float));
        add_noise_to_group(rest, rest, (begin + i) / GROUP, channel, key0, key1, a);
        std::memcpy(out + i, rest, (n - i) * sizeof(float));
    }
};

// out[x] = sum over k of taps[k] rows[k][x]; N known while compiling keeps the sum in registers.
template <int N>
void weigh_rows(const float* const* rows, const float* taps, float* __restrict__ out, int64_t n) {
    const float* p[N];
    float t[N];
    for (int k = 0; k < N; ++k) p[k] = rows[k], t[k] = taps[k];
#pragma omp simd
    for (int64_t x = 0; x < n; ++x) {
        float sum = t[0] * p[0][x];
        for (int k = 1; k < N; ++k) sum += t[k] * p[k][x];
        out[x] = sum;
    }
}

void weigh(const float* const* rows, const std::vector<float>& taps, float* __restrict__ out, int64_t n) {
    switch (taps.size()) {
        case 1: std::memcpy(out, rows[0], n * sizeof(float)); return;
        case 3: return weigh_rows<3>(rows, taps.data(), out, n);
        case 5: return weigh_rows<5>(rows, taps.data(), out, n);
        case 7: return weigh_rows<7>(rows, taps.data(), out, n);
        case 9: return weigh_rows<9>(rows, taps.data(), out, n);
        case 11: return weigh_rows<11>(rows, taps.data(), out, n);
    }
    weigh_rows<3>(rows, taps.data(), out, n);
    for (size_t k = 3; k < taps.size(); ++k) {
        const float *row = rows[k], t = taps[k];
#pragma omp simd
        for (int64_t x = 0; x < n; ++x) out[x] += t * row[x];
    }
}

std::vector<float> gaussian_taps(double sigma) {
    if (!(sigma > 0)) return {1.0f};
    const int64_t radius = static_cast<int64_t>(std::ceil(3 * sigma));
    std::vector<double> exact;
    double sum = 0;
    for (int64_t k = -radius; k <= radius; ++k) {
        exact.push_back(std::exp(-0.5 * (k / sigma) * (k / sigma)));
        sum += exact.back();
    }
    std::vector<float> taps;
    for (double tap : exact) taps.push_back(static_cast<float>(tap / sum));
    return taps;
}

// Blur by z, y and x at once: a ring of planes blurred along y and x feeds the sum along z. `in` may be `out`: a plane
// is written when no later sum needs its source.
void blur(const float* in, float* out, const int64_t* size, const double* sigmas, Stats* stats) {
    const int64_t D = size[0], H = size[1], W = size[2], plane = H * W;
    const std::vector<float> tz = gaussian_taps(sigmas[0]), ty = gaussian_taps(sigmas[1]), tx = gaussian_taps(sigmas[2]);
    const int64_t rz = tz.size() / 2, ry = ty.size() / 2, rx = tx.size() / 2, pitch = W + 2 * rx;
    const int64_t slots = std::min<int64_t>(tz.size(), D);
    std::vector<float> ring(slots * plane), padded(ROWS * pitch);
    std::vector<const float*> rows(std::max({tz.size(), ty.size(), tx.size()}));
    int64_t made = 0;
    for (int64_t z = 0; z < D; ++z) {
        for (; made <= std::min(z + rz, D - 1); ++made) {
            const float* source = in + made * plane;
            float* target = ring.data() + (made % slots) * plane;
            for (int64_t begin = 0; begin < H; begin += ROWS) {
                const int64_t end = std::min(begin + ROWS, H);
                for (int64_t y = begin; y < end; ++y) {
                    for (int64_t k = -ry; k <= ry; ++k)
                        rows[k + ry] = source + std::clamp<int64_t>(y + k, 0, H - 1) * W;
                    float* line = padded.data() + (y - begin) * pitch;
                    weigh(rows.data(), ty, line + rx, W);
                    std::fill(line, line + rx, line[rx]);
                    std::fill(line + rx + W, line + pitch, line[rx + W - 1]);
                }
                for (int64_t y = begin; y < end; ++y) {
                    for (int64_t k = 0; k <= 2 * rx; ++k) rows[k] = padded.data() + (y - begin) * pitch + k;
                    weigh(rows.data(), tx, target + y * W, W);
                }
            }
        }
        for (int64_t k = -rz; k <= rz; ++k)
            rows[k + rz] = ring.data() + (std::clamp<int64_t>(z + k, 0, D - 1) % slots) * plane;
        // by blocks, so that the statistics find them in the first-level cache
        for (int64_t begin = 0; begin < plane; begin += BLOCK) {
            const int64_t n = std::min(BLOCK, plane - begin);
            weigh(rows.data(), tz, out + z * plane + begin, n);
            if (stats) stats->add(out + z * plane + begin, n);
            for (int64_t k = 0; k <= 2 * rz; ++k) rows[k] += n;
        }
    }
}

// Where each of n voxels lies among m coarse ones, and which fine voxel each coarse one shows; exact in integers.
struct Coarse {
    std::vector<int32_t> left, right;  // fine voxels
    std::vector<int64_t> index;        // coarse voxel at the left
    std::vector<float> weight;         // of the right one

    Coarse(int64_t n, int64_t m) : left(n), right(n), index(n), weight(n) {
        for (int64_t i = 0; i < n; ++i) {
            const int64_t position = std::max<int64_t>(0, (2 * i + 1) * m - n);  // in 1 / 2n
            index[i] = std::min(position / (2 * n), m - 1);
            weight[i] = index[i] == m - 1 ? 0.0f : static_cast<float>(double(position % (2 * n)) / double(2 * n));
            left[i] = static_cast<int32_t>(nearest(index[i], n, m));
            right[i] = static_cast<int32_t>(nearest(std::min(index[i] + 1, m - 1), n, m));
        }
    }

    static int64_t nearest(int64_t coarse, int64_t n, int64_t m) { return (2 * coarse + 1) * n / (2 * m); }
};

void mix(const float* a, const float* b, float weight, float* __restrict__ out, int64_t n) {
    if (weight == 0) return void(std::memcpy(out, a, n * sizeof(float)));
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) out[i] = a[i] + weight * (b[i] - a[i]);
}

// Nearest down, linear up, straight from the fine grid. Two coarse planes at full height and width are kept. `in` may
// be `out`: a coarse plane's source is never before the plane that is written when it is first needed.
void lower_resolution(const float* in, float* out, const int64_t* size, const double* coarse, Stats* stats) {
    const int64_t D = size[0], H = size[1], W = size[2], plane = H * W;
    const int64_t m[3] = {int64_t(coarse[0]), int64_t(coarse[1]), int64_t(coarse[2])};
    const Coarse z_map(D, m[0]), y_map(H, m[1]), x_map(W, m[2]);
    std::vector<float> planes(2 * plane), rows(2 * W);
    int64_t planes_made = 0;
    for (int64_t z = 0; z < D; ++z) {
        const int64_t last = z_map.index[z] + (z_map.weight[z] > 0);
        for (; planes_made <= last; ++planes_made) {
            const float* source = in + Coarse::nearest(planes_made, D, m[0]) * plane;
            float* target = planes.data() + (planes_made % 2) * plane;
            int64_t rows_made = 0;
            for (int64_t y = 0; y < H; ++y) {
                const int64_t j = y_map.index[y];
                for (; rows_made <= j + (y_map.weight[y] > 0); ++rows_made) {
                    const float* line = source + Coarse::nearest(rows_made, H, m[1]) * W;
                    float* row = rows.data() + (rows_made % 2) * W;
                    if (m[2] == W) {
                        std::memcpy(row, line, W * sizeof(float));
                        continue;
                    }
                    const int32_t *left = x_map.left.data(), *right = x_map.right.data();
                    const float* weight = x_map.weight.data();
#pragma omp simd
                    for (int64_t x = 0; x < W; ++x) row[x] = line[left[x]] + weight[x] * (line[right[x]] - line[left[x]]);
                }
                mix(rows.data() + (j % 2) * W, rows.data() + ((j + 1) % 2) * W, y_map.weight[y], target + y * W, W);
            }
        }
        const float *a = planes.data() + (z_map.index[z] % 2) * plane, *b = planes.data() + (last % 2) * plane;
        for (int64_t begin = 0; begin < plane; begin += BLOCK) {
            const int64_t n = std::min(BLOCK, plane - begin);
            mix(a + begin, b + begin, z_map.weight[z], out + z * plane + begin, n);
            if (stats) stats->add(out + z * plane + begin, n);
        }
    }
}

struct Step {
    Kind kind;
    const double* values;
};

// One channel of one sample on its way through the chain.
struct Channel {
    const float* in;
    float* out;
    const int64_t* size;
    int64_t count, number;
    std::vector<Step> steps;
    size_t next = 0;
    std::vector<Pointwise> pending;
    Stats stats;

    bool waits_for_other_channels() const { return next < steps.size() && steps[next].kind == CONTRAST_ZERO; }

    // Run the pending steps from `in` to `out`, which are one from then on.
    void sweep(bool with_stats) {
        if (with_stats) stats = Stats();
        for (int64_t begin = 0; begin < count; begin += BLOCK) {
            const int64_t n = std::min(BLOCK, count - begin);
            const float* source = in + begin;
            for (const Pointwise& step : pending) {
                step.apply(source, out + begin, begin, n);
                source = out + begin;
            }
            if (with_stats) stats.add(source, n);
        }
        if (!pending.empty()) in = out;
        pending.clear();
        if (with_stats) stats.finish(in);
    }

    void need(bool range, bool moments) {
        if ((range && !stats.range_known) || (moments && !stats.moments_known)) sweep(true);
    }

    // Whether statistics of what step `next` makes serve a step after it.
    bool stats_wanted() const {
        for (size_t i = next + 1; i < steps.size(); ++i) {
            const Kind kind = steps[i].kind;
            if (kind == CONTRAST_MEAN || kind == CONTRAST_ZERO || kind == GAMMA) return true;
            if (kind != BRIGHTNESS) return false;
        }
        return false;
    }

    void stretch(float factor, float offset, float low, float high) {
        Pointwise step{CONTRAST_ZERO};
        step.a = factor, step.b = offset, step.low = low, step.high = high;
        stats.stretch(factor, offset, low, high);
        pending.push_back(step);
        ++next;
    }

    void curve(float exponent, bool invert, bool keep_stats) {
        need(true, keep_stats);
        const Stats before = stats;
        const float low = stats.low, high = stats.high, sign = invert ? -1.0f : 1.0f;
        const float span = std::isnan(low) ? low : std::max(high - low, static_cast<float>(TINY));
        Pointwise step{GAMMA};
        step.a = invert ? high : low, step.b = sign / span, step.c = exponent;
        pending.push_back(step);
        if (!keep_stats) {
            stats.low = 0, stats.high = 1, stats.range_known = high - low >= static_cast<float>(TINY);
            stats.moments_known = false;
            return stretch(sign * (high - low), step.a, -INF, INF);
        }
        sweep(true);
        const double ratio = sign * std::sqrt(before.squares) / std::max(std::sqrt(stats.squares), TINY);
        stretch(static_cast<float>(ratio), static_cast<float>(before.mean - ratio * stats.mean), -INF, INF);
    }

    // Steps until the end, or until one needs the range of all channels.
    void run() {
        while (next < steps.size()) {
            const double* values = steps[next].values;
            const double* own = values + 3 * number;
            Pointwise step{steps[next].kind};
            switch (steps[next].kind) {
                case NOISE:
                    step.a = static_cast<float>(values[0]);
                    step.key0 = static_cast<uint32_t>(values[1]), step.key1 = static_cast<uint32_t>(values[2]);
                    step.channel = static_cast<uint32_t>(number);
                    pending.push_back(step);
                    stats = Stats();
                    break;
                case BLUR:
                    if (own[0] <= 0 && own[1] <= 0 && own[2] <= 0) break;
                    replace(blur, own);
                    break;
                case LOW_RESOLUTION:
                    if (own[0] == size[0] && own[1] == size[1] && own[2] == size[2]) break;
                    replace(lower_resolution, own);
                    break;
                case BRIGHTNESS:
                    if (stats_wanted()) need(true, true);
                    stretch(static_cast<float>(values[number]), 0.0f, -INF, INF);
                    continue;
                case CONTRAST_MEAN: {
                    need(true, true);
                    const double factor = values[number];
                    const float low = stats.low, high = stats.high;
                    stretch(static_cast<float>(factor), static_cast<float>(stats.mean * (1 - factor)), low, high);
                    continue;
                }
                case CONTRAST_ZERO: return need(true, false);
                case GAMMA: curve(static_cast<float>(values[2 + number]), values[0] != 0, values[1] != 0); continue;
            }
            ++next;
        }
        if (!pending.empty()) return sweep(false);
        if (in != out) std::memcpy(out, in, count * sizeof(float));
        in = out;
    }

    template <typename Filter>
    void replace(Filter filter, const double* values) {
        if (!pending.empty()) sweep(false);
        Stats found;
        const bool with_stats = stats_wanted();
        filter(in, out, size, values, with_stats ? &found : nullptr);
        in = out;
        if (with_stats) found.finish(out);
        stats = found;
    }
};

}  // namespace

// images, out: [samples, channels, size[0], size[1], size[2]]. Sample s has steps first_step[s] .. first_step[s + 1] - 1;
// step i is kinds[i] with parameters from values[first_value[i]] on. Returns 1 if memory ran out.
extern "C" int intensity_chain(const float* images, float* out, int64_t samples, int64_t channels, const int64_t* size,
                               const int64_t* first_step, const int32_t* kinds, const int64_t* first_value,
                               const double* values, int threads) {
    const int64_t count = size[0] * size[1] * size[2], items = samples * channels;
    int failed = 0;
    try {
        std::vector<Channel> all(items);
        for (int64_t i = 0; i < items; ++i) {
            all[i].in = images + i * count, all[i].out = out + i * count, all[i].size = size;
            all[i].count = count, all[i].number = i % channels;
            for (int64_t s = first_step[i / channels]; s < first_step[i / channels + 1]; ++s)
                all[i].steps.push_back({static_cast<Kind>(kinds[s]), values + first_value[s]});
        }
        for (bool waiting = true; waiting && !failed;) {
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (items > 1)
            for (int64_t i = 0; i < items; ++i) {
                try {
                    all[i].run();
                } catch (const std::bad_alloc&) {
#pragma omp atomic write
                    failed = 1;
                }
            }
            waiting = false;
            for (int64_t s = 0; s < samples && !failed; ++s) {
                Channel* sample = &all[s * channels];
                if (!sample->waits_for_other_channels()) continue;
                waiting = true;
                float low = INF, high = -INF;
                bool lost = false;  // a NaN in one channel leaves no range for any
                for (int64_t c = 0; c < channels; ++c) {
                    lost = lost || std::isnan(sample[c].stats.low);
                    low = std::min(low, sample[c].stats.low), high = std::max(high, sample[c].stats.high);
                }
                for (int64_t c = 0; c < channels; ++c) {
                    const float factor = static_cast<float>(sample[c].steps[sample[c].next].values[c]);
                    sample[c].stretch(lost ? std::numeric_limits<float>::quiet_NaN() : factor, 0.0f, low, high);
                }
            }
        }
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return failed;
}
