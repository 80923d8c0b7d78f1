# The same kernels in float64, for x86-64-v4: see ISA_FLAGS and DTYPE_FLAGS in setup.py.
include "_kernels.pyx"
