"""IDLM for Duo: the registry of algorithms. Importing it imports nothing else."""

ALGORITHMS = {
    "idlm": "duo_ext.algorithms.IDLM",
    "idlm_mdlm": "duo_ext.algorithms.IDLM",
    "idlm_dcd": "duo_ext.algorithms.IDLMDCD",
}
