"""Kernels for GPUs, and a model of the tiles that a published kernel takes."""
