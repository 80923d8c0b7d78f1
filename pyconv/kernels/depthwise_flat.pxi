# Depthwise y and dx of few channels at stride 1: the tile for 3x3 and 5x5 taps.
#
# Vectors lie along the rows, each of which covers several pixels. It is loaded once for all rows of
# outputs that it goes into: for 3x3 taps and 4 rows, 6 x 3 loads for 36 products.

cdef extern from *:
    """
    #if defined(__AVX512F__)
    #define FLAT_ROWS 4    /* of 3x3 taps: 4 sums, 9 of weights, 6 of x in 32 registers */
    #else
    #define FLAT_ROWS 2    /* 2 sums, 4 of x in 16; weights from memory */
    #endif

    typedef struct {
        const real* row[8];    /* of the input: those of the taps of the outputs */
        Py_ssize_t y_row;
        int relu;
    } depthwise_flat_rows;

    /* y = b + sum over columns of taps, then rows of taps, of x * w. `next` numbers later a vector's
       lanes hold the same channels again. Columns of taps are `across` numbers apart. */
    static inline __attribute__((always_inline)) void depthwise_flat_tile(
            const int R, const int KH, const int KW, const depthwise_flat_rows* s, Py_ssize_t across,
            Py_ssize_t i, Py_ssize_t next, Py_ssize_t end, const real* weights, real* y) {
        const vec bias = *(const vec*) weights;
        vec acc[4], wv[9];
        _Pragma("GCC unroll 9")
        for (int k = 0; k < 9; k++)
            if (KH * KW <= 9 && k < KH * KW) wv[k] = *(const vec*) (weights + (1 + k) * VL);
        for (; i < end; i += next) {
            _Pragma("GCC unroll 4")
            for (int r = 0; r < R; r++) acc[r] = bias;
            _Pragma("GCC unroll 5")
            for (int kw = 0; kw < KW; kw++) {
                vec v[8];
                _Pragma("GCC unroll 8")
                for (int h = 0; h < R + KH - 1; h++) {
                    v[h] = *(const vec*) (s->row[h] + i + kw * across);
                    KEEP(v[h]);
                }
                _Pragma("GCC unroll 5")
                for (int kh = 0; kh < KH; kh++) {
                    const vec k = KH * KW <= 9 ? wv[kw * KH + kh]
                        : *(const vec*) (weights + (1 + kw * KH + kh) * VL);
                    _Pragma("GCC unroll 4")
                    for (int r = 0; r < R; r++) acc[r] += k * v[kh + r];
                }
            }
            _Pragma("GCC unroll 4")
            for (int r = 0; r < R; r++) {
                vec v = s->relu ? vec_relu(acc[r]) : acc[r];
                if (end - i >= VL) *(vec*) (y + r * s->y_row + i) = v;
                else memcpy(y + r * s->y_row + i, &v, (end - i) * sizeof(real));
            }
        }
    }
    static __attribute__((noinline)) void depthwise_flat_of(
            Py_ssize_t rows, Py_ssize_t size, const depthwise_flat_rows* s, Py_ssize_t across,
            Py_ssize_t i, Py_ssize_t next, Py_ssize_t end, const real* weights, real* y) {
        switch (10 * rows + size) {
    #if FLAT_ROWS == 4
            case 43: depthwise_flat_tile(4, 3, 3, s, across, i, next, end, weights, y); return;
            case 45: depthwise_flat_tile(4, 5, 5, s, across, i, next, end, weights, y); return;
    #endif
            case 23: depthwise_flat_tile(2, 3, 3, s, across, i, next, end, weights, y); return;
            case 25: depthwise_flat_tile(2, 5, 5, s, across, i, next, end, weights, y); return;
            case 13: depthwise_flat_tile(1, 3, 3, s, across, i, next, end, weights, y); return;
            case 15: depthwise_flat_tile(1, 5, 5, s, across, i, next, end, weights, y); return;
        }
    }
    """
    const Py_ssize_t FLAT_ROWS
    ctypedef struct DepthwiseFlatRows "depthwise_flat_rows":
        const real** row
        Py_ssize_t y_row
        bint relu
    void depthwise_flat_of(
        Py_ssize_t rows, Py_ssize_t size, const DepthwiseFlatRows* s, Py_ssize_t across, Py_ssize_t i,
        Py_ssize_t next, Py_ssize_t end, const real* weights, real* y) noexcept nogil
