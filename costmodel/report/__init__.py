"""Terminal views, plots and pages. Every number comes from a result."""
