"""Train a detector with MMEngine's Runner, and keep the file that it writes and what MMDetection answers with it.

In the reference environment, see ``test_runner_file.py``::

    PYTHONPATH=tests .venv-reference/bin/python -m parity.runner_file FOLDER
"""

import sys
import tempfile
from pathlib import Path
from typing import ClassVar

import torch
from parity import original
from parity.cases import normal
from parity.compare import network_answer
from parity.fill import fill
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

MODEL = {"deepen_factor": 0.167, "widen_factor": 0.375, "neck_csp_blocks": 1, "num_classes": 3, "exp_on_reg": False}
CLASSES = ("ape", "bee", "cat")


def images() -> Tensor:
    """What the trained detector is asked."""
    return normal("runner-file", 1, 3, 64, 96)


class Pictures(Dataset):
    """Four pictures with a box each, as MMDetection packs them."""

    metainfo: ClassVar = {"classes": CLASSES, "palette": [(0, 0, 0)] * 3}

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, object]:
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData

        sample = DetDataSample(metainfo={"img_shape": (64, 64), "pad_shape": (64, 64), "batch_input_shape": (64, 64)})
        sample.gt_instances = InstanceData(bboxes=torch.tensor([[8.0, 8, 40, 50]]), labels=torch.tensor([index % 3]))
        return {"inputs": torch.full((3, 64, 64), 50 * index, dtype=torch.uint8), "data_samples": sample}


def main(folder: Path) -> None:
    """Two iterations with the hooks of the official recipe."""
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import init_default_scope
    from mmengine.runner import Runner

    original.quiet()
    torch.set_num_threads(1)
    init_default_scope("mmdet")
    with tempfile.TemporaryDirectory() as work_dir:
        Runner(
            fill(original.build_detector(MODEL)),
            work_dir=work_dir,
            train_dataloader=DataLoader(Pictures(), batch_size=2, collate_fn=pseudo_collate),
            train_cfg={"by_epoch": True, "max_epochs": 1},
            optim_wrapper={"optimizer": {"type": "AdamW", "lr": 0.004}},
            param_scheduler=[{"type": "LinearLR", "start_factor": 0.5, "by_epoch": False, "begin": 0, "end": 4}],
            custom_hooks=[{"type": "EMAHook", "ema_type": "mmdet.ExpMomentumEMA", "update_buffers": True}],
            log_level="ERROR",
            default_scope="mmdet",
            experiment_name="runner-file",
        ).train()
        content = (Path(work_dir) / "epoch_1.pth").read_bytes()
    (folder / "epoch_1.pth").write_bytes(content)
    # MMEngine's own loader refuses this file since PyTorch 2.6
    detector = original.build_detector(MODEL).eval()
    state = torch.load(folder / "epoch_1.pth", weights_only=False)["state_dict"]
    detector.load_state_dict(state, strict=True)
    with torch.no_grad():
        outputs = detector.bbox_head(detector.extract_feat(images()))
    torch.save(network_answer(detector, outputs, training=False), folder / "answer.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
