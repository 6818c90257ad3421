"""The page of `costmodel app`: scenarios as forms on this machine, answered by worker processes."""
