"""Nothing of torchvision.transforms is there."""
