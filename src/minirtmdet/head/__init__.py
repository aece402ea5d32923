"""The head, a file per step: the whole batch at once, fixed shapes, no wait for the device."""
