"""Two generative models asked the same questions."""
