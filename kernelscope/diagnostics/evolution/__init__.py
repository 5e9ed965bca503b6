"""How the kernel of a network moved while it was trained."""
