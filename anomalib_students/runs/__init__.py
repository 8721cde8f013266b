"""Grids of trainings: what runs them, here or on a cluster, and what resumes them."""
