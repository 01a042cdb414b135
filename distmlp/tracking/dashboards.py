"""Dashboards: TensorBoard and Weights & Biases, through Lightning's loggers. Views of `metrics.jsonl`."""

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from distmlp.log import log, one_line


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, whose end does not become the run's end: events left to write may meet a full disk."""

    def finalize(self, status: str) -> None:
        try:
            super().finalize(status)
        except Exception as error:
            log.warning("TensorBoard failed (%s): its last events are missing", one_line(error))


def tensorboard_logger(run_folder: Path, resumed_at: int | None) -> Logger | None:
    """Event files in ``run_folder/tensorboard``. None, with a warning, where they cannot be made.

    Events after the step ``resumed_at`` that an earlier start has left are hidden: the run takes these steps again.
    """
    purge = {} if resumed_at is None else {"purge_step": resumed_at + 1}
    try:
        logger = TensorBoard(save_dir=str(run_folder), name="tensorboard", version="", **purge)  # type: ignore[arg-type]
        assert logger.experiment is not None  # made here, where a fault of it can be passed over
    except Exception as error:
        log.warning("TensorBoard did not start (%s): the run goes on without it", one_line(error))
        return None
    return logger


def wandb_logger(run_folder: Path, *, project: str, name: str, run_id: str, config: dict[str, Any]) -> Logger | None:
    """The run's page: ``run_id`` is the page's id, so that a continued run stays one page. Never asks anything.

    Offline (in ``run_folder/wandb``) when nobody is logged in and WANDB_MODE says nothing else. None, with a warning,
    where wandb cannot start.
    """
    import wandb

    try:
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
        run = wandb.init(
            project=project,
            name=f"{name}/{run_id}",
            id=run_id,
            dir=str(run_folder),
            config=config,
            mode=mode,  # type: ignore[arg-type]
            resume="allow",
            settings=wandb.Settings(silent=True, console="off", init_timeout=60),
        )
    except Exception as error:  # whatever a dashboard's service does, the run goes on
        log.warning("Weights & Biases did not start (%s): the run goes on without it", one_line(error))
        return None
    return WandbLogger(experiment=run)
