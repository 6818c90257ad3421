"""Measures kernels with torch, and reads what other tools measured; only what times kernels imports torch."""
