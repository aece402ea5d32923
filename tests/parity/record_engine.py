"""Record what MMEngine does with the optimiser, the schedule, the moving average and its checkpoints.

Run in the reference environment (mmdet 3.3.0, mmengine 0.10.7), from the repository:
``python tests/parity/record_engine.py`` writes ``engine.json`` and ``runner.pth`` into ``fixtures``.
"""

import json
import logging
import tempfile
import warnings
from pathlib import Path

import torch
from mmengine.model import BaseModel
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.optim.scheduler import CosineAnnealingLR, LinearLR
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn

FIXTURES = Path(__file__).parent / "fixtures"
PARAMWISE = {"norm_decay_mult": 0, "bias_decay_mult": 0, "bypass_duplicate": True}


def decayed_parameters() -> list[str]:
    """Names of the parameters of RTMDet-tiny that decay."""
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config
    from mmengine.model import revert_sync_batchnorm

    register_all_modules()
    import mmdet

    config = Config.fromfile(Path(mmdet.__file__).parent / ".mim/configs/rtmdet/rtmdet_tiny_8xb32-300e_coco.py")
    config.model.backbone.init_cfg = None
    model = revert_sync_batchnorm(MODELS.build(config.model))
    optimizer = {"type": "AdamW", "lr": 0.004, "weight_decay": 0.05}
    wrapper = DefaultOptimWrapperConstructor({"optimizer": optimizer}, PARAMWISE)(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = wrapper.optimizer.param_groups
    return [names[id(parameter)] for group in groups for parameter in group["params"] if group["weight_decay"]]


def learning_rates(lr: float, warmup: int, epochs: int, epoch_length: int) -> list[float]:
    """The learning rate of every iteration, by the schedulers of the RTMDet configs."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=lr)
    schedulers = [
        LinearLR(optimizer, start_factor=1e-5, by_epoch=False, begin=0, end=warmup),
        CosineAnnealingLR.build_iter_from_epoch(
            optimizer,
            eta_min=lr * 0.05,
            begin=epochs // 2,
            end=epochs,
            T_max=epochs // 2,
            by_epoch=True,
            epoch_length=epoch_length,
        ),
    ]
    rates = []
    for _ in range(epochs * epoch_length):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates


def moving_average(momentum: float, gamma: int, updates: int) -> dict:
    """A module of one layer and one norm, its values at every update and the average after the last."""
    from mmdet.models.layers import ExpMomentumEMA

    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = ExpMomentumEMA(model, momentum, gamma, update_buffers=True)
    sources = []
    for _ in range(updates):
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator))
        sources.append({key: value.tolist() for key, value in model.state_dict().items()})
        ema.update_parameters(model)
    average = {key: value.tolist() for key, value in ema.module.state_dict().items()}
    return {"momentum": momentum, "gamma": gamma, "sources": sources, "average": average}


class Toy(BaseModel):
    """The smallest model that a Runner trains."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 2, 1)
        self.neck = nn.BatchNorm2d(2)

    def forward(self, inputs: torch.Tensor, mode: str = "tensor") -> dict[str, torch.Tensor]:
        """The loss of a batch."""
        return {"loss": self.neck(self.backbone(inputs)).square().mean()}


def runner_checkpoint(path: Path) -> None:
    """A file as MMEngine's Runner writes it, after two iterations with a moving average."""
    torch.manual_seed(0)
    data = torch.utils.data.DataLoader([{"inputs": torch.rand(3, 4, 4)} for _ in range(4)], batch_size=2)
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(
            Toy(),
            work_dir=folder,
            train_dataloader=data,
            train_cfg={"by_epoch": True, "max_epochs": 1},
            optim_wrapper={"optimizer": {"type": "AdamW", "lr": 0.1}},
            custom_hooks=[{"type": "EMAHook", "ema_type": "mmdet.ExpMomentumEMA", "update_buffers": True}],
            log_level="ERROR",
            default_scope="mmdet",
            experiment_name="toy",
        )
        runner.train()
        checkpoint = torch.load(Path(folder) / "epoch_1.pth", weights_only=False)
    checkpoint["message_hub"]["runtime_info"]["last_ckpt"] = "epoch_1.pth"
    # what a published file of a detector holds beside this
    checkpoint["meta"].update(cfg="model = dict(type='Toy')", env="", dataset_meta={"classes": ("cat", "dog")})
    checkpoint["state_dict"]["data_preprocessor.mean"] = torch.zeros(3, 1, 1)
    torch.save(checkpoint, path)


def main() -> None:
    """Write both files."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    init_default_scope("mmdet")
    record = {
        "decayed": decayed_parameters(),
        "lr": {"lr": 0.004, "warmup": 8, "epochs": 6, "epoch_length": 15, "rates": learning_rates(0.004, 8, 6, 15)},
        "ema": moving_average(0.0002, 2_000, 6),
    }
    runner_checkpoint(FIXTURES / "runner.pth")
    (FIXTURES / "engine.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
