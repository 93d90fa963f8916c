"""Metrics of pictures and paired statistics."""
