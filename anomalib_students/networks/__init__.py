"""The patch networks of the paper, how they describe every pixel, and files of their weights; they know only torch."""
