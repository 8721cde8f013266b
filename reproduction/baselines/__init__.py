"""Baselines that the paper compares with: models of the teacher's descriptors (Section 4, Appendices B and C).

Nothing is imported here, so that ``anomalib_students`` stays cheap to import.
"""
