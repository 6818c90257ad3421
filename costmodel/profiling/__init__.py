"""Measures kernels with torch, and reads what other tools measured; only the modules that time something import torch."""
