"""Parts of the study of layers that are kernels."""
