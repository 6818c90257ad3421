"""The generated parts of the README."""
