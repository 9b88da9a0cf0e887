"""What is in many image files, decoded by several processes; kept in a file between runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monai_ext.atomic_files import write_cache
from monai_ext.datasets.classification_dataset import ImageCase
from monai_ext.datasets.image_facts import ImageFacts, inspect_image
from monai_ext.errors import InputError
from monai_ext.worker_pool import worker_pool

__all__ = ["ImageFacts", "inspect_image", "inspect_images"]
INDEX_VERSION = 1
FEW_IMAGES = 256  # fewer are decoded faster than processes start


def inspect_images(
    cases: Sequence[ImageCase],
    index_file: Path | None = None,
    with_statistics: Collection[str] = (),
    num_workers: int = 0,
    progress: bool = False,
) -> tuple[dict[str, ImageFacts], dict[str, str]]:
    """Decode every image that the index does not know.

    Args:
        cases: images.
        index_file: JSON; read if it exists, written with what is found. A damaged one is made anew.
        with_statistics: names of the images whose moments are wanted.
        num_workers: processes; 0 or 1 decodes in this one.
        progress: show a bar with the time left.

    Returns:
        Facts by name in the order of `cases`, and for images that cannot be read what is wrong, by name.

    Raises:
        InputError: a worker process was ended from outside.

    The processes that torchrun started deal the images out; all must call it.
    """
    from monai_ext.engines import process_group  # here, since it loads torch, which workers need not
    from monai_ext.engines.dealt_work import dealt
    from monai_ext.engines.folder_ranks import ranks_of_folder

    known = _read_index(index_file)
    entries: dict[str, tuple[int, int, ImageFacts]] = {}
    errors: dict[str, str] = {}
    jobs: list[tuple[str, Path, bool]] = []
    states: dict[str, tuple[int, int]] = {}
    for case in cases:
        try:
            state = case.path.stat()
        except OSError as error:
            errors[case.name] = f"cannot be opened ({error.strerror})"
            continue
        states[case.name] = (state.st_size, state.st_mtime_ns)
        size, time, facts = known.get(case.name, (-1, -1, None))
        wanted = case.name in with_statistics
        if facts is not None and (size, time) == states[case.name] and (facts.moments or not wanted):
            entries[case.name] = (size, time, facts)
        else:
            jobs.append((case.name, case.path, wanted))

    def note(name: str, found: ImageFacts | str) -> None:
        if isinstance(found, str):
            errors[name] = found
        elif name in states:
            entries[name] = (*states[name], found)

    def write() -> None:
        if index_file is not None and jobs:
            _write_index(index_file, entries)

    if process_group.running():
        # each decodes a share of what any of them does not know: machines may have stores of their own
        unknown = set[str]().union(*process_group.gather({name for name, _, _ in jobs}))
        every = [(case.name, case.path, case.name in with_statistics) for case in cases if case.name in unknown]
        shown = progress and process_group.is_first()
        for name, found in dealt(every, lambda share: _inspected(list(share), num_workers, shown)):
            note(name, found)
        if index_file is not None:
            ranks_of_folder(index_file.parent).first_alone(write)
    else:
        try:
            for name, found in _inspected(jobs, num_workers, progress):
                note(name, found)
        finally:  # what is known when a person interrupts a long check need not be decoded again
            write()
    return {case.name: entries[case.name][2] for case in cases if case.name in entries}, errors


def _inspected(
    jobs: list[tuple[str, Path, bool]], num_workers: int, progress: bool
) -> Iterator[tuple[str, ImageFacts | str]]:
    if num_workers <= 1 or len(jobs) < FEW_IMAGES:
        yield from _with_bar(map(_inspect, jobs), len(jobs), progress)
        return
    try:
        with worker_pool(num_workers) as pool:
            yield from _with_bar(pool.map(_inspect, jobs, chunksize=32), len(jobs), progress)
    except BrokenProcessPool:
        raise InputError(
            "a process of the check was ended from outside, most likely for want of memory. "
            f"Cure: set num_workers below {num_workers}"
        ) from None


def _inspect(job: tuple[str, Path, bool]) -> tuple[str, ImageFacts | str]:
    name, path, with_statistics = job
    try:
        return name, inspect_image(path, with_statistics)
    except InputError as error:
        return name, str(error)


def _with_bar(found: Iterable[Any], total: int, progress: bool) -> Iterable[Any]:
    if not progress:
        return found
    from tqdm import tqdm

    return tqdm(found, total=total, desc="checking images", unit="image")


def _read_index(path: Path | None) -> dict[str, tuple[int, int, ImageFacts]]:
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != INDEX_VERSION:
            return {}
        return {name: (size, time, _as_facts(fields)) for name, (size, time, fields) in content["images"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _as_facts(fields: dict[str, Any]) -> ImageFacts:
    low, high = fields["value_range"]
    full = fields["full_range"]
    return ImageFacts(
        **fields
        | {
            "size": tuple(fields["size"]),
            "full_range": None if full is None else tuple(full),
            "moments": tuple(tuple(values) for values in fields["moments"]),
            "value_range": (low, high),
        }
    )


def _write_index(path: Path, entries: dict[str, tuple[int, int, ImageFacts]]) -> None:
    lines = [
        f"{json.dumps(name)}: {json.dumps([size, time, asdict(facts)])}"
        for name, (size, time, facts) in entries.items()
    ]
    write_cache(path, f'{{"version": {INDEX_VERSION}, "images": {{\n' + ",\n".join(lines) + "\n}}\n")
