"""Trees of Duo and SEDD on disk: how one is found, and what it needs on this machine."""
