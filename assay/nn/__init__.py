"""Layers, heads and model surgery."""
