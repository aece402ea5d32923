"""The colours of the book's figures as properties of the page: once for white paper and once for dark.

The figures are light cards, and keep their colours; a drawing lies on the page itself.  Where a colour is too close to
the paper to be seen, it is moved towards the ink until it is not.
"""

from minirtmdet.plots.canvas import BOXES, LEVELS, LOSSES, THINGS

LIGHT, DARK = "#ffffff", "#121212"
"""The papers of the theme."""
LEAST = 3.0
"""Contrast of lines that carry a meaning (WCAG 2.1, 1.4.11)."""


def colors() -> dict[str, str]:
    """Each colour by what it stands for."""
    return (
        {f"level-{stride}": color for stride, (color, _) in LEVELS.items()}
        | {name.replace("tennis ", ""): color for name, color in THINGS.items()}
        | {"taxi": BOXES[3], "class-loss": LOSSES[0], "box-loss": LOSSES[1]}
    )


def luminance(color: str) -> float:
    """Relative luminance as WCAG defines it, 0 for black and 1 for white."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """From 1 to 21.

    >>> contrast("#ffffff", "#000000")
    21.0
    """
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def readable(color: str, paper: str) -> str:
    """The colour, moved towards black or white as far as the paper asks for.

    >>> readable("#004488", "#ffffff"), contrast(readable("#004488", DARK), DARK) >= LEAST
    ('#004488', True)
    """
    ink = 0 if luminance(paper) > 0.5 else 255
    for percent in range(0, 101, 5):
        mixed = [round((int(color[i : i + 2], 16) * (100 - percent) + ink * percent) / 100) for i in (1, 3, 5)]
        moved = "#" + "".join(f"{channel:02x}" for channel in mixed)
        if contrast(moved, paper) >= LEAST:
            return moved
    raise ValueError(f"nothing is readable on {paper}")


def css() -> str:
    """A style sheet of properties alone."""
    rules = []
    for place, paper in ((":root", LIGHT), ('html[data-theme="dark"]', DARK)):
        lines = [f"  --{name}: {readable(color, paper)};" for name, color in colors().items()]
        rules.append(f"{place} {{\n" + "\n".join(lines) + "\n}\n")
    return "\n".join(rules)
