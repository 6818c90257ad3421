"""Tables of measured kernels: reading, screening, and the operators that their rows time."""
