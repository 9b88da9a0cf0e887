// Tail of a squeeze-and-excitation block, forward and backward, contiguous [N, C, S] or channels last [N, S, C].
// Batch norm is linear, so the means of x over the positions, and with squares its moments, are all that the gate and
// the norm need. Chunks are read into the cache once for mean and squared deviation (two sweeps there, so that nothing
// cancels) and merged in double.
#include <type_traits>

#include "bfloat16.h"
#include "excitation.h"

namespace {

constexpr i64 CHUNK = 4096;            // values of a contiguous channel
constexpr i64 CHUNK_BYTES = 128 << 10; // of rows in channels last: long runs for the processor to read ahead
constexpr i64 CHUNK_ROWS = 128;        // at most, or float sums would lose bits
constexpr i64 GROUP_BYTES = 4 << 20;   // of samples that are still in a cache when they are read again

struct Sizes {
    i64 N, C, S;
    bool last;
    i64 values() const { return N * C * S; }
};

// rows of C values that a task reads at once
struct Chunks {
    i64 rows, count;
    Chunks(const Sizes& z, i64 size) {
        rows = std::clamp<i64>(CHUNK_BYTES / std::max<i64>(1, z.C * size), 16, CHUNK_ROWS);
        count = (z.S + rows - 1) / rows;
    }
    i64 length(const Sizes& z, i64 chunk) const { return std::min(rows, z.S - chunk * rows); }
};

// Calls f(row, how many rows) for four rows at a time, then one by one: sums are loaded and stored less often.
template <class F> inline void by_rows(i64 rows, F f) {
    i64 s = 0;
    for (; s + 4 <= rows; s += 4) f(s, std::integral_constant<int, 4>());
    for (; s < rows; ++s) f(s, std::integral_constant<int, 1>());
}

// ---- moments of x over the positions, [N, C] ---------------------------------------------------------------------

template <class T, bool SQUARES> void run_moments(const T* x, i64 S, double& mean, double& squares) {
    double all = 0, total = 0, second = 0;
    for (i64 first = 0; first < S; first += CHUNK) {
        i64 n = std::min(CHUNK, S - first);
        const T* p = x + first;
        float sum = 0, square = 0, rest = 0;
#pragma omp simd reduction(+ : sum)
        for (i64 i = 0; i < n; ++i) sum += load(p + i);
        double m = double(sum) / double(n);
        if (SQUARES) {
            float centre = float(m);
#pragma omp simd reduction(+ : square, rest)
            for (i64 i = 0; i < n; ++i) {
                float d = load(p + i) - centre;
                square += d * d;
                rest += d;  // what rounding left out of the mean
            }
            m = double(centre) + double(rest) / double(n);
        }
        double delta = m - all, count = total + double(n);
        second += square + delta * delta * total * double(n) / count;
        all += delta * double(n) / count;
        total = count;
    }
    mean = all, squares = second;
}

// partial: means [C] of a chunk, then with SQUARES squares [C] and rests [C]
template <class T, bool SQUARES> void chunk_moments(const T* x, i64 rows, i64 C, float* means) {
    float *squares = means + C, *rests = means + 2 * C;
    std::fill(means, means + (SQUARES ? 3 * C : C), 0.0f);
    by_rows(rows, [&](i64 s, auto count) {
        const T* p = x + s * C;
#pragma omp simd
        for (i64 c = 0; c < C; ++c) {
            float sum = 0;
            for (int k = 0; k < count.value; ++k) sum += load(p + k * C + c);
            means[c] += sum;
        }
    });
    float scale = 1 / float(rows);
    for (i64 c = 0; c < C; ++c) means[c] *= scale;
    if (!SQUARES) return;
    by_rows(rows, [&](i64 s, auto count) {
        const T* p = x + s * C;
#pragma omp simd
        for (i64 c = 0; c < C; ++c) {
            float square = 0, rest = 0;
            for (int k = 0; k < count.value; ++k) {
                float d = load(p + k * C + c) - means[c];
                square += d * d;
                rest += d;
            }
            squares[c] += square;
            rests[c] += rest;
        }
    });
}

// mean and sum of squared deviations of the samples [first, stop)
template <class T, bool SQUARES>
void moments(const T* x, const Sizes& z, i64 first, i64 stop, double* mean, double* squares) {
    bool large = z.values() > SMALL;
    if (!z.last) {
#pragma omp parallel for schedule(static) if (large)
        for (i64 row = first * z.C; row < stop * z.C; ++row)
            run_moments<T, SQUARES>(x + row * z.S, z.S, mean[row], squares[row]);
        return;
    }
    Chunks chunks(z, sizeof(T));
    i64 width = z.C * (SQUARES ? 3 : 1);
    std::vector<float> partial(size_t((stop - first) * chunks.count * width));
#pragma omp parallel for schedule(static) if (large)
    for (i64 task = 0; task < (stop - first) * chunks.count; ++task) {
        i64 n = first + task / chunks.count, k = task % chunks.count;
        const T* p = x + (n * z.S + k * chunks.rows) * z.C;
        chunk_moments<T, SQUARES>(p, chunks.length(z, k), z.C, partial.data() + task * width);
    }
#pragma omp parallel for schedule(static) if (large)
    for (i64 n = first; n < stop; ++n) {
        const float* parts = partial.data() + (n - first) * chunks.count * width;
        double *m = mean + n * z.C, *q = squares + n * z.C;
        std::fill(m, m + z.C, 0.0), std::fill(q, q + z.C, 0.0);
        for (i64 k = 0; k < chunks.count; ++k) {
            double count = double(chunks.length(z, k)), share = count / double(z.S);
            const float *p = parts + k * width, *rest = p + 2 * z.C;
#pragma omp simd
            for (i64 c = 0; c < z.C; ++c) m[c] += double(p[c]) * share + (SQUARES ? double(rest[c]) / double(z.S) : 0);
        }
        for (i64 k = 0; SQUARES && k < chunks.count; ++k) {
            double count = double(chunks.length(z, k)), part = 1 / count;
            const float *p = parts + k * width, *square = p + z.C, *rest = p + 2 * z.C;
#pragma omp simd
            for (i64 c = 0; c < z.C; ++c) {
                double d = double(p[c]) + double(rest[c]) * part - m[c];
                q[c] += double(square[c]) + count * d * d;
            }
        }
    }
}

// ---- forward ---------------------------------------------------------------------------------------------------------

// y = (x - mean) * scale + offset + residual of the samples [first, stop), scale and offset [N, C]
template <class T, bool ADD, bool RELU>
void apply(const T* x, const T* residual, T* y, const Sizes& z, i64 first, i64 stop, const float* mean,
           const float* scale, const float* offset) {
    auto value = [](float centred, float a, float b, float r) {
        float v = centred * a + b + r;
        return RELU && v < 0 ? 0 : v;  // a NaN stays one
    };
    Chunks chunks(z, sizeof(T));
    i64 parts = z.last ? chunks.count : z.C, tasks = (stop - first) * parts;
#pragma omp parallel for schedule(static) if (z.values() > SMALL)
    for (i64 task = 0; task < tasks; ++task) {
        i64 at = tasks - 1 - task;  // backwards: the cache holds what was read last
        i64 n = first + at / parts, part = at % parts;
        if (!z.last) {
            i64 row = n * z.C + part, base = row * z.S;
            float m = mean[part], a = scale[row], b = offset[row];
#pragma omp simd
            for (i64 i = base; i < base + z.S; ++i)
                store(y + i, value(load(x + i) - m, a, b, ADD ? load(residual + i) : 0));
            continue;
        }
        const float *a = scale + n * z.C, *b = offset + n * z.C;
        for (i64 s = 0; s < chunks.length(z, part); ++s) {
            i64 base = (n * z.S + part * chunks.rows + s) * z.C;
            const T *p = x + base, *r = ADD ? residual + base : nullptr;
            T* out = y + base;
#pragma omp simd
            for (i64 c = 0; c < z.C; ++c) store(out + c, value(load(p + c) - mean[c], a[c], b[c], ADD ? load(r + c) : 0));
        }
    }
}

// what the norm multiplies, subtracts and adds: [C] each
struct Norm {
    std::vector<float> factor, mean, bias;
    Norm(i64 C, const float* weight, const float* beta)
        : factor(size_t(C), 1.0f), mean(size_t(C), 0.0f), bias(size_t(C), 0.0f) {
        if (weight) std::copy(weight, weight + C, factor.begin()), std::copy(beta, beta + C, bias.begin());
    }
    void set(i64 c, float mu, double var, double eps) { mean[c] = mu, factor[c] *= float(1 / std::sqrt(var + eps)); }
};

template <class T>
void forward(const T* x, const Layers& layers, const T* residual, Norm& norm, const float* mean, const float* var, T* y,
             float* batch_mean, float* batch_var, float* centre, float* hidden, float* gate, const Sizes& z, double eps,
             bool training, bool relu) {
    i64 C = z.C;
    std::vector<double> means(size_t(z.N * C)), squares(size_t(z.N * C));
    std::vector<float> squeezed(size_t(z.N * C)), scale(size_t(z.N * C)), offset(size_t(z.N * C));
    i64 group = training ? z.N : std::max<i64>(1, GROUP_BYTES / std::max<i64>(1, C * z.S * i64(sizeof(T))));
    for (i64 c = 0; mean && c < C; ++c) norm.set(c, mean[c], var[c], eps);
    for (i64 first = 0; first < z.N; first += group) {
        i64 stop = std::min(z.N, first + group);
        if (training) moments<T, true>(x, z, first, stop, means.data(), squares.data());
        else moments<T, false>(x, z, first, stop, means.data(), squares.data());
        std::vector<double> mu(norm.mean.begin(), norm.mean.end());
        for (i64 c = 0; training && c < C; ++c) {
            double sum = 0, square = 0;
            for (i64 n = 0; n < z.N; ++n) sum += means[n * C + c];
            mu[c] = sum / double(z.N);
            for (i64 n = 0; n < z.N; ++n) {
                double d = means[n * C + c] - mu[c];
                square += squares[n * C + c] + d * d * double(z.S);
            }
            double variance = square / (double(z.N) * double(z.S));
            batch_mean[c] = float(mu[c]), batch_var[c] = float(variance);
            norm.set(c, float(mu[c]), variance, eps);
        }
        for (i64 n = first; n < stop; ++n)
            for (i64 c = 0; c < C; ++c) {
                i64 i = n * C + c;
                centre[i] = float(means[i] - norm.mean[c]);
                squeezed[i] = norm.factor[c] * float(means[i] - mu[c]) + norm.bias[c];
            }
        excite(layers, squeezed.data() + first * C, hidden + first * layers.H, gate + first * C, stop - first);
        for (i64 n = first; n < stop; ++n)
            for (i64 c = 0; c < C; ++c) {
                i64 i = n * C + c;
                scale[i] = norm.factor[c] * gate[i];
                offset[i] = norm.bias[c] * gate[i] + float(norm.mean[c] - mu[c]) * scale[i];
            }
        auto run = residual ? (relu ? apply<T, true, true> : apply<T, true, false>)
                            : (relu ? apply<T, false, true> : apply<T, false, false>);
        run(x, residual, y, z, first, stop, norm.mean.data(), scale.data(), offset.data());
    }
}

// ---- backward --------------------------------------------------------------------------------------------------------

// dv = dy where y is positive, and its sums over the positions, alone and times x - mean; all [N, C]
template <class T, bool RELU>
void gradient_sums(const T* dy, const T* y, const T* x, T* dv, const Sizes& z, const float* mean, double* sums,
                   double* products) {
    auto value = [](const T* g, const T* out) { return RELU && load(out) <= 0 ? 0 : load(g); };
    Chunks chunks(z, 2 * sizeof(T));
    i64 parts = z.last ? chunks.count : z.C;
    std::vector<float> partial(z.last ? size_t(z.N * parts * z.C * 2) : 0);
#pragma omp parallel for schedule(static) if (z.values() > SMALL)
    for (i64 task = 0; task < z.N * parts; ++task) {
        if (!z.last) {
            double sum = 0, product = 0;
            float m = mean[task % z.C];
            for (i64 first = 0; first < z.S; first += CHUNK) {
                i64 base = task * z.S + first, count = std::min(CHUNK, z.S - first);
                float s1 = 0, s2 = 0;
#pragma omp simd reduction(+ : s1, s2)
                for (i64 i = base; i < base + count; ++i) {
                    float g = value(dy + i, y + i);
                    s1 += g;
                    s2 += g * (load(x + i) - m);
                    if (RELU) store(dv + i, g);
                }
                sum += s1, product += s2;
            }
            sums[task] = sum, products[task] = product;
            continue;
        }
        i64 n = task / parts, part = task % parts, base = (n * z.S + part * chunks.rows) * z.C;
        float *s1 = partial.data() + task * z.C * 2, *s2 = s1 + z.C;
        std::fill(s1, s1 + 2 * z.C, 0.0f);
        by_rows(chunks.length(z, part), [&](i64 s, auto count) {
            i64 row = base + s * z.C;
#pragma omp simd
            for (i64 c = 0; c < z.C; ++c) {
                float sum = 0, product = 0;
                for (int k = 0; k < count.value; ++k) {
                    i64 i = row + k * z.C + c;
                    float g = value(dy + i, y + i);
                    sum += g;
                    product += g * (load(x + i) - mean[c]);
                    if (RELU) store(dv + i, g);
                }
                s1[c] += sum;
                s2[c] += product;
            }
        });
    }
    for (i64 n = 0; z.last && n < z.N; ++n) {
        double *sum = sums + n * z.C, *product = products + n * z.C;
        std::fill(sum, sum + z.C, 0.0), std::fill(product, product + z.C, 0.0);
        for (i64 k = 0; k < parts; ++k) {
            const float *s1 = partial.data() + (n * parts + k) * z.C * 2, *s2 = s1 + z.C;
#pragma omp simd
            for (i64 c = 0; c < z.C; ++c) sum[c] += s1[c], product[c] += s2[c];
        }
    }
}

// dx = dv * scale + flat + (x - mean) * slope; scale and flat [N, C], slope [C]
template <class T, bool SLOPE>
void apply_gradient(const T* dv, const T* x, T* dx, const Sizes& z, const float* mean, const float* scale,
                    const float* flat, const float* slope) {
    Chunks chunks(z, 2 * sizeof(T));
    i64 parts = z.last ? chunks.count : z.C, tasks = z.N * parts;
#pragma omp parallel for schedule(static) if (z.values() > SMALL)
    for (i64 task = 0; task < tasks; ++task) {
        i64 at = tasks - 1 - task, n = at / parts, part = at % parts;  // backwards as in `apply`
        if (!z.last) {
            i64 base = at * z.S;
            float a = scale[at], b = flat[at], m = mean[part], q = slope[part];
#pragma omp simd
            for (i64 i = base; i < base + z.S; ++i)
                store(dx + i, load(dv + i) * a + b + (SLOPE ? (load(x + i) - m) * q : 0));
            continue;
        }
        const float *a = scale + n * z.C, *b = flat + n * z.C;
        for (i64 s = 0; s < chunks.length(z, part); ++s) {
            i64 base = (n * z.S + part * chunks.rows + s) * z.C;
            const T *g = dv + base, *p = x + base;
            T* out = dx + base;
#pragma omp simd
            for (i64 c = 0; c < z.C; ++c)
                store(out + c, load(g + c) * a[c] + b[c] + (SLOPE ? (load(p + c) - mean[c]) * slope[c] : 0));
        }
    }
}

template <class T>
void backward(const T* dy, const T* x, const T* y, const Layers& layers, Norm& norm, const float* mean,
              const float* var, const float* centre, const float* hidden, const float* gate, T* dx, T* dv,
              const LayerGradients& d, float* dweight, float* dbias, const Sizes& z, double eps, bool training) {
    i64 C = z.C, NC = z.N * C;
    for (i64 c = 0; mean && c < C; ++c) norm.set(c, mean[c], var[c], eps);
    const float *a = norm.factor.data(), *beta = norm.bias.data(), *mu = norm.mean.data();
    std::vector<double> sums(NC), products(NC);
    if (y) gradient_sums<T, true>(dy, y, x, dv, z, mu, sums.data(), products.data());
    else gradient_sums<T, false>(dy, y, x, dv, z, mu, sums.data(), products.data());
    std::vector<float> squeezed(NC), dz(NC), dsqueezed(NC), scale(NC), flat(NC), slope(C, 0.0f);
    // what rounding took from the batch mean: the centres would add up to zero
    std::vector<double> lost(C, 0.0);
    for (i64 i = 0; training && i < NC; ++i) lost[i % C] += double(centre[i]) / double(z.N);
    for (i64 i = 0; i < NC; ++i) {
        i64 c = i % C;
        products[i] -= lost[c] * sums[i];
        squeezed[i] = a[c] * float(centre[i] - lost[c]) + beta[c];
        dz[i] = float((a[c] * products[i] + beta[c] * sums[i]) * gate[i] * (1 - gate[i]));
        scale[i] = a[c] * gate[i];
    }
    excite_backward(layers, squeezed.data(), hidden, dz.data(), d, dsqueezed.data(), z.N);
    double S = double(z.S), count = double(z.N) * S;
    for (i64 c = 0; c < C; ++c) {
        double total = 0, product = 0;  // sums over the batch of the gradient of n, alone and times x - mean
        for (i64 i = c; i < NC; i += C) {
            total += gate[i] * sums[i] + dsqueezed[i];
            product += gate[i] * products[i] + dsqueezed[i] * (centre[i] - lost[c]);
        }
        double rstd = mean ? 1 / std::sqrt(double(var[c]) + eps) : 1;
        if (mean) dweight[c] = float(product * rstd), dbias[c] = float(total);
        if (training) slope[c] = float(-a[c] * rstd * rstd * product / count);
        for (i64 i = c; i < NC; i += C)
            flat[i] = float(a[c] * (double(dsqueezed[i]) / S - (training ? total / count : 0)) - slope[c] * lost[c]);
    }
    const T* g = y ? dv : dy;
    if (training) apply_gradient<T, true>(g, x, dx, z, mu, scale.data(), flat.data(), slope.data());
    else apply_gradient<T, false>(g, x, dx, z, mu, scale.data(), flat.data(), slope.data());
}

}  // namespace

#define FORWARD(NAME, T)                                                                                               \
    extern "C" void NAME(const T* x, const float* w1, const float* b1, const float* w2, const float* b2,               \
                         const T* residual, const float* weight, const float* bias, const float* mean,                 \
                         const float* var, T* y, float* batch_mean, float* batch_var, float* centre, float* hidden,    \
                         float* gate, i64 N, i64 C, i64 H, i64 S, double eps, int training, int relu, int last) {      \
        Norm norm(C, weight, bias);                                                                                    \
        forward<T>(x, {w1, b1, w2, b2, C, H}, residual, norm, mean, var, y, batch_mean, batch_var, centre, hidden,     \
                   gate, {N, C, S, last != 0}, eps, training, relu);                                                   \
    }

#define BACKWARD(NAME, T)                                                                                              \
    extern "C" void NAME(const T* dy, const T* x, const T* y, const float* w1, const float* w2, const float* weight,   \
                         const float* bias, const float* mean, const float* var, const float* centre,                  \
                         const float* hidden, const float* gate, T* dx, T* dv, float* dw1, float* db1, float* dw2,     \
                         float* db2, float* dweight, float* dbias, i64 N, i64 C, i64 H, i64 S, double eps,             \
                         int training, int last) {                                                                     \
        Norm norm(C, weight, bias);                                                                                    \
        backward<T>(dy, x, y, {w1, nullptr, w2, nullptr, C, H}, norm, mean, var, centre, hidden, gate, dx, dv,         \
                    {dw1, db1, dw2, db2}, dweight, dbias, {N, C, S, last != 0}, eps, training);                        \
    }

FORWARD(forward_float, float)
FORWARD(forward_bfloat16, bf16)
BACKWARD(backward_float, float)
BACKWARD(backward_bfloat16, bf16)
