# 1x1 convolutions of few channels on both sides: vectors along the numbers of y.
#
#     y[p, k] = b[k] + sum over c of x[p, c] * w[c, k]
#
# A vector of y has several pixels, whose channels c are picked from the vectors of x that hold these
# pixels: a shuffle for each of them, where other tiles would have a product for each pixel. After
# K / gcd(K, VL) vectors, a *period*, lanes hold the same channels k again.

from math import gcd as _gcd

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #define POINT_CHANNELS 8    /* on each side at most: more fill half of a vector */
    #define POINT_SOURCES 8     /* vectors of x that one of y is picked from: for K = 1 as many as C */

    typedef struct {
        Py_ssize_t C, vectors, sources;     /* vectors of y in a period */
        Py_ssize_t x_step;                  /* numbers of x in a period */
        const Py_ssize_t* first;            /* where in x the sources of each vector begin */
        const whole* lane;                  /* [vector, c, source, lane]: what it takes of this source */
        int relu;                           /* (without PICKS [vector, c, lane], from `first` on) */
    } point_lanes;

    /* Whole periods, of S sources. Without AVX2, which has shuffles by a variable: number by number. */
    static inline __attribute__((always_inline)) void point_periods(
            const int S, const point_lanes* s, Py_ssize_t periods, const real* x, const real* packed,
            const real* b, real* y) {
        const Py_ssize_t C = s->C, vectors = s->vectors;
        for (Py_ssize_t p = 0; p < periods; p++, x += s->x_step) {
            const whole* lane = s->lane;
            const real* w = packed;
            for (Py_ssize_t u = 0; u < vectors; u++, y += VL) {
                const real* from = x + s->first[u];
                vec source[POINT_SOURCES], sum = *(const vec*) (b + u * VL);
                if (PICKS)
                    _Pragma("GCC unroll 8")
                    for (int i = 0; i < S; i++) source[i] = *(const vec*) (from + i * VL);
                for (Py_ssize_t c = 0; c < C; c++, w += VL, lane += PICKS ? S * VL : VL) {
                    vec a;
                    if (PICKS) {
                        const ivec* pick = (const ivec*) lane;
                        a = __builtin_shuffle(source[0], pick[0]);
                        _Pragma("GCC unroll 8")
                        for (int i = 1; i < S; i++) a = vec_pick(a, source[i], pick[i]);
                    } else
                        for (int l = 0; l < VL; l++) a[l] = from[lane[l]];
                    sum += a * *(const vec*) w;
                }
                *(vec*) y = s->relu ? vec_relu(sum) : sum;
            }
        }
    }

    static __attribute__((noinline)) void point_periods_of(
            const point_lanes* s, Py_ssize_t periods, const real* x, const real* w, const real* b,
            real* y) {
        #define PERIODS(S) case S: point_periods(S, s, periods, x, w, b, y); return;
        switch (s->sources) {
            PERIODS(1) PERIODS(2) PERIODS(3) PERIODS(4) PERIODS(5) PERIODS(6) PERIODS(7) PERIODS(8)
        }
        #undef PERIODS
    }
    """
    const Py_ssize_t POINT_CHANNELS, POINT_SOURCES
    ctypedef struct PointLanes "point_lanes":
        Py_ssize_t C, vectors, sources, x_step
        const Py_ssize_t* first
        const whole* lane
        bint relu
    void point_periods_of(
        const PointLanes* s, Py_ssize_t periods, const real* x, const real* w, const real* b,
        real* y) noexcept nogil


cdef Py_ssize_t point_sources(Py_ssize_t C, Py_ssize_t K, Py_ssize_t lanes) noexcept nogil:
    """The most vectors of x that hold the pixels of a vector of y."""
    cdef Py_ssize_t u, pixels, most = 1
    for u in range(K):
        pixels = (u * lanes + lanes - 1) // K - u * lanes // K + 1
        most = max(most, (pixels * C + lanes - 1) // lanes)
    return most


cdef class Pointwise(Packer):
    """y of a 1x1 convolution at stride 1, or dx, where w is read the other way round.

    Parameters
    ----------
    pixels, C, K : int
        Pixels, and numbers of each that are read and written: POINT_CHANNELS at most.
    back : bool
        Whether w is [k, c].
    """
    cdef Py_ssize_t pixels, C, K, w_in, w_out
    cdef Py_ssize_t period, periods     # pixels; whole ones of all pixels, the rest being another
    cdef Py_ssize_t reach               # numbers of x that a period may load, from its first one on
    cdef PointLanes lanes
    cdef Py_ssize_t* first
    cdef whole* lane

    def __cinit__(self, Py_ssize_t pixels, Py_ssize_t C, Py_ssize_t K, bint back):
        cdef Py_ssize_t vectors = K // _gcd(K, VL), S = point_sources(C, K, VL)
        self.pixels, self.C, self.K = pixels, C, K
        self.w_in, self.w_out = 1 if back else K, C if back else 1
        self.period = VL // _gcd(K, VL)
        self.periods = pixels // self.period
        self.blocks, self.area = 1, 0
        self.work = pixels * C * K
        self.items = max(1, min(ITEMS, self.periods, self.work // ITEM_WORK))
        self.first = <Py_ssize_t*> malloc(vectors * sizeof(Py_ssize_t))
        self.lane = <whole*> malloc(vectors * C * (S if PICKS else 1) * VL * sizeof(whole))
        if self.first == NULL or self.lane == NULL:
            raise MemoryError()
        self.find_lanes(vectors, S)
        self.reach = self.first[vectors - 1] + S * VL
        self.lanes = PointLanes(C, vectors, S, self.period * C, self.first, self.lane, False)

    def __dealloc__(self):
        free(self.first)
        free(self.lane)

    cdef void find_lanes(self, Py_ssize_t vectors, Py_ssize_t S) noexcept nogil:
        cdef Py_ssize_t u, c, i, j, number
        cdef whole* to = self.lane
        for u in range(vectors):
            self.first[u] = u * VL // self.K * self.C
            for c in range(self.C):
                for j in range(VL):
                    number = (u * VL + j) // self.K * self.C + c - self.first[u]
                    for i in range(S if PICKS else 1):
                        to[i * VL + j] = picked(number, i, j) if PICKS else number
                to += (S if PICKS else 1) * VL

    cdef int pack(self, Packed* packed, const real* w, int threads, Py_ssize_t version) except -1:
        return self.pack_weights(packed, w, self.lanes.vectors * self.C * VL, threads, version)

    cdef void pack_block(self, const real* w, real* packed, Py_ssize_t block) noexcept nogil:
        """The only one: [vector, c, lane]."""
        cdef Py_ssize_t u, c, j
        for u in range(self.lanes.vectors):
            for c in range(self.C):
                for j in range(VL):
                    packed[j] = w[c * self.w_in + (u * VL + j) % self.K * self.w_out]
                packed += VL

    cdef real* pack_bias(self, const real* b) except? NULL:
        """[vector, lane]"""
        cdef Py_ssize_t i, size = self.lanes.vectors * VL
        cdef real* bias = self.bias.take(size)
        for i in range(size):
            bias[i] = 0 if b == NULL else b[i % self.K]
        return bias

    cdef void run_item(self, const real* x, const real* packed, const real* b, bint relu, real* y,
                       real* scratch, Py_ssize_t item) noexcept nogil:
        """Some periods; the last item also the pixels behind them. Loads end where x does."""
        cdef PointLanes lanes = self.lanes
        cdef Py_ssize_t period = item * self.periods // self.items
        cdef Py_ssize_t end = (item + 1) * self.periods // self.items, safe, count
        cdef real[(POINT_SOURCES + 1) * LANES * POINT_CHANNELS] padded
        cdef real[LANES * POINT_CHANNELS] outputs
        lanes.relu = relu
        safe = max(period, min(end, (self.pixels * self.C - self.reach) // lanes.x_step + 1))
        if self.pixels * self.C < self.reach:
            safe = period
        point_periods_of(&lanes, safe - period, x + period * lanes.x_step, packed, b,
                         y + period * self.period * self.K)
        if item + 1 == self.items:
            end = (self.pixels + self.period - 1) // self.period
        for period in range(safe, end):
            count = min(self.period, self.pixels - period * self.period)
            memset(padded, 0, sizeof(padded))
            memcpy(padded, x + period * lanes.x_step, count * self.C * sizeof(real))
            point_periods_of(&lanes, 1, padded, packed, b, outputs)
            memcpy(y + period * self.period * self.K, outputs, count * self.K * sizeof(real))
