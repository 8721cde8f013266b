"""Run jobs that depend on one another, in this process or on a Ray cluster, and resume them."""
