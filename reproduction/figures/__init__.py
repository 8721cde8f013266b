"""The paper's figures: anomaly maps (1, 5 and 6) and the embedding of descriptors (4)."""
