"""Trained networks as files: checkpoints and Hugging Face folders, read and written."""
