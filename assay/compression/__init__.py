"""Pruning, quantization, binarization, low rank, architecture search."""
