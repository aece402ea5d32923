"""How good a detector is: AP, what its detections are matched with, thresholds."""
