"""From a raw dataset to stored cases: fingerprint, plan, preprocessing."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

from monai_ext.benchmark.interleaved import Task
from monai_ext.benchmark.peers.work import NNUNET, OURS, Work

NUMBER = 999  # of the dataset, in the peer's numbering


def make(only: str = "", dataset_dir: str = "", num_cases: int = 0, num_workers: int = 2) -> Work:
    """Fingerprint, plan and store every training case, from nothing, without the check of the files before.

    The peer prepares the same configuration, `3d_fullres`, with as many processes. Memory is that of the main process.

    Args:
        only: side to build; empty builds all.
        dataset_dir: in MSD format; empty takes a phantom dataset.
        num_cases: of the dataset, the first ones; 0 takes all. Of the phantom, 4 at least.
        num_workers: processes of either side.

    Raises:
        InputError: the dataset cannot be read.
    """
    from monai_ext.datasets.msd import read_msd
    from monai_ext.datasets.phantom import make_phantom

    folder = tempfile.TemporaryDirectory()
    root = Path(folder.name)
    dataset = read_msd(Path(dataset_dir) if dataset_dir else make_phantom(root / "phantom", max(num_cases, 4)))
    cases = dataset.training[:num_cases] if num_cases else dataset.training
    dataset = type(dataset)(**{**vars(dataset), "training": type(dataset.training)(cases)})
    work = Work(only)
    work.always = f"{len(cases)} cases of {dataset.name}, {num_workers} processes"

    def emptied(name: str) -> tuple[()]:
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir()
        return ()

    def ours() -> Task:
        from monai_ext.planning.fingerprint import compute_fingerprint
        from monai_ext.planning.planner import make_plan
        from monai_ext.preprocessing.prepare import prepare_cases

        def run() -> object:
            plan = make_plan(compute_fingerprint(dataset, num_workers))
            return prepare_cases(dataset, plan, root / "store", num_workers, progress=False), folder

        return Task(run, lambda: emptied("store"))

    def nnunet() -> Task:
        from nnunetv2.experiment_planning.plan_and_preprocess_api import (
            extract_fingerprint_dataset,
            plan_experiment_dataset,
            preprocess_dataset,
        )

        raw = root / "raw" / f"Dataset{NUMBER:03d}_Benchmark"
        raw.mkdir(parents=True)
        content = {
            "channel_names": {str(i): name for i, name in enumerate(dataset.channels)},
            "labels": dict(dataset.labels),
            "numTraining": len(cases),
            "file_ending": ".nii.gz",
            "dataset": {
                case.name: {"images": [str(path.resolve()) for path in case.images], "label": str(case.label.resolve())}
                for case in cases
                if case.label is not None
            },
        }
        (raw / "dataset.json").write_text(json.dumps(content), encoding="utf-8")

        def run() -> object:
            folders = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
            os.environ.update({name: str(root / sub) for name, sub in folders.items()})
            with contextlib.redirect_stdout(io.StringIO()):
                extract_fingerprint_dataset(NUMBER, num_processes=num_workers, verbose=False, show_progress_bar=False)
                _, plans = plan_experiment_dataset(NUMBER)
                preprocess_dataset(NUMBER, plans, ["3d_fullres"], [num_workers], show_progress_bar=False)
            return folder

        return Task(run, lambda: emptied("preprocessed"))

    work.add(OURS, ours)
    work.add(NNUNET, nnunet)
    return work
