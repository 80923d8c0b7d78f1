# Depthwise y and dx: the tile.
#
# 4 rows of outputs, some columns, one vector of channels. It goes through the columns of taps, then down
# the rows of the input, each of whose vectors serves all rows of outputs that it reaches; their weights
# slide through registers. For 3x3 taps that is 6 loads of x and 3 of w for 12 x 4 products.

cdef extern from *:
    """
    #if defined(__AVX512F__)
    #define TILE_COLUMNS 4  /* x 4 rows: 16 sums, 4 of weights, 4 of x in 32 registers */
    #else
    #define TILE_COLUMNS 2  /* 8 sums, 4 of weights, 2 of x in 16 */
    #endif
    #define TILE_ROWS 4
    /* The taps of a phase. Rows of outputs that are `apart` share rows of the input: those of every
       `classes`-th row of taps. So such rows of taps come one class after the other. */
    typedef struct {
        Py_ssize_t rows, columns;   /* of taps; columns times planes */
        Py_ssize_t down, across;    /* rows of the input between rows of taps, and the same of columns */
        Py_ssize_t top, left;       /* the first tap */
        Py_ssize_t first;           /* of the taps of all phases */
        Py_ssize_t patch;           /* their shape, if `depthwise_patches_of` knows it, or 0 */
        Py_ssize_t classes, least, more, apart;  /* `least` rows of taps a class; one `more` in some */
        Py_ssize_t down_class;      /* rows of the input between the rows of taps of a class */
        Py_ssize_t* offset;         /* of each column of taps, in the input that is read */
    } depthwise_taps;

    typedef struct {
        const real* const* row;     /* of the input: the first row of taps and on */
        const real* const* none;    /* the same of rows of zeros */
        Py_ssize_t at;              /* what the first tap reads, in these rows */
        Py_ssize_t x_step, y_row, y_step;   /* between outputs */
        Py_ssize_t W, column, step_w, channel;  /* of the image: its columns, and where `at` is */
        int streams, relu;          /* streams: past the caches */
        const ivec* lanes;          /* of what is read, where channels repeat, or NULL */
    } depthwise_place;

    /* y = b + sum over columns of taps, then classes, then rows of taps, of x * w. In C, because GCC
       unrolls Cython's loops only in part, and sums that it indexes do not stay in registers. */
    static inline __attribute__((always_inline)) void depthwise_tile(
            const int R, const int J, const int reads, const depthwise_taps* taps,
            const depthwise_place* s, const real* b, const real* w, real* y) {
        vec acc[TILE_ROWS * TILE_COLUMNS], wv[TILE_ROWS], v[TILE_COLUMNS];
        const real* const* row[TILE_COLUMNS];
        Py_ssize_t at[TILE_COLUMNS];
        const ivec lanes = reads == PICKED ? *s->lanes : (ivec) {0};
        /* The next row of the input, for the sums of rows `from` to `to`: output row r takes weight
           r - shift of those in registers. */
        #define TILE_INPUT(from, to, shift) { \\
            _Pragma("GCC unroll 4") \\
            for (int j = 0; j < J; j++) { \\
                const real* p = row[reads == EDGE ? j : 0][i] + at[j]; \\
                v[j] = reads == PICKED ? pick_lanes(p, lanes) : *(const vec*) p; \\
                KEEP(v[j]); \\
            } \\
            i += taps->down_class; \\
            _Pragma("GCC unroll 4") \\
            for (int r = 0; r < R; r++) \\
                _Pragma("GCC unroll 4") \\
                for (int j = 0; j < J; j++) \\
                    if (r >= (from) && r < (to)) { \\
                        acc[r * J + j] += wv[r - (shift)] * v[j]; \\
                        if ((to) - (from) == 1) KEEP(acc[r * J + j]);  /* not after all loads */ \\
                    } \\
        }
        #define TILE_WEIGHT { \\
            _Pragma("GCC unroll 4") \\
            for (int r = R - 1; r > 0; r--) wv[r] = wv[r - 1]; \\
            wv[0] = *(const vec*) w; \\
            KEEP(wv[0]); \\
            w += VL; \\
        }
        _Pragma("GCC unroll 16")
        for (int k = 0; k < R * J; k++) acc[k] = *(const vec*) b;
        for (Py_ssize_t t = 0; t < taps->columns; t++) {
            _Pragma("GCC unroll 4")
            for (int j = 0; j < J; j++) {
                const Py_ssize_t column = s->column + j * s->step_w + t * taps->across;
                row[j] = s->row;
                at[j] = s->at + taps->offset[t] + j * s->x_step;
                if (reads == EDGE && (size_t) column >= (size_t) s->W)
                    row[j] = s->none, at[j] = s->channel;
            }
            for (Py_ssize_t p = 0; p < taps->classes; p++) {
                const Py_ssize_t T = taps->least + (p < taps->more);
                Py_ssize_t i = p * taps->down;
                #define APART __asm__("" : "+r" (i));  /* GCC shall not load for all cases at once */
                if (R == 4 && T == 1) {
                    APART
                    TILE_WEIGHT
                    _Pragma("GCC unroll 4")
                    for (int k = 0; k < R; k++) TILE_INPUT(k, k + 1, k)
                } else if (R == 4 && T == 2) {
                    APART
                    TILE_WEIGHT
                    TILE_INPUT(0, 1, 0)
                    TILE_WEIGHT
                    _Pragma("GCC unroll 4")
                    for (int k = 1; k < R; k++) TILE_INPUT(k - 1, k + 1, k - 1)
                    TILE_INPUT(R - 1, R, R - 1)
                } else {
                    APART
                    _Pragma("GCC unroll 4")
                    for (int k = 0; k < R - 1; k++) {
                        TILE_WEIGHT
                        TILE_INPUT(0, k + 1, 0)
                    }
                    for (Py_ssize_t k = R - 1; k < T; k++) {
                        TILE_WEIGHT
                        TILE_INPUT(0, R, 0)
                    }
                    _Pragma("GCC unroll 4")
                    for (int k = 1; k < R; k++) TILE_INPUT(k, R, k)
                }
            }
        }
        #undef TILE_INPUT
        #undef TILE_WEIGHT
        #undef APART
        if (s->relu)
            _Pragma("GCC unroll 16")
            for (int k = 0; k < R * J; k++) acc[k] = vec_relu(acc[k]);
        #define TILE_STORE(past) \\
            _Pragma("GCC unroll 4") \\
            for (int r = 0; r < R; r++) \\
                _Pragma("GCC unroll 4") \\
                for (int j = 0; j < J; j++) \\
                    store_line(y + r * s->y_row + j * s->y_step, acc[r * J + j], past);
        if (s->streams) TILE_STORE(1) else TILE_STORE(0)
        #undef TILE_STORE
    }

    /* The same of 4, 2 or 1 rows and TILE_COLUMNS, 2 or 1 columns. */
    static __attribute__((noinline)) void depthwise_tile_of(
            Py_ssize_t rows, Py_ssize_t columns, int edge, const depthwise_taps* taps,
            const depthwise_place* s, const real* b, const real* w, real* y) {
        const int reads = s->lanes ? PICKED : edge || columns < TILE_COLUMNS ? EDGE : INSIDE;
        #define TILE(R, J, reads) case 100 * (R) + 10 * (J) + (reads): \\
            depthwise_tile(R, J, reads, taps, s, b, w, y); \\
            return;
        #define TILES(J, reads) TILE(4, J, reads) TILE(2, J, reads) TILE(1, J, reads)
        switch (100 * rows + 10 * columns + reads) {
            TILES(TILE_COLUMNS, INSIDE) TILES(TILE_COLUMNS, EDGE) TILES(1, EDGE)
        #if TILE_COLUMNS > 2
            TILES(2, EDGE)
        #endif
        #if PICKS
            TILES(TILE_COLUMNS, PICKED) TILES(1, PICKED)
        #if TILE_COLUMNS > 2
            TILES(2, PICKED)
        #endif
        #endif
        }
        #undef TILES
        #undef TILE
    }
    """
    const Py_ssize_t TILE_COLUMNS
    const Py_ssize_t TILE_ROWS
    ctypedef struct DepthwiseTaps "depthwise_taps":
        Py_ssize_t rows, columns, down, across, top, left, first, patch
        Py_ssize_t classes, least, more, apart, down_class
        Py_ssize_t* offset
    ctypedef struct DepthwisePlace "depthwise_place":
        const real** row
        const real** none
        Py_ssize_t at, x_step, y_row, y_step, W, column, step_w, channel
        bint streams, relu
        const ivec* lanes
    void depthwise_tile_of(
        Py_ssize_t rows, Py_ssize_t columns, bint edge, const DepthwiseTaps* taps,
        const DepthwisePlace* s, const real* b, const real* w, real* y) noexcept nogil
