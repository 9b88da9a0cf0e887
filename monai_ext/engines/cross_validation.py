"""All folds by one command: trained and evaluated one after another or spread over ranks, then averaged.

Every fold runs in a process of its own, so that memory is returned and a crash costs one fold. A fold is finished when
its evaluation belongs to its present model; the same command started again does what is missing.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.datasets.image_files import read_label
from monai_ext.engines.fold_jobs import FoldConfig, FoldJob
from monai_ext.engines.fold_process import Stop, bundle_command, error_message, locked, process_environment, run_process
from monai_ext.engines.fold_ranks import Rank, RankFiles
from monai_ext.engines.prediction_outputs import model_digest
from monai_ext.engines.progress_log import duration
from monai_ext.engines.workflow import from_command_line, running_workflow
from monai_ext.errors import InputError
from monai_ext.evaluation.fold_report import markdown_table, write_fold_report
from monai_ext.evaluation.postprocessing import POSTPROCESSING_FILE, decide_postprocessing
from monai_ext.planning.plan import Plan

logger = logging.getLogger(__name__)
Report = Callable[[Path, Sequence[FoldJob], FoldConfig], object]
LOCK_PATIENCE = 60.0
PREPARATION_PATIENCE = 24 * 3600.0


def cross_validate(base_file: str, report: Report | None = None) -> None:
    """Train and evaluate the folds of the running bundle and report on them.

    Args:
        base_file: name of the complete config file (`train.json`) in the running bundle's `configs` folder.
        report: called with folder, jobs and config when all folds are finished; None averages segmentations of MSD
            datasets and decides their post-processing (`report_segmentations`).

    Raises:
        InputError: a key or the dataset breaks a rule, or folds failed; those are listed after all others are done.
    """
    workflow = running_workflow()
    if workflow is None:
        raise InputError("cross_validation: no running bundle. Cure: use `python -m monai.bundle run cross_validation`")
    config = FoldConfig(workflow.parser.get(), Path(workflow.config_root_path).resolve() / base_file)
    rank = Rank.from_environment()
    chosen, folder = config.chosen_folds(), config.summary_folder()
    print(f"output: {folder.resolve()}", flush=True)
    store = Path(config.value("store_dir"))
    with locked(store / ".lock", f"{store}", PREPARATION_PATIENCE):  # the first rank makes the phantom
        jobs = [config.job(fold) for fold in range(config.number_of_folds())]
    run = FoldRuns(folder, rank, overwrite=bool(config.value("overwrite")), store=store)
    ours = [jobs[fold] for fold in rank.share(chosen)]
    with Stop() as stop:
        failures = run.train(ours, chosen, stop)
    end_if_stopped(stop)
    if rank.number > 0:
        return
    if not failures and not any(job.missing() for job in jobs):
        (report or report_segmentations)(folder, jobs, config)
        return
    report_progress(jobs, failures, folder)


@dataclass
class FoldRuns:
    """Runs the folds of one rank.

    Attributes:
        folder: of the cross-validation.
        rank: this process.
        overwrite: begin finished folds anew as well.
        store: what all folds share; with several ranks the first to come prepares it, the others wait.
        command: command line for an `--args_file`.
        patience: seconds to wait for another process that still trains the same fold.
    """

    folder: Path
    rank: Rank = field(default_factory=Rank)
    overwrite: bool = False
    store: Path | None = None
    command: Callable[[Path], list[str]] = bundle_command
    patience: float = LOCK_PATIENCE
    _files: RankFiles = field(init=False)

    def train(self, jobs: Sequence[FoldJob], chosen: Sequence[int], stop: Stop) -> dict[int, str]:
        """Run every job that is not finished; returns fold to message of those that failed.

        The first rank waits for all others and returns their failures too, all others leave theirs in a file.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._files = RankFiles(self.folder, self.rank)
        failures: dict[int, str] = {}
        prepared = self.rank.world == 1 or self.store is None
        for job in jobs:
            if stop.received is not None:
                break
            missing = job.missing()
            if not missing and not self.overwrite:
                print(f"fold {job.fold}: finished before", flush=True)
                continue
            overwrite = self.overwrite
            changed = [] if overwrite else job.changed_keys()
            if changed:
                failures[job.fold] = (
                    f"{job.folder}: was finished with other keys ({'; '.join(changed)}). "
                    "Cure: another --output_dir, or --overwrite True to train it anew"
                )
                continue
            if not prepared:
                message = self._run(job, "preprocessing", overwrite, stop)
                prepared, overwrite = not message, False
                if message:
                    failures[job.fold] = message
                    continue
            message = self._run(job, "train_and_evaluate", overwrite, stop)
            if message:
                failures[job.fold] = message
                print(f"fold {job.fold}: failed, see {job.output_file}", flush=True)
        if self.rank.world == 1:
            return failures
        if stop.received is not None:
            self._files.remove()
        elif self.rank.number > 0:
            self._files.done(failures)
        else:
            others = self.rank.world - 1
            print(f"rank 0 is done, waiting for {others} {'other' if others == 1 else 'others'}", flush=True)
            failures |= self._files.wait(chosen, stop)
            self._files.remove()
        return failures

    def _run(self, job: FoldJob, run_id: str, overwrite: bool, stop: Stop) -> str:
        """Run one command of a fold; returns why it failed, empty if it did not or if it was stopped."""
        begun = time.monotonic()

        def tick() -> None:
            self._files.beat()
            if stop.received is not None:
                raise InputError("stopped while waiting for another process")

        with ExitStack() as held:
            try:
                name, what = f".fold-{job.fold}.lock", f"fold {job.fold} ({job.folder})"
                lock = held.enter_context(locked(self.folder / name, what, self.patience, tick))
                if run_id == "preprocessing" and self.store is not None:
                    store = locked(self.store / ".lock", str(self.store), PREPARATION_PATIENCE, tick)
                    held.enter_context(store)
            except InputError as error:
                return "" if stop.received is not None else str(error)
            resume = not overwrite and job.has_training()
            path = job.write_command(run_id, resume, overwrite)
            where = f"rank {self.rank.number}: " if self.rank.world > 1 else ""
            doing = {"preprocessing": "preparing", "train_and_evaluate": "going on with" if resume else "training"}
            shown = self.rank.world == 1
            print(f"{where}{doing[run_id]} fold {job.fold}, output in {job.output_file.resolve()}", flush=True)
            said = job.output_file.stat().st_size if job.output_file.is_file() else 0
            status = run_process(
                self.command(path),
                job.output_file,
                stop,
                process_environment(self.rank.local, self.rank.world, visible_gpus() if not shown else ()),
                show=shown,
                beat=self._files.beat,
                keep_open=() if lock is None else (lock,),
            )
        if stop.received is not None:
            return ""
        if status != 0:
            return _ended(status) + error_message(job.output_file, said)
        if run_id == "train_and_evaluate":
            job.note_done()
            missing = job.missing()
            if missing:
                return f"its command ended well, but {missing} is missing. Cure: look into {job.output_file}"
            print(f"{where}fold {job.fold} is done in {duration(time.monotonic() - begun)}", flush=True)
        return ""


def report_segmentations(folder: Path, jobs: Sequence[FoldJob], config: FoldConfig) -> dict[str, Any]:
    """As `report`, of the running bundle's dataset."""
    return report(folder, jobs, {case.name: case.label for case in config.value("source", 0).dataset.training})


def report(folder: Path, jobs: Sequence[FoldJob], references: dict[str, Path | None]) -> dict[str, Any]:
    """Average finished folds, decide their post-processing, write and print both.

    Post-processing is decided on the held-out predictions of all folds together, and stored beside the result and
    beside the model of every fold.

    Args:
        folder: for the result.
        jobs: of all folds, finished.
        references: case name to label file.

    Raises:
        InputError: a file of a fold is damaged.
    """
    plan = Plan.load(jobs[0].folder / "plan.json")
    decided = decide_postprocessing(_label_maps(jobs, references), plan.foreground_classes, plan.ignore_label)
    summary = write_fold_report(
        folder,
        {str(job.fold): job.metrics() for job in jobs},
        {
            "models": {
                str(job.fold): {"path": str(job.model.resolve()), "sha256": model_digest(job.model)} for job in jobs
            },
            "postprocessing": {
                "keep_largest": [list(values) for values in decided.keep_largest],
                "note": "decided on the held-out cases of all folds; the scores above are without it",
            },
        },
        note=decided.describe(plan.foreground_classes),
    )
    for target in (folder, *(job.folder for job in jobs)):
        decided.save(target / POSTPROCESSING_FILE)
    print(markdown_table(summary))
    print(decided.describe(plan.foreground_classes))
    repeated = summary["cases_in_several_folds"]
    if repeated:
        logger.warning("%d cases are validated in several folds; all cases pooled count the first", len(repeated))
    print(f"result: {folder.resolve() / 'cross_validation.json'}, .csv, .md; {POSTPROCESSING_FILE} beside the models")
    pooled = summary["pooled"]
    logger.info("%d folds, %d cases", len(jobs), pooled["num_cases"])
    logger.info("mean foreground Dice %.3f", pooled["foreground_mean"]["dice"])
    return summary


def report_progress(jobs: Sequence[FoldJob], failures: dict[int, str], folder: Path) -> None:
    """Say which folds are finished while some are not.

    Raises:
        InputError: some failed.
    """
    missing = {job.fold: job.missing() for job in jobs}
    finished = [str(fold) for fold, what in missing.items() if not what]
    print(f"finished: {len(finished)} of {len(jobs)} folds{' (' + ', '.join(finished) + ')' if finished else ''}")
    for fold, what in missing.items():
        if what and fold not in failures:
            print(f"fold {fold}: {what} is missing")
    if failures:
        listed = "\n".join(f"  - fold {fold}: {text}" for fold, text in sorted(failures.items()))
        raise InputError(
            f"{len(failures)} of {len(jobs)} folds failed, all others were tried:\n{listed}\n"
            "Cure: remove the cause and start the same command again, which does only what is missing"
        )
    print(f"the result is written to {folder} when all folds are there", flush=True)


def end_if_stopped(stop: Stop) -> None:
    """After a signal: say how to go on, and end as the sender expects; in a notebook raise `KeyboardInterrupt`."""
    if stop.received is None:
        return
    print(f"\n{signal.Signals(stop.received).name}: stopped, what was trained is saved")
    print("go on with the same command, without --overwrite True", flush=True)
    if not from_command_line():
        raise KeyboardInterrupt
    signal.signal(stop.received, signal.SIG_DFL)
    os.kill(os.getpid(), stop.received)


def visible_gpus() -> list[str]:
    """GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them; no context is made on any."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    return [str(i) for i in range(torch.cuda.device_count())]


def _label_maps(
    jobs: Sequence[FoldJob], references: dict[str, Path | None]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    done: set[str] = set()
    for job in jobs:
        for case in job.cases:
            reference = references.get(case)
            if case in done or reference is None:
                continue
            done.add(case)
            yield case, read_label(job.label_map(case))[0], read_label(reference)[0]


def _ended(status: int) -> str:
    if status == -signal.SIGKILL:
        return "was killed, most likely for lack of memory. "
    return f"was ended by {signal.Signals(-status).name}. " if status < 0 else ""
