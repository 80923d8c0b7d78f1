"""``python -m pyconv`` is the command `pyconv`."""

import sys

from .cli import main

sys.exit(main())
