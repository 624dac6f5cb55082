"""IDLM for Duo: the registry of algorithms, and how a user is refused. Importing it imports nothing
else."""

ALGORITHMS = {
    "idlm": "duo_ext.algorithms.IDLM",
    "idlm_mdlm": "duo_ext.algorithms.IDLMMDLM",
    "idlm_dcd": "duo_ext.algorithms.IDLMDCD",
}


class Refused(ValueError):
    """What a user asked for cannot be done. The message is one sentence for the user: the key, what
    was given, what is wanted.

    The command lines print it alone. Every other exception is a fault of the program and keeps its
    traceback.
    """
