"""IDLM for SEDD. Its rooms are those of duo_ext; the method is duo_ext.core."""
