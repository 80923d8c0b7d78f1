"""Check and time each layer: `python benchmarks/layers.py --peer torch`.

The same as `pyconv bench layers`; the code is in pyconv/bench.
"""

import sys

from pyconv.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "layers", *sys.argv[1:]]))
