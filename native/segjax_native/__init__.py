"""segjax's convolution for CPUs in C++. `segjax.convolution` uses it if this package is installed.

`targets()` returns the functions for `jax.ffi.register_ffi_target`, by name.
"""

from segjax_native._convolution import targets

__all__ = ["targets"]
