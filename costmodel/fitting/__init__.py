"""Fits of kernel families to measurements: forms, residuals, interval widths, and the files they are written to."""
