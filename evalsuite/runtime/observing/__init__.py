"""Seeing a run: what listens to the driver's events and tells files, metrics and loggers."""
