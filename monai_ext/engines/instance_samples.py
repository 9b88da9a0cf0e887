"""Images with their objects as training samples, augmented by transforms seeded per sample, and whole for inference."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from monai.transforms import Compose, Randomizable
from torch.utils.data import Dataset

from monai_ext.datasets.instance_dataset import InstanceCase
from monai_ext.engines.decoded_instances import DecodedCase, decode_case
from monai_ext.engines.person_errors import find_input_error
from monai_ext.engines.picture_samples import UnreadablePictureError
from monai_ext.errors import InputError
from monai_ext.planning.instance_plan import InstancePlan
from monai_ext.preprocessing.instance_image import network_size, normalise, read_plan_image, scaled_to_network
from monai_ext.transforms.boxes_of_label_map import boxes_of_label_map
from monai_ext.transforms.sample_seed import sample_seed

CACHE_BYTES = 512 * 2**20


class ImageFile(Protocol):
    """What is needed of an image without labels."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> Any: ...


class InstanceSamples(Dataset[dict[str, Any]]):
    """Map `(sample number, case index, slot)` to a sample; what comes out is a function of (seed, sample number).

    The transforms get `image` (`[C, H, W]` float32 of 0 to 1), `label_map` (`[1, H, W]` int32) and `boxes` (`[G, 4]`,
    of the image before the transforms, in pixels of the file), and shall move image and label map alike. If the first
    of them takes pictures, as `RandScaleCropPadd`, it gets both in the file's pixels; else they have been resized as
    the plan says. An image of three equal channels is one channel to the transforms: it takes a third of the time, and
    stays grey.

    A sample holds `image` (`[C, h, w]` float32, normalised), `label_map` (`[h, w]` int32, objects that count and
    nothing else), `boxes` (`[G, 4]` float32, rebuilt from the label map), `labels` (`[G]` int64), `ids` (`[G]` int32),
    `crowd` (`[Z, 4]` float32: regions of crowds, and objects above `max_objects`), `capped` (objects above
    `max_objects`), `draw` (seed of what the network draws) and `case`. There may be no object at all. A file that
    cannot be read raises `InputError` with its name.

    Args:
        cases: with labels.
        plan: of the model.
        transform: MONAI dictionary transforms; their random state is set before every sample.
        seed: of the augmentation.
        max_objects: more of them in a sample are left out at random, as the memory of training grows with them; they
            become regions to be ignored. 0 for no limit.
        min_visible: objects of fewer network pixels are left out.
        cache_bytes: decoded images and label maps are kept up to this size, in every worker process.
    """

    def __init__(
        self,
        cases: Sequence[InstanceCase],
        plan: InstancePlan,
        transform: Callable[..., Any],
        seed: int = 0,
        max_objects: int = 0,
        min_visible: int = 4,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.cases = tuple(cases)
        self.plan = plan
        self.transform = transform
        self.seed = seed
        self.max_objects = max_objects
        self.min_visible = min_visible
        self.cache_bytes = cache_bytes
        self._random = np.random.RandomState()
        self._cache: OrderedDict[int, DecodedCase] = OrderedDict()
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: tuple[int, int, int]) -> dict[str, Any]:
        sample, number, _ = index
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed=sample_seed(self.seed, sample))
        try:
            decoded = self._decoded(number)
            entries = self.transform(self._entries(decoded))
        except Exception as error:
            mistake = find_input_error(error)
            if mistake is None:
                raise
            raise UnreadablePictureError(str(mistake)) from error
        image, regions = _plain(entries["image"]), _plain(entries["label_map"])
        self._random.seed(sample_seed(self.seed ^ 1, sample))
        objects = targets_of_regions(
            regions.reshape(regions.shape[-2:]), decoded.labels, self.max_objects, self.min_visible, self._random
        )
        image = image.float().expand(self.plan.channels, *image.shape[1:]).clone()
        draw = sample_seed(self.seed ^ 2, sample)
        return {"image": normalise(image, self.plan), **objects, "draw": draw, "case": self.cases[number].name}

    def _entries(self, decoded: DecodedCase) -> dict[str, Any]:
        entries: dict[str, Any] = {"image": decoded.picture, "label_map": decoded.regions, "boxes": decoded.boxes}
        steps = self.transform.transforms if isinstance(self.transform, Compose) else (self.transform,)
        if not (steps and getattr(steps[0], "takes_pictures", False)):
            whole, size = (0, 0, *decoded.picture.size), network_size(decoded.picture.size, self.plan)
            entries.update({key: entries[key].crop_resized(whole, size) for key in ("image", "label_map")})
        return entries

    def _decoded(self, number: int) -> DecodedCase:
        found = self._cache.get(number)
        if found is not None:
            self._cache.move_to_end(number)
            return found
        found = decode_case(self.cases[number], self.plan)
        self._cache[number] = found
        self._cached_bytes += found.nbytes
        while self._cached_bytes > self.cache_bytes and self._cache:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return found


class WholeInstances(Dataset[dict[str, Any]]):
    """Images one by one in network pixels, not padded and not augmented.

    A sample holds `image` (`[C, h, w]` float32, normalised), `size` ((height, width) of the file), `case` (the name)
    and `path`.

    Args:
        cases: anything with a name and a path; labels are not read.
        plan: of the model.
    """

    def __init__(self, cases: Sequence[ImageFile], plan: InstancePlan) -> None:
        self.cases = tuple(cases)
        self.plan = plan

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        case = self.cases[index]
        try:
            image = read_plan_image(case.path, self.plan)
        except InputError as error:
            raise UnreadablePictureError(str(error)) from error
        size = (int(image.shape[1]), int(image.shape[2]))
        return {
            "image": scaled_to_network(image, self.plan)[0],
            "size": size,
            "case": case.name,
            "path": str(case.path),
        }


def targets_of_regions(
    regions: torch.Tensor,
    labels: torch.Tensor,
    max_objects: int,
    min_visible: int,
    random: np.random.RandomState,
) -> dict[str, Any]:
    """What an augmented label map shows: `label_map`, `boxes`, `labels`, `ids`, `crowd` and `capped` of a sample.

    Args:
        regions: `[h, w]` int32 as in `DecodedCase`.
        labels: by number, as in `DecodedCase`.
        max_objects, min_visible: see `InstanceSamples`.
        random: draws which objects stay.
    """
    found = boxes_of_label_map(regions)
    classes = labels[found.ids.long()]
    kept = (classes > 0) & (found.areas >= min_visible)
    ignored = classes == 0
    objects = torch.nonzero(kept).flatten()
    capped = max(0, len(objects) - max_objects) if max_objects else 0
    if capped:
        left_out = objects[torch.from_numpy(random.permutation(len(objects))[:capped])]
        kept[left_out], ignored[left_out] = False, True
    if not bool(kept.all()):
        table = torch.zeros(len(labels), dtype=torch.int32)
        table[found.ids[kept].long()] = found.ids[kept]
        regions = table[regions.long()]
    return {
        "label_map": regions,
        "boxes": found.boxes[kept],
        "labels": classes[kept],
        "ids": found.ids[kept],
        "crowd": found.boxes[ignored],
        "capped": capped,
    }


def _plain(value: Any) -> torch.Tensor:
    return value.as_tensor() if hasattr(value, "as_tensor") else value
