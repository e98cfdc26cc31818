"""Conditions: class labels and their names."""
