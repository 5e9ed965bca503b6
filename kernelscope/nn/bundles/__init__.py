"""Networks bundled in closed form, block by block or as a whole."""
