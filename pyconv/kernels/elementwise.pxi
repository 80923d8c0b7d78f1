# ReLU and the optimizers' updates: loops over flat arrays.

from cython.parallel cimport prange

cdef enum:
    SPAN = 16_384  # numbers a work item: 64 KB, small enough to share, large enough to hand out


cdef void relu_span(const real* x, real* y, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        y[i] = 0 if x[i] < 0 else x[i]  # NaN stays: it is not below 0


cdef relu_forward(const real* x, real* y, Py_ssize_t count, int num_threads):
    cdef Py_ssize_t item
    cdef int threads = num_threads if count > 2 * SPAN else 1
    for item in prange((count + SPAN - 1) // SPAN, num_threads=threads, nogil=True):
        relu_span(x + item * SPAN, y + item * SPAN, min(SPAN, count - item * SPAN))


def relu(const real[::1] x, real[::1] y, int num_threads):
    """y = max(x, 0), NaN kept."""
    if x.shape[0]:
        relu_forward(&x[0], &y[0], x.shape[0], num_threads)


cdef void relu_back_span(const real* dy, const real* y, real* dx, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        dx[i] = 0 if y[i] <= 0 else dy[i]


cdef relu_back(const real* dy, const real* y, real* dx, Py_ssize_t count, int num_threads):
    """dx may be dy."""
    cdef Py_ssize_t item
    cdef int threads = num_threads if count > 2 * SPAN else 1
    for item in prange((count + SPAN - 1) // SPAN, num_threads=threads, nogil=True):
        relu_back_span(dy + item * SPAN, y + item * SPAN, dx + item * SPAN,
                       min(SPAN, count - item * SPAN))


def relu_backward(const real[::1] dy, const real[::1] y, real[::1] dx, int num_threads):
    """dx = dy where y > 0 (or y is NaN), else 0."""
    if dy.shape[0]:
        relu_back(&dy[0], &y[0], &dx[0], dy.shape[0], num_threads)


cdef void add_span(const real* x, const real* r, real* y, bint relu, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    cdef real v
    for i in range(count):
        v = x[i] + r[i]
        y[i] = 0 if relu and v < 0 else v


cdef add_arrays(const real* x, const real* r, real* y, bint relu, Py_ssize_t count,
                int num_threads):
    """y may be x or r."""
    cdef Py_ssize_t item
    cdef int threads = num_threads if count > 2 * SPAN else 1
    for item in prange((count + SPAN - 1) // SPAN, num_threads=threads, nogil=True):
        add_span(x + item * SPAN, r + item * SPAN, y + item * SPAN, relu,
                 min(SPAN, count - item * SPAN))


def add(const real[::1] x, const real[::1] r, real[::1] y, bint relu, int num_threads):
    """y = x + r, then ReLU if asked; y may be x or r."""
    if x.shape[0]:
        add_arrays(&x[0], &r[0], &y[0], relu, x.shape[0], num_threads)


cdef extern from *:
    """
    /* A moment that only decays ends among the subnormals, and stays there; many CPUs then take a
       hundred times as long for an operation. So far below the root of any v, it moves no weight. */
    static inline __attribute__((always_inline)) real settled(real m) {
        const real least = sizeof(real) == 4 ? (real) 0x1p-100 : (real) 0x1p-960;
        return m < least && m > -least ? 0 : m;
    }
    """
    real settled(real m) noexcept nogil


cdef void adam_span(real* w, const real* g, real* m, real* v, Py_ssize_t count, real rate,
                    real beta_1, real beta_2, real epsilon, real kept) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        m[i] = settled(beta_1 * m[i] + (1 - beta_1) * g[i])
        v[i] = beta_2 * v[i] + (1 - beta_2) * (g[i] * g[i])
        w[i] = kept * w[i] - rate * m[i] / (square_root(v[i]) + epsilon)


def adam(real[::1] w, const real[::1] g, real[::1] m, real[::1] v, double rate, double beta_1,
         double beta_2, double epsilon, double kept, int num_threads):
    """One step of Adam in place; `rate` has the bias correction in it, `kept` is what decay leaves."""
    cdef Py_ssize_t item, count = w.shape[0]
    if count == 0:
        return
    cdef real* a = &w[0]
    cdef const real* b = &g[0]
    cdef real* c = &m[0]
    cdef real* d = &v[0]
    cdef int threads = num_threads if count > 2 * SPAN else 1
    for item in prange((count + SPAN - 1) // SPAN, num_threads=threads, nogil=True):
        adam_span(a + item * SPAN, b + item * SPAN, c + item * SPAN, d + item * SPAN,
                  min(SPAN, count - item * SPAN), rate, beta_1, beta_2, epsilon, kept)


cdef void sgd_span(real* w, const real* g, real* velocity, Py_ssize_t count, real rate,
                   real momentum, bint nesterov) noexcept nogil:
    cdef Py_ssize_t i
    if velocity == NULL:
        for i in range(count):
            w[i] -= rate * g[i]
        return
    for i in range(count):
        velocity[i] = settled(momentum * velocity[i] - rate * g[i])
        w[i] += momentum * velocity[i] - rate * g[i] if nesterov else velocity[i]


def sgd(real[::1] w, const real[::1] g, velocity, double rate, double momentum, bint nesterov,
        int num_threads):
    """One step of gradient descent in place; `velocity` is None without momentum."""
    cdef real[::1] speed = velocity
    cdef Py_ssize_t item, count = w.shape[0]
    if count == 0:
        return
    cdef real* a = &w[0]
    cdef const real* b = &g[0]
    cdef real* c = NULL if speed is None else &speed[0]
    cdef int threads = num_threads if count > 2 * SPAN else 1
    for item in prange((count + SPAN - 1) // SPAN, num_threads=threads, nogil=True):
        sgd_span(a + item * SPAN, b + item * SPAN, NULL if c == NULL else c + item * SPAN,
                 min(SPAN, count - item * SPAN), rate, momentum, nesterov)


cdef void rmsprop_span(real* w, const real* g, real* v, real* velocity, Py_ssize_t count, real rate,
                       real rho, real momentum, real epsilon) noexcept nogil:
    cdef Py_ssize_t i
    cdef real step
    for i in range(count):
        v[i] = rho * v[i] + (1 - rho) * (g[i] * g[i])
    if velocity == NULL:
        for i in range(count):
            w[i] -= rate * g[i] / square_root(v[i] + epsilon)
        return
    for i in range(count):
        step = rate * g[i] / square_root(v[i] + epsilon)
        velocity[i] = settled(momentum * velocity[i] + step)
        w[i] -= velocity[i]


def rmsprop(real[::1] w, const real[::1] g, real[::1] v, velocity, double rate, double rho,
            double momentum, double epsilon, int num_threads):
    """One step of RMSprop in place; `velocity` is None without momentum."""
    cdef real[::1] speed = velocity
    cdef Py_ssize_t item, count = w.shape[0]
    if count == 0:
        return
    cdef real* a = &w[0]
    cdef const real* b = &g[0]
    cdef real* c = &v[0]
    cdef real* d = NULL if speed is None else &speed[0]
    cdef int threads = num_threads if count > 2 * SPAN else 1
    for item in prange((count + SPAN - 1) // SPAN, num_threads=threads, nogil=True):
        rmsprop_span(a + item * SPAN, b + item * SPAN, c + item * SPAN,
                     NULL if d == NULL else d + item * SPAN, min(SPAN, count - item * SPAN), rate, rho,
                     momentum, epsilon)
