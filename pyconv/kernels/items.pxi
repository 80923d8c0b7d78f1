# Work items: how small they get, who shares them, and how long they take.
#
# Every thread has a share of the items, the same one in every layer: items count images in order, so
# what a thread reads lies in the caches of its own core, where it wrote it in the layer before. A thread
# whose share is done takes items of the others, so that a disturbed core does not double the time: the
# last ones, so that the same lie in its caches in the next call. (From the first on, threads took turns;
# what they took had to come from the other core, which made it slower, and more was taken.)
#
# A driver has no prange over items. That would ask libgomp's counter, which all threads write, for each,
# and has a barrier where it begins, for the value that its variable keeps: 0.2 us.
#
# A region of one thread begins no team. libgomp would make one and, at its end, ask the system to wake
# whoever waits for it: 0.35 us a region, and a fifth of the time of one image of `zoo.lenet5`.
#
# `pyconv bench threads` predicts many threads from the time of every item on one. A driver calls
# `region_starts` before a region and `item_ends` behind each item; nothing is written unless
# `record_items` gave an array.

from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef enum:
    ITEMS = 32              # enough for dynamic scheduling to even out a disturbed core
    ITEM_WORK = 250_000     # multiply-adds; smaller items cost more to hand out than they save
    TINY = 32_768           # numbers; copying fewer takes less time than waking a thread

    SHARES = 64             # threads beyond these begin with the share of another

cdef extern from *:
    """
    #ifdef WRAP_PARALLEL    /* setup.py: for the compiler's calls the linker takes the second of these */
    #include <omp.h>
    void __real_GOMP_parallel(void (*region)(void*), void* data, unsigned threads, unsigned flags);
    __attribute__((visibility("hidden")))
    void __wrap_GOMP_parallel(void (*region)(void*), void* data, unsigned threads, unsigned flags) {
        if (threads == 1 && omp_get_level() == 0) region(data);
        else __real_GOMP_parallel(region, data, threads, flags);
    }
    #endif
    """
    Py_ssize_t fetch_add "__atomic_fetch_add"(Py_ssize_t* place, Py_ssize_t count, int order) nogil
    Py_ssize_t load "__atomic_load_n"(Py_ssize_t* place, int order) nogil
    const int RELAXED "__ATOMIC_RELAXED"

cdef struct Share:
    # These counters have two lines of the cache to themselves: also before the first share, where the
    # compiler puts what all threads read for each item.
    char before[104]
    Py_ssize_t first, end           # its items
    Py_ssize_t given                # so many of them are, each to one thread:
    Py_ssize_t to_owner, to_others  # the first ones to its own, the last ones to others
    char behind[112]

cdef struct Shares:
    Share of[SHARES]
    int count

cdef double* stamps = NULL
cdef Py_ssize_t stamps_size = 0, stamps_taken = 0


cdef inline bint is_shared(Py_ssize_t work) noexcept nogil:
    """Whether threads share so many multiply-adds; tiny work stays on one."""
    return work > 2 * ITEM_WORK


cdef inline bint too_few(Py_ssize_t items, Py_ssize_t wanted, Py_ssize_t work) noexcept nogil:
    """Whether `items` are fewer than wanted, of so much work that more of them would pay."""
    return items < wanted and work > 2 * ITEM_WORK * items


cdef inline int team(Py_ssize_t work, int num_threads) noexcept nogil:
    return num_threads if is_shared(work) else 1


cdef inline Py_ssize_t handful(Py_ssize_t items) noexcept nogil:
    """How many rows of a pool make an item: one alone takes little more than asking for it."""
    return 1 + items // (2 * ITEMS)


cdef void share_out(Shares* shares, Py_ssize_t items, int threads) noexcept nogil:
    """Before a region over `items`: an equal share of them, in order, for each thread."""
    cdef int t, count = min(threads, SHARES)
    cdef Share* share
    shares.count = count
    for t in range(count):
        share = &shares.of[t]
        share.first, share.end = items * t // count, items * (t + 1) // count
        share.given = share.to_owner = share.to_others = 0


cdef inline Py_ssize_t next_item(Shares* shares, Py_ssize_t thread) noexcept nogil:
    """The next item of the thread's share, or the last of the first that is not done; -1: all are."""
    cdef Py_ssize_t turn
    cdef Share* share
    for turn in range(shares.count):
        share = &shares.of[(thread + turn) % shares.count]
        # Looked at first, so that a share which is done stays in the cache where it is.
        if (load(&share.given, RELAXED) < share.end - share.first
                and fetch_add(&share.given, 1, RELAXED) < share.end - share.first):
            if turn == 0:
                return share.first + fetch_add(&share.to_owner, 1, RELAXED)
            return share.end - 1 - fetch_add(&share.to_others, 1, RELAXED)
    return -1


cdef void stamp(int sign) noexcept nogil:
    global stamps_taken
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    if stamps_taken < stamps_size:
        stamps[stamps_taken] = sign * (now.tv_sec + 1e-9 * now.tv_nsec)
    stamps_taken += 1


cdef inline void region_starts(bint shared) noexcept nogil:
    """Before a region: note the time, negative, or 0 if it stays on one thread anyway."""
    if stamps != NULL:
        stamp(-1 if shared else 0)


cdef inline void item_ends() noexcept nogil:
    """Behind an item: note the time."""
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
