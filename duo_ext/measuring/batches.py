"""How many texts at a time fit into memory.

It is arithmetic alone, hence the same on every machine, because the tokens of a seed depend on the
batch. The functions ``of_*`` give bytes of a text of L tokens out of V, for networks of width D.
"""

MOST = 64  # texts at a time
SHARED = 16  # the most in a look, so that many processes have a share of its few hundred texts
WHOLE = 16e9  # bytes that may be filled of a GPU of 24 GB where nothing else runs
BESIDE = 8e9  # bytes that may be filled beside a training of 170 million weights


def of_hosts_sampler(length: int, vocab_size: int) -> int:
    """In a host's sampler: it holds about six tensors (L, V) in float64 at once."""
    return 6 * 8 * length * vocab_size


def of_body(length: int, width: int) -> int:
    """In a forward pass without the last layer and without a graph: in float32 the residual stream,
    a norm of it and the two widest tensors of a block, of 4D, with room for their casts."""
    return 64 * length * width


def of_logits(length: int, vocab_size: int, width: int) -> int:
    """In a forward pass to logits in float32."""
    return 4 * length * vocab_size + of_body(length, width)


def fitted(bytes_of_a_text: int, room: float = WHOLE, most: int = MOST) -> int:
    """How many texts fit ``room`` bytes, at most ``most`` and at least one."""
    return max(1, min(most, int(room // bytes_of_a_text)))


def of_a_look(length: int, width: int) -> int:
    """How many texts the guard draws at a time beside a training, for any number of processes."""
    return fitted(of_body(length, width), BESIDE, SHARED)
