"""What the paper compares with and shows: its baselines, tables, figures and one-class experiments."""
