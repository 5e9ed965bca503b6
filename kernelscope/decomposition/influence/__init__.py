"""What training on a sample did to an output, as a derivative: through the whole run, or at its end."""
