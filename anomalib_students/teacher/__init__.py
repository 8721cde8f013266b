"""Teachers: how they are pretrained or distilled, and the files of their weights."""
