"""How anomalib's engine trains our models: length, time, checkpoints, resuming, precision."""
