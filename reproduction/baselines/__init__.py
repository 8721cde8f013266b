"""Baselines that the paper compares with (Section 4, Appendices B and C)."""
