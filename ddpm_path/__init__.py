"""Diffusion models, from their papers to working code: one idea a module, each true to its equations."""
