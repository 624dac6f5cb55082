"""IDLM for SEDD: python -m sedd_ext, standalone or in a SEDD checkout."""
