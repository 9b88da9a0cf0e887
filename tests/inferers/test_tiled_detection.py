"""Tests of detection by tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import find_objects, label

from monai_ext.datasets.instance_dataset import numbered
from monai_ext.errors import InputError
from monai_ext.evaluation.painted_labels import painted_detections
from monai_ext.inferers.enlarged_image import EnlargedImage
from monai_ext.inferers.tiled_detection import TiledDetection, back_to_image
from monai_ext.networks.mask_rcnn.structures import Detections
from monai_ext.planning.instance_plan import InstancePlan, architecture

GRID = 28


def make_plan(**options):
    fields = {
        "dataset": "d",
        "classes": ("disc",),
        "category_ids": (1,),
        "channels": 1,
        "mean": (0.0,),
        "std": (1.0,),
        "image_size": (256, 256),
        "arch": "resnet-tiny",
        "anchor_sizes": ((8.0,), (16.0,), (32.0,), (64.0,), (128.0,)),
        "tile_overlap": 64,
        **architecture("resnet-tiny"),
    }
    return InstancePlan(**(fields | options))


class Components:
    """In place of a network: what is connected and brighter than 0.5 is an object; each call is noted."""

    def __init__(self, score=None):
        self.calls = []
        self.score = score or (lambda crop: 0.9)

    def __call__(self, images, sizes):
        self.calls.append(tuple(images.shape))
        return [self.one(image[0, :h, :w].numpy()) for image, (h, w) in zip(images, sizes.tolist(), strict=True)]

    def parts(self, image):
        return label(image > 0.5)[0]

    def one(self, image):
        parts = self.parts(image)
        boxes, scores, masks = [], [], []
        for value, window in enumerate(find_objects(parts), 1):
            if window is None:
                continue
            y, x = window
            boxes.append((x.start, y.start, x.stop, y.stop))
            crop = (parts[y, x] == value).astype(np.float32)
            scores.append(self.score(image[y, x]))
            # the pixel under the centre of each cell: exact where an edge is as long as the grid or a part of it
            rows = ((np.arange(GRID) + 0.5) * crop.shape[0] / GRID).astype(int)
            columns = ((np.arange(GRID) + 0.5) * crop.shape[1] / GRID).astype(int)
            masks.append(crop[rows[:, None], columns])
        order = np.argsort(-np.array(scores), kind="stable") if scores else []
        return Detections(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)[order],
            torch.tensor(scores, dtype=torch.float32)[order],
            torch.ones(len(boxes), dtype=torch.int64),
            torch.tensor(np.array(masks), dtype=torch.float32).reshape(-1, GRID, GRID)[order],
        )


def discs(height, width, count, seed=0, edge=28):
    """An image with discs of `edge` pixels across that do not touch, and their label map."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:edge, :edge] - (edge - 1) / 2
    disc = y**2 + x**2 <= (edge / 2) ** 2
    labels = np.zeros((height, width), dtype=np.int32)
    placed = 0
    while placed < count:
        top, left = rng.integers(0, height - edge + 1), rng.integers(0, width - edge + 1)
        around = labels[max(0, top - 1) : top + edge + 1, max(0, left - 1) : left + edge + 1]
        if not around.any():
            placed += 1
            labels[top : top + edge, left : left + edge][disc] = placed
    return torch.from_numpy((labels > 0).astype(np.float32))[None, None], labels


def same_partition(first, second):
    """Whether two label maps hold the same objects under any numbers."""
    one, other = np.divmod(np.unique(first.astype(np.int64) * 2**20 + second), 2**20)
    return len(one) == first.max() + 1 == second.max() + 1 and ((one == 0) == (other == 0)).all()


@pytest.mark.parametrize(("seed", "tta"), [(0, ()), (1, (0, 1))])
def test_400_discs_in_a_large_image(seed, tta):
    image, labels = discs(1100, 1500, 400, seed)
    network = Components()
    found = TiledDetection(make_plan(), tta=tta)(image, network)[0]
    assert len(found.scores) == 400
    painted = painted_detections(found, 1100, 1500)[0]
    assert painted.max() == 400
    assert same_partition(painted, labels)
    assert all(shape[2:] == (256, 256) and shape[0] <= 4 for shape in network.calls)


def test_objects_larger_than_the_overlap_are_whole():
    labels = np.zeros((500, 700), dtype=np.int32)
    y, x = np.mgrid[:500, :700]
    labels[(y - 250) ** 2 + (x - 240) ** 2 <= 80**2] = 1
    labels[(abs(y - 100) < 12) & (abs(x - 350) < 330)] = 2
    image = torch.from_numpy((labels > 0).astype(np.float32))[None, None]
    found = TiledDetection(make_plan())(image, Components())[0]
    assert len(found.scores) == 2
    painted = painted_detections(found, 500, 700)[0]
    for value in (1, 2):
        mine = labels == value
        other = painted == np.bincount(painted[mine]).argmax()
        # the mask of the bar has cells of 24 pixels, that of the disc of 6
        assert (mine & other).sum() / (mine | other).sum() > 0.93


def test_pieces_with_better_scores_and_loose_boxes():
    # pieces are surer than whole discs, and every box is up to 2 pixels off
    image, labels = discs(600, 600, 80, seed=3)
    random = np.random.default_rng(0)

    class Loose(Components):
        def one(self, image):
            found = super().one(image)
            noise = torch.from_numpy(random.uniform(-2, 2, found.boxes.shape).astype(np.float32))
            return found._replace(boxes=found.boxes + noise)

    network = Loose(score=lambda crop: 0.95 if min(crop.shape) < 28 else 0.6)
    found = TiledDetection(make_plan())(image, network)[0]
    assert len(found.scores) == 80
    assert (found.scores < 0.7).sum() >= 78  # at the edge of the image discs may be cut for good
    painted = painted_detections(found, 600, 600)[0]
    for value in range(1, 81):
        mine = labels == value
        other = painted == np.bincount(painted[mine]).argmax()
        # two pixels off on either axis leave about 0.8 of a disc of 28 pixels
        assert (mine & other).sum() / (mine | other).sum() > 0.7


def test_images_of_one_size_share_a_pass_and_padding_is_left_out():
    network = Components()
    image, labels = discs(200, 240, 12)
    small, _ = discs(100, 120, 4)
    batch = torch.full((3, 1, 256, 256), 7.0)  # padding would be seen as an object
    batch[0, :, :200, :240], batch[1, :, :100, :120], batch[2, :, :200, :240] = image[0], small[0], image[0].flip(2)
    found = TiledDetection(make_plan())(batch, network, torch.tensor([[200, 240], [100, 120], [200, 240]]))
    assert [len(one.scores) for one in found] == [12, 4, 12]
    assert sorted(network.calls) == [(1, 1, 128, 128), (2, 1, 224, 256)]
    assert same_partition(painted_detections(found[0], 200, 240)[0], labels)


def test_boxes_in_pixels_of_the_file():
    image, _ = discs(200, 240, 12)
    inferer, network = TiledDetection(make_plan()), Components()
    in_network = inferer(image, network)[0]
    in_file = inferer(image, network, [(200, 240)], [(100, 60)])[0]
    torch.testing.assert_close(in_file.boxes, in_network.boxes / torch.tensor([4.0, 2.0, 4.0, 2.0]))
    beyond = in_network._replace(boxes=torch.tensor([[-3.0, 1, 500, 90]]).repeat(12, 1))
    assert back_to_image(beyond, (1.0, 2.0), (80, 240)).boxes[0].tolist() == [0, 1, 240, 80]


def test_an_image_enlarged_by_tile():
    image, labels = discs(400, 500, 40, seed=2)
    enlarged = EnlargedImage(image[0], (400, 500), torch.clone, torch.clone)
    found = TiledDetection(make_plan())(enlarged, Components(), None, [(400, 500)])[0]
    assert same_partition(painted_detections(found, 400, 500)[0], labels)


def test_plans_that_fit_are_not_tiled():
    network = Components()
    image, _ = discs(400, 300, 12)
    TiledDetection(make_plan(resize="fit"))(image, network)
    assert network.calls == [(1, 1, 416, 320)]


def test_tiles_of_one_pass():
    image, _ = discs(256, 600, 10)
    for tile_batch, passes in ((1, [1, 1, 1]), (2, [2, 1]), (8, [3])):
        network = Components()
        TiledDetection(make_plan(), tile_batch=tile_batch)(image, network)
        assert [shape[0] for shape in network.calls] == passes


def test_tiles_bound_the_memory():
    # what the merge holds beside the detections: windows of the objects, not planes of the image
    import tracemalloc

    image, _ = discs(2000, 2000, 300, seed=5)
    inferer, network = TiledDetection(make_plan()), Components()
    inferer(image[..., :300, :300], network)
    tracemalloc.start()
    found = inferer(image, network)[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.scores) == 300
    assert peak < 2000 * 2000  # numpy's share; one bool plane of the image has as much


@pytest.mark.parametrize(
    ("options", "key"),
    [({"tta": (2,)}, "flip_axes"), ({"tile_batch": 0}, "val_batch_size"), ({"tile_overlap": 256}, "tile_overlap")],
)
def test_options_out_of_range(options, key):
    with pytest.raises(InputError, match=f"--{key}"):
        TiledDetection(make_plan(), **options)


def test_the_network_itself():
    from monai_ext.networks.mask_rcnn.detector import network_from_instance_plan

    torch.manual_seed(0)
    plan = make_plan(image_size=(64, 64), tile_overlap=16, score_threshold=0.0, max_detections=20, rpn_post_nms=50)
    network = network_from_instance_plan(plan).eval()
    images = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = network.detect(images)
    found = TiledDetection(plan)(images, network, torch.tensor([[64, 64], [64, 64]]))
    assert len(expected[0].scores) > 0
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)
    large = TiledDetection(plan, tta=(1,))(torch.rand(1, 1, 100, 130), network)[0]
    assert large.boxes[:, 2].max() > 64
    assert (large.scores.diff() <= 0).all()


@pytest.mark.real_data
def test_nuclei_that_touch(data_folder):
    # the annotated nuclei themselves as detections: what is lost or doubled is the fault of the tiles
    class Annotated(Components):
        def parts(self, image):
            return np.rint(image).astype(np.int32)

    objects = 0
    for path in sorted((data_folder / "dsb2018" / "labels" / "val").iterdir())[::6]:
        labels = numbered(np.array(Image.open(path))).label_map
        image = torch.from_numpy(labels.astype(np.float32))[None, None]
        one_pass = painted_detections(Annotated().one(labels), *labels.shape)[0]
        tiled = painted_detections(TiledDetection(make_plan())(image, Annotated())[0], *labels.shape)[0]
        assert matched(labels, tiled) == matched(labels, one_pass)
        assert tiled.max() == one_pass.max()
        objects += int(labels.max())
    assert objects > 300


def matched(labels, found):
    """Objects that overlap by more than half of the union."""
    both = labels.astype(np.int64) * (found.max() + 1) + found
    values, shared = np.unique(both, return_counts=True)
    i, j = np.divmod(values, found.max() + 1)
    unions = np.bincount(labels.ravel())[i] + np.bincount(found.ravel())[j] - shared
    return int(((i > 0) & (j > 0) & (2 * shared > unions)).sum())
