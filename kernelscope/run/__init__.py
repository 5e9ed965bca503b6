"""What training left behind: the recorder, the run, its replay, and the update rules."""
