# What this CPU can do at best, for `pyconv bench`: the peak of fused multiply-adds, and, with no
# steps, what starting and ending a parallel region costs.

from cython.parallel cimport prange

cdef enum:
    CHAINS = 12  # independent sums: they hide the latency of two ports, and fit in 16 registers


cdef void fma_chains(real* out, Py_ssize_t steps) noexcept nogil:
    """`steps` multiply-adds in each of CHAINS vectors; `out` gets VL numbers, so that none is idle."""
    cdef vec[CHAINS] acc
    cdef vec scale = vec_set(0.5), one = vec_set(1)
    cdef Py_ssize_t step
    cdef int i
    for i in range(CHAINS):
        acc[i] = vec_set(i)  # all different, or the compiler would keep one chain of them
    for step in range(steps):
        for i in range(CHAINS):
            acc[i] = acc[i] * scale + one
    for i in range(1, CHAINS):
        acc[0] = acc[0] + acc[i]
    (<vec*> out)[0] = acc[0]


def fma_probe(real[:, ::1] out, Py_ssize_t steps):
    """Run `steps` rounds of multiply-adds on as many threads as `out` has rows (of 16 numbers).

    Returns the number of multiplications and additions done.
    """
    cdef int num_threads = out.shape[0], t
    for t in prange(num_threads, num_threads=num_threads, schedule="static", nogil=True):
        fma_chains(&out[t, 0], steps)
    return 2 * VL * CHAINS * steps * num_threads
