"""The paper's tables, and ours beside them."""
