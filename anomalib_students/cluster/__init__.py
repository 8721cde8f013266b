"""Train, sweep and pretrain on a Ray cluster."""
