"""What a recorded run could not have learned."""
