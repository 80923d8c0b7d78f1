"""The version, for `pyconv.__version__` and the build."""

__version__ = "0.1.0"
