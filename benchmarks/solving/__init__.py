"""What the benchmark of solvers is made of: problems, the track of a contender, contenders."""
