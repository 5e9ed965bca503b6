"""How much of what moves a network's answer to a query was moved by training: coverage, and what is told with it."""
