"""What leaving samples out of training does, measured by training again, and which scores foretell it."""
