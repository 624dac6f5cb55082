"""The name that Duo imports of timm, for machines without it."""
