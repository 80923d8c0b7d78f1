# Activations, their gradients and dropout: one pass over flat arrays, a vector at a time.
#
# The last numbers are computed as part of a whole vector too, so that a number's place does not matter.
# Gradients are found from the output, which a network has in memory anyway.

from cython.parallel cimport prange
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:  # as in `functional.activations`
    LEAKY_RELU, ELU, SIGMOID, TANH

cdef extern from *:
    """
    enum { LEAKY_RELU_, ELU_, SIGMOID_, TANH_ };

    static inline __attribute__((always_inline)) vec activate(const int kind, real a, vec x) {
        const vec zero = vec_set(0);
        const ivec positive = (ivec) (x > zero);
        if (kind == LEAKY_RELU_) return vec_where(positive, x, a * x);
        if (kind == ELU_) return vec_where(positive, x, a * expm1_real(x));
        if (kind == SIGMOID_) {  /* exp of what is not above 0 cannot overflow */
            vec e = exp_real(-vec_abs(x));
            return vec_where(positive, vec_set(1), e) / (e + (real) 1);
        } else {
            vec e = expm1_real((real) -2 * vec_abs(x));
            vec t = -e / (e + (real) 2);
            /* with the sign of x */
            return (vec) ((ivec) vec_abs(t) | ((ivec) x & (ivec) vec_set(-(real) 0)));
        }
    }
    static inline __attribute__((always_inline)) vec slope(const int kind, real a, vec dy, vec y) {
        const vec zero = vec_set(0);
        const ivec below = (ivec) (y <= zero);
        if (kind == LEAKY_RELU_) return vec_where(below, a * dy, dy);
        if (kind == ELU_) return vec_where(below, (y + a) * dy, dy);
        if (kind == SIGMOID_) return dy * y * ((real) 1 - y);
        return dy * ((real) 1 - y * y);
    }

    #if defined(__SSE2__)
    #include <immintrin.h>
    #endif
    /* 64-bit lanes whose low halves are words of 32 bits; what the high halves hold does not matter. */
    typedef uint64_t words __attribute__((vector_size(VEC_BYTES)));
    typedef uint32_t low_words __attribute__((vector_size(VEC_BYTES / 2)));
    /* The products of the low halves, which GCC does not find by itself. */
    static inline __attribute__((always_inline)) words times(words a, uint64_t b) {
    #if defined(__AVX512F__)
        return (words) _mm512_mul_epu32((__m512i) a, _mm512_set1_epi64((long long) b));
    #elif defined(__AVX2__)
        return (words) _mm256_mul_epu32((__m256i) a, _mm256_set1_epi64x((long long) b));
    #elif defined(__SSE2__) && VEC_BYTES == 16
        return (words) _mm_mul_epu32((__m128i) a, _mm_set1_epi64x((long long) b));
    #else
        return (a & 0xFFFFFFFFu) * b;
    #endif
    }
    /* Philox 4x32-10 (Salmon et al., 2011): four words each from 16 counters, `first` and on. */
    static inline void philox_16(uint64_t first, uint64_t key, uint32_t word[4][16]) {
        enum { LANES_64 = VEC_BYTES / 8, PARTS = 16 / LANES_64 };
        const words zero = {0};
        words w[4][PARTS];
        uint32_t k0 = (uint32_t) key, k1 = (uint32_t) (key >> 32);
        _Pragma("GCC unroll 8")
        for (int i = 0; i < PARTS; i++) {
            for (int l = 0; l < LANES_64; l++) w[0][i][l] = first + LANES_64 * i + l;
            w[1][i] = w[0][i] >> 32, w[2][i] = w[3][i] = zero;
        }
        for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
            _Pragma("GCC unroll 8")
            for (int i = 0; i < PARTS; i++) {
                words a = times(w[0][i], 0xD2511F53u), b = times(w[2][i], 0xCD9E8D57u);
                w[0][i] = (b >> 32) ^ w[1][i] ^ (zero + k0), w[1][i] = b;
                w[2][i] = (a >> 32) ^ w[3][i] ^ (zero + k1), w[3][i] = a;
            }
        _Pragma("GCC unroll 8")
        for (int i = 0; i < PARTS; i++)
            for (int j = 0; j < 4; j++) {
                low_words low = __builtin_convertvector(w[j][i], low_words);
                memcpy(&word[j][LANES_64 * i], &low, sizeof low);
            }
    }
    """
    vec activate(const int kind, real a, vec x) noexcept nogil
    vec slope(const int kind, real a, vec dy, vec y) noexcept nogil
    void philox_16(uint64_t first, uint64_t key, uint32_t[16]* word) noexcept nogil


cdef inline inlined activate_span(const int kind, real a, const real* x, real* y,
                                  Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i < count:
        store_part(y + i, activate(kind, a, load_part(x + i, count - i)), count - i)
        i += VL


cdef inline inlined slope_span(const int kind, real a, const real* dy, const real* y, real* dx,
                               Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i < count:
        store_part(dx + i, slope(kind, a, load_part(dy + i, count - i), load_part(y + i, count - i)),
                   count - i)
        i += VL


# The kind must be a constant where a span is inlined, hence one line a kind.

cdef void activate_item(int kind, real a, const real* x, real* y, Py_ssize_t count) noexcept nogil:
    if kind == LEAKY_RELU:
        activate_span(LEAKY_RELU, a, x, y, count)
    elif kind == ELU:
        activate_span(ELU, a, x, y, count)
    elif kind == SIGMOID:
        activate_span(SIGMOID, a, x, y, count)
    else:
        activate_span(TANH, a, x, y, count)


cdef void slope_item(int kind, real a, const real* dy, const real* y, real* dx,
                     Py_ssize_t count) noexcept nogil:
    if kind == LEAKY_RELU:
        slope_span(LEAKY_RELU, a, dy, y, dx, count)
    elif kind == ELU:
        slope_span(ELU, a, dy, y, dx, count)
    elif kind == SIGMOID:
        slope_span(SIGMOID, a, dy, y, dx, count)
    else:
        slope_span(TANH, a, dy, y, dx, count)


cdef activate_all(int kind, real a, const real* x, real* y, Py_ssize_t count, int num_threads):
    cdef Py_ssize_t item
    cdef int threads = num_threads if count > 2 * SPAN else 1
    for item in prange((count + SPAN - 1) // SPAN, num_threads=threads, nogil=True):
        activate_item(kind, a, x + item * SPAN, y + item * SPAN, min(SPAN, count - item * SPAN))


def activation(const real[::1] x, real[::1] y, int kind, double a, int num_threads):
    """y = the activation `kind` of x, with its parameter `a`."""
    if x.shape[0]:
        activate_all(kind, <real> a, &x[0], &y[0], x.shape[0], num_threads)


cdef slope_all(int kind, real a, const real* dy, const real* y, real* dx, Py_ssize_t count,
               int num_threads):
    cdef Py_ssize_t item
    cdef int threads = num_threads if count > 2 * SPAN else 1
    for item in prange((count + SPAN - 1) // SPAN, num_threads=threads, nogil=True):
        slope_item(kind, a, dy + item * SPAN, y + item * SPAN, dx + item * SPAN,
                   min(SPAN, count - item * SPAN))


def activation_backward(const real[::1] dy, const real[::1] y, real[::1] dx, int kind, double a,
                        int num_threads):
    """dx = dy times the slope of `kind` where its output is y."""
    if dy.shape[0]:
        slope_all(kind, <real> a, &dy[0], &y[0], &dx[0], dy.shape[0], num_threads)


cdef void dropout_span(const real* x, real* y, Py_ssize_t first, Py_ssize_t count, uint64_t key,
                       uint32_t least, real scale) noexcept nogil:
    """Numbers `first` to first + count - 1, where 64 divides `first`: 16 counters give 64 draws."""
    cdef uint32_t[4][16] word
    cdef Py_ssize_t i, start
    for start in range(0, count, 64):
        philox_16((first + start) // 4, key, word)
        for i in range(min(64, count - start)):
            y[start + i] = x[start + i] * scale if (<uint32_t*> word)[i] >= least else 0


def dropout(const real[::1] x, real[::1] y, uint64_t seed, double rate, int num_threads):
    """y = x / (1 - rate), or 0 with probability `rate`."""
    cdef Py_ssize_t item, count = x.shape[0]
    cdef uint32_t least = <uint32_t> (rate * 4294967296.0)
    if count == 0:
        return
    cdef const real* source = &x[0]
    cdef real* target = &y[0]
    cdef int threads = num_threads if count > 2 * SPAN else 1
    for item in prange((count + SPAN - 1) // SPAN, num_threads=threads, nogil=True):
        dropout_span(source + item * SPAN, target + item * SPAN, item * SPAN,
                     min(SPAN, count - item * SPAN), seed, least, <real> (1 / (1 - rate)))
