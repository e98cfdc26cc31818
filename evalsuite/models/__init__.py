"""Denoisers, one folder for each family, with their registry and checkpoint loading."""
