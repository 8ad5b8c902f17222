"""Objectives on tensors."""
