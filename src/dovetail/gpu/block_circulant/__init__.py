"""Block-circulant weights on GPUs: the kernel, the transforms, the choice between them, the op and its layer."""
