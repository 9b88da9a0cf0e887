"""All folds by one command: trained and evaluated one after another or spread over ranks, then averaged.

Every fold runs in a process of its own, so that memory is returned and a crash costs one fold. A fold is finished when
its evaluation belongs to its present model; the same command started again does what is missing.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_ext.engines import process_group
from monai_ext.engines.fold_jobs import FoldConfig, FoldJob
from monai_ext.engines.fold_process import Stop, bundle_command, error_message, process_environment, run_process
from monai_ext.engines.fold_ranks import Rank, RankFiles
from monai_ext.engines.folder_ranks import ranks_of_folder, require_common_folder
from monai_ext.engines.launch_record import begun_by_this_launch, note_launch
from monai_ext.engines.progress_log import duration
from monai_ext.engines.run_protection import hold_folder, release_folder
from monai_ext.engines.segmentation_folds_report import label_files, report_segmentations
from monai_ext.engines.workflow import from_command_line, running_workflow
from monai_ext.errors import InputError
from monai_ext.file_lock import FileLock

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
    chosen, folder = process_group.together(lambda: (config.chosen_folds(), config.summary_folder()))
    if rank.number == 0:
        print(f"output: {folder.resolve()}", flush=True)
    require_common_folder(folder, "output_dir")
    process_group.together(lambda: hold_folder(folder))
    try:
        _run_folds(config, rank, chosen, folder, report)
    finally:
        release_folder(folder)


def _run_folds(config: FoldConfig, rank: Rank, chosen: Sequence[int], folder: Path, report: Report | None) -> None:
    store = Path(config.value("store_dir"))
    ranks = ranks_of_folder(store)
    with ExitStack() as held:  # the first rank makes the phantom
        lock = FileLock(store / ".lock", f"{store}").holding(PREPARATION_PATIENCE)
        ranks.first_alone(lambda: held.enter_context(lock))
        jobs = process_group.together(lambda: [config.job(fold) for fold in range(config.number_of_folds())])
    run = FoldRuns(folder, rank, overwrite=bool(config.value("overwrite")), store=store)
    ours = [jobs[fold] for fold in rank.share(chosen)]
    with Stop() as stop:
        failures = run.train(ours, chosen, stop)
    end_if_stopped(stop)

    def finished() -> bool:
        return rank.number == 0 and not failures and not any(job.missing() for job in jobs)

    # the first rank knows all failures
    complete = process_group.gather(process_group.together(finished))[0]
    conclude: Callable[[], Any] = functools.partial(report_progress, jobs, failures, folder)
    if complete and report is not None:
        conclude = functools.partial(report, folder, jobs, config)
    elif complete:
        # all ranks open the dataset together, which the first cannot do alone
        references = process_group.together(lambda: label_files(config))
        conclude = functools.partial(report_segmentations, folder, jobs, references)
    process_group.together(lambda: conclude() if rank.number == 0 else None)


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
            overwrite = self.overwrite and not begun_by_this_launch(job.folder)
            if not overwrite and not job.missing():
                print(f"fold {job.fold}: finished before", flush=True)
                continue
            changed = [] if overwrite else job.changed_keys()
            if changed:
                failures[job.fold] = (
                    f"{job.folder}: was finished with other keys ({'; '.join(changed)}). "
                    "Cure: another --output_dir, or --overwrite True to train it anew"
                )
                continue
            note_launch(job.folder)
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
                lock = held.enter_context(FileLock(self.folder / name, what).holding(self.patience, tick))
                if run_id == "preprocessing" and self.store is not None:
                    store = FileLock(self.store / ".lock", str(self.store))
                    held.enter_context(store.holding(PREPARATION_PATIENCE, tick))
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
                keep_open=() if lock.descriptor is None else (lock.descriptor,),
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


def _ended(status: int) -> str:
    if status == -signal.SIGKILL:
        return "was killed, most likely for lack of memory. "
    return f"was ended by {signal.Signals(-status).name}. " if status < 0 else ""
