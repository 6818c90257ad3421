"""The page of kernel predictions."""
