"""Batch transforms, selection, distillation and data set readers."""
