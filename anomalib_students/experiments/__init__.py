"""The paper's experiments: its tables, cell by cell, ours beside the paper's."""
