"""The page of attention and MoE systems."""
