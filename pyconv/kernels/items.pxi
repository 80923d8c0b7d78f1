# Work items: how small they get, who shares them, and how long they take.
#
# `pyconv bench threads` predicts many threads from the time of every item on one. A driver calls
# `region_starts` before a prange and `item_ends` behind each item; nothing is written unless
# `record_items` gave an array.

from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef enum:
    ITEMS = 32              # enough for dynamic scheduling to even out a disturbed core
    ITEM_WORK = 250_000     # multiply-adds; smaller items cost more to hand out than they save
    TINY = 32_768           # numbers; copying fewer takes less time than waking a thread

cdef double* stamps = NULL
cdef Py_ssize_t stamps_size = 0, stamps_taken = 0


cdef inline bint is_shared(Py_ssize_t work) noexcept nogil:
    """Whether threads share so many multiply-adds; tiny work stays on one."""
    return work > 2 * ITEM_WORK


cdef inline int team(Py_ssize_t work, int num_threads) noexcept nogil:
    return num_threads if is_shared(work) else 1


cdef inline Py_ssize_t handful(Py_ssize_t items) noexcept nogil:
    """How many items a thread takes at once, where there are many.

    Small neighbouring items that two threads take in turns cost more than they even out: each asks
    for lines that the other one is writing. (Winograd on 345 items of 3 us: no faster on two threads.)
    """
    return 1 + items // (2 * ITEMS)


cdef void stamp(int sign) noexcept nogil:
    global stamps_taken
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    if stamps_taken < stamps_size:
        stamps[stamps_taken] = sign * (now.tv_sec + 1e-9 * now.tv_nsec)
    stamps_taken += 1


cdef inline void region_starts(bint shared) noexcept nogil:
    """Before a prange: note the time, negative, or 0 if it stays on one thread anyway."""
    if stamps != NULL:
        stamp(-1 if shared else 0)


cdef inline void item_ends() noexcept nogil:
    """Behind an item of a prange: note the time."""
    if stamps != NULL:
        stamp(1)


def record_items(double[::1] times):
    """From now on write when regions start (negative, or 0) and items end into `times`; None: stop.

    Seconds of the monotonic clock. Only for calls on one thread, one after the other.

    Returns
    -------
    int
        How many times there were since the last call; those that found no place were dropped.
    """
    global stamps, stamps_size, stamps_taken
    taken = stamps_taken
    stamps_taken = 0
    stamps, stamps_size = NULL, 0
    if times is not None:
        stamps, stamps_size = &times[0], times.shape[0]
    return taken
