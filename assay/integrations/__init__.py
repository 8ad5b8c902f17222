"""The same methods in the trainers of others."""
