"""The runner: jobs that need one another, done here or on a Ray cluster, and resumed where they stopped."""
