"""One page for a browser: the same figures and numbers in a single file that needs nothing else."""
