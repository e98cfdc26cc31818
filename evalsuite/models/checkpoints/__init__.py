"""Checkpoints: what is in a weights file, which part to take, and how a network gets it."""
