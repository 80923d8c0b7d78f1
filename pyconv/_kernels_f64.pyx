# The same kernels in float64, for the baseline: see ISA_FLAGS and DTYPE_FLAGS in setup.py.
include "_kernels.pyx"
