# Workspaces: memory aligned to cache lines, that grows and is then used again, call after call.

from libc.stdlib cimport calloc, free

cdef extern from *:
    """
    #include <string.h>
    #ifdef _OPENMP
    #include <omp.h>
    #endif
    """
    const Py_ssize_t PY_SSIZE_T_MAX


cdef enum:
    PAGE = 4096


cdef inline Py_ssize_t apart(Py_ssize_t count) noexcept nogil:
    """How far a thread's `count` numbers of a workspace are from the next thread's: a page more.

    Hardware fetches ahead, up to the end of a page: behind one thread's numbers those which another
    core is writing, and takes its lines away. Where cores are far from each other (a line there and
    back 390 ns, not 100), two threads of lenet2's dx took as long as one.
    """
    return (count + 15) // 16 * 16 + PAGE // <Py_ssize_t> sizeof(real)


cdef class Workspace:
    """`size` bytes at `data`, aligned to a cache line; undefined contents, but zeros at first.

    Kernels take whole vectors along, numbers that nobody wrote with them. What memory happens to hold
    may be subnormal, on which CPUs take up to five times as long; so it begins as zeros. Of memory that
    is new from the system `calloc` knows that, and writes nothing.
    """
    cdef void* memory
    cdef char* data
    cdef Py_ssize_t size

    def __dealloc__(self):
        free(self.memory)

    cdef real* take(self, Py_ssize_t count) except? NULL:
        """At least `count` numbers; what was there before is lost."""
        cdef Py_ssize_t size
        if count > PY_SSIZE_T_MAX // <Py_ssize_t> sizeof(real) - 64:
            raise MemoryError(f"a workspace of {count} numbers")
        size = count * <Py_ssize_t> sizeof(real) + 64
        if size > self.size:
            free(self.memory)
            self.size = 0
            self.memory = calloc(size + 64, 1)
            if self.memory == NULL:
                raise MemoryError(f"a workspace of {size} bytes")
            self.data = <char*> (<size_t> self.memory + 63 & ~<size_t> 63)
            self.size = size
        return <real*> self.data


cdef class Workspaces:
    """What plans that never run at the same time can share.

    Outputs before their pooling, partial sums, threads' own memory, and transformed filters.
    """
    cdef Workspace z, partials, scratch, filters

    def __cinit__(self):
        self.z, self.partials, self.scratch = Workspace(), Workspace(), Workspace()
        self.filters = Workspace()


cdef extern from *:
    """
    #if defined(__SSE2__)
    #include <immintrin.h>
    #endif
    /* Copy past the caches, for what is too large to be found there again: it then costs no read of what
       it overwrites, and leaves the caches to what is read. `bytes` and the addresses: multiples of 4.
       The atomic instructions of a region's end put it before what other threads do then. */
    static inline void stream(void* target, const void* source, Py_ssize_t bytes) {
        char* to = (char*) target;
        const char* from = (const char*) source;
    #if defined(__SSE2__)
        Py_ssize_t head = -(Py_ssize_t) to & 63;
        if (head > bytes) head = bytes;
        memcpy(to, from, head);
        to += head; from += head; bytes -= head;
        for (; bytes >= 64; to += 64, from += 64, bytes -= 64) {
    #if defined(__AVX512F__)
            _mm512_stream_si512((void*) to, _mm512_loadu_si512((const void*) from));
    #else
            for (int i = 0; i < 4; i++)
                _mm_stream_si128((__m128i*) to + i, _mm_loadu_si128((const __m128i*) from + i));
    #endif
        }
        memcpy(to, from, bytes);
    #else
        memcpy(to, from, bytes);
    #endif
    }
    /* One vector, past the caches if `past`, which wants a whole line: see `streams_lines`. */
    static inline __attribute__((always_inline)) void store_line(real* to, vec v, int past) {
    #if defined(__AVX512F__)
        if (past) _mm512_stream_si512((void*) to, (__m512i) v);
        else
    #endif
        *(vec*) to = v;
    }
    /* Ask memory for `count` numbers, which then come to L2. Inlined always: GCC takes a function that
       does nothing but prefetch for one without effect. */
    static inline __attribute__((always_inline)) void fetch_run(const real* x, Py_ssize_t count) {
        for (const real* end = x + count; x < end; x += 64 / sizeof(real)) prefetch_later(x);
    }
    /* Whether `store_line` can stream pixels of C numbers that start at `to`. */
    static inline int streams_lines(const void* to, Py_ssize_t C) {
        return VEC_BYTES == 64 && ((size_t) to | (size_t) C * sizeof(real)) % 64 == 0;
    }
    """
    void fetch_run(const real* x, Py_ssize_t count) noexcept nogil
    void store_line(real* to, vec v, bint past) noexcept nogil
    bint streams_lines(const void* to, Py_ssize_t C) noexcept nogil
    void stream(void* to, const void* source, Py_ssize_t bytes) noexcept nogil

cdef enum:
    STREAM_BYTES = 25_165_824   # read and written; more do not stay in the 32 MB of a large L3
