"""Try your answers to the book's exercises: ``judge.check("soft_center", mine)`` says what is wrong with them.

Each exercise has cases that go beyond its chapter's scene: no boxes, padded boxes, large logits, ties; where the
exercise asks for it, gradients are compared too, and a wait for the device is seen.  What is right is what the package
itself computes, which tests hold to MMDetection.
"""

from minirtmdet.judge.rules import watch
from minirtmdet.judge.session import check, exercises, hint, status, verdict
from minirtmdet.judge.trial import Fault, Verdict

__all__ = ["Fault", "Verdict", "check", "exercises", "hint", "status", "verdict", "watch"]
