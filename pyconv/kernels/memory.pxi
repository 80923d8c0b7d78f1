# Workspaces: memory aligned to cache lines, that grows and is then used again, call after call.

from libc.stdlib cimport free

cdef extern from *:
    """
    #include <stdlib.h>
    #ifdef _OPENMP
    #include <omp.h>
    #endif
    """
    const Py_ssize_t PY_SSIZE_T_MAX
    int posix_memalign(void** pointer, size_t alignment, size_t size) noexcept nogil


cdef class Workspace:
    """`size` bytes at `data`, aligned to a cache line; undefined contents."""
    cdef char* data
    cdef Py_ssize_t size

    def __dealloc__(self):
        free(self.data)

    cdef real* take(self, Py_ssize_t count) except? NULL:
        """At least `count` numbers; what was there before is lost."""
        cdef void* memory = NULL
        cdef Py_ssize_t size
        if count > PY_SSIZE_T_MAX // <Py_ssize_t> sizeof(real) - 64:
            raise MemoryError(f"a workspace of {count} numbers")
        size = count * <Py_ssize_t> sizeof(real) + 64
        if size > self.size:
            free(self.data)
            self.data = NULL
            self.size = 0
            if posix_memalign(&memory, 64, size) != 0:
                raise MemoryError(f"a workspace of {size} bytes")
            self.data = <char*> memory
            self.size = size
        return <real*> self.data
