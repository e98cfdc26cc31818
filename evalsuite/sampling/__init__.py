"""Noise, time grids, guidance, solvers and pixels, as pure functions."""
