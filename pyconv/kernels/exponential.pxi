# exp, expm1 and log1p of vectors, by series whose remainder is below a quarter of the last bit.
#
# exp(x) = 2^n exp(r), where n is the whole number next to x / ln 2, so that |r| <= ln(2) / 2 = 0.347.
# exp(r) is its Taylor series up to r^7 / 7! (float32) or r^13 / 13! (float64): the next term is below
# 0.347^8 / 8! = 5.2e-9 or 0.347^14 / 14! = 4.3e-18. n ln 2 is subtracted in two parts; the first has
# so few bits that n times it is exact. log1p(z) = 2 artanh(w) with w = z / (2 + z) <= 1/3 for the
# z <= 1 that occur here: 2 (w + w^3 / 3 + ...), 8 or 17 terms.
#
# Each multiplication is followed by one addition, so that fused or not is a question of the
# instruction set alone: x86-64-v3 and v4 give the same bits. NaN stays NaN.

cdef extern from *:
    """
    /* 1 / (k + 1)!, of exp(r) = 1 + r (1 + r / 2 + r^2 / 6 + ...) */
    static const double exp_series[13] = {
        1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320,
        1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};

    /* `suffix`: T numbers, V vectors of them, I integers of their size; TERMS of the series; BITS of
       the fraction; LN2_HIGH + LN2_LOW = ln 2; results are 0 or rounded to
       infinity outside LEAST to MOST. */
    #define DEFINE_EXP(suffix, T, V, I, TERMS, BITS, LN2_HIGH, LN2_LOW, LEAST, MOST)                   \\
    /* 2^n, for whole n with |n| < 2^(BITS - 2): adding `round` moves n into the low bits. */          \\
    static inline __attribute__((always_inline)) V power_of_two##suffix(V n) {                         \\
        const T round = (T) 1.5 * ((I) 1 << BITS);                                                     \\
        typedef __typeof__(__builtin_choose_expr(sizeof(I) == 4, (uint32_t) 0, (uint64_t) 0)) U        \\
            __attribute__((vector_size(sizeof(V))));  /* lanes that nobody reads may overflow */       \\
        return (V) (((U) (n + round) << BITS) + (U) ((V) {0} + (T) 1));                                \\
    }                                                                                                  \\
    /* n, and exp(r) - 1 */                                                                            \\
    static inline __attribute__((always_inline)) V exp_parts##suffix(V x, V* n) {                      \\
        const T round = (T) 1.5 * ((I) 1 << BITS);                                                     \\
        V m = (x * (T) 1.4426950408889634 + round) - round, r = x - m * (T) (LN2_HIGH);                \\
        V p = (V) {0} + (T) exp_series[TERMS - 1];                                                     \\
        r = r - m * (T) (LN2_LOW);                                                                     \\
        _Pragma("GCC unroll 32")                                                                       \\
        for (int k = TERMS - 2; k >= 0; k--) p = p * r + (T) exp_series[k];                            \\
        *n = m;                                                                                        \\
        return p * r;                                                                                  \\
    }                                                                                                  \\
    static inline __attribute__((always_inline)) V exp##suffix(V x) {                                  \\
        typedef __typeof__((V) {0} < (V) {0}) W;                                                       \\
        const T round = (T) 1.5 * ((I) 1 << BITS);                                                     \\
        V n, q, half, low = (V) {0} + (T) (LEAST), high = (V) {0} + (T) (MOST);                        \\
        W under = x < low, over = x > high;                                                            \\
        x = (V) (((W) x & ~under & ~over) | ((W) low & under) | ((W) high & over));                    \\
        q = exp_parts##suffix(x, &n);                                                                  \\
        half = (n * (T) 0.5 + round) - round;  /* 2^n itself may be no number: in two steps */         \\
        return (q + (T) 1) * power_of_two##suffix(half) * power_of_two##suffix(n - half);              \\
    }

    DEFINE_EXP(_real, real, vec, whole, (sizeof(real) == 4 ? 7 : 13), (sizeof(real) == 4 ? 23 : 52),
               (sizeof(real) == 4 ? 0.693359375 : 6.93147180369123816490e-01),
               (sizeof(real) == 4 ? -2.12194440054690583e-4 : 1.90821492927058770002e-10),
               (sizeof(real) == 4 ? -104.0 : -746.0), (sizeof(real) == 4 ? 89.0 : 710.0))

    /* float64 in either module: sums of exponentials are worth it. */
    typedef double dvec __attribute__((vector_size(VEC_BYTES), aligned(sizeof(real)), may_alias));
    #define DVL ((Py_ssize_t) (VEC_BYTES / sizeof(double)))
    typedef real half_vec __attribute__((
        vector_size(VEC_BYTES * sizeof(real) / sizeof(double)), aligned(sizeof(real)), may_alias));
    DEFINE_EXP(_double, double, dvec, int64_t, 13, 52, 6.93147180369123816490e-01,
               1.90821492927058770002e-10, -746.0, 710.0)

    /* out[c] = exp(x[c] - top) */
    static inline void exp_of_row(const real* x, real top, Py_ssize_t count, double* out) {
        for (Py_ssize_t c = 0; c < count; c += DVL) {
            half_vec part = {0};
            dvec e;
            size_t size = (count - c < DVL ? count - c : DVL);
            memcpy(&part, x + c, size * sizeof(real));
            e = exp_double(__builtin_convertvector(part, dvec) - (double) top);
            memcpy(out + c, &e, size * sizeof(double));
        }
    }

    /* exp(x) - 1 for x <= 0, with few last bits lost near 0 too; below -40 it is -1. */
    static inline __attribute__((always_inline)) vec expm1_real(vec x) {
        vec n, q, s, low = vec_set(-40);
        q = exp_parts_real(vec_where((ivec) (x < low), low, x), &n);
        s = power_of_two_real(n);
        return s * q + (s - (real) 1);
    }

    /* log(1 + z) for 0 <= z <= 1 */
    static inline __attribute__((always_inline)) vec log1p_real(vec z) {
        const int terms = sizeof(real) == 4 ? 8 : 17;
        vec w = z / (z + (real) 2), square = w * w, p = vec_set((real) (1.0 / (2 * terms - 1)));
        _Pragma("GCC unroll 32")
        for (int k = terms - 2; k >= 0; k--) p = p * square + (real) (1.0 / (2 * k + 1));
        return (w + w) * p;
    }
    static inline __attribute__((always_inline)) vec vec_abs(vec x) {
        return (vec) ((ivec) x & ~(ivec) vec_set(-(real) 0));
    }
    """
    vec exp_real(vec x) noexcept nogil
    vec expm1_real(vec x) noexcept nogil
    vec log1p_real(vec z) noexcept nogil
    void exp_of_row(const real* x, real top, Py_ssize_t count, double* out) noexcept nogil
