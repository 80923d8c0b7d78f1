"""What this CPU, its operating system and the OpenMP runtime offer. Always compiled for baseline."""

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #define PYCONV_OPENMP _OPENMP
    #else
    #define PYCONV_OPENMP 0
    #endif
    static int pyconv_x86_64_level(void) {
    #if defined(__x86_64__)
        /* libgcc and compiler-rt also ask XGETBV whether the system saves ymm and zmm. */
        __builtin_cpu_init();
        if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
              __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2"))) return 1;
        if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl"))) return 3;
        return 4;
    #else
        return 0;
    #endif
    }
    """
    int pyconv_x86_64_level() noexcept nogil
    const int PYCONV_OPENMP
    const char* compiler "__VERSION__"


def x86_64_level():
    """Return 1, 3 or 4 (the x86-64-vN that this machine runs), or 0 on other processors."""
    return pyconv_x86_64_level()


def openmp_version():
    """Return the date (yyyymm) of the OpenMP standard this was built with, or 0 without OpenMP."""
    return PYCONV_OPENMP


def compiler_version():
    """Return what the C compiler calls itself."""
    return compiler.decode()
