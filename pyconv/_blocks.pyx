"""Memory of large arrays, kept for the next ones when these are gone.

The C library returns large blocks to the system and is given them anew, page by page, each cleared at
the first touch: for a convolution of 50 MB a fifth of its time, each time. An array and its views hold a
reference to their block; without the last of them its memory waits here for one like it.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdlib cimport free

cdef enum:
    KEPT = 64                   # blocks that wait
    KEPT_BYTES = 134_217_728    # of all of them: two images of the largest layers of common networks

cdef extern from *:
    """
    #include <stdlib.h>
    #include <sys/mman.h>
    #define LARGE_PAGE ((Py_ssize_t) 1 << 21)
    #define PAGE 4096
    /* At the border of a page: NumPy's begin a little behind one. A load a little ahead of where a
       kernel stores, by the last 12 bits of the address, would wait for that store. From two large pages
       on: at their borders, and in such pages, where the system has them. */
    static char* new_block(Py_ssize_t size) {
        void* data = NULL;
        if (posix_memalign(&data, size < 2 * LARGE_PAGE ? PAGE : LARGE_PAGE, size)) return NULL;
    #ifdef MADV_HUGEPAGE
        if (size >= 2 * LARGE_PAGE) madvise(data, size, MADV_HUGEPAGE);
    #endif
        return (char*) data;
    }
    """
    char* new_block(Py_ssize_t size) noexcept

cdef struct Memory:
    char* data
    Py_ssize_t size

cdef Memory[KEPT] kept      # the oldest first
cdef int count = 0
cdef Py_ssize_t kept_bytes = 0


cdef Memory taken(int i) noexcept:
    """The i-th of those that wait, which does so no longer."""
    global count, kept_bytes
    cdef Memory memory = kept[i]
    count -= 1
    kept_bytes -= memory.size
    for i in range(i, count):
        kept[i] = kept[i + 1]
    return memory


cdef void keep(Memory memory) noexcept:
    global count, kept_bytes
    if memory.size > KEPT_BYTES:
        free(memory.data)
        return
    while count == KEPT or kept_bytes + memory.size > KEPT_BYTES:
        free(taken(0).data)
    kept[count] = memory
    count += 1
    kept_bytes += memory.size


cdef class _Block:
    cdef Memory memory

    def __cinit__(self, Py_ssize_t size):
        cdef int i, best = -1
        for i in range(count):  # of equal ones the last, which the caches may hold
            if size <= kept[i].size <= 2 * size and (best < 0 or kept[i].size <= kept[best].size):
                best = i
        if best >= 0:
            self.memory = taken(best)
        else:
            self.memory = Memory(new_block(size), size)
        if self.memory.data == NULL:
            raise MemoryError(f"a block of {size} bytes")

    def __dealloc__(self):
        if self.memory.data != NULL:
            keep(self.memory)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.memory.data, self.memory.size, False, flags)


def block(Py_ssize_t size):
    """At least `size` bytes at the border of a page, undefined, to make an array of.

    Raises
    ------
    MemoryError
    """
    return memoryview(_Block(size))


def waiting():
    """How many blocks wait for an array, and their bytes."""
    return count, kept_bytes
