"""Fitting an aggregator to its experts, and telling beforehand whether that is worth it."""
