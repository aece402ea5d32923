"""Style sheets without the rules that no page needs: what stays, and that it stays as it was."""

import runpy
from pathlib import Path

import pytest

STYLES = runpy.run_path(str(Path(__file__).parents[2] / "book" / "_ext" / "used_styles.py"))
WORDS = {"card", "btn", "show"}


@pytest.mark.parametrize(
    ("css", "kept"),
    [
        (".card{a:b}.alert{a:b}", ".card{a:b}"),
        (".card,.alert .card,div{a:b}", ".card,div{a:b}"),
        (".btn.active{a:b}p{a:b}", "p{a:b}"),
        (".btn:not(.active){a:b}", ".btn:not(.active){a:b}"),
        (":is(.card,.alert){a:b}", ":is(.card,.alert){a:b}"),
        ("@media print{.alert{a:b}.card{a:b}}.alert{a:b}", "@media print{.card{a:b}}"),
        ("@media print{.alert{a:b}}p{a:b}", "p{a:b}"),
        ("@keyframes x{0%{a:b}to{c:d}}", "@keyframes x{0%{a:b}to{c:d}}"),
        ('@charset "utf-8";p{a:b}', '@charset "utf-8";p{a:b}'),
        ('p::after{content:"}.alert{"}.card{a:b}', 'p::after{content:"}.alert{"}.card{a:b}'),
        ('[title="a,b"] .card{a:b}', '[title="a,b"] .card{a:b}'),
        (".bs-tooltip-top{a:b}", ".bs-tooltip-top{a:b}"),
        ("/*! licence {} */.card{a:b}", "/*! licence {} */.card{a:b}"),
    ],
)
def test_rules_stay_where_a_page_has_their_classes(css: str, kept: str) -> None:
    assert STYLES["used_rules"](css, WORDS) == kept
