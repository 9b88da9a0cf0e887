"""What becomes of the detections of pictures: label maps, COCO results, overlays and tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys
from scipy.ndimage import find_objects

from monai_ext.atomic_files import write_text
from monai_ext.datasets.coco_masks import PixelRuns
from monai_ext.datasets.file_names import image_ending
from monai_ext.datasets.instance_dataset import InstanceCase
from monai_ext.datasets.label_files import MOST_IN_16_BITS, write_label_file
from monai_ext.datasets.picture import open_picture
from monai_ext.datasets.picture_resolution import picture_resolution
from monai_ext.engines import process_group
from monai_ext.engines.overlapped_io import WriteBehind
from monai_ext.engines.shared_completion import when_all_are_done
from monai_ext.errors import InputError, Problems
from monai_ext.evaluation.instance_objects import MaskWindow, objects_of_detections
from monai_ext.evaluation.instance_picture import instance_overlay, picture_of
from monai_ext.evaluation.overlay_picture import save_picture
from monai_ext.evaluation.painted_labels import painted_detections
from monai_ext.networks.mask_rcnn.structures import Detections
from monai_ext.planning.instance_plan import InstancePlan

OUTPUTS = ("labels", "coco", "overlay")
ENDINGS = {"png": ".png", "tif": ".tif", "auto": ""}
LARGEST_OVERLAY = 4096  # pixels along an axis
TIFF_ENDINGS = (".tif", ".tiff")
RESULTS, COUNTS, OBJECTS = "detections.json", "counts.csv", "objects.csv"
COUNT_COLUMNS = ("file", "image_id", "height", "width", "detections", "objects")
OBJECT_COLUMNS = ("file", "value", "class", "score", "area", "centre_x", "centre_y", "x0", "y0", "x1", "y1")


class InstancePrediction:
    """Writes what was found in every picture.

    - `labels/NAME.png` or `.tif`: label map, 16 bits; TIFF of 32 bits if there are more than 65535 objects. It has the
      size and resolution of the picture. Value v is the v-th surest object.
    - `detections.json`: COCO results of all detections, masks as packed run lengths.
    - `overlays/NAME.png`: objects in colours over the picture; of 4096 pixels along an axis at most.
    - `counts.csv`: objects per picture and class; `objects.csv`: class, score, area in pixels, centre and box of every
      value of the label maps.

    Label maps, tables and overlays show detections of the plan's `label_threshold` or more.

    Of several processes each writes label maps and overlays of its own pictures, and the first the files for all
    together, whose rows are in the order of the cases.

    Args:
        plan: gives classes, their COCO ids, `label_threshold` and `min_area`.
        folder: for the files.
        cases: all pictures, with their paths and image ids.
        outputs: some of `labels`, `coco` and `overlay`, joined by `+`.
        label_format: `png`, `tif`, or `auto`: TIFF for pictures in TIFF, else PNG.
        overlapped: write in a thread of its own while the network works on the next picture.

    Raises:
        InputError: an unknown output or format, or pictures whose files would have one name.
    """

    def __init__(
        self,
        plan: InstancePlan,
        folder: str | Path,
        cases: Sequence[InstanceCase],
        outputs: str = "labels+coco+overlay",
        label_format: str = "auto",
        overlapped: bool = False,
    ) -> None:
        self.plan = plan
        self.folder = Path(folder)
        self.cases = {case.name: case for case in cases}
        self.outputs = tuple(part for part in outputs.split("+") if part)
        if not self.outputs or not set(self.outputs) <= set(OUTPUTS):
            raise InputError(f"--pred_format {outputs}: is not known. Cure: {'+'.join(OUTPUTS)}, or some of them")
        if label_format not in ENDINGS:
            raise InputError(f"--label_format {label_format}: is not known. Cure: one of {', '.join(ENDINGS)}")
        self.label_format = label_format
        self.stems = file_stems(self.cases)
        self._behind = WriteBehind(overlapped)
        self._clear()

    def _clear(self, _: Any = None) -> None:
        self.results: dict[str, list[str]] = {}
        self.counts: list[list[Any]] = []
        self.objects: list[list[Any]] = []

    @property
    def tables(self) -> list[Path]:
        """Files for all pictures together."""
        names = (COUNTS, OBJECTS, RESULTS) if "coco" in self.outputs else (COUNTS, OBJECTS)
        return [self.folder / name for name in names]

    def files_of(self, name: str) -> list[Path]:
        """Files that a picture may get."""
        found = []
        if "labels" in self.outputs:
            first = self.label_path(name, 0)
            found += list(dict.fromkeys((first, first.with_name(f"{self.stems[name].name}.tif"))))
        if "overlay" in self.outputs:
            found.append(self._overlay_path(name))
        return found

    def label_path(self, name: str, objects: int) -> Path:
        """Label map of a picture with so many objects."""
        is_tiff = image_ending(Path(name)) in TIFF_ENDINGS
        ending = ENDINGS[self.label_format] or (".tif" if is_tiff else ".png")
        return self.folder / "labels" / f"{self.stems[name]}{'.tif' if objects > MOST_IN_16_BITS else ending}"

    @process_group.one_error
    def check_new(self, overwrite: bool) -> None:
        """Refuse to start if a file would be replaced.

        Raises:
            InputError: lists the files that exist, unless `overwrite`; in any case if one of them is an input.
        """
        inputs = {case.path.resolve() for case in self.cases.values()}
        targets = [*self.tables, *(path for name in self.cases for path in self.files_of(name))]
        there = [path for path in targets if path.exists()]
        if any(path.resolve() in inputs for path in there):
            raise InputError(f"--output_dir {self.folder}: would replace the input itself. Cure: another --output_dir")
        if there and not overwrite:
            listed = "\n".join(f"  - {path}" for path in there[:10])
            raise InputError(
                f"{len(there)} files are there already:\n{listed}\nCure: another --output_dir, or --overwrite True"
            )

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        when_all_are_done(engine, self._finish)

    def _collect(self, engine: Any) -> None:
        output = engine.state.output
        for name, size, found in zip(output["case"], output["size"], output[CommonKeys.PRED], strict=True):
            if not name:  # does not count, see `CaseInOutput`
                continue
            if not (found.scores.isfinite().all() and found.boxes.isfinite().all()):
                raise InputError(
                    f"{name}: the network gives numbers that are not finite. Cure: another checkpoint, or a picture "
                    "without NaN"
                )
            height, width = (int(edge) for edge in size)
            self._behind.do(lambda name=name, h=height, w=width, found=found: self._put_out(name, h, w, found))  # type: ignore[misc]

    def _put_out(self, name: str, height: int, width: int, found: Detections) -> None:
        case = self.cases[name]
        painted, places = painted_detections(found, height, width, self.plan.label_threshold, self.plan.min_area)
        labels, scores = found.labels.cpu().numpy()[places], found.scores.cpu().numpy()[places]
        if "labels" in self.outputs:
            write_label_file(self.label_path(name, len(places)), painted, picture_resolution(case.path))
        if "overlay" in self.outputs:
            self._draw(case, painted)
        if "coco" in self.outputs:
            self.results[name] = coco_results(found, height, width, case.image_id, self.plan.category_ids)
        per_class = np.bincount(labels, minlength=self.plan.num_classes + 1)[1:]
        row = [name, case.image_id, height, width, len(found.scores), len(places)]
        self.counts.append([*row, *per_class.tolist()])
        self.objects += object_rows(name, painted, [self.plan.classes[k - 1] for k in labels], scores)

    def _draw(self, case: InstanceCase, painted: np.ndarray) -> None:
        """Overlay of the picture's own size; of large pictures, reduced."""
        longest = max(painted.shape)
        height, width = (-(-edge * min(longest, LARGEST_OVERLAY) // longest) for edge in painted.shape)
        rows, columns = (
            ((np.arange(edge) + 0.5) * full / edge).astype(np.int64)
            for edge, full in zip((height, width), painted.shape, strict=True)
        )
        picture = open_picture(case.path, 3)
        shown = picture_of(picture.crop_resized((0, 0, *picture.size), (height, width)).numpy())
        save_picture(self._overlay_path(case.name), instance_overlay(shown, painted[rows[:, None], columns]))

    def _overlay_path(self, name: str) -> Path:
        return self.folder / "overlays" / f"{self.stems[name]}.png"

    def _finish(self) -> None:
        process_group.together(self._behind.wait)
        shares = process_group.gather((self.results, self.counts, self.objects))
        self.results = {name: entries for results, _, _ in shares for name, entries in results.items()}
        self.counts = [row for _, counts, _ in shares for row in counts]
        self.objects = [row for _, _, objects in shares for row in objects]
        process_group.first_alone(self._write_tables)

    def _write_tables(self) -> None:
        order = {name: number for number, name in enumerate(self.cases)}
        for rows in (self.counts, self.objects):  # batches may hold the pictures in another order
            rows.sort(key=lambda row: order[row[0]])
        write_text(self.folder / COUNTS, _table([[*COUNT_COLUMNS, *self.plan.classes], *self.counts]))
        write_text(self.folder / OBJECTS, _table([OBJECT_COLUMNS, *self.objects]))
        if "coco" in self.outputs:
            entries = [entry for name in self.cases for entry in self.results.get(name, ())]
            write_text(self.folder / RESULTS, "[" + ",\n".join(entries) + "]\n")
        pictures = "1 picture" if len(self.counts) == 1 else f"{len(self.counts)} pictures"
        print(f"{len(self.objects)} objects in {pictures}: {self.folder.resolve() / COUNTS}")


def coco_results(found: Detections, height: int, width: int, image_id: int, category_ids: Sequence[int]) -> list[str]:
    """Detections as entries of a COCO results file, JSON text each, by descending score.

    Args:
        found: of one picture, in its pixels.
        height, width: of the picture.
        image_id: of the COCO file.
        category_ids: of labels 1, 2, ...
    """
    objects = objects_of_detections(found, height, width)
    entries = []
    for box, label, score, mask in zip(
        objects.boxes.tolist(), objects.labels.tolist(), objects.scores.tolist(), objects.masks, strict=True
    ):
        x0, y0, x1, y1 = box
        entry = {
            "image_id": image_id,
            "category_id": category_ids[label - 1],
            "bbox": [round(edge, 2) for edge in (x0, y0, x1 - x0, y1 - y0)],
            "score": round(score, 5),
            "segmentation": runs_of_window(mask, height, width).to_coco(),
        }
        entries.append(json.dumps(entry, separators=(",", ":")))
    return entries


def runs_of_window(mask: MaskWindow, height: int, width: int) -> PixelRuns:
    """A mask of an image of that size as runs of pixels, without making it as large as the image."""
    inside = np.pad(mask.inside, ((1, 1), (0, 0))).astype(np.int8)
    columns, rows = np.nonzero(np.diff(inside, axis=0).T)
    positions = (columns + mask.left) * height + rows + mask.top
    return PixelRuns.from_intervals(positions[0::2], positions[1::2], height, width)


def object_rows(name: str, painted: np.ndarray, classes: Sequence[str], scores: np.ndarray) -> list[list[Any]]:
    """Rows of `objects.csv` of one label map `[H, W]` with values 1 to N."""
    rows: list[list[Any]] = []
    for value, (window, kind, score) in enumerate(zip(find_objects(painted), classes, scores, strict=True), 1):
        y, x = window
        down, across = np.nonzero(painted[window] == value)
        # centres of pixels lie at half numbers, as edges at whole ones
        centre = (round(x.start + across.mean() + 0.5, 2), round(y.start + down.mean() + 0.5, 2))
        box = (x.start, y.start, x.stop, y.stop)
        rows.append([name, value, kind, round(float(score), 5), len(down), *centre, *box])
    return rows


def file_stems(names: Iterable[str]) -> dict[str, PurePosixPath]:
    """Paths for the files of every picture, without ending; pictures that differ only in the ending keep theirs.

    Raises:
        InputError: two pictures would still have the same.
    """
    plain: dict[str, list[str]] = {}
    for name in names:
        path = PurePosixPath(PurePosixPath(name).name if PurePosixPath(name).is_absolute() else name)
        ending = image_ending(Path(name)) or path.suffix
        plain.setdefault(path.as_posix()[: len(path.as_posix()) - len(ending)], []).append(name)
    stems: dict[str, PurePosixPath] = {}
    for stem, same in plain.items():
        for name in same:
            stems[name] = PurePosixPath(stem if len(same) == 1 else f"{stem}{PurePosixPath(name).suffix}")
    # files of some disks do not tell capital letters apart
    taken: dict[str, str] = {}
    problems = Problems("names of pictures")
    for name, path in stems.items():
        other = taken.setdefault(path.as_posix().lower(), name)
        if other != name:
            problems.add(name, f"would be written to the same files as {other}", "rename one of them")
    problems.raise_if_any()
    return stems


def _table(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
