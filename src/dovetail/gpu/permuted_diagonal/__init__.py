"""Permuted diagonals on GPUs: kernels, the choice of their plans, the op, and the layer that uses it."""
