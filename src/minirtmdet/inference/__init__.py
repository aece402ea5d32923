"""A trained detector at work: on images, in tiles and videos, and as exported files."""
