"""Products with kernels of distances by one program on a GPU, which writes no entry of the kernel's matrix."""
