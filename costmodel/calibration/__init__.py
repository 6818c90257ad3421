"""The fits of a device: reading them, choosing among them, and predicting the rows of a table with them."""
