"""What Duo's DIT calls of flash-attn, in plain torch, for machines without it."""

from . import flash_attn_interface as flash_attn_interface
