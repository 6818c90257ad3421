"""Measures kernels with torch, and reads what other tools measured. Only what times kernels imports torch."""
