"""The film of the assignment that a chapter shows is stored, since a notebook cannot carry what moves."""

from pathlib import Path

from PIL import Image

from minirtmdet.data.example import STEPS

STATIC = Path(__file__).parents[2] / "book" / "_static"


def test_the_film_has_a_moment_for_each_recorded_step_and_is_small() -> None:
    film = STATIC / "film.gif"
    with Image.open(film) as moving, Image.open(STATIC / "film-still.png") as still:
        assert moving.n_frames == len(STEPS)
        assert moving.info["loop"] == 0
        assert still.size == moving.size
    assert film.stat().st_size < 1.5e6


def test_readers_who_ask_for_less_motion_see_the_still() -> None:
    css = (STATIC / "custom.css").read_text(encoding="utf-8")
    assert "@media print, (prefers-reduced-motion: reduce)" in css
    assert all(f"img.{name}" in css for name in ("moving", "still"))
