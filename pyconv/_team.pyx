"""Where a team's threads run: not on the CPU of the thread that waits for them.

Linux wakes a sleeping thread where it expects it to run soonest. In a virtual machine idle CPUs look
taken, so it often chooses the CPU of the waking thread, and the two take turns there until the load is
balanced: for 3 to 5 ms, in which a call of 1 ms was seen to take 5. So before a call its workers are
kept off the CPU from which it is made. These are OpenMP's threads; the calling one stays as it is, and
so does a team that the user has bound (OMP_PROC_BIND).
"""

cdef extern from *:
    """
    #if defined(__linux__) && defined(_OPENMP)
    #include <omp.h>
    #include <sched.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>
    #define MEMBERS 64          /* those beyond are left alone */

    static __thread struct {    /* each thread that makes calls has a team of its own */
        pid_t id[MEMBERS];      /* of the calling thread, then of its workers */
        long long look;         /* nanoseconds: when they were last seen to */
    } team;

    static void meet(int threads) {
        pid_t* id = team.id;    /* the workers' own `team` is another one */
        #pragma omp parallel num_threads(threads)
        id[omp_get_thread_num()] = (pid_t) syscall(SYS_gettid);
    }

    static int is_alive(pid_t id) { return id && syscall(SYS_tgkill, getpid(), id, 0) == 0; }

    static int is_met(int threads) {
        for (int i = 1; i < threads; i++) if (!is_alive(team.id[i])) return 0;
        return 1;
    }

    static void keep_apart(int threads) {
        struct timespec now;
        cpu_set_t cpus;
        long long look;
        int here;
        /* At most once in a tick of this clock, 1 to 4 ms; it takes 5 ns to read. */
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        look = now.tv_sec * 1000000000LL + now.tv_nsec;
        if (look == team.look) return;
        team.look = look;
        if (threads > MEMBERS) threads = MEMBERS;
        if (omp_get_proc_bind() != omp_proc_bind_false || omp_in_parallel()) return;
        if ((here = sched_getcpu()) < 0 || sched_getaffinity(0, sizeof(cpus), &cpus)) return;
        if (threads > CPU_COUNT(&cpus)) return;     /* some have to share a CPU */
        CPU_CLR(here, &cpus);
        if (!is_met(threads)) meet(threads);
        for (int i = 1; i < threads; i++)
            if (team.id[i]) sched_setaffinity(team.id[i], sizeof(cpus), &cpus);
    }
    #else
    static void keep_apart(int threads) { (void) threads; }
    #endif
    """
    void keep_apart(int threads) noexcept nogil


def spread(int threads):
    """Keep `threads` - 1 workers of this thread's calls off the CPU that it runs on now."""
    if threads > 1:
        with nogil:
            keep_apart(threads)
