"""Adaptive Feature Aggregation (AFA, arXiv 2405.17082): the algorithm, without a user interface."""
