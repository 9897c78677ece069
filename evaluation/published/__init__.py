"""Small and true-sized checkpoints in the layout of the published ones, with random weights."""
