"""Training, checkpoints, evaluation, sampling and figures."""
