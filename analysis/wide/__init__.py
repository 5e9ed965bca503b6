"""How fast errors of kernels of infinite width fall, and what transformed copies bring."""
