"""The two halves of the study of what a network learned: what it could not, and what is outside of it."""
