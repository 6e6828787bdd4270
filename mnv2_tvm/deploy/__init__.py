"""From lowered kernels to a shared library and back into a process."""
