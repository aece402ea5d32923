"""Parts of messages that modules of several folders share."""

from collections.abc import Sequence


def shorten(items: Sequence[str], most: int = 3, separator: str = ", ") -> str:
    """The first few items, and how many more there are.

    >>> shorten(["a.png", "b.png"])
    'a.png, b.png'
    >>> shorten(list("abcde"), separator="; ")
    'a; b; c; and 2 more'
    """
    rest = len(items) - most
    return separator.join(items[:most]) + (f"{separator}and {rest} more" if rest > 0 else "")


def counted(count: int, one: str, more: str | None = None) -> str:
    """A number and its words, as there is one or more; more get an s where nothing else is given.

    >>> counted(1, "box is", "boxes are"), counted(0, "box is", "boxes are"), counted(3, "prior")
    ('1 box is', '0 boxes are', '3 priors')
    """
    return f"{count} {one if count == 1 else more or f'{one}s'}"
