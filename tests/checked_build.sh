# Sourced by run_sanitizers.sh and run_bounds_checked.sh: a build of its own, and which tests it runs.
#
# `build_copy` builds the kernels of a temporary copy of the sources, as the PYCONV_* variables say,
# and goes there. It uses the Python that is active, which needs Cython, setuptools and the extra `test`.
# `selected` and `only` name the tests of the kernels; with --reduced, those that reach most of them in
# little time.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

selected=(test_random_geometries test_special_values test_batch_norm test_conv_pool test_dense
          test_scatter test_winograd)
only=()
case "${1:-}" in
    "")
        selected+=(test_activations test_blocks test_conv test_conv_transpose test_depthwise test_layers
                   test_line test_line_wide test_losses test_manners test_model test_onnx test_pool
                   test_program test_threads test_watch test_winograd_row)
        ;;
    --reduced)  # the baseline in float32: indices are the same in all variants
        export PYCONV_BUILD_ISA=
        only=(-k "not float64")
        ;;
    *)
        echo "usage: ${0##*/} [--reduced]" >&2
        exit 2
        ;;
esac
selected=("${selected[@]/#/tests/}")
selected=("${selected[@]/%/.py}")

build_copy() {
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
    tar -C "$root" -cf - --exclude='*.so' --exclude=__pycache__ \
        pyconv tests setup.py pyproject.toml README.md LICENSE | tar -C "$copy" -xf -
    cd "$copy"
    python setup.py -q build_ext --inplace
}
