"""A trained network written as a sum of kernel machines."""
