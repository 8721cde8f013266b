"""Teachers: how they are pretrained or distilled."""
