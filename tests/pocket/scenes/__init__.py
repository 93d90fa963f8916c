"""Scenes: pictures of two subjects side by side, the base that reads their places, and near and far experts of it."""
