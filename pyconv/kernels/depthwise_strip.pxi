# Depthwise y and dx: the tile for common filters. It slides along the columns of a strip of output rows.
#
# Each vector of x is loaded once for all sums of the strip that it goes into: for 3x3 taps and 4 rows,
# 6 loads for 36 products. The sums of the columns that are under way rotate through registers.

cdef extern from *:
    """
    #if defined(__AVX512F__)
    #define STRIP_ROWS 4    /* of 3x3 taps: 12 sums, 9 of weights, 6 of x in 32 registers */
    #define IN_REGISTER "v"
    #else
    #define STRIP_ROWS 2    /* 6 sums, 4 of x in 16; weights from memory */
    #define IN_REGISTER "x"
    #endif
    #if defined(__SSE2__)   /* so that GCC does not load it again for each product */
    #define KEEP(v) __asm__("" : "+" IN_REGISTER (v))
    #else
    #define KEEP(v) (void) 0
    #endif

    typedef struct {
        const real* row[16];       /* of the input: the first rows of the taps of the strip, and on */
        const real* zeros;         /* a vector; what columns outside 0 .. W - 1 hold */
        Py_ssize_t W, pixel;       /* input columns, and what lies between them */
        Py_ssize_t y_row, y_step;  /* between outputs */
        Py_ssize_t ahead;          /* from what is read to what is fetched for the next columns, or 0 */
        int streams, relu;         /* streams: past the caches */
    } depthwise_strips;

    /* Of the same rows and channels, columns that come after all channels of these; far apart in memory,
       so that the hardware does not see them coming. */
    #define STRIP_FETCH(row, height, step) { \\
        _Pragma("GCC unroll 16") \\
        for (int i = 0; i < (height); i++) \\
            _Pragma("GCC unroll 2") \\
            for (int j = 0; j < (step); j++) prefetch_later(row[i] + at + s->ahead + j * s->pixel); \\
    }

    /* y = b + sum over columns of taps, then rows of taps, of x * w. In C, because GCC unrolls Cython's
       loops only in part, and sums that it indexes do not stay in registers. KW >= step. */
    static inline __attribute__((always_inline)) void depthwise_strip(
            const int R, const int KH, const int KW, const int step, const depthwise_strips* s,
            Py_ssize_t c, Py_ssize_t w, Py_ssize_t columns, const real* b, const real* weights,
            real* y) {
        const int height = (R - 1) * step + KH, live = (KW + step - 1) / step;
        const vec bias = *(const vec*) b;
        vec acc[5][4], wv[9];      /* acc: [column under way][row]; the oldest first */
        const real* row[16];
        Py_ssize_t at = w * s->pixel;
        _Pragma("GCC unroll 16")
        for (int i = 0; i < height; i++) row[i] = s->row[i] + c;
        _Pragma("GCC unroll 5")
        for (int a = 0; a < live; a++)
            _Pragma("GCC unroll 4")
            for (int r = 0; r < R; r++) acc[a][r] = bias;
        _Pragma("GCC unroll 9")
        for (int k = 0; k < 9; k++)
            if (KH * KW <= 9 && k < KH * KW) wv[k] = *(const vec*) (weights + k * VL);
        /* Input column j of what the oldest sums read. */
        #define STRIP_COLUMN(j) { \\
            vec v[16]; \\
            const int inside = (size_t) w < (size_t) s->W; \\
            _Pragma("GCC unroll 16") \\
            for (int i = 0; i < height; i++) { \\
                const real* p = inside ? row[i] + at : s->zeros; \\
                __asm__("" : "+r" (p)); \\
                v[i] = *(const vec*) p; \\
                KEEP(v[i]); \\
            } \\
            _Pragma("GCC unroll 5") \\
            for (int kh = 0; kh < KH; kh++) \\
                _Pragma("GCC unroll 5") \\
                for (int a = 0; a < live; a++) { \\
                    const int kw = (j) - a * step; \\
                    if (kw < 0 || kw >= KW) continue; \\
                    vec k = KH * KW <= 9 ? wv[kw * KH + kh] \\
                        : *(const vec*) (weights + (kw * KH + kh) * VL); \\
                    if (KH * KW > 9) KEEP(k); \\
                    _Pragma("GCC unroll 4") \\
                    for (int r = 0; r < R; r++) acc[a][r] += k * v[kh + r * step]; \\
                } \\
            at += s->pixel; w++; \\
        }
        _Pragma("GCC unroll 5")
        for (int j = 0; j < KW - step; j++) STRIP_COLUMN(j)
        for (Py_ssize_t column = 0; column < columns; column++, y += s->y_step) {
            if (s->ahead) STRIP_FETCH(row, height, step)
            _Pragma("GCC unroll 5")
            for (int j = KW - step; j < KW; j++) STRIP_COLUMN(j)
            _Pragma("GCC unroll 4")
            for (int r = 0; r < R; r++) {
                vec v = s->relu ? vec_relu(acc[0][r]) : acc[0][r];
                real* to = y + r * s->y_row;
    #if defined(__AVX512F__)
                if (s->streams) _mm512_stream_si512((void*) to, (__m512i) v);
                else
    #endif
                *(vec*) to = v;
                _Pragma("GCC unroll 5")
                for (int a = 0; a < live - 1; a++) acc[a][r] = acc[a + 1][r];
                acc[live - 1][r] = bias;
            }
        }
        #undef STRIP_COLUMN
    }

    /* The same without steps for few channels: a vector covers several pixels, and `next` numbers later
       the channels in its lanes are the same again. Columns of taps are `across` numbers apart. */
    static inline __attribute__((always_inline)) void depthwise_flat(
            const int R, const int KH, const int KW, const depthwise_strips* s, Py_ssize_t across,
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
            Py_ssize_t rows, Py_ssize_t size, const depthwise_strips* s, Py_ssize_t across,
            Py_ssize_t i, Py_ssize_t next, Py_ssize_t end, const real* weights, real* y) {
        switch (10 * rows + size) {
    #if STRIP_ROWS == 4
            case 43: depthwise_flat(4, 3, 3, s, across, i, next, end, weights, y); return;
            case 45: depthwise_flat(4, 5, 5, s, across, i, next, end, weights, y); return;
    #endif
            case 23: depthwise_flat(2, 3, 3, s, across, i, next, end, weights, y); return;
            case 25: depthwise_flat(2, 5, 5, s, across, i, next, end, weights, y); return;
            case 13: depthwise_flat(1, 3, 3, s, across, i, next, end, weights, y); return;
            case 15: depthwise_flat(1, 5, 5, s, across, i, next, end, weights, y); return;
        }
    }

    #define STRIP_SHAPE(R, KH, KW, step) (1000 * (R) + 100 * (KH) + 10 * (KW) + (step))
    #define STRIP(R, KH, KW, step) case STRIP_SHAPE(R, KH, KW, step): \\
        depthwise_strip(R, KH, KW, step, s, c, w, columns, b, weights, y); \\
        return
    #define STRIPS_2(KH, KW, step) STRIP(2, KH, KW, step); STRIP(1, KH, KW, step)
    #if STRIP_ROWS == 4
    #define STRIPS(KH, KW, step) STRIP(4, KH, KW, step); STRIPS_2(KH, KW, step)
    #else
    #define STRIPS STRIPS_2
    #endif
    /* `columns` outputs of `rows` rows from input column w on, in channels c to c + VL - 1. */
    static __attribute__((noinline)) void depthwise_strip_of(
            Py_ssize_t rows, Py_ssize_t shape, const depthwise_strips* s, Py_ssize_t c, Py_ssize_t w,
            Py_ssize_t columns, const real* b, const real* weights, real* y) {
        switch (1000 * rows + shape) {
            STRIPS(3, 3, 1); STRIPS(3, 3, 2); STRIPS_2(5, 5, 1); STRIPS_2(5, 5, 2);
            STRIPS(1, 1, 1); STRIPS(1, 2, 1); STRIPS(2, 1, 1); STRIPS(2, 2, 1);  /* dx of 3x3, step 2 */
            STRIPS(2, 3, 1); STRIPS(3, 2, 1);  /* and of 5x5 */
            STRIPS(1, 3, 1); STRIPS(3, 1, 1);
        }
    }
    static int depthwise_strip_is_known(Py_ssize_t KH, Py_ssize_t KW, Py_ssize_t step) {
        return step == 1 ? (KH == 5 && KW == 5) || (1 <= KH && KH <= 3 && 1 <= KW && KW <= 3)
                         : step == 2 && KH == KW && (KH == 3 || KH == 5);
    }
    """
    const Py_ssize_t STRIP_ROWS
    ctypedef struct DepthwiseStrips "depthwise_strips":
        const real** row
        const real* zeros
        Py_ssize_t W, pixel, y_row, y_step, ahead
        bint streams, relu
    void depthwise_strip_of(
        Py_ssize_t rows, Py_ssize_t shape, const DepthwiseStrips* s, Py_ssize_t c, Py_ssize_t w,
        Py_ssize_t columns, const real* b, const real* weights, real* y) noexcept nogil
    void depthwise_flat_of(
        Py_ssize_t rows, Py_ssize_t size, const DepthwiseStrips* s, Py_ssize_t across, Py_ssize_t i,
        Py_ssize_t next, Py_ssize_t end, const real* weights, real* y) noexcept nogil
    bint depthwise_strip_is_known(Py_ssize_t KH, Py_ssize_t KW, Py_ssize_t step) noexcept nogil
