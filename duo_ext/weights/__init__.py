"""Trained networks as files: checkpoints, folders of the hub's layout, how they are written."""
