"""Exercises on priors and geometry: counts, points, valid flags, distances and boxes, the inside test."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet import boxes as geometry
from minirtmdet.configs import STRIDES
from minirtmdet.head.coder import DistancePointBBoxCoder
from minirtmdet.head.priors import MlvlPointGenerator
from minirtmdet.judge.exercise import Case, Exercise, Mistake
from minirtmdet.judge.recorded import recorded
from minirtmdet.judge.scene import NO_BOXES, boxes, scene


def count_priors(height: int, width: int) -> int:
    """The number of priors of an image of any size, which is padded to multiples of 32 first."""
    return math.ceil(height / 32) * math.ceil(width / 32) * sum((32 // stride) ** 2 for stride in STRIDES)


def grid_priors(height: int, width: int, stride: int, offset: float = 0.0) -> Float[Tensor, "cells 4"]:
    """The priors of one level, (x, y, stride, stride) in pixels, row by row."""
    return MlvlPointGenerator([stride], offset).grid_priors([(height, width)])[0]


def valid_flags(height: int, width: int, stride: int, pad_shapes: Int[Tensor, "B 2"]) -> Bool[Tensor, "B cells"]:
    """Which cells of one level begin inside each image's padded shape, (height, width), row by row."""
    return MlvlPointGenerator([stride]).valid_flags([(height, width)], pad_shapes)[0]


def distance2bbox(points: Float[Tensor, "N 2"], distances: Float[Tensor, "N 4"]) -> Float[Tensor, "N 4"]:
    """Boxes xyxy from points (x, y) and distances to the left, top, right and bottom side."""
    return DistancePointBBoxCoder().decode(points, distances)


def bbox2distance(points: Float[Tensor, "N 2"], boxes: Float[Tensor, "G 4"]) -> Float[Tensor, "N G 4"]:
    """Distances left, top, right, bottom of each point to each box, negative where it is outside."""
    return DistancePointBBoxCoder().encode(points[:, None], boxes[None])


def points_inside(points: Float[Tensor, "N 2"], boxes: Float[Tensor, "G 4"]) -> Bool[Tensor, "G N"]:
    """Whether each point lies strictly inside each box; on the border is outside."""
    return geometry.points_inside(points, boxes)


def _order(values: Tensor, *columns: int) -> Tensor:
    return values[..., list(columns)]


def _flags(y_limit: Tensor, x_limit: Tensor, height: int, width: int, stride: int, start: float = 0.0) -> Tensor:
    """Flags of cells whose points lie before both limits; ``start`` says where in its cell a point lies."""
    y, x = (torch.arange(height) + start) * stride, (torch.arange(width) + start) * stride
    return ((y < y_limit[:, None])[:, :, None] & (x < x_limit[:, None])[:, None]).flatten(1)


def _inside(points: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
    """Distances from each point to the four sides of each box, ``[G,N]`` each."""
    return bbox2distance(points, boxes).permute(2, 1, 0).unbind(0)


_POINTS = torch.tensor([[16.0, 16.0], [24.0, 8.0], [0.0, 40.0], [100.0, 4.0]])
_SHAPES = torch.tensor([[24, 12], [1, 100], [0, 8], [96, 64], [33, 20]])
_BORDERS = torch.tensor([[8.0, 16.0], [16.0, 8.0], [32.0, 16.0], [16.0, 24.0], [16.0, 16.0], [8.0, 8.0]])

EXERCISES = [
    Exercise(
        count_priors,
        chapter="glance",
        cases=[
            Case("a multiple of 32", lambda: (160, 160)),
            Case("rows that are no multiple of 32", lambda: (720, 1280)),
            Case("neither side a multiple", lambda: (33, 40)),
            Case("a single pixel", lambda: (1, 1)),
        ],
        mistakes=[
            Mistake(
                "sides are rounded down. The image is padded, so round up: -(-height // 32).",
                lambda height, width: (height // 32) * (width // 32) * 21,
            ),
            Mistake(
                "each level rounds up for itself. The image is padded to a multiple of 32 once, for all levels.",
                lambda height, width: sum(-(-height // s) * -(-width // s) for s in STRIDES),
            ),
            Mistake(
                "only stride 8 is counted. There are three levels: 16 + 4 + 1 priors for each square of 32 pixels.",
                lambda height, width: math.ceil(height / 32) * math.ceil(width / 32) * 16,
            ),
        ],
        hints=[
            "How many priors does a square of 32 x 32 pixels hold, on each of the three levels?",
            "16 + 4 + 1. How many such squares cover the image, if it is padded at the right and at the bottom?",
            "Rounded up: -(-height // 32) rows of -(-width // 32) squares.",
        ],
    ),
    Exercise(
        grid_priors,
        chapter="priors",
        cases=[
            Case("2 rows and 3 columns", lambda: (2, 3, 8)),
            Case("a wide map of stride 32", lambda: (3, 20, 32)),
            Case("points in the middle of their cells", lambda: (4, 2, 16, 0.5)),
            Case("a single row", lambda: (1, 5, 8)),
            recorded("grid_priors"),
        ],
        mistakes=[
            Mistake(
                "y comes before x. Sizes are (height, width), points are (x, y).",
                lambda *size: _order(grid_priors(*size), 1, 0, 2, 3),
            ),
            Mistake(
                "cells are listed column by column. Row by row is right: x changes first.",
                lambda h, w, *rest: _order(grid_priors(w, h, *rest), 1, 0, 2, 3),
            ),
            Mistake(
                "the cell's middle is taken whatever the offset. With offset 0 the prior is the cell's corner.",
                lambda height, width, stride, offset=0.0: grid_priors(height, width, stride, offset or 0.5),
            ),
            Mistake(
                "x and y count cells. A prior is in pixels: multiply by the stride.",
                lambda h, w, stride, *rest: grid_priors(h, w, stride, *rest) / torch.tensor([stride, stride, 1, 1]),
            ),
            Mistake(
                "the offset is added in pixels. It is counted in strides: (column + offset) * stride.",
                lambda h, w, stride, offset=0.0: grid_priors(h, w, stride) + torch.tensor([offset, offset, 0.0, 0.0]),
            ),
        ],
        hints=[
            "All x of one row are the same as those of the next: make one row, and repeat it.",
            "torch.meshgrid(rows, columns, indexing='ij') gives y and x as maps [height, width]; flatten them.",
            "Stack x, y, stride, stride along the last axis, in this order, with (column + offset) * stride for x.",
        ],
    ),
    Exercise(
        valid_flags,
        chapter="valid_flags",
        cases=[
            Case("five shapes, stride 8", lambda: (4, 6, 8, _SHAPES)),
            Case("five shapes, stride 32", lambda: (3, 2, 32, _SHAPES)),
            Case("shapes beyond the map", lambda: (2, 3, 8, torch.tensor([[640, 640], [16, 24]]))),
            Case("no image", lambda: (2, 3, 8, _SHAPES[:0])),
            recorded("valid_flags"),
        ],
        mistakes=[
            Mistake(
                "height and width are exchanged. pad_shapes holds (height, width): rows go with column 0.",
                lambda h, w, stride, shapes: _flags(shapes[:, 1], shapes[:, 0], h, w, stride),
            ),
            Mistake(
                "a cell counts that begins exactly at the end of the image. It has no pixel of it: compare with <.",
                lambda h, w, stride, shapes: _flags(shapes[:, 0] + 1, shapes[:, 1] + 1, h, w, stride),
            ),
            Mistake(
                "only whole cells count. A cell that begins on the image is valid: not pad_shape // stride.",
                lambda h, w, stride, shapes: _flags(
                    shapes[:, 0] // stride * stride, shapes[:, 1] // stride * stride, h, w, stride
                ),
            ),
            Mistake(
                "the middle of the cell decides. Its corner does, where the cell begins.",
                lambda h, w, stride, shapes: _flags(shapes[:, 0], shapes[:, 1], h, w, stride, start=0.5),
            ),
        ],
        hints=[
            "A cell is valid if its row begins above the end and its column begins left of it: two comparisons.",
            "row * stride < pad_height for all rows and images is [B,H]; the same for columns is [B,W].",
            "rows[:, :, None] & columns[:, None, :] is [B,H,W]; flatten(1) makes one axis of the cells.",
        ],
        asks_nothing=True,
    ),
    Exercise(
        distance2bbox,
        chapter="coder",
        cases=[
            Case(
                "four different distances",
                lambda: (_POINTS, boxes((8, 16, 24, 4), (1, 2, 3, 5), (9, 7, 5, 1), (0, 0, 0, 0))),
            ),
            Case("the scene's 525 predictions", lambda: (scene().priors[:, :2], scene().distances)),
            Case("negative distances", lambda: (_POINTS[:2], boxes((-4, 6, 20, 8), (4, -6, 2, -8)))),
            Case("no prior", lambda: (_POINTS[:0], NO_BOXES)),
            recorded("distance2bbox"),
        ],
        mistakes=[
            Mistake(
                "top comes first. The order is left, top, right, bottom: x, y, x, y.",
                lambda points, d: distance2bbox(points, _order(d, 1, 0, 3, 2)),
            ),
            Mistake(
                "the order is left, right, top, bottom. It is left, top, right, bottom, as x1, y1, x2, y2.",
                lambda points, d: distance2bbox(points, _order(d, 0, 2, 1, 3)),
            ),
            Mistake(
                "left and top are added. They lead to smaller x and y: x - left, y - top.",
                lambda points, d: torch.cat([points + d[:, :2], points + d[:, 2:]], 1),
            ),
            Mistake(
                "the result is a corner with width and height. Boxes are two corners, xyxy.",
                lambda points, d: torch.cat([points - d[:, :2], d[:, :2] + d[:, 2:]], 1),
            ),
            Mistake(
                "boxes are clipped at 0. Training decodes without clipping: what is cut off would not learn.",
                lambda points, d: distance2bbox(points, d).clamp(min=0),
            ),
        ],
        hints=[
            "Where is the left side of a box, if it lies 8 pixels to the left of x = 16?",
            "x1 = x - left, y1 = y - top, x2 = x + right, y2 = y + bottom.",
            "torch.cat([points - distances[:, :2], points + distances[:, 2:]], 1)",
        ],
        learns=[1],
    ),
    Exercise(
        bbox2distance,
        chapter="coder",
        cases=[
            Case("four points, two boxes", lambda: (_POINTS, boxes((8, 0, 40, 25), (90, 1, 111, 47)))),
            Case("the scene", lambda: (scene().priors[:, :2], scene().boxes)),
            Case("padded boxes, all zeros", lambda: (_POINTS, boxes((8, 0, 40, 25), (0, 0, 0, 0)))),
            Case("no boxes", lambda: (_POINTS, NO_BOXES)),
        ],
        mistakes=[
            Mistake(
                "the signs are those of an outside point. Inside, x - x1 and x2 - x are both positive.",
                lambda points, boxes: -bbox2distance(points, boxes),
            ),
            Mistake(
                "distances have no sign. A point outside has negative ones: that is how one sees it.",
                lambda points, boxes: bbox2distance(points, boxes).abs(),
            ),
            Mistake(
                "negative distances are set to 0. They say that the point lies outside.",
                lambda points, boxes: bbox2distance(points, boxes).clamp(min=0),
            ),
            Mistake(
                "the order is left, right, top, bottom. It is left, top, right, bottom.",
                lambda points, boxes: _order(bbox2distance(points, boxes), 0, 2, 1, 3),
            ),
        ],
        hints=[
            "For one point and one box it is x - x1, y - y1, x2 - x, y2 - y. Only the shapes are new.",
            "points[:, None] is [N,1,2] and meets boxes[:, :2], [G,2], as [N,G,2].",
            "torch.cat([points[:, None] - boxes[:, :2], boxes[:, 2:] - points[:, None]], -1)",
        ],
        asks_nothing=True,
    ),
    Exercise(
        points_inside,
        chapter="costs",
        cases=[
            Case("points on each border", lambda: (_BORDERS, boxes((8, 8, 32, 24), (0, 0, 16, 16)))),
            Case("the scene", lambda: (scene().priors[:, :2], scene().boxes)),
            Case("a box between all priors", lambda: (scene().priors[:, :2], boxes((17, 17, 23, 23), (9, 9, 40, 16)))),
            Case("padded boxes, all zeros", lambda: (torch.zeros(2, 2), boxes((0, 0, 0, 0), (-4, -4, 4, 4)))),
            Case("no boxes", lambda: (_BORDERS, NO_BOXES)),
        ],
        mistakes=[
            Mistake(
                "a point on the border is inside. It is outside: compare with >, not >=.",
                lambda points, boxes: torch.stack(_inside(points, boxes)).amin(0) >= 0,
            ),
            Mistake(
                "the left and top border belong to the box. All four are outside.",
                lambda points, boxes: (
                    torch.stack(_inside(points, boxes)[:2]).ge(0).all(0)
                    & torch.stack(_inside(points, boxes)[2:]).gt(0).all(0)
                ),
            ),
            Mistake(
                "y is not asked. All four distances have to be positive.",
                lambda points, boxes: (_inside(points, boxes)[0] > 0) & (_inside(points, boxes)[2] > 0),
            ),
        ],
        hints=[
            "A point is inside if it is right of the left side, left of the right side, and so on: four comparisons.",
            "All four distances left, top, right, bottom are above 0.",
            "The result is [G,N], a row for each box: points[None] meets boxes[:, None].",
        ],
        asks_nothing=True,
    ),
]
