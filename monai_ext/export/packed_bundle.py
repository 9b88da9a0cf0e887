"""`export --format packed`: one zip that is a MONAI bundle with its weights, and can be tested where it arrives."""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import monai_ext
from monai_ext.atomic_files import NO_ROOM, explained, write_text
from monai_ext.errors import InputError, Problems
from monai_ext.evaluation.postprocessing import POSTPROCESSING_FILE
from monai_ext.export.packed_archive import PLAIN_NAME, write_zip
from monai_ext.export.packed_case import COMPARED, copy_case, draw_case, inference_keys
from monai_ext.export.packed_listing import (
    EXPECTED,
    FORMAT_VERSION,
    INPUT,
    MANDATORY,
    Listing,
    TestCase,
    list_files,
    write_listing,
)
from monai_ext.export.packed_metadata import metadata_of_model
from monai_ext.export.packed_run import predict_case
from monai_ext.export.trained_model import TrainedModel
from monai_ext.planning.plan_file import read_plan_file
from monai_ext.planning.plan_kinds import bundle_of

BESIDE_MODEL = (POSTPROCESSING_FILE, "calibration.json")  # what inference reads there, if it is there
DATA_LICENCE = "docs/data_license.txt"
VERSIONS = ("torch", "monai", "numpy")


def export_packed(
    model: TrainedModel,
    folder: str | Path,
    place: str | Path = "",
    name: str = "",
    images: str | Path = "",
    bundle_dir: str | Path = "",
    data_licence: str | Path = "",
    overwrite: bool = False,
) -> Path:
    """Write `NAME.zip`: configs, plan, weights, licence, docs, a test case with its expected output, and hashes.

    The zip holds one folder `NAME`, which is a MONAI bundle: unpacked, `monai.bundle.run` and `monai.bundle.load` work
    on it. The expected output is what the packed bundle itself predicts, on the processor in float32.

    Args:
        model: of any bundle.
        folder: for the zip.
        place: where the model was found; where that is the folder of a bundle, its configs are packed.
        name: of zip and folder; empty takes the bundle's.
        images: image of the test case, which everybody who gets the zip can see; empty draws one.
        bundle_dir: folder with `configs` and `LICENSE`; empty looks beside the installed package and in `bundles`.
        data_licence: text file with the licence of the training data.
        overwrite: replace a zip of that name.

    Returns:
        Path of the zip.

    Raises:
        InputError: the zip exists, the name is no plain one, the folder of the bundle is not found or incomplete, the
            image does not fit the model, or the model fails on the test case.
    """
    name = name or model.bundle
    path = Path(folder) / f"{name}.zip"
    if not PLAIN_NAME.fullmatch(name):
        raise InputError(f"--name {name}: is no plain name. Cure: letters, digits, `.`, `_` and `-`")
    if path.parent.exists() and not path.parent.is_dir():
        raise InputError(f"{folder}: is a file, not a folder. Cure: another --output_dir")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists. Cure: --overwrite True, another --name or another --output_dir")
    source = _bundle_folder(model, place, bundle_dir)
    with tempfile.TemporaryDirectory(prefix="packed-") as scratch:
        bundle = Path(scratch) / name
        _copy_bundle(model, source, bundle, data_licence)
        if str(images):
            copy_case(model.bundle, model.plan, Path(images), bundle / INPUT)
        else:
            draw_case(model.bundle, model.plan, bundle / INPUT)
        keys = inference_keys(model.bundle, model.plan)
        predicted = Path(scratch) / "predicted"
        predict_case(bundle, bundle / INPUT, predicted, keys)
        outputs = [output for output in COMPARED[model.bundle] if (predicted / output).is_file()]
        (bundle / EXPECTED).mkdir(parents=True)
        for output in outputs:
            shutil.copyfile(predicted / output, bundle / EXPECTED / output)
        metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
        listing = Listing(
            format_version=FORMAT_VERSION,
            name=name,
            bundle=model.bundle,  # type: ignore[arg-type]
            versions={"monai_ext": monai_ext.__version__, **{package: version(package) for package in VERSIONS}},
            copyright=str(metadata.get("copyright", "")),
            data_licence=DATA_LICENCE if (bundle / DATA_LICENCE).is_file() else "",
            test=TestCase(source="image" if str(images) else "drawn", keys=keys, outputs=outputs),
            files=list_files(bundle),
        )
        write_listing(bundle, listing)
        write_zip(bundle, path)
    return path


def _bundle_folder(model: TrainedModel, place: str | Path, given: str | Path) -> Path:
    """Folder with configs and licence of a bundle: the one given, the model's own, or the project's."""
    beside = Path(monai_ext.__file__).parents[1] / "bundles" / model.bundle
    own = [Path(place)] if str(place) else []
    # of a bundle the model may be given as BUNDLE/models/model.pt: configs that a person changed there count too
    candidates = [Path(given)] if str(given) else [*own, model.folder.parent, Path("bundles") / model.bundle, beside]
    for folder in candidates:
        if (folder / "configs" / "metadata.json").is_file():
            _require_bundle(folder, model.bundle)
            return folder
    tried = ", ".join(str(folder) for folder in candidates)
    raise InputError(
        f"bundle {model.bundle}: no folder with configs/metadata.json ({tried}). "
        "Cure: --bundle_dir <folder of the bundle>"
    )


def _require_bundle(folder: Path, name: str) -> None:
    """Configs of another bundle run, or fail, in ways that say nothing of that."""
    plan = folder / "configs" / "default_plan.json"
    found = bundle_of(read_plan_file(plan)) if plan.is_file() else ""
    if found and found != name:
        raise InputError(f"{folder}: is the bundle {found}, the model is of {name}. Cure: --bundle_dir with that one")


def _copy_bundle(model: TrainedModel, source: Path, target: Path, data_licence: str | Path) -> None:
    problems = Problems(f"bundle in {source}")
    for name in MANDATORY:
        if not name.startswith("models/") and not (source / name).is_file():
            problems.add(source / name, "is missing", "restore it, or --bundle_dir with another folder")
    if str(data_licence) and not Path(data_licence).is_file():
        problems.add(f"--data_licence {data_licence}", "is no file", "a text file")
    problems.raise_if_any()
    for part in ("configs", "docs"):
        of_model = model.folder / part  # the card of a trained model goes before the bundle's own docs
        folder = of_model if part == "docs" and (of_model / "README.md").is_file() else source / part
        for file in sorted(folder.glob("*")):
            if file.is_file() and PLAIN_NAME.fullmatch(file.name):
                _copy(file, target / part / file.name)
    _copy(source / "LICENSE", target / "LICENSE")
    _copy(model.ckpt_path, target / "models" / "model.pt")
    for name in ("plan.json", *BESIDE_MODEL):
        if (model.folder / name).is_file():
            _copy(model.folder / name, target / "models" / name)
    if str(data_licence):
        _copy(Path(data_licence), target / DATA_LICENCE)
    metadata = target / "configs" / "metadata.json"
    content = metadata_of_model(json.loads(metadata.read_text(encoding="utf-8")), model.bundle, model.plan)
    write_text(metadata, json.dumps(content, indent=4) + "\n")


def _copy(source: Path, target: Path) -> None:
    with explained(target, only=NO_ROOM):  # what cannot be read is another matter
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
