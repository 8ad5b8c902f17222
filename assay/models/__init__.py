"""Small backbones and the papers' own architectures."""
