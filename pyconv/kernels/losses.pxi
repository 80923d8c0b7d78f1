# Softmax, and the losses with their gradients: rows of a batch, each one's loss summed in float64.
#
# A row's weight multiplies its loss and its gradient. Sums run along a row in order, and over the rows
# in order.

from cython.parallel cimport prange
from libc.math cimport log
from libc.stdint cimport int64_t

cdef enum:
    PIECE = 64  # exponentials at hand at a time: 512 bytes. Loops have a literal 64: range() wants one


cdef double exp_sum(const real* x, Py_ssize_t C, real* top, double* powers) noexcept nogil:
    """sum(exp(x - top)), where top = max(x): at least 1, and cannot overflow.

    Of a row of at most PIECE numbers the exponentials are left in `powers`.
    """
    cdef Py_ssize_t c, i, count
    cdef double total = 0
    top[0] = x[0]
    for c in range(1, C):
        if not x[c] <= top[0]:
            top[0] = x[c]
    for c in range(0, C, 64):
        count = min(PIECE, C - c)
        exp_of_row(x + c, top[0], count, powers)
        for i in range(count):
            total += powers[i]
    return total


cdef void softmax_row(const real* x, real* y, Py_ssize_t C) noexcept nogil:
    cdef Py_ssize_t c, i, count
    cdef double[PIECE] powers
    cdef real top
    cdef double total = exp_sum(x, C, &top, powers)
    for c in range(0, C, 64):
        count = min(PIECE, C - c)
        if C > PIECE:
            exp_of_row(x + c, top, count, powers)
        for i in range(count):
            y[c + i] = <real> (powers[i] / total)


def softmax(const real[:, ::1] x, real[:, ::1] y, int num_threads):
    """y = exp(x) / sum(exp(x)) along the last axis."""
    cdef Py_ssize_t n, N = x.shape[0], C = x.shape[1]
    cdef int threads = num_threads if N * C > 4096 else 1
    for n in prange(N, num_threads=threads, nogil=True):
        softmax_row(&x[n, 0], &y[n, 0], C)


cdef void softmax_back_row(const real* dy, const real* y, real* dx, Py_ssize_t C) noexcept nogil:
    cdef Py_ssize_t c
    cdef double total = 0
    for c in range(C):
        total += <double> dy[c] * y[c]
    for c in range(C):
        dx[c] = <real> ((dy[c] - total) * y[c])


def softmax_backward(const real[:, ::1] dy, const real[:, ::1] y, real[:, ::1] dx, int num_threads):
    """dx = (dy - sum(dy * y)) * y along the last axis, for the softmax y."""
    cdef Py_ssize_t n, N = y.shape[0], C = y.shape[1]
    cdef int threads = num_threads if N * C > 4096 else 1
    for n in prange(N, num_threads=threads, nogil=True):
        softmax_back_row(&dy[n, 0], &y[n, 0], &dx[n, 0], C)


cdef inline double smoothed(const real* target, Py_ssize_t label, Py_ssize_t c, double kept,
                            double even) noexcept nogil:
    """What class c should be: of the row `target`, or one-hot if that is NULL."""
    return kept * (target[c] if target != NULL else 1.0 if c == label else 0.0) + even


cdef void cross_entropy_row(const real* x, const int64_t* labels, const real* targets, Py_ssize_t n,
                            double weight, double smoothing, real* dx, double* loss, Py_ssize_t C,
                            double N) noexcept nogil:
    """Loss of row n and its gradient; one of `labels` and `targets` is NULL."""
    cdef Py_ssize_t c, i, count
    cdef Py_ssize_t label = labels[n] if labels != NULL else -1
    cdef const real* target = targets + n * C if targets != NULL else NULL
    cdef double[PIECE] powers
    cdef real top
    cdef double powers_sum = exp_sum(x, C, &top, powers), shift = log(powers_sum)
    cdef double kept = 1 - smoothing, even = smoothing / C, total = 1, scale = weight / N, q
    if target == NULL and smoothing == 0:
        loss[0] = shift - (<double> x[label] - top)
    else:
        loss[0] = 0
        total = 0
        for c in range(C):
            q = smoothed(target, label, c, kept, even)
            total += q
            if q != 0:  # 0 * log(0) counts as 0
                loss[0] += q * (shift - (<double> x[c] - top))
    loss[0] *= weight
    for c in range(0, C, 64):
        count = min(PIECE, C - c)
        if C > PIECE:
            exp_of_row(x + c, top, count, powers)
        for i in range(count):
            q = smoothed(target, label, c + i, kept, even)
            dx[c + i] = <real> ((total * (powers[i] / powers_sum) - q) * scale)


def labels_fit(const int64_t[::1] labels, Py_ssize_t C):
    """Whether every label lies in 0 .. C - 1."""
    cdef Py_ssize_t n
    cdef bint fit = True
    for n in range(labels.shape[0]):
        fit &= 0 <= labels[n] < C
    return fit


def softmax_cross_entropy(const real[:, ::1] x, labels, targets, weights, double smoothing,
                          real[:, ::1] dx, double[::1] losses, int num_threads):
    """Mean loss, each row's in `losses`; either integer `labels` or `targets` like x is None."""
    cdef const int64_t[::1] label = labels
    cdef const real[:, ::1] target = targets
    cdef const double[::1] weight = weights
    cdef Py_ssize_t n, N = x.shape[0], C = x.shape[1]
    cdef int threads = num_threads if N * C > 4096 else 1
    cdef const int64_t* places = NULL
    cdef const real* rows = NULL
    cdef const double* factors = NULL
    cdef double total = 0
    if N == 0:
        return 0.0
    if target is None:
        places = &label[0]
    else:
        rows = &target[0, 0]
    if weight is not None:
        factors = &weight[0]
    for n in prange(N, num_threads=threads, nogil=True):
        cross_entropy_row(&x[n, 0], places, rows, n, factors[n] if factors != NULL else 1, smoothing,
                          &dx[n, 0], &losses[n], C, N)
    for n in range(N):  # one order for any number of threads
        total += losses[n]
    return total / N


# ------------------------------------------------------------------- losses of number by number

cdef extern from *:
    """
    /* Of the logit z and its label t: the loss max(z, 0) - z t + log(1 + exp(-|z|)), and its slope. */
    static inline __attribute__((always_inline)) vec logistic_loss(vec z, vec t, vec* slope) {
        const ivec positive = (ivec) (z > vec_set(0));
        const vec e = exp_real(-vec_abs(z));
        *slope = vec_where(positive, vec_set(1), e) / (e + (real) 1) - t;
        return (vec_relu(z) - z * t) + log1p_real(e);
    }
    static inline __attribute__((always_inline)) vec squared_loss(vec y, vec t, vec* slope) {
        const vec d = y - t;
        *slope = d + d;
        return d * d;
    }
    """
    vec logistic_loss(vec z, vec t, vec* slope) noexcept nogil
    vec squared_loss(vec y, vec t, vec* slope) noexcept nogil


cdef inline inlined loss_span(const bint logistic, const real* x, const real* t, real smoothing,
                              real scale, real* dx, Py_ssize_t count, double* loss) noexcept nogil:
    """Sum of the losses of a row, and the gradients, times `scale`."""
    cdef Py_ssize_t i = 0, lane
    cdef vec dy, target, value
    loss[0] = 0
    while i < count:
        target = load_part(t + i, count - i)
        if logistic:
            target = (<real> 1 - smoothing) * target + <real> 0.5 * smoothing
            value = logistic_loss(load_part(x + i, count - i), target, &dy)
        else:
            value = squared_loss(load_part(x + i, count - i), target, &dy)
        store_part(dx + i, dy * vec_set(scale), count - i)
        for lane in range(min(VL, count - i)):
            loss[0] += (<real*> &value)[lane]
        i += VL


cdef void loss_row(bint logistic, const real* x, const real* t, double weight, double size,
                   real smoothing, real* dx, Py_ssize_t count, double* loss) noexcept nogil:
    if logistic:
        loss_span(True, x, t, smoothing, <real> (weight / size), dx, count, loss)
    else:
        loss_span(False, x, t, 0, <real> (weight / size), dx, count, loss)
    loss[0] *= weight


def elementwise_loss(const real[:, ::1] x, const real[:, ::1] t, weights, bint logistic,
                     double smoothing, real[:, ::1] dx, double[::1] losses, int num_threads):
    """Mean of binary cross-entropies of logits, or of squared errors; each row's sum in `losses`."""
    cdef const double[::1] weight = weights
    cdef Py_ssize_t n, N = x.shape[0], K = x.shape[1]
    cdef int threads = num_threads if N * K > 4096 else 1
    cdef const double* factors = NULL
    cdef double total = 0
    if N * K == 0:
        return 0.0
    if weight is not None:
        factors = &weight[0]
    for n in prange(N, num_threads=threads, nogil=True):
        loss_row(logistic, &x[n, 0], &t[n, 0], factors[n] if factors != NULL else 1, N * K,
                 <real> smoothing, &dx[n, 0], K, &losses[n])
    for n in range(N):  # one order for any number of threads
        total += losses[n]
    return total / (N * K)
