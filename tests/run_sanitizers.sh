#!/usr/bin/env bash
# The tests of the kernels under AddressSanitizer and UndefinedBehaviorSanitizer.
#
#   tests/run_sanitizers.sh [--reduced]      --reduced: the baseline in float32, 150 s of CPU; .ci/run has it
#
# The first fault ends the run with its place in the generated C, whose comments quote the Cython line.
. "$(dirname "$0")/checked_build.sh"

export PYCONV_SANITIZE=1
build_copy

# Python leaves much to the end of the process, so leaks are not looked for; a test asks for more memory
# than there is, and expects a MemoryError. Faults are printed to the file that pytest must not capture.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
LD_PRELOAD=$("${CC:-gcc}" -print-file-name=libasan.so) \
    python -m pytest -q -x -n auto --capture=sys -p no:cacheprovider "${only[@]}" "${selected[@]}"
