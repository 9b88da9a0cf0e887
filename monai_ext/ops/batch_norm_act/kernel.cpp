// Batch norm + affine + residual + ReLU, forward and backward, contiguous [N, C, S] or channels last [N, S, C].
//
// Statistics take one sweep: sums of x - k and of its square, where k is near the mean, so that nothing cancels; pieces
// are merged in double.
#include "channels_last.h"
#include "contiguous.h"

namespace {

template <bool ADD, bool RELU, class T, class... A> void forward(bool last, const T* x, A... a) {
    if (last) forward_channels_last<T, ADD, RELU>(x, a...);
    else forward_contiguous<T, ADD, RELU>(x, a...);
}

template <bool ADD, bool RELU, class T, class... A> void backward(bool last, const T* dy, A... a) {
    if (last) backward_channels_last<T, ADD, RELU>(dy, a...);
    else backward_contiguous<T, ADD, RELU>(dy, a...);
}

}  // namespace

#define FORWARD(NAME, T)                                                                                               \
    extern "C" void NAME(const T* x, const float* w, const float* b, const T* r, T* y, float* mean, float* var, i64 N, \
                         i64 C, i64 S, double eps, int training, int relu, int last) {                                 \
        if (r && relu) forward<true, true>(last, x, w, b, r, y, mean, var, N, C, S, eps, training);                    \
        else if (r) forward<true, false>(last, x, w, b, r, y, mean, var, N, C, S, eps, training);                      \
        else if (relu) forward<false, true>(last, x, w, b, r, y, mean, var, N, C, S, eps, training);                   \
        else forward<false, false>(last, x, w, b, r, y, mean, var, N, C, S, eps, training);                            \
    }

// y and dr are given together, and only with a ReLU
#define BACKWARD(NAME, T)                                                                                              \
    extern "C" void NAME(const T* dy, const T* x, const T* y, const float* w, const float* b, const float* mean,       \
                         const float* var, T* dx, T* dr, float* dw, float* db, i64 N, i64 C, i64 S, double eps,        \
                         int training, int relu, int last) {                                                           \
        if (y) backward<true, true>(last, dy, x, y, w, b, mean, var, dx, dr, dw, db, N, C, S, eps, training);          \
        else if (relu) backward<false, true>(last, dy, x, y, w, b, mean, var, dx, dr, dw, db, N, C, S, eps, training); \
        else backward<false, false>(last, dy, x, y, w, b, mean, var, dx, dr, dw, db, N, C, S, eps, training);          \
    }

FORWARD(forward_float, float)
FORWARD(forward_bfloat16, bf16)
BACKWARD(backward_float, float)
BACKWARD(backward_bfloat16, bf16)
