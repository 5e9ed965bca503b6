"""Learning curves: machines on more and more samples, and the laws that their errors follow."""
