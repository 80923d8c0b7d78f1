# Tiles of Winograd's F(4x4, 3x3) and F(2x2, 3x3): the transforms of one, and the products at one point.
#
# A patch of P x P inputs, 6 or 4, has as many points. With 4, interpolation is at 0, +-1 and infinity.
# With 6, it is at 0, +-sqrt(2), +-1/sqrt(2) and infinity: least error of the sets tried (a third of
# that of 0, +-1, +-2), and few operations: a pair +-p shares its even and odd halves. (Barabasz et al.,
# arXiv:1803.10986; Alam et al., arXiv:2201.10369.) A sum of two products has an exact one: whichever is
# fused, v3 and v4 round alike.
#
# In C for its pragmas: where GCC unrolls late, sums and half-transformed tiles stay in memory.

cdef enum:
    TILE = 4         # outputs, h and w, of a large tile
    PATCH = 6        # inputs, h and w, of it
    POINTS = 36
    RUN = 16         # channels of a tile that lie side by side: a constant, for the products


cdef extern from *:
    """
    #define UNROLLED _Pragma("GCC unroll 36")
    #define INLINED static inline __attribute__((always_inline))
    #define ROOT_2 ((real) 1.41421356237309504880)
    #define ROOT_HALF ((real) 0.70710678118654752440)
    #define THIRD ((real) (1 / 3.0))
    #define SIXTH ((real) (1 / 6.0))
    #define HALF ((real) 0.5)
    #define TWO ((real) 2)
    #define FIVE_HALVES ((real) 2.5)
    #define AT(p) (*(const vec*) (p))

    /* B^T d: P inputs, s vectors apart, to P points. */
    INLINED void input_line(const int P, const vec* d, const int s, vec* to) {
        vec d1 = d[s], d2 = d[2 * s], d3 = d[3 * s];
        if (P == 4) {
            to[0] = d[0] - d2;
            to[1] = d1 + d2;
            to[2] = d2 - d1;
            to[3] = d3 - d1;
            return;
        }
        vec d4 = d[4 * s], even = d4 - HALF * d2, odd = d3 - HALF * d1;
        to[0] = (d[0] + d4) - FIVE_HALVES * d2;
        to[1] = even + ROOT_2 * odd;
        to[2] = even - ROOT_2 * odd;
        even = d4 - TWO * d2, odd = d3 - TWO * d1;
        to[3] = even + ROOT_HALF * odd;
        to[4] = even - ROOT_HALF * odd;
        to[5] = (d1 + d[5 * s]) - FIVE_HALVES * d3;
    }

    /* G g: 3 taps to P points. */
    INLINED void filter_line(const int P, vec g0, vec g1, vec g2, vec* to) {
        vec even = g0 + (P == 4 ? 1 : TWO) * g2;
        to[0] = g0;
        if (P == 4) {
            to[1] = HALF * (even + g1);
            to[2] = HALF * (even - g1);
            to[3] = g2;
            return;
        }
        to[1] = SIXTH * (even + ROOT_2 * g1);
        to[2] = SIXTH * (even - ROOT_2 * g1);
        even = g0 + HALF * g2;
        to[3] = -TWO * THIRD * (even + ROOT_HALF * g1);
        to[4] = -TWO * THIRD * (even - ROOT_HALF * g1);
        to[5] = g2;
    }

    /* A^T m: P points, s vectors apart, to P - 2 outputs. */
    INLINED void output_line(const int P, const vec* m, const int s, vec* to) {
        vec even1 = m[s] + m[2 * s], odd1 = m[s] - m[2 * s];
        if (P == 4) {
            to[0] = m[0] + even1;
            to[1] = odd1 + m[3 * s];
            return;
        }
        vec even2 = m[3 * s] + m[4 * s], odd2 = m[3 * s] - m[4 * s];
        to[0] = m[0] + (even1 + even2);
        to[1] = ROOT_2 * (odd1 + HALF * odd2);
        to[2] = TWO * even1 + HALF * even2;
        to[3] = (m[5 * s] + TWO * ROOT_2 * odd1) + (HALF * ROOT_HALF) * odd2;
    }

    /* A y: 4 outputs to 6 points. */
    INLINED void spread_line(vec y0, vec y1, vec y2, vec y3, vec* to) {
        vec even = y0 + TWO * y2, odd = y1 + TWO * y3;
        to[0] = y0;
        to[1] = even + ROOT_2 * odd;
        to[2] = even - ROOT_2 * odd;
        even = y0 + HALF * y2, odd = y1 + HALF * y3;
        to[3] = even + ROOT_HALF * odd;
        to[4] = even - ROOT_HALF * odd;
        to[5] = y3;
    }

    /* G^T q: 6 points to 3 taps. */
    INLINED void taps_line(vec q0, vec q1, vec q2, vec q3, vec q4, vec q5, vec* to) {
        vec even1 = q1 + q2, even2 = q3 + q4;
        to[0] = (q0 + SIXTH * even1) - TWO * THIRD * even2;
        to[1] = ROOT_2 * SIXTH * ((q1 - q2) - TWO * (q3 - q4));
        to[2] = q5 + THIRD * (even1 - even2);
    }

    /* Rows of t, P points each, to lines of points `step` numbers apart. */
    INLINED void input_lines(const int P, const vec* t, real* to, Py_ssize_t step) {
        vec r[6];
        UNROLLED for (int i = 0; i < P; i++) {
            input_line(P, t + i, P, r);
            UNROLLED for (int j = 0; j < P; j++) *(vec*) (to + (P * i + j) * step) = r[j];
        }
    }

    INLINED void input_tile_of(const int P, const real* x, Py_ssize_t line, Py_ssize_t pixel, real* to,
                               Py_ssize_t step) {
        vec t[36], d[6];
        UNROLLED for (int i = 0; i < P; i++)  /* what the next tile adds */
            UNROLLED for (int j = 0; j < P - 2; j++) prefetch(x + i * line + (P + j) * pixel);
        UNROLLED for (int j = 0; j < P; j++) {
            UNROLLED for (int i = 0; i < P; i++) d[i] = AT(x + j * pixel + i * line);
            input_line(P, d, 1, t + P * j);
        }
        input_lines(P, t, to, step);
    }

    /* to = B^T d B of the P x P pixels at x, a vector of channels. */
    static void input_tile(int P, const real* x, Py_ssize_t line, Py_ssize_t pixel, real* to,
                           Py_ssize_t step) {
        if (P == 4) input_tile_of(4, x, line, pixel, to, step);
        else input_tile_of(6, x, line, pixel, to, step);
    }

    INLINED void input_tile_at_edge_of(
            const int P, const real* x, Py_ssize_t line, Py_ssize_t pixel, Py_ssize_t first_row,
            Py_ssize_t last_row, Py_ssize_t first_column, Py_ssize_t last_column, real* to,
            Py_ssize_t step) {
        static const vec zero;
        const size_t zeros = (size_t) &zero;
        size_t place[6], next[6], mask;
        vec t[36], d[6];
        UNROLLED for (int i = 0; i < P; i++) {
            mask = -(size_t) (i >= first_row && i < last_row);
            place[i] = ((size_t) x + i * line * sizeof(real) - zeros) & mask;
            next[i] = pixel * sizeof(real) & mask;
        }
        UNROLLED for (int j = 0; j < P; j++) {
            mask = -(size_t) (j >= first_column && j < last_column);
            UNROLLED for (int i = 0; i < P; i++) {
                d[i] = AT(zeros + (place[i] & mask));
                place[i] += next[i];
            }
            input_line(P, d, 1, t + P * j);
        }
        input_lines(P, t, to, step);
    }

    /* The same; zeros take the place of rows and columns that are not from `first` to `last` - 1.
       Places are masked, not branched over: the same lines of arithmetic fuse the same products. */
    static void input_tile_at_edge(
            int P, const real* x, Py_ssize_t line, Py_ssize_t pixel, Py_ssize_t first_row,
            Py_ssize_t last_row, Py_ssize_t first_column, Py_ssize_t last_column, real* to,
            Py_ssize_t step) {
        if (P == 4)
            input_tile_at_edge_of(4, x, line, pixel, first_row, last_row, first_column, last_column, to,
                                  step);
        else
            input_tile_at_edge_of(6, x, line, pixel, first_row, last_row, first_column, last_column, to,
                                  step);
    }

    INLINED void filter_tile_of(const int P, const real* w, Py_ssize_t tap, real* to, Py_ssize_t step) {
        vec t[18], r[6];
        UNROLLED for (int j = 0; j < 3; j++) {
            const real* p = w + j * tap;
            filter_line(P, AT(p), AT(p + 3 * tap), AT(p + 6 * tap), t + P * j);
        }
        UNROLLED for (int i = 0; i < P; i++) {
            filter_line(P, t[i], t[P + i], t[2 * P + i], r);
            UNROLLED for (int j = 0; j < P; j++) *(vec*) (to + (P * i + j) * step) = r[j];
        }
    }

    /* to = G w G^T of 3x3 taps of a vector of output channels. */
    static void filter_tile_in(int P, const real* w, Py_ssize_t tap, real* to, Py_ssize_t step) {
        if (P == 4) filter_tile_of(4, w, tap, to, step);
        else filter_tile_of(6, w, tap, to, step);
    }

    INLINED void output_tile_of(
            const int P, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t lanes, const real* m,
            Py_ssize_t step, const real* b, const real* added, int relu, real* y, Py_ssize_t line,
            Py_ssize_t pixel, vec* check) {
        const int T = P - 2;
        vec t[24], out[16], d[6], *r, bias = AT(b), seen = *check, other = {0};
        int whole = rows == T && columns == T && lanes == VL;
        UNROLLED for (int j = 0; j < P; j++) {
            UNROLLED for (int i = 0; i < P; i++) d[i] = AT(m + (j + i * P) * step);
            output_line(P, d, 1, t + T * j);
        }
        UNROLLED for (int i = 0; i < T; i++) {
            r = out + T * i;
            output_line(P, t + i, T, r);
            seen = seen + 0 * (P == 4 ? r[0] + r[1] : (r[0] + r[1]) + (r[2] + r[3]));
            UNROLLED for (int j = 0; j < T; j++) r[j] = r[j] + bias;
            if (added)
                UNROLLED for (int j = 0; j < T; j++) {
                    const real* p = added + i * line + j * pixel;
                    if (whole) other = AT(p);
                    else if (i < rows && j < columns) memcpy(&other, p, lanes * sizeof(real));
                    r[j] = r[j] + other;
                }
            if (relu)
                UNROLLED for (int j = 0; j < T; j++) r[j] = vec_relu(r[j]);
            if (whole)
                UNROLLED for (int j = 0; j < T; j++) *(vec*) (y + i * line + j * pixel) = r[j];
        }
        for (Py_ssize_t i = 0; i < (whole ? 0 : rows); i++)
            for (Py_ssize_t j = 0; j < columns; j++)
                memcpy(y + i * line + j * pixel, out + T * i + j, lanes * sizeof(real));
        *check = seen;
    }

    /* y = A^T m A + b, + `added` if not NULL, of rows x columns outputs; check becomes NaN where one
       before these sums is not finite. Parts of a tile are computed by the same lines as whole ones, so
       that they fuse the same products. */
    static void output_tile(int P, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t lanes, const real* m,
                            Py_ssize_t step, const real* b, const real* added, int relu, real* y,
                            Py_ssize_t line, Py_ssize_t pixel, vec* check) {
        if (P == 4)
            output_tile_of(4, rows, columns, lanes, m, step, b, added, relu, y, line, pixel, check);
        else
            output_tile_of(6, rows, columns, lanes, m, step, b, added, relu, y, line, pixel, check);
    }

    /* to = A dy A^T of a vector of channels; db += the sum of the 4x4, if wanted. */
    static void spread_tile(const real* dy, Py_ssize_t line, Py_ssize_t pixel, real* to,
                            Py_ssize_t step, real* db) {
        vec t[24], r[6];
        UNROLLED for (int i = 0; i < 4; i++)
            UNROLLED for (int j = 0; j < 4; j++) prefetch(dy + i * line + (4 + j) * pixel);
        UNROLLED for (int j = 0; j < 4; j++) {
            const real* p = dy + j * pixel;
            spread_line(AT(p), AT(p + line), AT(p + 2 * line), AT(p + 3 * line), t + 6 * j);
        }
        UNROLLED for (int i = 0; i < 6; i++) {
            spread_line(t[i], t[6 + i], t[12 + i], t[18 + i], r);
            UNROLLED for (int j = 0; j < 6; j++) *(vec*) (to + (6 * i + j) * step) = r[j];
        }
        if (db) {
            vec sums = AT(db);
            UNROLLED for (int i = 0; i < 4; i++)
                UNROLLED for (int j = 0; j < 4; j++) sums = sums + AT(dy + i * line + j * pixel);
            *(vec*) db = sums;
        }
    }

    /* dw = G^T q G, its taps `tap` apart; check becomes NaN where one is not finite. `ahead` is where
       a later call will write. */
    static void taps_tile(const real* q, Py_ssize_t step, real* dw, Py_ssize_t tap, Py_ssize_t ahead,
                          Py_ssize_t lanes, vec* check) {
        vec t[18], r[3];
        UNROLLED for (int i = 0; i < 9; i++) prefetch(dw + i * tap + ahead);
        UNROLLED for (int j = 0; j < 6; j++) {
            const real* p = q + j * step;
            taps_line(AT(p), AT(p + 6 * step), AT(p + 12 * step), AT(p + 18 * step),
                      AT(p + 24 * step), AT(p + 30 * step), t + 3 * j);
        }
        UNROLLED for (int i = 0; i < 3; i++) {
            taps_line(t[i], t[3 + i], t[6 + i], t[9 + i], t[12 + i], t[15 + i], r);
            UNROLLED for (int j = 0; j < 3; j++) {
                *check = *check + 0 * r[j];
                if (lanes == VL) *(vec*) (dw + (3 * i + j) * tap) = r[j];
                else memcpy(dw + (3 * i + j) * tap, &r[j], lanes * sizeof(real));
            }
        }
    }

    /* m[i, :] = (if fresh) or += sum over j < length of x[i * x_step + place(j)] * w[j], for `tiles`
       times `rows` rows by nv vectors: place(j) = j / run * run_step + j % run * j_step. Steps that are
       constants need no registers for addresses. If it `fetches`, w comes to L1 before it is read. So
       do the next tile's sums, if there are any: of y and dx a quarter with each run of channels. */
    INLINED void point_tiles(
            const int rows, const int nv, const int fetches, const int x_step, Py_ssize_t tiles,
            int fresh, const real* x, Py_ssize_t length, Py_ssize_t run, Py_ssize_t run_step,
            Py_ssize_t j_step, const real* w, real* m) {
        vec sum[24], wv[2];
        for (; tiles > 0; tiles--, x += rows * x_step, m += rows * nv * VL) {
            const real *from_x = x, *from_w = w;
            if (fresh)
                UNROLLED for (int i = 0; i < rows * nv; i++) sum[i] = (vec) {0};
            else
                UNROLLED for (int i = 0; i < rows; i++)
                    UNROLLED for (int v = 0; v < nv; v++) sum[i * nv + v] = AT(m + (i * nv + v) * VL);
            const real* next_m = m + rows * nv * VL;
            for (Py_ssize_t left = length; left > 0; left -= run, from_x += run_step) {
                const real* p = from_x;
                if (!fresh)
                    UNROLLED for (int i = 0; i < rows * nv; i += x_step == 1 ? 1 : 4, next_m += VL)
                        prefetch(next_m);
                for (Py_ssize_t j = left < run ? left : run; j > 0; j--) {
                    UNROLLED for (int v = 0; v < nv; v++) wv[v] = AT(from_w + v * VL);
                    if (fetches)
                        UNROLLED for (int v = 0; v < nv; v += HALVES)
                            prefetch(from_w + (WEIGHTS_AHEAD * nv + v) * VL);
                    from_w += nv * VL;
                    UNROLLED for (int i = 0; i < rows; i++) {
                        vec a = vec_set(p[i * x_step]);
                        UNROLLED for (int v = 0; v < nv; v++)
                            sum[i * nv + v] = sum[i * nv + v] + wv[v] * a;
                    }
                    p += j_step;
                }
            }
            UNROLLED for (int i = 0; i < rows; i++)
                UNROLLED for (int v = 0; v < nv; v++)
                    *(vec*) (m + (i * nv + v) * VL) = sum[i * nv + v];
        }
    }

    /* What is needed after the products, and comes from memory meanwhile: runs of `width` numbers,
       `step` apart, in each of some planes; `some` runs at a point, or other loads would wait. */
    typedef struct {
        const real* place;
        Py_ssize_t count, step, width, planes, plane, some;
    } Ahead;

    /* Points that are multiplied one after the other: where the first one's numbers are, and how far the
       next one's. */
    typedef struct {
        Py_ssize_t count;
        int fresh, aheads;
        const real *v, *u;
        real* m;
        Py_ssize_t v_step, u_step, m_step;
        Ahead* ahead;
    } Points;

    static __attribute__((noinline)) void fetch_some(Ahead* a) {
        const Py_ssize_t runs = a->count < a->some ? a->count : a->some;
        const real* place = a->place;
        a->place += runs * a->step;
        a->count -= runs;
        for (Py_ssize_t p = 0; p < a->planes; p++, place += a->plane)
            if (a->step == a->width) fetch_run(place, runs * a->step);
            else for (Py_ssize_t i = 0; i < runs; i++) fetch_run(place + i * a->step, a->width);
    }

    /* Rows of a tile of one vector: 16 sums and a vector of weights, or 12 in 16 registers. */
    #define POINT_ROWS(nv) ((nv) == 2 ? TILE_2 : VEC_BYTES == 64 ? 16 : 12)
    #define POINTS_OF(rows, nv) case 2 * (rows) + (nv) - 1: \
        for (Py_ssize_t e = 0; e < p->count; e++) { \
            for (int i = 0; i < p->aheads; i++) fetch_some(p->ahead + i); \
            point_tiles(rows, nv, 1, x_step, fetched, p->fresh, v, length, run, run_step, j_step, u, \
                        m); \
            point_tiles(rows, nv, 0, x_step, tiles - fetched, p->fresh, v + fetched * rows * x_step, \
                        length, run, run_step, j_step, u, m + fetched * rows * nv * VL); \
            v += p->v_step, u += p->u_step, m += p->m_step; \
        } \
        break;

    /* `point_tiles` of 1 to POINT_ROWS rows; the first `fetched` tiles, 0 or 1, fetch w. Shapes must be
       constants where they are inlined. */
    INLINED void point_tiles_of(
            const Points* p, Py_ssize_t rows, Py_ssize_t nv, const int x_step, Py_ssize_t tiles,
            Py_ssize_t fetched, Py_ssize_t length, Py_ssize_t run, Py_ssize_t run_step,
            Py_ssize_t j_step) {
        const real *v = p->v, *u = p->u;
        real* m = p->m;
        switch (2 * rows + nv - 1) {
            POINTS_OF(1, 1) POINTS_OF(2, 1) POINTS_OF(3, 1) POINTS_OF(4, 1) POINTS_OF(5, 1)
            POINTS_OF(6, 1) POINTS_OF(7, 1) POINTS_OF(8, 1) POINTS_OF(9, 1) POINTS_OF(10, 1)
            POINTS_OF(11, 1) POINTS_OF(12, 1)
            POINTS_OF(1, 2) POINTS_OF(2, 2) POINTS_OF(3, 2) POINTS_OF(4, 2) POINTS_OF(5, 2)
            POINTS_OF(6, 2)
    #if VEC_BYTES == 64
            POINTS_OF(13, 1) POINTS_OF(14, 1) POINTS_OF(15, 1) POINTS_OF(16, 1)
            POINTS_OF(7, 2) POINTS_OF(8, 2) POINTS_OF(9, 2) POINTS_OF(10, 2) POINTS_OF(11, 2)
            POINTS_OF(12, 2)
    #endif
        }
    }

    /* y and dx: rows are tiles, sums run over input channels, RUN of a tile side by side. */
    static void tiles_at_points(
            const Points* p, Py_ssize_t rows, Py_ssize_t nv, Py_ssize_t tiles, Py_ssize_t channels,
            Py_ssize_t run_step) {
        /* The hardware alone lags behind two lines a product; fewer channels are in L1 too soon. */
        const int fetched = tiles > 0 && channels * nv * VEC_BYTES > 4096;
        point_tiles_of(p, rows, nv, 16, tiles, fetched, channels, 16, run_step, 1);
    }

    /* dw: rows are input channels, sums run over tiles, v_step apart. */
    static void channels_at_points(
            const Points* p, Py_ssize_t rows, Py_ssize_t nv, Py_ssize_t tiles, Py_ssize_t length,
            Py_ssize_t v_step) {
        point_tiles_of(p, rows, nv, 1, tiles, 0, length, length, 0, v_step);
    }
    """
    const real HALF, TWO
    Py_ssize_t POINT_ROWS(Py_ssize_t nv) noexcept nogil
    void input_tile(int P, const real* x, Py_ssize_t line, Py_ssize_t pixel, real* to,
                    Py_ssize_t step) noexcept nogil
    void input_tile_at_edge(
        int P, const real* x, Py_ssize_t line, Py_ssize_t pixel, Py_ssize_t first_row,
        Py_ssize_t last_row, Py_ssize_t first_column, Py_ssize_t last_column, real* to,
        Py_ssize_t step) noexcept nogil
    void filter_tile_in(int P, const real* w, Py_ssize_t tap, real* to, Py_ssize_t step) noexcept nogil
    void output_tile(
        int P, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t lanes, const real* m, Py_ssize_t step,
        const real* b, const real* added, bint relu, real* y, Py_ssize_t line, Py_ssize_t pixel,
        vec* check) noexcept nogil
    void spread_tile(const real* dy, Py_ssize_t line, Py_ssize_t pixel, real* to, Py_ssize_t step,
                     real* db) noexcept nogil
    void taps_tile(const real* q, Py_ssize_t step, real* dw, Py_ssize_t tap, Py_ssize_t ahead,
                   Py_ssize_t lanes, vec* check) noexcept nogil
    ctypedef struct Ahead:
        const real* place
        Py_ssize_t count, step, width, planes, plane, some
    ctypedef struct Points:
        Py_ssize_t count
        bint fresh
        int aheads
        const real* v
        const real* u
        real* m
        Py_ssize_t v_step, u_step, m_step
        Ahead* ahead
    void tiles_at_points(
        const Points* p, Py_ssize_t rows, Py_ssize_t nv, Py_ssize_t tiles, Py_ssize_t channels,
        Py_ssize_t run_step) noexcept nogil
    void channels_at_points(
        const Points* p, Py_ssize_t rows, Py_ssize_t nv, Py_ssize_t tiles, Py_ssize_t length,
        Py_ssize_t v_step) noexcept nogil


cdef enum:
    AHEADS = 4                          # places: the next pixels, outputs, what is added, filters


cdef inline inlined nothing_ahead(Ahead* ahead) noexcept nogil:
    memset(ahead, 0, AHEADS * sizeof(Ahead))


# Either of them: `tiles` times `rows` sums of `length` products, at some points.
ctypedef void (*at_points)(
    const Points* p, Py_ssize_t rows, Py_ssize_t nv, Py_ssize_t tiles, Py_ssize_t length,
    Py_ssize_t step) noexcept nogil


cdef void at_all_points(
    at_points multiply, Py_ssize_t points, Py_ssize_t count, Py_ssize_t v_row, Py_ssize_t width,
    Py_ssize_t block, bint fresh, const real* v, Py_ssize_t v_step, Py_ssize_t length,
    Py_ssize_t step, const real* u, Py_ssize_t u_step, Py_ssize_t u_rows, real* m,
    Py_ssize_t m_step, Py_ssize_t m_rows, const Ahead* ahead,
) noexcept nogil:
    """The products at all points: `count` rows of v, v_row apart, by `width` channels of u, in blocks.

    u and m are [point, block, row, lanes] of u_rows and m_rows rows. Meanwhile they fetch what is
    `ahead`: the transforms would wait for it.
    """
    cdef Py_ssize_t place, e = 0, k, nv, last_nv = 0, rows = 0, tiles = 0
    cdef Py_ssize_t parts = points * ((width + block - 1) // block), places = 0
    cdef Ahead[AHEADS] left
    cdef Points p
    for place in range(AHEADS):
        if ahead[place].count > 0:
            left[places] = ahead[place]
            left[places].some = (ahead[place].count + parts - 1) // parts
            places += 1
    # All points of one block are one call: of 16 channels, 36 calls took a sixteenth of the time.
    p.count, p.fresh, p.ahead = points if width <= block else 1, fresh, left
    p.v_step, p.u_step, p.m_step = v_step, u_step, m_step
    while e < points:
        k = 0
        while k < width:
            nv = (min(block, width - k) + VL - 1) // VL
            if nv != last_nv:  # divisions take as long as some of the tiles
                last_nv, rows = nv, even_part(count, POINT_ROWS(nv))
                tiles = count // rows
            p.v, p.u, p.m = v, u + e * u_step + k * u_rows, m + e * m_step + k * m_rows
            p.aheads = places
            multiply(&p, rows, nv, tiles, length, step)
            if tiles * rows < count:
                p.v, p.m, p.aheads = v + tiles * rows * v_row, p.m + tiles * rows * nv * VL, 0
                multiply(&p, count - tiles * rows, nv, 1, length, step)
            k += block
        v += p.count * v_step
        e += p.count


cdef inline Py_ssize_t in_blocks(Py_ssize_t k, Py_ssize_t width, Py_ssize_t block, Py_ssize_t rows,
                                 Py_ssize_t row) noexcept nogil:
    """Where channel k of a row lies in [block, row, lanes], blocks of whole vectors out of `width`."""
    cdef Py_ssize_t first = k & -block  # VL or twice that: powers of two
    return first * rows + (min(block, width - first) + VL - 1) // VL * VL * row + k - first
