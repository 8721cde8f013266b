"""The method of the paper (Section 3), one idea per module, in the modules that anomalib's models have."""
