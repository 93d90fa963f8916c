"""Scorers of pictures on the networks that the user has on disk."""
