# Tiles of batch normalization: sums down columns of vectors, and rows of y and dx.

cdef extern from *:
    """
    #define SUM_VECTORS (VEC_BYTES / 8)   /* 3 vectors each (sum, square, center) fit the registers */
    /* The first `count` numbers at p, then zeros; and the way back. */
    static inline vec load_first(const real* p, Py_ssize_t count) {
        vec a = {0};
        for (Py_ssize_t l = 0; l < count; l++) a[l] = p[l];
        return a;
    }
    static inline void store_first(real* p, vec a, Py_ssize_t count) {
        for (Py_ssize_t l = 0; l < count; l++) p[l] = a[l];
    }
    """
    const Py_ssize_t SUM_VECTORS
    vec load_first(const real* p, Py_ssize_t count) noexcept nogil
    void store_first(real* p, vec a, Py_ssize_t count) noexcept nogil

cdef enum:
    # Where a ReLU's mask comes from
    NO_RELU = 0
    RELU_OF_Y = 1
    RELU_OF_X = 2        # y = (x - mean) * scale + shift, again: x is read anyway


# ------------------------------------------------------------------------------------ sums over rows

cdef inline inlined moments_tile(
    const Py_ssize_t nv, const real* x, Py_ssize_t rows, Py_ssize_t K, const real* center,
    real* total, real* square,
) noexcept nogil:
    """`nv` columns of vectors: total += sum over rows of d = x - center, square += that of d * d."""
    cdef vec[8] t, q, c
    cdef vec d
    cdef Py_ssize_t h, i
    for i in range(nv):
        t[i] = (<const vec*> (total + i * VL))[0]
        q[i] = (<const vec*> (square + i * VL))[0]
        c[i] = (<const vec*> (center + i * VL))[0]
    for h in range(rows):
        for i in range(nv):
            d = (<const vec*> (x + h * K + i * VL))[0] - c[i]
            t[i] = t[i] + d
            q[i] = q[i] + d * d
    for i in range(nv):
        (<vec*> (total + i * VL))[0] = t[i]
        (<vec*> (square + i * VL))[0] = q[i]


cdef void moments_rest(const real* x, Py_ssize_t count, const real* center, real* total,
                       real* square) noexcept nogil:
    """The same for `count` numbers of one row."""
    cdef Py_ssize_t i = 0, n
    cdef vec d
    while i < count:
        n = min(VL, count - i)
        d = first_lanes(load_first(x + i, n) - (<const vec*> (center + i))[0], n)
        (<vec*> (total + i))[0] = (<vec*> (total + i))[0] + d
        (<vec*> (square + i))[0] = (<vec*> (square + i))[0] + d * d
        i += VL


cdef inline vec gated(const int mask, vec dy, vec x, const real* y, const real* scale,
                      const real* shift) noexcept nogil:
    """dy behind the ReLU's mask; x is centered."""
    if mask == RELU_OF_Y:
        return vec_gate(dy, (<const vec*> y)[0])
    if mask == RELU_OF_X:
        return vec_gate(dy, x * (<const vec*> scale)[0] + (<const vec*> shift)[0])
    return dy


cdef inline inlined gradient_tile(
    const Py_ssize_t nv, const int mask, const bint keep, const real* dy, const real* more,
    const real* y, const real* x, Py_ssize_t rows, Py_ssize_t K, const real* mean, const real* scale,
    const real* shift, real* dr, real* total, real* product,
) noexcept nogil:
    """total += sum over rows of g, dy behind its mask; product += that of g * (x - mean); dr = g.

    Where g is kept, `more`, unless NULL, is added to dy.
    """
    cdef vec[8] t, q
    cdef vec d, g
    cdef Py_ssize_t h, i, at
    for i in range(nv):
        t[i] = (<const vec*> (total + i * VL))[0]
        q[i] = (<const vec*> (product + i * VL))[0]
    for h in range(rows):
        for i in range(nv):
            at = h * K + i * VL
            d = (<const vec*> (x + at))[0] - (<const vec*> (mean + i * VL))[0]
            g = (<const vec*> (dy + at))[0]
            if keep and more != NULL:
                g = g + (<const vec*> (more + at))[0]
            g = gated(mask, g, d, y + at, scale + i * VL, shift + i * VL)
            if keep:
                (<vec*> (dr + at))[0] = g
            t[i] = t[i] + g
            q[i] = q[i] + g * d
    for i in range(nv):
        (<vec*> (total + i * VL))[0] = t[i]
        (<vec*> (product + i * VL))[0] = q[i]


cdef void gradient_rest(
    int mask, bint keep, const real* dy, const real* more, const real* y, const real* x,
    Py_ssize_t count, const real* mean, const real* scale, const real* shift, real* dr, real* total,
    real* product,
) noexcept nogil:
    """The same for `count` numbers of one row."""
    cdef Py_ssize_t i = 0, n
    cdef real[16] part
    cdef vec d, g
    while i < count:
        n = min(VL, count - i)
        d = load_first(x + i, n) - (<const vec*> (mean + i))[0]
        if mask == RELU_OF_Y:
            store_first(part, load_first(y + i, n), VL)
        g = load_first(dy + i, n)
        if keep and more != NULL:
            g = g + load_first(more + i, n)
        g = gated(mask, g, d, part, scale + i, shift + i)
        if keep:
            store_first(dr + i, g, n)
        # Where x and mean are not finite, a lane that is not there would be NaN.
        g, d = first_lanes(g, n), first_lanes(d, n)
        (<vec*> (total + i))[0] = (<vec*> (total + i))[0] + g
        (<vec*> (product + i))[0] = (<vec*> (product + i))[0] + g * d
        i += VL


cdef void fold(real* a, Py_ssize_t group, Py_ssize_t C) noexcept nogil:
    """Add up the `group` pixels of a row, halves onto halves."""
    cdef Py_ssize_t i
    while group > 1:
        group //= 2
        for i in range(group * C):
            a[i] += a[i + group * C]


# ------------------------------------------------------------------------------- one row, y and dx

cdef inline vec normalized(vec x, const real* mean, const real* scale,
                           const real* shift) noexcept nogil:
    return (x - (<const vec*> mean)[0]) * (<const vec*> scale)[0] + (<const vec*> shift)[0]


cdef inline inlined normalize_row(
    const bint add, const bint relu, const real* x, const real* r, Py_ssize_t count,
    const real* mean, const real* scale, const real* shift, real* y,
) noexcept nogil:
    cdef Py_ssize_t i = 0, rest = count % VL, whole = count - rest
    cdef vec v
    while i < whole:
        v = normalized((<const vec*> (x + i))[0], mean + i, scale + i, shift + i)
        if add:
            v = v + (<const vec*> (r + i))[0]
        (<vec*> (y + i))[0] = vec_relu(v) if relu else v
        i += VL
    if rest:
        v = normalized(load_first(x + whole, rest), mean + whole, scale + whole, shift + whole)
        if add:
            v = v + load_first(r + whole, rest)
        store_first(y + whole, vec_relu(v) if relu else v, rest)


cdef inline inlined dx_row(
    const int mask, const real* dy, const real* y, const real* x, Py_ssize_t count,
    const real* mean, const real* scale, const real* shift, const real* slope, const real* offset,
    real* dx,
) noexcept nogil:
    """dx = scale * g + ((x - mean) * slope + offset)."""
    cdef Py_ssize_t i = 0, rest = count % VL, whole = count - rest
    cdef real[16] part
    cdef vec d, g
    while i < whole:
        d = (<const vec*> (x + i))[0] - (<const vec*> (mean + i))[0]
        g = gated(mask, (<const vec*> (dy + i))[0], d, y + i, scale + i, shift + i)
        (<vec*> (dx + i))[0] = (g * (<const vec*> (scale + i))[0]
                                + (d * (<const vec*> (slope + i))[0] + (<const vec*> (offset + i))[0]))
        i += VL
    if rest:
        d = load_first(x + i, rest) - (<const vec*> (mean + i))[0]
        if mask == RELU_OF_Y:
            store_first(part, load_first(y + i, rest), VL)
        g = gated(mask, load_first(dy + i, rest), d, part, scale + i, shift + i)
        store_first(dx + i, g * (<const vec*> (scale + i))[0] + (
            d * (<const vec*> (slope + i))[0] + (<const vec*> (offset + i))[0]), rest)
