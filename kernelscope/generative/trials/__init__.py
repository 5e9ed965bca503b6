"""Questions that need many trainings."""
