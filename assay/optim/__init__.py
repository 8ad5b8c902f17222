"""Optimizers, gradient procedures, batch-size and learning-rate rules."""
