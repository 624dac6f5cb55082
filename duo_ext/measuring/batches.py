"""How many texts at a time fit into memory: arithmetic alone, the same on every machine, because
the tokens of a seed depend on the batch.

Bytes a text, L tokens of V kinds, networks of width D.
"""

MOST = 64  # texts at a time
SHARED = 16  # in a look, so that many processes have a share of its few hundred texts
WHOLE = 16e9  # of a GPU of 24 GB, for what has it for itself
BESIDE = 8e9  # beside a training of 170 million weights


def of_hosts_sampler(length: int, vocab_size: int) -> int:
    """A host's sampler holds about six tensors (L, V) in float64 at once."""
    return 6 * 8 * length * vocab_size


def of_body(length: int, width: int) -> int:
    """A forward pass without its last layer, no graph: in float32 the residual stream, a norm of
    it and the two widest tensors of a block, of 4D, with room for their casts."""
    return 64 * length * width


def of_logits(length: int, vocab_size: int, width: int) -> int:
    """A forward pass to its logits in float32; ``width`` that of the body."""
    return 4 * length * vocab_size + of_body(length, width)


def fitted(bytes_of_a_text: int, room: float = WHOLE, most: int = MOST) -> int:
    """As many texts as fit the room, at most ``most`` and at least one."""
    return max(1, min(most, int(room // bytes_of_a_text)))


def of_a_look(length: int, width: int) -> int:
    """How many texts the guard draws at a time beside a training, for any number of processes."""
    return fitted(of_body(length, width), BESIDE, SHARED)
