"""Our figures beside those of the paper's tables."""
