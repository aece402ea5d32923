"""What a reader calls: check, hint, status, exercises; and what this session remembers of them."""

import difflib
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from minirtmdet.judge import costs, detector, losses, masks, matching, priors
from minirtmdet.judge.exercise import Exercise
from minirtmdet.judge.trial import WIDTH, Verdict, judge_function

CHAPTERS = (
    "glance", "head_construction", "priors", "valid_flags", "coder", "costs", "matching", "sampling", "targets",
    "losses", "backbone_neck", "training", "evaluation", "weights", "masks",
)  # fmt: skip
"""In the book's order."""
_FOUND = [exercise for room in (priors, costs, matching, losses, detector, masks) for exercise in room.EXERCISES]
ALL = {exercise.name: exercise for exercise in sorted(_FOUND, key=lambda found: CHAPTERS.index(found.chapter))}


@dataclass
class Record:
    """An exercise in this session: how often it was tried, whether it was ever right, how many hints were read."""

    tries: int = 0
    right: bool = False
    hints: int = 0


_SESSION = {name: Record() for name in ALL}


def check(name: str, function: Any) -> None:
    """Try a function on all cases of an exercise, and print what is wrong with it, or that it is right.

    Args:
        name: of the exercise, see :func:`exercises`.
        function: yours; called with the arguments in the exercise's order.

    Raises:
        ValueError: for an unknown name, with those that are like it.

    >>> check("iou_cost", lambda bboxes: bboxes)
    iou_cost: not yet.
      case      the signature
      expected  iou_cost(bboxes [V,4], gt_bboxes [G,4]) -> [V,G]
      came      <lambda>(bboxes)
      likely    Called as the exercise says: too many positional arguments.
      Stuck? judge.hint("iou_cost")
    """
    found = verdict(name, function)
    record = _SESSION[name]
    record.tries += 1
    record.right |= found.right
    print(found)


def verdict(name: str, function: Any) -> Verdict:
    """What :func:`check` prints, as values; the session does not remember it.

    Args:
        name: of the exercise.
        function: yours.

    Raises:
        ValueError: for an unknown name, with those that are like it.
    """
    return judge_function(_exercise(name), function)


def hint(name: str) -> None:
    """Print the next hint to an exercise: first a nudge, then more.  After the last one it begins again.

    Args:
        name: of the exercise.

    Raises:
        ValueError: for an unknown name, with those that are like it.
    """
    exercise, record = _exercise(name), _SESSION[name]
    number = record.hints % len(exercise.hints)
    record.hints += 1
    print(fill(f"Hint {number + 1} of {len(exercise.hints)}: {exercise.hints[number]}", WIDTH))
    if number + 1 == len(exercise.hints):
        print(f"That was the last one. The solution is in the chapter, book/{exercise.chapter}.ipynb.")


def status() -> None:
    """Print what was tried and what was right in this session; nothing is kept when it ends."""
    width = max(map(len, ALL))
    print(f"{'exercise':{width}}  {'chapter':17}  {'tries':>5}  {'hints':>5}  right")
    for name, record in _SESSION.items():
        right = "yes" if record.right else "-"
        row = f"{name:{width}}  {ALL[name].chapter:17}  {record.tries or '-':>5}  {record.hints or '-':>5}  {right}"
        print(row)
    print(f"{sum(record.right for record in _SESSION.values())} of {len(ALL)} right")


def exercises() -> None:
    """Print all exercises, chapter by chapter: signature, and what is to be computed."""
    chapter = ""
    for exercise in ALL.values():
        if exercise.chapter != chapter:
            chapter = exercise.chapter
            print(chapter)
        print(fill(exercise.signature, WIDTH, initial_indent="  ", subsequent_indent=" " * 8))
        print(fill(exercise.task, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6))


def _exercise(name: str) -> Exercise:
    if name not in ALL:
        near = difflib.get_close_matches(str(name), ALL)
        like = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"there is no exercise {name!r}: {like}judge.exercises() lists them all")
    return ALL[name]
