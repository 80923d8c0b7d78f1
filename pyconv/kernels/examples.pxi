# A minibatch: some of the examples, copied one behind the other by all threads.
#
# The 64 images of a step of `zoo.signs_convnet` come from memory: NumPy's copy, on one thread, took half
# as long as the step on two. Here each thread copies the images that it computes with afterwards.

from cython.parallel cimport parallel, threadid
from libc.stdint cimport int64_t
from libc.string cimport memcpy


def take_rows(const unsigned char[:, ::1] x, const int64_t[::1] rows, unsigned char[:, ::1] out,
              int num_threads):
    """out[i] = x[rows[i]], bytes of any numbers; `rows` lie in 0 .. len(x) - 1."""
    cdef Shares shares
    cdef Py_ssize_t thread, i, n = rows.shape[0], size = x.shape[1]
    cdef int threads = num_threads if n * size > TINY * <Py_ssize_t> sizeof(real) else 1
    share_out(&shares, n, threads)
    region_starts(threads > 1)
    with nogil, parallel(num_threads=threads):
        thread = threadid()
        i = next_item(&shares, thread)
        while i >= 0:
            memcpy(&out[i, 0], &x[rows[i], 0], size)
            item_ends()
            i = next_item(&shares, thread)
