# Whether weights have changed since they were last used: what is made of them is kept until then.
#
# Nobody tells. `model.parameters` and the arrays of the layers are the user's, to write to as they
# like, so they are read before each prediction. A digest of them is compared, since a copy would have
# to be read, too, and for one image reading is a good part of all the time.

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cython.parallel cimport prange
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

cdef enum:
    PIECE_BYTES = 16_384          # bytes with a digest of their own: some for each thread

cdef extern from *:
    """
    typedef uint32_t digits __attribute__((vector_size(VEC_BYTES), aligned(4), may_alias));
    #define DIGEST 8  /* vectors: independent chains, which hide the multiplication's 10 cycles */
    #define DIGEST_BYTES ((Py_ssize_t) (DIGEST * VEC_BYTES))
    /* Each lane runs through all numbers that fall on it. A step is a bijection of what comes in, so
       that one change in a lane is always seen; several cancel once in 2^32. The multiplication carries
       changes to higher bits, the rotation brings those back to the lower ones. */
    static void digest_of(const char* p, Py_ssize_t bytes, digits* digest) {
        digits d[DIGEST] = {{0}};
        char rest[DIGEST_BYTES];
        for (; bytes > 0; p += DIGEST_BYTES, bytes -= DIGEST_BYTES) {
            if (bytes < DIGEST_BYTES) {
                memset(rest, 0, DIGEST_BYTES);
                p = (const char*) memcpy(rest, p, bytes);
            }
            for (int j = 0; j < DIGEST; j++) {
                d[j] = (d[j] ^ *(const digits*) (p + j * VEC_BYTES)) * 0x9E3779B1u;
                d[j] = d[j] << 13 | d[j] >> 19;
            }
        }
        memcpy(digest, d, DIGEST_BYTES);
    }
    """
    ctypedef int digits
    const Py_ssize_t DIGEST_BYTES
    void digest_of(const char* p, Py_ssize_t bytes, digits* digest) noexcept nogil


cdef struct Piece:
    const char* data
    Py_ssize_t bytes


cdef class Watch:
    """Arrays that are looked at before each run.

    Attributes
    ----------
    version : int
        1 after the first look, and one more whenever something has changed.
    """
    cdef readonly Py_ssize_t version
    cdef Py_ssize_t count, bytes
    cdef Piece* pieces
    cdef Workspace digests
    cdef list arrays        # which stay where they are as long as they live

    def __cinit__(self):
        self.digests, self.arrays = Workspace(), []

    def __dealloc__(self):
        free(self.pieces)

    def add(self, array):
        """Look at `array`, C-contiguous, too."""
        cdef Py_buffer view
        cdef Py_ssize_t start = 0
        cdef Py_ssize_t more
        cdef Piece* pieces
        PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
        more = view.len // PIECE_BYTES + 1
        pieces = <Piece*> realloc(self.pieces, (self.count + more) * sizeof(Piece))
        if pieces != NULL:
            self.pieces = pieces
            while start < view.len:
                pieces[self.count] = Piece(<char*> view.buf + start, min(PIECE_BYTES, view.len - start))
                start += PIECE_BYTES
                self.count += 1
            self.bytes += view.len
        PyBuffer_Release(&view)
        if pieces == NULL:
            raise MemoryError(f"{more} pieces of an array")
        self.arrays.append(array)

    def look(self, int num_threads):
        """See whether anything has changed; `version` tells."""
        cdef Py_ssize_t i
        cdef bint changed = self.version == 0
        cdef int threads = num_threads if self.bytes > TINY * <Py_ssize_t> sizeof(real) else 1
        cdef char* digests = self.digests.data
        if changed:
            digests = <char*> self.digests.take(self.count * DIGEST_BYTES // sizeof(real))
        for i in prange(self.count, schedule="static", num_threads=threads, nogil=True):
            changed |= self.differs(digests + i * DIGEST_BYTES, i)
        self.version += changed

    cdef bint differs(self, char* digest, Py_ssize_t i) noexcept nogil:
        """Whether a piece does not have this digest, which is renewed."""
        cdef digits[8] now
        cdef bint differs
        digest_of(self.pieces[i].data, self.pieces[i].bytes, now)
        differs = memcmp(digest, now, DIGEST_BYTES) != 0
        if differs:
            memcpy(digest, now, DIGEST_BYTES)
        return differs
