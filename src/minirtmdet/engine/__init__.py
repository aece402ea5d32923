"""What trains a detector and keeps its run: trainer, optimiser, moving average, the folder of a run."""
