"""Here, so that `ragged` is this folder and not the benchmark of that name."""
