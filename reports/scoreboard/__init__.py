"""Frozen predictions and scores of releases."""
