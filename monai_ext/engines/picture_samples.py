"""Pictures as training samples, augmented by transforms seeded per sample, and centre-cropped for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from monai.transforms import Compose, Randomizable
from monai.utils.misc import MAX_SEED
from torch.utils.data import Dataset

from monai_ext.datasets.file_picture import EIGHT_BIT
from monai_ext.datasets.picture import Picture, open_picture
from monai_ext.engines.person_errors import find_input_error
from monai_ext.errors import InputError
from monai_ext.planning.class_plan import ClassPlan
from monai_ext.transforms.resized_center_crop import ResizedCenterCropd
from monai_ext.transforms.sample_seed import sample_seed, seed_transforms


class LabelledFile(Protocol):
    """What is needed of a case of a classification dataset."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> Any: ...
    @property
    def labels(self) -> tuple[int, ...]: ...


class UnreadablePictureError(InputError):
    """A picture cannot be had at run time; the message stays one line on its way out of a loader's worker process."""

    def __init__(self, message: str) -> None:
        # PyTorch makes the exception anew from the text of the worker's traceback, which ends in the message
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class PlanPicture:
    """A picture whose values are of the type and range of the plan, whatever kind of file it comes from.

    With a `value_range` of (0, 255) all images are uint8: 16-bit pictures are scaled from 0..65535, other values
    rounded and clamped. With any other range all are float32, and pictures that are stored in 8 bits are scaled to the
    range.
    """

    def __init__(self, picture: Picture, value_range: Sequence[float]) -> None:
        self.picture = picture
        self.size = picture.size
        self.channels = picture.channels
        self.full_range = picture.full_range
        self.value_range = (float(value_range[0]), float(value_range[1]))

    def crop_resized(self, box: Sequence[int], size: Sequence[int], interpolation: str = "bilinear") -> torch.Tensor:
        """As `Picture.crop_resized`."""
        image = self.picture.crop_resized(box, size, interpolation)
        low, high = self.value_range
        if self.value_range == EIGHT_BIT:
            if image.dtype == torch.uint8:
                return image
            if self.full_range is not None:
                image = image * (255 / self.full_range[1])
            return image.round().clamp_(0, 255).to(torch.uint8)
        if image.dtype == torch.uint8:
            return image.float().mul_((high - low) / 255).add_(low)
        return image


class PictureSamples(Dataset[dict[str, Any]]):
    """Map `(sample number, case index, slot)` to a sample; what comes out is a function of (seed, sample number).

    A sample holds `image` (`[C, *size]`, uint8 or float32, not normalised) and `label` (int64 scalar; float32 `[K]` of
    0 and 1 for multi-label). A file that cannot be read raises `InputError` with its name.

    Args:
        cases: images with their labels, such as `ImageCase`.
        plan: of the classifier.
        transform: MONAI dictionary transforms that begin with one that takes a `Picture` under `image`, such as
            `RandResizedCropd`; their random state is set before every sample.
        seed: of the augmentation.
    """

    def __init__(self, cases: Sequence[LabelledFile], plan: ClassPlan, transform: Compose, seed: int = 0) -> None:
        self.cases = tuple(cases)
        self.plan = plan
        self.transform = transform
        self.seed = seed
        self._random = np.random.RandomState()

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: tuple[int, int, int]) -> dict[str, Any]:
        sample, number, _ = index
        case = self.cases[number]
        self._seed_transforms(sample)
        return {"image": _transformed(self.transform, case, self.plan), "label": label_of(case, self.plan)}

    def _seed_transforms(self, sample: int) -> None:
        """As `seed_transforms`, with the same draws, but without a new generator: 20 instead of 100 microseconds."""
        if type(self.transform) is not Compose:
            seed_transforms(self.transform, self.seed, sample)
            return
        self._random.seed(sample_seed(self.seed, sample))
        for transform in self.transform.transforms:
            if isinstance(transform, Randomizable):
                transform.set_random_state(seed=int(self._random.randint(MAX_SEED, dtype="uint32")))


class WholePictures(Dataset[dict[str, Any]]):
    """Pictures one by one, the centre cut out as the plan says.

    A sample holds `image` and `label` as those of `PictureSamples`, and `case`, the name. Cases without labels (for
    prediction) have none.

    Args:
        cases: images with their labels, such as `ImageCase`.
        plan: of the classifier.
        transform: of `image`, instead of the centre crop.
    """

    def __init__(
        self,
        cases: Sequence[LabelledFile],
        plan: ClassPlan,
        transform: Callable[[Mapping[Any, Any]], Mapping[Any, Any]] | None = None,
    ) -> None:
        self.cases = tuple(cases)
        self.plan = plan
        self.transform = transform or ResizedCenterCropd(
            "image", plan.image_size, plan.crop_ratio, interpolation=plan.interpolation
        )

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        case = self.cases[index]
        sample = {"image": _transformed(self.transform, case, self.plan), "case": case.name}
        if case.labels or self.plan.multi_label:
            sample["label"] = label_of(case, self.plan)
        return sample


def plan_picture(path: Any, plan: ClassPlan) -> PlanPicture:
    """Open a file in the channels, dimensions and values of the plan.

    Raises:
        InputError: the file is missing, damaged, or cannot be brought to them.
    """
    return PlanPicture(open_picture(path, plan.channels, plan.spatial_dims), plan.value_range)


def label_of(case: LabelledFile, plan: ClassPlan) -> torch.Tensor:
    """int64 scalar, or float32 `[K]` of 0 and 1 for multi-label."""
    if not plan.multi_label:
        return torch.tensor(case.labels[0], dtype=torch.int64)
    label = torch.zeros(plan.num_classes)
    label[list(case.labels)] = 1.0
    return label


def _transformed(transform: Callable[..., Any], case: LabelledFile, plan: ClassPlan) -> torch.Tensor:
    """The picture of a case after the transforms; a person's mistake without what MONAI and workers wrap around it."""
    try:
        image = transform({"image": plan_picture(case.path, plan)})["image"]
    except Exception as error:
        mistake = find_input_error(error)
        if mistake is None:
            raise
        raise UnreadablePictureError(str(mistake)) from error
    return image.as_tensor() if hasattr(image, "as_tensor") else image
