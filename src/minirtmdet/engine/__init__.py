"""Training and evaluation: trainer, evaluator, optimiser, moving average."""
