"""One question in each file, and one result for each question."""
