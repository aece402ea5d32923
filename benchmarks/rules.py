"""What a changed rule does to a short training, over seeds: what the book's exercises may say of ``judge.watch``.

    python benchmarks/rules.py --seeds 0 1 2 3

Trains the judge's small network on its four scenes by RTMDet's rules and by each changed one.  Writes
``benchmarks/results/rules.json``.
"""

import argparse
import shlex
import statistics
import sys
from typing import Any

from train import RESULTS, surroundings

from minirtmdet.files import write_json
from minirtmdet.judge.rules import Course, train

RULES: tuple[dict[str, Any], ...] = (
    {},
    {"topk": 1},
    {"topk": 50},
    {"iou_weight": 0.0},
    {"soft_center_radius": 0.0},
    {"soft_center_radius": 30.0},
    {"beta": 0.0},
    {"bbox_weight": 0.0},
    {"cls_weight": 0.0},
    {"exp_on_reg": False},
    {"prior_offset": 0.5},
    {"separate_bn": False},
)


def summary(course: Course) -> dict[str, float]:
    """First step, last ten steps, end."""
    late = course.rows[-10:]
    return {
        "first positives": course.rows[0].positives,
        "first IoU": round(course.rows[0].iou, 4),
        "first loss_cls": round(course.rows[0].loss_cls, 4),
        "positives": round(statistics.mean(row.positives for row in late), 4),
        "IoU": round(statistics.mean(row.iou for row in late), 4),
        "loss_cls": round(statistics.mean(row.loss_cls for row in late), 4),
        "loss_bbox": round(statistics.mean(row.loss_bbox for row in late), 4),
        "found": course.found,
        "drawn": course.drawn,
    }


def main() -> None:
    """Run, print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    seeds = parser.parse_args().seeds
    rows = []
    for rules in RULES:
        runs = {str(seed): summary(train(rules, seed)) for seed in seeds}
        rows.append({"rules": rules, "runs": runs})
        means = {key: statistics.mean(run[key] for run in runs.values()) for key in next(iter(runs.values()))}
        print(rules, {key: round(value, 3) for key, value in means.items()}, flush=True)
    command = "python " + shlex.join(["benchmarks/rules.py", *sys.argv[1:]])
    write_json(RESULTS / "rules.json", {"command": command, **surroundings(), "rows": rows})


if __name__ == "__main__":
    main()
