"""A trained detector in use on images."""
