"""The version of the package, by itself: what reports it need not import the package's front door."""

__version__ = "0.1.0"
