"""Kernels of the code interpreter: what forks them, and what they show."""
