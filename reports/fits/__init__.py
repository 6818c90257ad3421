"""The programs that fit the shipped calibration files."""
