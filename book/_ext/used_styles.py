"""A style sheet without the rules of classes that no page has.

Bootstrap and sphinx-design describe a hundred components each, of which the pages show a few.
"""

import re
from collections.abc import Collection, Iterator

STRING = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|/\*.*?\*/', flags=re.DOTALL)
COMMA = re.compile(r",(?![^(\[]*[)\]])")
"""Between selectors, not within one."""
CLASS = re.compile(r"\.(-?[A-Za-z_][\w-]*)")
MADE_BY_SCRIPTS = "bs-"
"""How names begin that a script puts together."""


def blocks(css: str) -> Iterator[tuple[str, str | None]]:
    """What stands before each pair of braces and what is in it; nothing is in it for a line such as ``@charset``.

    >>> list(blocks('@charset "utf-8";a{b:c}@media print{d{e:f}}'))
    [('@charset "utf-8";', None), ('a', 'b:c'), ('@media print', 'd{e:f}')]
    """
    # of the same length, without the braces of strings
    plain = STRING.sub(lambda found: "_" * len(found[0]), css)
    start = 0
    while (mark := re.compile(r"[{;]").search(plain, start)) is not None:
        if mark[0] == ";":
            yield css[start : mark.end()], None
            start = mark.end()
            continue
        depth, end = 1, mark.end()
        while depth and (brace := re.compile(r"[{}]").search(plain, end)):
            depth += 1 if brace[0] == "{" else -1
            end = brace.end()
        yield css[start : mark.start()], css[mark.end() : end - 1]
        start = end


def is_used(selector: str, words: Collection[str]) -> bool:
    """Whether a page may have what a selector asks for.

    >>> is_used(".btn:not(.off) .x", {"btn", "x"}), is_used(".btn.off", {"btn"})
    (True, False)
    """
    required = CLASS.findall(re.sub(r":not\([^)]*\)", "", STRING.sub("", selector)))
    return all(name in words or name.startswith(MADE_BY_SCRIPTS) for name in required)


def used_rules(css: str, words: Collection[str]) -> str:
    """The rules whose classes are all among the words.

    >>> used_rules(".a,.b{c:d}.b{c:d}@media print{.b{c:d}}@font-face{src:x}", {"a"})
    '.a{c:d}@font-face{src:x}'
    >>> used_rules('[d="x,{.b"] .a{c:d}', {"a"})
    '[d="x,{.b"] .a{c:d}'
    """
    kept = []
    for before, body in blocks(css):
        if body is None:
            kept.append(before)
        elif before.lstrip().startswith(("@media", "@supports", "@layer")):
            inner = used_rules(body, words)
            kept += [f"{before}{{{inner}}}"] if inner.strip() else []
        elif before.lstrip().startswith("@") or ":is(" in before or ":where(" in before:
            kept.append(f"{before}{{{body}}}")
        elif used := [one for one in COMMA.split(before) if is_used(one, words)]:
            kept.append(f"{','.join(used)}{{{body}}}")
    return "".join(kept)
