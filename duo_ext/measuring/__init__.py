"""What samples are worth: the judge, statistics against held-out text, what can be sampled."""
