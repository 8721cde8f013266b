"""The teacher: its pretraining task, and the files that its weights live in."""
