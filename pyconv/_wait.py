"""How long OpenMP's threads spin before they sleep; set before libgomp reads its environment.

By default libgomp spins for 5 to 10 ms at the end of every parallel region. On a busy machine that
takes the core from the very thread that is waited for: a training step was seen to take a hundred
times as long. A millisecond bridges the gap between two layers just as well; with a tenth of that,
threads slept so often that the system left two of them on one core. Whoever sets
OMP_WAIT_POLICY or GOMP_SPINCOUNT keeps their choice; so does a process that loaded libgomp before.
"""

import os

_SPINS = "40000"  # about 1 ms

if "GOMP_SPINCOUNT" not in os.environ and "OMP_WAIT_POLICY" not in os.environ:
    os.environ["GOMP_SPINCOUNT"] = _SPINS
    try:
        from . import _dispatch  # noqa: F401  (its kernels load libgomp)
    except ImportError:
        pass  # raised again, and reported, when `functional` imports it
    finally:
        del os.environ["GOMP_SPINCOUNT"]  # child processes choose for themselves
