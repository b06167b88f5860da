"""Tucker-2 on GPUs: kernels, the choice of their tiles, ops, and the layer that uses them."""
