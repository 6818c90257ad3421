"""The page of whole runs."""
