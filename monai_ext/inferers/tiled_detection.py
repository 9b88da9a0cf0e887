"""Detection of objects in images of any size: in one pass, or tile by tile, merged across the seams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer
from tqdm import tqdm

from monai_ext.errors import InputError
from monai_ext.inferers.detection_merging import merge_tiles
from monai_ext.inferers.detection_tiles import Tile, tile_grid
from monai_ext.inferers.detection_views import flipped_back, flips, fuse_views
from monai_ext.inferers.enlarged_image import EnlargedImage
from monai_ext.networks.mask_rcnn.packed_detections import unpack_detections
from monai_ext.networks.mask_rcnn.structures import Detections
from monai_ext.planning.instance_plan import InstancePlan

Sizes = torch.Tensor | Sequence[Sequence[int]]
HOST = torch.device("cpu")
PATIENCE = 5.0  # seconds, after which a person at a terminal sees a bar


class TiledDetection(Inferer):
    """Calls a detector on images that fit into a tile as a whole, on others tile by tile.

    Images of one batch that have the same size share a forward pass. Every image is padded on its own to a multiple of
    the plan's `size_divisor`, so what is found does not depend on the other images of the batch. Images of plans that
    `fit` their images are never tiled. The images may lie on another device than the network: only tiles travel.

    Objects larger than the overlap of the tiles are put together from pieces, see `merge_tiles`; their masks are then
    as coarse as that of one object in one tile.

    Args:
        plan: gives the size of tiles, their overlap and the size divisor.
        tta: spatial axes (0 is y) whose flips are averaged; empty: none.
        tile_batch: tiles per forward pass.
        tile_size: (y, x) in network pixels; None takes `plan.image_size`.
        tile_overlap: network pixels; None takes `plan.tile_overlap`.
        cpu_bfloat16: call the network in bfloat16 on a processor.

    Raises:
        InputError: no tile per pass, an axis that images lack, or an overlap as large as the tiles.
    """

    def __init__(
        self,
        plan: InstancePlan,
        tta: Sequence[int] = (),
        tile_batch: int = 4,
        tile_size: Sequence[int] | None = None,
        tile_overlap: int | None = None,
        cpu_bfloat16: bool = False,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.views = flips(sorted(set(tta)))
        self.tile_batch = tile_batch
        height, width = plan.image_size if tile_size is None else tile_size
        self.tile_size = (int(height), int(width))
        self.tile_overlap = plan.tile_overlap if tile_overlap is None else int(tile_overlap)
        self.cpu_bfloat16 = cpu_bfloat16
        if not set(tta) <= {0, 1}:
            raise InputError(f"--flip_axes {list(tta)}: pictures have the axes 0 (y) and 1 (x). Cure: [0,1]")
        if tile_batch < 1:
            raise InputError(f"--val_batch_size {tile_batch}: must be at least 1. Cure: 4, or 1 if memory is short")
        if not 0 <= self.tile_overlap < min(self.tile_size):
            raise InputError(
                f"--tile_overlap {self.tile_overlap}: must be from 0 to below the tile's {min(self.tile_size)} pixels. "
                "Cure: a little more than the largest object"
            )

    def __call__(
        self,
        inputs: torch.Tensor | EnlargedImage,
        network: Callable[..., Any],
        image_sizes: Sizes | None = None,
        file_sizes: Sizes | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> list[Detections]:
        """Find the objects of images.

        Args:
            inputs: `[B, C, H, W]` normalised network pixels, padded on the right and below; or one large image.
            network: called with tiles `[N, C, h, w]` and their sizes `[N, 2]` int64 before padding; returns the packed
                tensor of `MaskRCNN`, or a list of `Detections`.
            image_sizes: `[B, 2]` (h, w) of each image before padding; None: H and W.
            file_sizes: `[B, 2]` (h, w) of the files; None leaves detections in network pixels.

        Returns:
            Detections of each image on the processor, by descending score; boxes in pixels of the files if their
            sizes are given.
        """
        sizes = _pairs(image_sizes, [tuple(inputs.shape[2:])] * len(inputs))
        device = _device(network, inputs.values.device if isinstance(inputs, EnlargedImage) else inputs.device)
        found: dict[int, Detections] = {}
        whole: dict[tuple[int, int], list[int]] = {}
        for index, (height, width) in enumerate(sizes):
            if self.plan.resize == "fit" or (height <= self.tile_size[0] and width <= self.tile_size[1]):
                whole.setdefault((height, width), []).append(index)
            else:
                found[index] = self._tiled(inputs, index, (height, width), network, device)
        for (height, width), members in whole.items():
            for start in range(0, len(members), self.tile_batch):
                part = members[start : start + self.tile_batch]
                images = torch.stack([_part(inputs, index, Tile(0, 0, height, width)) for index in part])
                found |= dict(zip(part, self._detect(images.to(device), network), strict=True))
        results = [found[index] for index in range(len(sizes))]
        if file_sizes is None:
            return results
        files = _pairs(file_sizes, sizes)
        return [
            back_to_image(result, (size[0] / file[0], size[1] / file[1]), file)
            for result, size, file in zip(results, sizes, files, strict=True)
        ]

    def _tiled(
        self,
        inputs: torch.Tensor | EnlargedImage,
        index: int,
        size: tuple[int, int],
        network: Callable[..., Any],
        device: torch.device,
    ) -> Detections:
        tiles = tile_grid(*size, self.tile_size, self.tile_overlap)
        found: list[Detections] = []
        starts = range(0, len(tiles), self.tile_batch)
        for start in tqdm(starts, desc="tiles", unit="batch", delay=PATIENCE, leave=False, disable=None):
            images = torch.stack([_part(inputs, index, tile) for tile in tiles[start : start + self.tile_batch]])
            found += self._detect(images.to(device), network)
        return merge_tiles(found, tiles, *size, self.tile_overlap)

    def _detect(self, images: torch.Tensor, network: Callable[..., Any]) -> list[Detections]:
        """Detections of images `[N, C, h, w]` of one size, in their pixels, on the processor."""
        height, width = images.shape[2:]
        divisor = self.plan.size_divisor
        padding = (0, -width % divisor, 0, -height % divisor)
        sizes = torch.tensor([[height, width]] * len(images))  # stay on the processor, as the network wants them
        of_views: list[list[Detections]] = []
        for view in self.views:
            seen = images.flip([axis + 2 for axis in view]) if view else images
            with torch.autocast("cpu", torch.bfloat16, enabled=self.cpu_bfloat16):
                output = network(torch.nn.functional.pad(seen, padding), sizes)
            found = _unpacked(output)
            of_views.append([flipped_back(one.to(HOST), view, height, width) for one in found])
        return [fuse_views(views, self.plan.max_detections) for views in zip(*of_views, strict=True)]


def back_to_image(detections: Detections, factors: Sequence[float], size: Sequence[int]) -> Detections:
    """Detections in network pixels as they lie in the file.

    Args:
        detections: boxes in network pixels; masks are relative to their boxes and stay.
        factors: network pixels per pixel of the file, (y, x).
        size: (height, width) of the file, beyond which no box reaches.
    """
    y, x = factors
    boxes = detections.boxes / detections.boxes.new_tensor([x, y, x, y])
    boxes = torch.minimum(boxes.clamp_min(0), boxes.new_tensor([size[1], size[0], size[1], size[0]]))
    return detections._replace(boxes=boxes)


def _part(inputs: torch.Tensor | EnlargedImage, index: int, tile: Tile) -> torch.Tensor:
    """`[C, h, w]` of an image of the batch."""
    if isinstance(inputs, EnlargedImage):
        return inputs.part(*tile)
    return inputs[index, :, tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]


def _unpacked(output: Any) -> list[Detections]:
    if isinstance(output, torch.Tensor):
        return unpack_detections(output.to(HOST, torch.float32))  # one transfer for all
    return list(output)


def _pairs(sizes: Sizes | None, otherwise: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Sizes as whole numbers, of a tensor on the processor or a list."""
    if sizes is None:
        return [(int(h), int(w)) for h, w in otherwise]
    return [(int(h), int(w)) for h, w in (sizes.tolist() if isinstance(sizes, torch.Tensor) else sizes)]


def _device(network: Any, otherwise: torch.device) -> torch.device:
    parameter = next(network.parameters(), None) if isinstance(network, torch.nn.Module) else None
    return otherwise if parameter is None else parameter.device
