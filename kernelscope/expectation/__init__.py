"""What a run would have ended at on average over its own noise, to second order in the learning rate."""
