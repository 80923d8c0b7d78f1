# The number type `real` and the vector type `vec` of VL numbers, as wide as the registers.
#
# GCC's and clang's vector types become single registers in every instruction set, which plain
# arrays do only in some: on x86-64-v3 the same tile with arrays runs at 5% of the peak.

from libc.stdint cimport int32_t

cdef extern from *:
    """
    typedef PYCONV_REAL real;
    #if defined(__AVX512F__)
    #define VEC_BYTES 64
    #define TILE_2 12   /* 32 registers: 12 x 2 sums, 2 of weights, the rest for broadcasts */
    #define PIXELS_2 14  /* and 14 x 2 sums, 2 of weights, 1 broadcast */
    #elif defined(__AVX__)
    #define VEC_BYTES 32
    #define TILE_2 6    /* 16 registers: 6 x 2 sums, 2 of weights, 1 broadcast */
    #else
    #define VEC_BYTES 16
    #define TILE_2 6
    #endif
    #ifndef PIXELS_2
    #define PIXELS_2 TILE_2
    #endif
    #define SUMS (2 * TILE_2)  /* of a tile at most; larger ones are not compiled */
    #define LANE_VECTORS ((Py_ssize_t) (16 * sizeof(real) / VEC_BYTES))  /* see wide_reduce.pxi */
    typedef real vec __attribute__((vector_size(VEC_BYTES), aligned(sizeof(real)), may_alias));
    #define VL ((Py_ssize_t) (VEC_BYTES / sizeof(real)))
    /* Integers as wide as `real`: what comparing two `vec` gives, and what counts positions. */
    typedef __typeof__(__builtin_choose_expr(sizeof(real) == 4, (int32_t) 0, (int64_t) 0)) whole;
    typedef whole ivec __attribute__((vector_size(VEC_BYTES), aligned(sizeof(real)), may_alias));

    #include <math.h>
    #include <string.h>
    #if defined(__SSE2__)
    #include <immintrin.h>
    #endif
    static inline real square_root(real a) {
        return sizeof(real) == sizeof(float) ? (real) sqrtf((float) a) : (real) sqrt((double) a);
    }
    static inline __attribute__((always_inline)) vec vec_set(real a) { return a - (vec) {0}; }
    /* sum + a * b, where b is a scalar, in a tile of nv vectors. If these are two, the sum stays where
       it is: left to itself GCC adds into other registers, to move them back at the end of a loop, up to
       13 moves for 24 sums. For one, the scalar need not be in a register. */
    static inline __attribute__((always_inline)) vec add_product(
            const int nv, vec sum, vec a, vec b) {
    #if defined(__FMA__) && defined(__GNUC__) && !defined(UNFUSED)
        if (nv == 2) {
            if (sizeof(real) == 4) __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
            else __asm__("vfmadd231pd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
            return sum;
        }
    #endif
        return sum + a * b;
    }
    /* NaN stays: it is not below 0. */
    static inline __attribute__((always_inline)) vec vec_relu(vec a) {
        return (vec) ((ivec) a & ~(ivec) (a < (vec) {0}));
    }
    /* dy where y is above 0 or NaN. */
    static inline __attribute__((always_inline)) vec vec_gate(vec dy, vec y) {
        return (vec) ((ivec) dy & ~(ivec) (y <= (vec) {0}));
    }
    static inline __attribute__((always_inline)) vec vec_where(ivec mask, vec a, vec b) {
        return (vec) (((ivec) a & mask) | ((ivec) b & ~mask));
    }
    static inline __attribute__((always_inline)) ivec ivec_where(ivec mask, ivec a, ivec b) {
        return (a & mask) | (b & ~mask);
    }
    static inline __attribute__((always_inline)) ivec ivec_set(whole a) { return a - (ivec) {0}; }
    /* Lanes from `count` on become zero. */
    static inline __attribute__((always_inline)) vec first_lanes(vec a, Py_ssize_t count) {
        ivec lane;
        for (int l = 0; l < VL; l++) lane[l] = l;
        return (vec) ((ivec) a & (ivec) (lane < (whole) count));
    }
    /* The first `count` lanes of what is at p, zeros behind them; at most VL, and no more is read. */
    static inline __attribute__((always_inline)) vec load_part(const real* p, Py_ssize_t count) {
        if (count >= VL) return *(const vec*) p;
        if (count < 0) count = 0;
    #if defined(__AVX512F__)
        if (sizeof(real) == 4) return (vec) _mm512_maskz_loadu_ps((__mmask16) ((1 << count) - 1), p);
        return (vec) _mm512_maskz_loadu_pd((__mmask8) ((1 << count) - 1), p);
    #else
        vec a = {0};
        real* to = (real*) &a;
        _Pragma("GCC unroll 4")
        for (int size = VL / 2; size > 0; size /= 2)
            if (count & size) {
                memcpy(to, p, size * sizeof(real));
                to += size, p += size;
            }
        return a;
    #endif
    }
    /* The first `count` lanes, at most VL. */
    static inline __attribute__((always_inline)) void store_part(real* p, vec a, Py_ssize_t count) {
        if (count >= VL) { *(vec*) p = a; return; }
    #if defined(__AVX512F__)
        if (sizeof(real) == 4) _mm512_mask_storeu_ps(p, (__mmask16) ((1 << count) - 1), (__m512) a);
        else _mm512_mask_storeu_pd(p, (__mmask8) ((1 << count) - 1), (__m512d) a);
    #else  /* AMD's CPUs without AVX-512 are slow at masked stores */
        const real* from = (const real*) &a;
        _Pragma("GCC unroll 4")
        for (int size = VL / 2; size > 0; size /= 2)
            if (count & size) {
                memcpy(p, from, size * sizeof(real));
                from += size, p += size;
            }
    #endif
    }
    /* Rows and columns of VL vectors change places: first inside blocks of 16 bytes, where shuffles
       are cheapest, then the blocks do. Of rows i and i + s, one gets what comes first of both. */
    static inline __attribute__((always_inline)) void transpose(vec* rows) {
        const int block = 16 / sizeof(real);
        ivec lane, low, high;
        for (int l = 0; l < VL; l++) lane[l] = l;
        _Pragma("GCC unroll 4")
        for (int round = 1; round < VL; round *= 2) {
            const int s = round < block ? block / 2 / round : round;
            if (round < block) {  /* numbers of both halves of a block take turns */
                low = (lane & -block) + ((lane & (block - 1)) >> 1) + (lane & 1) * (int) VL;
                high = low + block / 2;
            } else {              /* even blocks of both rows, and odd ones */
                low = (lane & (block - 1)) + 2 * (lane & (int) (VL / 2 - block))
                    + 2 * (lane & (int) (VL / 2));
                high = low + block;
            }
            _Pragma("GCC unroll 16")
            for (int i = 0; i < VL; i++) {
                if (i & s) continue;
                vec a = rows[i], b = rows[i + s];
                rows[i] = __builtin_shuffle(a, b, low);
                rows[i + s] = __builtin_shuffle(a, b, high);
            }
        }
    }
    /* A block is 16 bytes, of which vectors consist: where shuffles are cheapest. */
    #define BLOCK ((Py_ssize_t) (16 / sizeof(real)))
    typedef real vec_block __attribute__((vector_size(16), aligned(sizeof(real)), may_alias));
    /* to[r * plane + i] = from[i][r] for r < BLOCK and i < VL: a quarter of `transpose`, or half, for
       less than its share of the time where some of its rows are not wanted. */
    static inline __attribute__((always_inline)) void transpose_block(
            const real** from, Py_ssize_t at, real* to, Py_ssize_t plane) {
        vec rows[16 / sizeof(real)];
        _Pragma("GCC unroll 4")
        for (int i = 0; i < BLOCK; i++) {
            #define PART(j) *(const vec_block*) (from[i + (j) * BLOCK] + at)
        #if defined(__AVX512F__)
            __m512 row = _mm512_castps128_ps512((__m128) PART(0));
            row = _mm512_insertf32x4(row, (__m128) PART(1), 1);
            row = _mm512_insertf32x4(row, (__m128) PART(2), 2);
            rows[i] = (vec) _mm512_insertf32x4(row, (__m128) PART(3), 3);
        #elif defined(__AVX__)
            __m256 row = _mm256_castps128_ps256((__m128) PART(0));
            rows[i] = (vec) _mm256_insertf128_ps(row, (__m128) PART(1), 1);
        #else
            rows[i] = (vec) PART(0);
        #endif
            #undef PART
        }
        ivec lane, low, high;
        for (int l = 0; l < VL; l++) lane[l] = l;
        low = (lane & (int) -BLOCK) + ((lane & (int) (BLOCK - 1)) >> 1) + (lane & 1) * (int) VL;
        high = low + (int) (BLOCK / 2);
        _Pragma("GCC unroll 2")
        for (int s = BLOCK / 2; s >= 1; s /= 2) {
            _Pragma("GCC unroll 4")
            for (int i = 0; i < BLOCK; i++) {
                if (i & s) continue;
                vec a = rows[i], b = rows[i + s];
                rows[i] = __builtin_shuffle(a, b, low);
                rows[i + s] = __builtin_shuffle(a, b, high);
            }
        }
        _Pragma("GCC unroll 4")
        for (int i = 0; i < BLOCK; i++) *(vec*) (to + i * plane) = rows[i];
    }
    /* The first halves of a and b. */
    static inline __attribute__((always_inline)) vec first_halves(vec a, vec b) {
        ivec lanes;
        for (int l = 0; l < VL; l++) lanes[l] = l < VL / 2 ? l : l + VL / 2;
        return __builtin_shuffle(a, b, lanes);
    }
    /* The same from memory; of 64 bytes each, more would cross lines of the cache. */
    static inline __attribute__((always_inline)) vec load_halves(const real* p, const real* q) {
    #if defined(__AVX512F__)
        return (vec) _mm512_insertf64x4(
            _mm512_castpd256_pd512(_mm256_loadu_pd((const double*) p)),
            _mm256_loadu_pd((const double*) q), 1);
    #elif defined(__AVX__)
        return (vec) _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps((const float*) p)),
                                          _mm_loadu_ps((const float*) q), 1);
    #else
        return first_halves(*(const vec*) p, *(const vec*) q);
    #endif
    }
    /* Lanes of half a vector at p, picked by number: of wider ones more would cross lines of the cache.
       Without AVX2 there is no instruction for it. */
    #define PICKS (VEC_BYTES > 16)
    static inline __attribute__((always_inline)) vec pick_lanes(const real* p, ivec lanes) {
    #if defined(__AVX512F__)
        return __builtin_shuffle(
            (vec) _mm512_castpd256_pd512(_mm256_loadu_pd((const double*) p)), lanes);
    #elif defined(__AVX__)
        return __builtin_shuffle((vec) _mm256_castps128_ps256(_mm_loadu_ps((const float*) p)), lanes);
    #else
        return __builtin_shuffle(*(const vec*) p, lanes);
    #endif
    }
    /* Lanes of a (0 to VL - 1) and b (from VL on). */
    static inline __attribute__((always_inline)) vec vec_pick(vec a, vec b, ivec lanes) {
        return __builtin_shuffle(a, b, lanes);
    }
    /* An entry of a table for it, where vectors take turns as b: lane j takes a number that lies in the
       one whose turn it is, and else keeps what a holds. */
    static inline Py_ssize_t picked(Py_ssize_t number, Py_ssize_t turn, Py_ssize_t j) {
        return number / VL == turn ? VL + number % VL : j;
    }
    /* Whether `v` beats the maximum `m` of what came before: greater, or the first NaN. */
    static inline __attribute__((always_inline)) ivec beats(vec v, vec m) {
        return ~(ivec) (v <= m) & (ivec) (m == m);
    }
    /* The same when the two may come in any order: of equals, the one at the smaller place wins. */
    static inline __attribute__((always_inline)) ivec beats_at(vec v, ivec i, vec m, ivec j) {
        return beats(v, m) | ((ivec) (i < j) & ((ivec) (v == m) | (ivec) ((v != v) & (m != m))));
    }
    #define prefetch(p) __builtin_prefetch(p)
    #define prefetch_to_write(p) __builtin_prefetch(p, 1)  /* plain ones without -mprfchw */
    #define prefetch_later(p) __builtin_prefetch(p, 0, 2)  /* as far as L2 */
    /* p, of which GCC forgets how it was made: what it would compute from another pointer again, at a
       constant distance that it keeps on the stack, stays a register. */
    static inline __attribute__((always_inline)) const real* opaque(const real* p) {
    #if defined(__GNUC__)
        __asm__("" : "+r"(p));
    #endif
        return p;
    }
    /* A vector that stays in its register: GCC shall not load it again for each product. */
    #if defined(__AVX512F__)
    #define KEEP(v) __asm__("" : "+v" (v))
    #elif defined(__SSE2__)
    #define KEEP(v) __asm__("" : "+x" (v))
    #else
    #define KEEP(v) (void) 0
    #endif
    /* Products between fetching a weight and its use, 6 to 12 cycles each: L2 takes 15, and longer where
       lines come one after the other. */
    #define WEIGHTS_AHEAD 8
    #define HALVES (VEC_BYTES == 32 ? 2 : 1)  /* vectors of a line: to fetch it once is enough */
    /* Both for numbers that are not NaN. */
    static inline __attribute__((always_inline)) ivec exceeds(vec v, vec m) { return (ivec) (v > m); }
    static inline __attribute__((always_inline)) ivec exceeds_at(vec v, ivec i, vec m, ivec j) {
        return (ivec) (v > m) | ((ivec) (v == m) & (ivec) (i < j));
    }
    typedef int32_t int32_vec __attribute__((
        vector_size(VEC_BYTES * 4 / sizeof(real)), aligned(4), may_alias));
    static inline __attribute__((always_inline)) void store_int32(int32_t* to, ivec a) {
        *(int32_vec*) to = __builtin_convertvector(a, int32_vec);
    }
    static inline __attribute__((always_inline)) ivec load_int32(const int32_t* from) {
        return __builtin_convertvector(*(const int32_vec*) from, ivec);
    }
    static inline __attribute__((always_inline)) ivec ivec_equal(ivec a, ivec b) {
        return (ivec) (a == b);
    }
    static inline __attribute__((always_inline)) ivec lane_numbers(void) {
        ivec lane;
        for (int l = 0; l < VL; l++) lane[l] = l;
        return lane;
    }
    static inline __attribute__((always_inline)) ivec lanes_before(Py_ssize_t count) {
        ivec lane;
        for (int l = 0; l < VL; l++) lane[l] = l;
        return (ivec) (lane < (whole) (count < VL ? count : VL));
    }
    static inline int any_nan(vec a) {
        int found = 0;
        for (int l = 0; l < VL; l++) found |= a[l] != a[l];
        return found;
    }
    """
    ctypedef float real      # the compiler knows the true size: -DPYCONV_REAL
    ctypedef float vec
    ctypedef int whole
    ctypedef int ivec
    const Py_ssize_t VL
    const Py_ssize_t TILE_2, PIXELS_2, SUMS
    const Py_ssize_t LANE_VECTORS
    real square_root(real a) noexcept nogil
    vec vec_set(real a) noexcept nogil
    vec add_product(int nv, vec sum, vec a, vec b) noexcept nogil
    vec vec_relu(vec a) noexcept nogil
    vec vec_gate(vec dy, vec y) noexcept nogil
    vec vec_where(ivec mask, vec a, vec b) noexcept nogil
    ivec ivec_where(ivec mask, ivec a, ivec b) noexcept nogil
    ivec ivec_set(whole a) noexcept nogil
    vec load_part(const real* p, Py_ssize_t count) noexcept nogil
    void store_part(real* p, vec a, Py_ssize_t count) noexcept nogil
    void transpose(vec* rows) noexcept nogil
    const Py_ssize_t BLOCK
    void transpose_block(const real** from_, Py_ssize_t at, real* to, Py_ssize_t plane) noexcept nogil
    vec load_halves(const real* p, const real* q) noexcept nogil
    const bint PICKS
    vec vec_pick(vec a, vec b, ivec lanes) noexcept nogil
    Py_ssize_t picked(Py_ssize_t number, Py_ssize_t turn, Py_ssize_t j) noexcept nogil
    vec first_lanes(vec a, Py_ssize_t count) noexcept nogil
    bint any_nan(vec a) noexcept nogil
    ivec lane_numbers() noexcept nogil
    ivec lanes_before(Py_ssize_t count) noexcept nogil
    ivec ivec_equal(ivec a, ivec b) noexcept nogil
    ivec load_int32(const int32_t* p) noexcept nogil
    void store_int32(int32_t* p, ivec a) noexcept nogil
    ivec exceeds(vec v, vec m) noexcept nogil
    ivec exceeds_at(vec v, ivec i, vec m, ivec j) noexcept nogil
    ivec beats(vec v, vec m) noexcept nogil
    ivec beats_at(vec v, ivec i, vec m, ivec j) noexcept nogil
    const Py_ssize_t WEIGHTS_AHEAD, HALVES
    void prefetch(const void* p) noexcept nogil
    void prefetch_to_write(const void* p) noexcept nogil
    void prefetch_later(const void* p) noexcept nogil
    const real* opaque(const real* p) noexcept nogil
    # A tile is inlined with its sizes constant, so that its sums stay in registers.
    ctypedef void inlined "__attribute__((always_inline)) void"
