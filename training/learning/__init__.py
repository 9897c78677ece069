"""Objective, data and optimizers of the training."""
