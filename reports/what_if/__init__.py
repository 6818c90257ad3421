"""The published what-ifs: each a question, a figure with its data, and what the figure says."""
