# Tiles of the transforms along rows (line.pxi): coefficients, B^T d, the sums at a point, A^T m.
#
# F(4, r) has n = r + 3 points: pairs +-p, then 0, then infinity; which ones, `kind` says. 0: the pairs
# alone, 1: and 0, 2: and infinity; n = 2 * pairs + kind. A pair shares its even and odd halves.

cdef enum:
    PAIRS = 4                 # at most
    TAPS = 7                  # of a part, at most
    LINE_POINTS = 10
    QUAD = 4                  # channels side by side in a transformed row: a constant, for the tile


# Largest error, of the outputs' rms, for sums of 300: 5e-6, 9e-6, 3e-5. Of the sets of small fractions
# that were tried none has less; +-1, +-2 has twice as much as the first.
cdef dict LINE_PAIRS = {2: (0.75, 1.5), 3: (0.5, 1.0, 2.0), 4: (0.375, 0.75, 1.25, 2.5)}


cdef struct LineTable:                   # the coefficients of the transforms
    real[PAIRS] p
    real[PAIRS][PAIRS] others            # of the product of x^2 - q^2 over the other pairs q
    real[PAIRS + 1] all                  # over all pairs
    real[PAIRS][3] power                 # p, p^2, p^3
    real[3][LINE_POINTS][TAPS] filter    # G by kind


cdef list square_product(values):
    """Coefficients of the product of x^2 - q^2, in powers of x^2."""
    product = [1.0]
    for q in values:
        product = [(product[i - 1] if i else 0.0) - (q * q * product[i] if i < len(product) else 0.0)
                   for i in range(len(product) + 1)]
    return product


cdef int fill_table(LineTable* table, Py_ssize_t pairs) except -1:
    cdef Py_ssize_t k, i, j, kind
    values = LINE_PAIRS[pairs]
    for i, value in enumerate(square_product(values)):
        table.all[i] = value
    for k, p in enumerate(values):
        table.p[k] = p
        for i in range(3):
            table.power[k][i] = p ** (i + 1)
        for i, value in enumerate(square_product(values[:k] + values[k + 1:])):
            table.others[k][i] = value
    for kind in range(3):
        points = [s * p for p in values for s in (1, -1)] + ([0.0] if kind else [])
        taps = len(points) + (kind == 2) - TILE + 1
        for i, p in enumerate(points):
            scale = 1.0
            for q in points[:i] + points[i + 1:]:
                scale *= p - q
            for j in range(taps):
                table.filter[kind][i][j] = p ** j / scale
        for j in range(taps if kind == 2 else 0):
            table.filter[kind][2 * pairs + 1][j] = j == taps - 1
    return 0


cdef inline inlined line_in(
    const Py_ssize_t pairs, const Py_ssize_t kind, const LineTable* table, const real* d,
    const Py_ssize_t* read, Py_ssize_t count, real* to, Py_ssize_t step,
) noexcept nogil:
    """B^T d for `count` numbers, in whole vectors: inputs are d[read[j]], `step` lies between points."""
    cdef vec[LINE_POINTS] a
    cdef vec odd, even
    cdef Py_ssize_t i, j, k, zero = kind >= 1
    i = 0
    while i < count:
        for j in range(2 * pairs + kind):
            a[j] = (<const vec*> (d + read[j] + i))[0]
        for k in range(pairs):  # (x +- p) times the product over the other pairs, and x if 0 is a point
            odd, even = a[zero + 2 * pairs - 1], a[zero + 2 * pairs - 2]
            for j in range(pairs - 1):
                odd = odd + table.others[k][j] * a[zero + 2 * j + 1]
                even = even + table.others[k][j] * a[zero + 2 * j]
            (<vec*> (to + i + 2 * k * step))[0] = odd + table.p[k] * even
            (<vec*> (to + i + (2 * k + 1) * step))[0] = odd - table.p[k] * even
        for k in range(kind):   # the product over all pairs; at infinity, times x
            even = a[2 * pairs + k]
            for j in range(pairs):
                even = even + table.all[j] * a[2 * j + k]
            (<vec*> (to + i + (2 * pairs + k) * step))[0] = even
        i += VL


# In C for its pragmas: where GCC unrolls late, sums stay in memory.
cdef extern from *:
    """
    #if defined(__AVX512F__)
    #include <immintrin.h>
    #endif
    /* m[i] = sum over j < length of x[i * QUAD + offset[j]] * w[j], for `rows` tiles at one point. */
    static inline __attribute__((always_inline)) void line_tile(
            const int rows, const int nv, const real* x, const Py_ssize_t* offset,
            Py_ssize_t length, const real* w, real* m) {
        vec sum[24], wv[2];
        if (rows * nv > SUMS) return;
        UNROLLED for (int i = 0; i < rows * nv; i++) sum[i] = (vec) {0};
        for (Py_ssize_t j = 0; j < length; j++) {
            const real* p = x + offset[j];
            UNROLLED for (int v = 0; v < nv; v++) wv[v] = *(const vec*) (w + v * VL);
            if (nv == 2 && length > 32)  /* fewer are in L1 too soon */
                UNROLLED for (int v = 0; v < nv; v += HALVES)
                    prefetch(w + (WEIGHTS_AHEAD * nv + v) * VL);
            w += nv * VL;
            UNROLLED for (int i = 0; i < rows; i++) {
                vec a = vec_set(p[4 * i]);
                UNROLLED for (int v = 0; v < nv; v++) sum[i * nv + v] += wv[v] * a;
            }
        }
        UNROLLED for (int i = 0; i < rows * nv; i++) *(vec*) (m + i * VL) = sum[i];
    }

    #define LINE(rows, nv) case 2 * (rows) + (nv): \
        line_tile(rows, nv, x, offset, length, w, m); \
        break;

    /* `line_tile` of 1 to SUMS / nv rows, one more than asked for if they are odd. */
    static inline void line_tile_of(
            Py_ssize_t rows, Py_ssize_t nv, const real* x, const Py_ssize_t* offset, Py_ssize_t length,
            const real* w, real* m) {
        switch (2 * (rows + rows % 2) + nv) {
            LINE(2, 1) LINE(4, 1) LINE(6, 1) LINE(8, 1) LINE(10, 1) LINE(12, 1)
            LINE(14, 1) LINE(16, 1) LINE(18, 1) LINE(20, 1) LINE(22, 1) LINE(24, 1)
            LINE(2, 2) LINE(4, 2) LINE(6, 2) LINE(8, 2) LINE(10, 2) LINE(12, 2)
        }
    }

    /* to = A^T m + b, 4 outputs of points s vectors apart; `power` has p, p^2, p^3 of each pair. Returns
       NaN or infinity where one is not finite, else 0. */
    static inline __attribute__((always_inline)) vec line_outputs(
            const int pairs, const int kind, const vec* power, const vec* m, Py_ssize_t s, vec b,
            int relu, vec* to) {
        vec y0 = b, y1 = b, y2 = b, y3 = b, check;
        if (kind >= 1) y0 += m[2 * pairs * s];
        if (kind == 2) y3 += m[(2 * pairs + 1) * s];
        UNROLLED for (int k = 0; k < pairs; k++) {
            vec even = m[2 * k * s] + m[(2 * k + 1) * s], odd = m[2 * k * s] - m[(2 * k + 1) * s];
            y0 += even;
            y1 += power[3 * k] * odd;
            y2 += power[3 * k + 1] * even;
            y3 += power[3 * k + 2] * odd;
        }
        check = (vec) {0} * ((y0 + y1) + (y2 + y3));
        to[0] = y0, to[1] = y1, to[2] = y2, to[3] = y3;
        if (relu) UNROLLED for (int i = 0; i < 4; i++) to[i] = vec_relu(to[i]);
        return check;
    }

    /* The same, to `lanes` of each pixel of y. */
    static inline __attribute__((always_inline)) vec line_out(
            const int pairs, const int kind, const vec* power, const real* m, Py_ssize_t step,
            vec b, int relu, real* y, Py_ssize_t pixel, Py_ssize_t lanes) {
        vec to[4], check = line_outputs(pairs, kind, power, (const vec*) m, step / VL, b, relu, to);
        UNROLLED for (int i = 0; i < 4; i++) store_part(y + i * pixel, to[i], lanes);
        return check;
    }

    /* Both for two tiles of F(4, 3) by two vectors: sums at all points, and A^T, which finds them in
       registers. y[i] is where a tile's outputs go, pixel[i] apart; they are checked if columns[i] > 0.

       A step of the loop has 24 loads for 24 products, where that of `line_tile` has 14; but storing and
       loading short sums takes about as long as adding to them. */
    static inline vec line_pair(
            const vec* power, const real* x, Py_ssize_t v_step, const Py_ssize_t* offset,
            Py_ssize_t length, const real* w, Py_ssize_t u_step, const real* b, int relu,
            real* const* y, const Py_ssize_t* pixel, const Py_ssize_t* columns) {
        vec sum[24], to[4], check = {0}, found;  /* sum[tile, vector, point] */
        const real *x3 = opaque(x + 3 * v_step), *w3 = opaque(w + 3 * u_step);
        UNROLLED for (int i = 0; i < 24; i++) sum[i] = (vec) {0};
        for (Py_ssize_t j = 0; j < length; j++, w += 2 * VL, w3 += 2 * VL)
            UNROLLED for (int e = 0; e < 6; e++) {
                const real* p = (e < 3 ? x + e * v_step : x3 + (e - 3) * v_step) + offset[j];
                const real* q = e < 3 ? w + e * u_step : w3 + (e - 3) * u_step;
                vec w0 = AT(q), w1 = AT(q + VL);
                KEEP(w0);
                KEEP(w1);
                UNROLLED for (int i = 0; i < 2; i++) {
                    vec a = vec_set(p[4 * i]);
                    sum[12 * i + e] += w0 * a;
                    sum[12 * i + 6 + e] += w1 * a;
                }
            }
        UNROLLED for (int i = 0; i < 2; i++)
            UNROLLED for (int v = 0; v < 2; v++) {
                found = line_outputs(2, 2, power, sum + 12 * i + 6 * v, 1, AT(b + v * VL), relu, to);
                if (columns[i] > 0) check += found;
                UNROLLED for (int k = 0; k < 4; k++) *(vec*) (y[i] + k * pixel[i] + v * VL) = to[k];
            }
        return check;
    }
    """
    void line_tile_of(
        Py_ssize_t rows, Py_ssize_t nv, const real* x, const Py_ssize_t* offset, Py_ssize_t length,
        const real* w, real* m) noexcept nogil
    vec line_out(
        int pairs, int kind, const vec* power, const real* m, Py_ssize_t step, vec b, bint relu,
        real* y, Py_ssize_t pixel, Py_ssize_t lanes) noexcept nogil
    vec line_pair(
        const vec* power, const real* x, Py_ssize_t v_step, const Py_ssize_t* offset,
        Py_ssize_t length, const real* w, Py_ssize_t u_step, const real* b, bint relu, real** y,
        const Py_ssize_t* pixel, const Py_ssize_t* columns) noexcept nogil


# One line for each number of points: they must be constant where a transform is inlined.

cdef void line_in_of(
    Py_ssize_t pairs, Py_ssize_t kind, const LineTable* table, const real* d,
    const Py_ssize_t* read, Py_ssize_t count, real* to, Py_ssize_t step,
) noexcept nogil:
    if pairs == 2:
        if kind == 0:
            line_in(2, 0, table, d, read, count, to, step)
        elif kind == 1:
            line_in(2, 1, table, d, read, count, to, step)
        else:
            line_in(2, 2, table, d, read, count, to, step)
    elif pairs == 3:
        if kind == 0:
            line_in(3, 0, table, d, read, count, to, step)
        elif kind == 1:
            line_in(3, 1, table, d, read, count, to, step)
        else:
            line_in(3, 2, table, d, read, count, to, step)
    else:
        if kind == 0:
            line_in(4, 0, table, d, read, count, to, step)
        elif kind == 1:
            line_in(4, 1, table, d, read, count, to, step)
        else:
            line_in(4, 2, table, d, read, count, to, step)


cdef void comb_row(
    const real* x, Py_ssize_t C, Py_ssize_t channels, const real* end, Py_ssize_t pixels,
    const Py_ssize_t* place, real* to, Py_ssize_t quad,
) noexcept nogil:
    """to[place[w] + c // QUAD * quad + c % QUAD] = x[w * C + c] for w < pixels and c < channels.

    Nothing is read from `end` on; lanes behind the last channel are undefined.
    """
    cdef Py_ssize_t w, c = 0
    while c < channels:
        if x + (pixels - 1) * C + c + QUAD <= end:
            for w in range(pixels):
                memcpy(to + place[w], x + w * C + c, QUAD * sizeof(real))
        else:
            for w in range(pixels):
                memcpy(to + place[w], x + w * C + c, min(QUAD, channels - c) * sizeof(real))
        to += quad
        c += QUAD


cdef void fetch_row(const real* x, Py_ssize_t count) noexcept nogil:
    """Ask for numbers that are read soon."""
    cdef Py_ssize_t i = 0
    while i < count:
        prefetch(x + i)
        i += 64 // <Py_ssize_t> sizeof(real)


cdef inline void fetch_tile(const real* y, Py_ssize_t pixel, Py_ssize_t columns, Py_ssize_t lanes
                            ) noexcept nogil:
    """Ask for the places of a tile's outputs: written all at once, they would have to be waited for.

    Not for more: they may be another thread's.
    """
    cdef Py_ssize_t j
    for j in range(columns):
        prefetch_to_write(y + j * pixel)
        prefetch_to_write(y + j * pixel + lanes // 2)
        prefetch_to_write(y + j * pixel + lanes - 1)
