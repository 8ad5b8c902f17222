"""Hessian spectra, scaling-law fits, kernels, interpretability, theory."""
