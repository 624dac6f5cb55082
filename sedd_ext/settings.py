"""Values of SEDD's keys that cannot work in any host, refused before anything is loaded."""

from duo_ext.settings import require_positive

TRAINING = (
    *("optim.lr", "training.batch_size", "training.accum", "training.n_iters"),
    *("training.log_freq", "training.eval_freq", "training.snapshot_freq"),
    "training.snapshot_freq_for_preemption",
)
ALWAYS = (
    *("model.length", "model.n_blocks", "model.n_heads", "model.hidden_size", "eval.batch_size"),
    *("eval.perplexity_batch_size", "sampling.steps", "sampling.samples"),
)
PRECISIONS = ("32", "bf16")


def check(config):
    """Raise a ValueError that names the first key whose value cannot work."""
    require_positive(config, ALWAYS)
    model = config.model
    if model.hidden_size % model.n_heads:
        raise ValueError(
            f"model.hidden_size is {model.hidden_size}; it must be a multiple of model.n_heads "
            f"{model.n_heads}"
        )
    if str(config.precision) not in PRECISIONS:
        raise ValueError(f"precision is {config.precision}; it must be {' or '.join(PRECISIONS)}")
    if config.mode == "train":
        require_positive(config, TRAINING)
    elif config.checkpoint is None:
        raise ValueError(f"checkpoint is null; mode={config.mode} needs one")
