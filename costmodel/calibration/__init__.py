"""What measurements say about kernels: reading the tables, comparing them with the cost functions, loading the fits.

`load` is all that a prediction needs; the other modules load when imported.
"""
