"""What a person gets when training ends: a table, the files, a picture, and the last line with the score."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from ignite.engine import Events

from monai_ext.atomic_files import write_text
from monai_ext.engines import process_group
from monai_ext.engines.interruption import Interruption
from monai_ext.engines.model_card import note_training
from monai_ext.engines.progress_log import duration, score_title
from monai_ext.engines.run_protection import RunPlan, release_folder
from monai_ext.engines.scheduled_validation import ScheduledValidation
from monai_ext.engines.tensorboard_log import TensorBoardLog
from monai_ext.engines.training_budget import TrainingBudget
from monai_ext.engines.workflow import steps_follow
from monai_ext.errors import InputError
from monai_ext.evaluation.overlay_picture import save_picture

logger = logging.getLogger(__name__)
METRICS_FILE = "metrics.json"


class TrainingReport:
    """Writes `metrics.json` and `overlay.png` and prints the result; of several processes the first.

    Args:
        folder: of the run.
        plan: names of the classes.
        validation: holds the best and the last scores.
        budget: knows the training time.
        tensorboard: keeps the validation case that is drawn.
        interruption: an interrupted training gets no result, only how to go on.
    """

    def __init__(
        self,
        folder: str | Path,
        plan: RunPlan,
        validation: ScheduledValidation,
        budget: TrainingBudget,
        tensorboard: TensorBoardLog,
        interruption: Interruption,
    ) -> None:
        self.folder = Path(folder)
        self.plan = plan
        self.validation = validation
        self.budget = budget
        self.tensorboard = tensorboard
        self.interruption = interruption

    def finish(self, trainer: Any) -> None:
        """Report on a training that has ended, for whatever reason; if that was all, let other runs use its folder.

        Raises:
            InputError: no validation gave a finite score.
        """
        try:
            self._make_up_for_the_end(trainer)
            # others wait: what comes next reads model.pt, or ends this process and with it the one that still saves
            process_group.first_alone(lambda: self._report(trainer))
            if self.interruption.unfinished:
                self.interruption.finish()
        finally:
            if not steps_follow("report.finish"):
                release_folder(self.folder)

    def _make_up_for_the_end(self, trainer: Any) -> None:
        """Do what a kill between the checkpoint of the last step and the end of the training left undone."""
        if trainer.last_event_name is not None:
            return  # this process has trained up to the end
        iteration = trainer.state.iteration
        if self.validation.final_iteration != iteration:
            trainer.scaler = None  # MONAI makes it when a run starts
            for event in (Events.STARTED, Events.COMPLETED):
                trainer.fire_event(event)
        elif not process_group.of_first(self._is_written(iteration)) and self.validation.validator is not None:
            self.validation.validator.run(max(1, trainer.state.epoch))  # for the picture

    def _is_written(self, iteration: int) -> bool:
        """Whether the report of the training of that many steps is complete."""
        try:
            return bool(json.loads((self.folder / METRICS_FILE).read_text(encoding="utf-8"))["iterations"] == iteration)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _report(self, trainer: Any) -> None:
        iteration = trainer.state.iteration
        if self.interruption.unfinished:
            print(f"stopped after step {iteration}; saved in {self.folder.resolve() / 'last.pt'}")
            print("go on with the same command and --resume True", flush=True)
            return
        if not math.isfinite(self.validation.best):
            raise InputError(
                f"{self.folder}: no validation gave a finite {self.validation.score_name or 'score'}, so model.pt was "
                "not written; last.pt and model_final.pt hold the end of training. Cure: a smaller --learning_rate, "
                "--grad_clip 12, --warmup 0.05, and --overwrite True"
            )
        best, final, kind = (
            self.validation.best_class_scores,
            self.validation.last_class_scores,
            self.validation.class_score,
        )
        content = {
            f"mean_{kind}": self._foreground(best),
            self.validation.score_name: self.validation.best,
            kind: best,
            "best_epoch": self.validation.best_epoch,
            f"final_mean_{kind}": self._foreground(final),
            f"final_{kind}": final,
            "iterations": iteration,
            "training_minutes": round(self.budget.seconds / 60, 3),
        }
        if kind == "dice":
            content["absent_class"] = "1 if absent from reference and prediction, 0 if absent from the reference only"
        print(self._table(best, final))
        files = {"model": "model.pt", "last model": "model_final.pt", "plan": "plan.json", "metrics": "metrics.json"}
        picture = self.tensorboard.picture.compose(f"{self.plan.dataset}, validation")
        if picture is not None:
            save_picture(self.folder / "overlay.png", picture)
        note_training(self.folder, trainer)
        write_text(self.folder / METRICS_FILE, json.dumps(content, indent=2) + "\n")  # last, see `_is_written`
        if (self.folder / "overlay.png").exists():
            files["overlay"] = "overlay.png"
        for name, file in files.items():
            print(f"{name + ':':<13}{(self.folder / file).resolve()}")
        print(f"{'curves:':<13}tensorboard --logdir {Path(self.tensorboard.folder).resolve()}")
        logger.info("%d steps in %s", iteration, duration(self.budget.seconds))
        score = f"{score_title(self.validation.score_name)} {self.validation.best:.3f}"
        if kind != "dice":
            logger.info("%s", score)
            return
        if self.validation.score_name != "mean_dice":
            logger.info("%s", score)
        logger.info("mean foreground Dice %.3f", content["mean_dice"])

    def _foreground(self, scores: dict[str, float]) -> float:
        named = [scores[name] for name in self.plan.foreground_classes if name in scores]
        return sum(named) / max(1, len(named))

    def _table(self, best: dict[str, float], final: dict[str, float]) -> str:
        width = max(len("mean"), *(len(name) for name in best))
        title = score_title(self.validation.class_score)
        rows = [f"{title:<{width}}  model.pt (epoch {self.validation.best_epoch})  model_final.pt"]
        column = len(rows[0].split("  ")[1])
        for name in best:
            rows.append(f"{name:<{width}}  {best[name]:<{column}.4f}  {final.get(name, float('nan')):.4f}")
        if len(self.plan.foreground_classes) > 1:
            rows.append(f"{'mean':<{width}}  {self._foreground(best):<{column}.4f}  {self._foreground(final):.4f}")
        return "\n".join(rows)
