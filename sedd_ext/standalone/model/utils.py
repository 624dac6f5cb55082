"""Networks as functions of (tokens, sigma)."""


def get_score_fn(model, train=False, sampling=False):
    """``score_fn(x, sigma)`` with sigma of any shape with B entries: log-scores (B, L, dim), scores
    where ``sampling``. Each call puts the model in training mode or out of it."""
    assert not (train and sampling), "samples are drawn in evaluation mode"

    def score_fn(x, sigma):
        model.train(train)
        log_score = model(x, sigma.reshape(-1))
        return log_score.exp() if sampling else log_score

    return score_fn
