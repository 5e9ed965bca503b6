"""A generated point split over sampling stages, training noise and training points."""
