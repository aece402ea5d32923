"""The head, one step a file: the whole batch at once, fixed shapes, no wait for the device."""
