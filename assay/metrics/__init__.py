"""Calibration, topology, image quality and other measures."""
