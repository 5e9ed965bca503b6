"""GANs: two runs of one game, the critic as a witness, the generator's motion through it."""
