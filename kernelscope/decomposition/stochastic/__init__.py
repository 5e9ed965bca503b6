"""What training would have ended at on average over its own noise, and how far single runs lie from there."""
