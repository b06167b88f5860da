"""What the kernels of linear layers in blocks share: plans, their choice, checks, and the sum of splits."""
