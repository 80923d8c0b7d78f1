"""Time each layer on one thread and on more: `python benchmarks/threads.py --threads 1,2`.

The same as `pyconv bench threads`; the code is in pyconv/bench.
"""

import sys

from pyconv.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "threads", *sys.argv[1:]]))
