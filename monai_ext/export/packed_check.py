"""`python -m monai_ext verify FILE.zip`: a packed bundle is whole, its weights fit, and it predicts what it should."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import monai_ext
from monai_ext.benchmark.measurement_rows import format_table
from monai_ext.errors import InputError, Problems
from monai_ext.export.export_options import require_switch
from monai_ext.export.packed_archive import unpack_zip
from monai_ext.export.packed_case import COMMON_KEYS, COMPARED, KEYS
from monai_ext.export.packed_comparison import OutputComparison, compare_output
from monai_ext.export.packed_listing import EXPECTED, INPUT, Listing, read_listing
from monai_ext.export.packed_run import predict_case
from monai_ext.export.trained_model import open_model
from monai_ext.file_digest import file_sha256

PLAIN_VALUE = re.compile(r"[A-Za-z0-9_+]*")  # no expression, reference or macro of a config
SHOWN = ("file", "measure", "value", "limit", "about")
CURE = "export again, or ask for the zip where it came from"


def verify_packed(
    path: str | Path,
    sha256: str = "",
    unpack: str | Path = "",
    run: bool = True,
    say: Callable[[str], object] = print,
) -> list[OutputComparison]:
    """Check a packed bundle from outside to inside; nothing in it is executed before all hashes have been compared.

    Hashes tell damage, not origin: configs are code that runs in the test case, so a bundle of a stranger is better
    looked at with `run=False`, or compared with a `sha256` that came another way.

    Args:
        path: the zip.
        sha256: of the zip, hexadecimal, as told by who made it; empty: not compared.
        unpack: new folder for the bundle, which stays there if all is well; empty takes a temporary one.
        run: predict the test case and compare with its expected output.
        say: gets a line for every check that passed.

    Returns:
        Comparisons of the test case; empty without `run`.

    Raises:
        InputError: no zip, damaged, unsafe or too large; files missing, changed or not listed; weights that do not fit
            the plan; another output than expected.
    """
    require_switch("run", run)  # `--run false` is a text: it must not run the code of a stranger
    path, target = Path(path), Path(unpack) if str(unpack) else None
    if target is not None and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"--unpack {target}: is not empty. Cure: a new folder")
    found = file_sha256(path) if path.is_file() else ""
    if sha256 and found and found != str(sha256).strip().lower():
        raise InputError(f"{path}: has sha256 {found}, expected {sha256}. Cure: fetch the file again")
    with tempfile.TemporaryDirectory(prefix="verify-") as scratch:
        folder = unpack_zip(path, Path(scratch))
        say(f"zip: {path.name}, {path.stat().st_size / 1e6:.1f} MB, sha256 {found}")
        listing = read_listing(folder)
        _check_test(listing)
        made_with = ", ".join(f"{package} {number}" for package, number in listing.versions.items())
        say(f"files: {len(listing.files)} as listed; made with {made_with}")
        model = open_model(folder)
        if model.bundle != listing.bundle:
            raise InputError(f"{path}: says it is of {listing.bundle}, its plan is of {model.bundle}. Cure: {CURE}")
        del model
        licence = listing.data_licence or "none stated"
        say(f"model: {listing.bundle}, weights fit the plan; LICENSE of configs and weights, of the data: {licence}")
        compared = _compare_case(folder, listing, Path(scratch) / "predicted") if run else []
        if run:
            rows = [{**asdict(one), "value": f"{one.value:.4g}", "limit": f"{one.limit:g}"} for one in compared]
            say(format_table(rows, SHOWN, left=2))
        if target is not None:
            _unpack(path, target)
            say(f"unpacked: {(target / folder.name).resolve()}")
    say(f"{path.name}: verified" if run else f"{path.name}: whole; its test case was not run")
    return compared


def _unpack(path: Path, target: Path) -> None:
    """Unpack for good; of a failure nothing stays. The files are compared once more: the test case ran in between."""
    is_new = not target.exists()
    try:
        read_listing(unpack_zip(path, target))
    except BaseException:
        for left in target.glob("*"):
            shutil.rmtree(left, ignore_errors=True)
        if is_new:
            shutil.rmtree(target, ignore_errors=True)
        raise


def _check_test(listing: Listing) -> None:
    """The test case may set the keys that an export sets, to plain values, and nothing else."""
    problems = Problems("packed.json, test case")
    allowed = {*COMMON_KEYS, *KEYS[listing.bundle], "pred_format", "top_k"}
    for name, value in listing.test.keys.items():
        if name not in allowed or (isinstance(value, str) and not PLAIN_VALUE.fullmatch(value)):
            problems.add(f"key {name!r}, {value!r}"[:120], "is not one that an export writes", CURE)
    for name in listing.test.outputs:
        if name not in COMPARED[listing.bundle]:
            problems.add(f"output {name!r}"[:120], f"is not one of {', '.join(COMPARED[listing.bundle])}", CURE)
    problems.raise_if_any()


def _compare_case(folder: Path, listing: Listing, predicted: Path) -> list[OutputComparison]:
    predict_case(folder, folder / INPUT, predicted, listing.test.keys)
    compared = [compare_output(folder / EXPECTED / name, predicted / name) for name in listing.test.outputs]
    problems = Problems(f"test case of {listing.name}")
    made = listing.versions.get("monai_ext", "unknown")
    for one in compared:
        if not one.passes:
            cure = (
                f"install monai_ext {made}, with which it was made (here: {monai_ext.__version__})"
                if made != monai_ext.__version__
                else "export again, or report it with `python -m monai_ext environment`"
            )
            problems.add(one.file, f"{one.measure} {one.value:.4g}, allowed {one.limit:g} ({one.about})", cure)
    problems.raise_if_any()
    return compared
