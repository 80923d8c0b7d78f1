"""Build the kernels: one Cython source, one extension module per instruction set and dtype.

Environment
-----------
PYCONV_OPENMP=0|1      0: build without OpenMP; 1: fail where it is missing (default: probe, warn)
PYCONV_BUILD_ISA=...   comma list out of v3,v4 (default: both on x86-64); empty: baseline alone
PYCONV_DEBUG=1         bounds checks on, -O1 -g1; for test runs, not for wheels
PYCONV_SANITIZE=1      AddressSanitizer and UndefinedBehaviorSanitizer, -O1 -g1; see
                       tests/run_sanitizers.sh, which preloads their runtime
"""

import os
import platform
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("PYCONV_DEBUG") == "1"
SANITIZE = os.environ.get("PYCONV_SANITIZE") == "1"
IS_X86_64 = platform.machine().lower() in ("x86_64", "amd64")
# PREFETCHW is in no level, but in every CPU with AVX2; where another core wrote a line, it saves asking
# for it twice.
ISA_FLAGS = {
    "": [],
    "_v3": ["-march=x86-64-v3", "-mprfchw"],
    "_v4": ["-march=x86-64-v4", "-mprfchw", "-mprefer-vector-width=512"],
}
DTYPE_FLAGS = {"": ["-DPYCONV_REAL=float"], "_f64": ["-DPYCONV_REAL=double"]}
# Register tiles are shaped by hand: SLP rewrites them with shuffles, and GCC's default limits on
# complete unrolling stop short of them. Contraction is how a * b + c becomes the one fused
# multiply-add of design rule 2; it is GCC's default, but not clang's.
OPTIMISE = [
    "-O3", "-g0", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
    "-fno-tree-slp-vectorize",
]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
# At -O1 a product and its sum do not always meet in one block, and are fused or not by chance. UNFUSED:
# nor does vec.pxi fuse any itself, so that all variants and batches keep the same bits.
CHECKED = ["-O1", "-g1", "-fno-omit-frame-pointer", "-ffp-contract=off", "-DUNFUSED"]
# GCC shall unroll tiles, and not call memset for their zeros, which would leave registers for that.
OPTIMISE_GCC = [
    "--param=max-completely-peeled-insns=2000", "--param=max-completely-peel-times=40",
    "-fno-tree-loop-distribute-patterns",
]
# GNU's linker and LLVM's; a compiler whose OpenMP is not libgomp refuses it, or has no such calls.
WRAP_PARALLEL = "-Wl,--wrap=GOMP_parallel"  # see kernels/items.pxi
DIRECTIVES = {
    "language_level": 3, "binding": False, "embedsignature": True, "cdivision": True,
    "boundscheck": DEBUG, "wraparound": False, "initializedcheck": DEBUG,
    # Plans are not pickled. Comments with the source are two fifths of the C that a compiler reads; only
    # faults that a checked build finds are looked up there.
    "auto_pickle": False, "emit_code_comments": DEBUG or SANITIZE,
}


def wanted_levels() -> list[str]:
    if not IS_X86_64:
        return [""]
    named = os.environ.get("PYCONV_BUILD_ISA", "v3,v4").split(",")
    unknown = [name for name in named if name and "_" + name not in ISA_FLAGS]
    if unknown:
        raise SystemExit(f"PYCONV_BUILD_ISA names {unknown}: expected a comma list of v3, v4")
    return ["", *("_" + name for name in named if name)]


class BuildKernels(build_ext):
    """Adds flags that depend on the compiler, and says what it could not find."""

    def build_extensions(self):
        if self.compiler.compiler_type == "msvc":
            raise SystemExit("pyconv's kernels use GCC's vector types: build with gcc or clang")
        if self.parallel is None:
            self.parallel = os.cpu_count()
        flags = OPTIMISE + [p for p in OPTIMISE_GCC if self._accepts(p)]
        if DEBUG or SANITIZE:
            flags = CHECKED
        both = ["-fopenmp"] if self._has_openmp() else []  # for compiler and linker
        wrap = both and self._accepts(WRAP_PARALLEL, link=True)
        if SANITIZE:
            both += SANITIZERS
        for ext in self.extensions:
            ext.extra_compile_args = flags + both + ext.extra_compile_args
            ext.extra_link_args = both + ext.extra_link_args
            if wrap and "_kernels" in ext.name:
                ext.define_macros.append(("WRAP_PARALLEL", None))
                ext.extra_link_args.append(WRAP_PARALLEL)
        super().build_extensions()

    def _has_openmp(self) -> bool:
        mode = os.environ.get("PYCONV_OPENMP", "auto")
        if mode == "0":
            return False
        if self._accepts("-fopenmp", "#include <omp.h>\nint main(void) "
                                     "{ return omp_get_max_threads() < 1; }\n", link=True):
            return True
        if mode == "1":
            raise SystemExit("PYCONV_OPENMP=1, but this compiler cannot build with -fopenmp")
        self.warn("no OpenMP here: pyconv will run on one thread")
        return False

    def _accepts(self, flag, source="int main(void) { return 0; }\n", link=False) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "probe.c")
            path.write_text(source)
            try:
                objects = self.compiler.compile(
                    [str(path)], output_dir=folder, extra_postargs=[flag, "-Werror"])
                if link:
                    self.compiler.link_executable(
                        objects, str(Path(folder, "probe")), extra_postargs=[flag])
            except Exception:  # whatever the compiler driver raises: it does not accept the flag
                return False
        return True


def kernel(isa: str, dtype: str) -> Extension:
    name = f"_kernels{dtype}{isa}"
    return Extension(
        f"pyconv.{name}", [f"pyconv/{name}.pyx"],
        depends=["pyconv/_kernels.pyx", *map(str, Path("pyconv/kernels").glob("*.pxi"))],
        extra_compile_args=[*ISA_FLAGS[isa], *DTYPE_FLAGS[dtype]],
    )


setup(
    ext_modules=cythonize(
        [
            Extension("pyconv._cpu", ["pyconv/_cpu.pyx"]),
            Extension("pyconv._team", ["pyconv/_team.pyx"]),
            Extension("pyconv._blocks", ["pyconv/_blocks.pyx"]),
            *(kernel(isa, dtype) for isa in wanted_levels() for dtype in DTYPE_FLAGS),
        ],
        compiler_directives=DIRECTIVES,
        build_dir="build/cython",
        nthreads=os.cpu_count() or 1,
    ),
    cmdclass={"build_ext": BuildKernels},
)
