"""The paper's figures, from any trained model: anomaly-map panels (1, 5, 6) and the descriptor embedding (4)."""
