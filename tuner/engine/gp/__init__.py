"""Gaussian-process optimization."""
