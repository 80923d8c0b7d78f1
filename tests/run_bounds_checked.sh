#!/usr/bin/env bash
# The tests of the kernels in a build that checks the bounds of memoryviews (PYCONV_DEBUG=1).
#
#   tests/run_bounds_checked.sh [--reduced]  --reduced: the baseline in float32, 70 s of CPU; .ci/run has it
. "$(dirname "$0")/checked_build.sh"

export PYCONV_DEBUG=1
build_copy
python -m pytest -q -x -n auto -p no:cacheprovider "${only[@]}" "${selected[@]}"
