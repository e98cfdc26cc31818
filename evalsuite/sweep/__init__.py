"""Sweeps: settings that are tried on the same samples, compared in pairs, and dropped by rungs."""
