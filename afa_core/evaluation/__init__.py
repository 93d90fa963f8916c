"""Comparing systems: metrics, prompt sets, paired statistics and the tables made of them."""
