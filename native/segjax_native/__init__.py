"""segjax's convolution for CPUs in C++. `segjax.convolution` takes it where this package is installed.

`targets()` gives the functions to register with `jax.ffi.register_ffi_target`, by name.
"""

from segjax_native._convolution import targets

__all__ = ["targets"]
