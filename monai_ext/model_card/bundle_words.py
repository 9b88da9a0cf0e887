"""What a model card says of each bundle whatever it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

RESEARCH = "Research."
LAST = "at the last validation of the training; `model.pt` may be of an earlier epoch."


@dataclass(frozen=True)
class BundleWords:
    """Standing text of a bundle.

    Attributes:
        name: of the method.
        task: what it does, as the beginning of a sentence.
        description: of the method.
        use: what it is meant for, unless a person states something else.
        references: papers.
        captions: path of a picture in the run to what it shows.
    """

    name: str
    task: str
    description: str
    use: str
    references: tuple[str, ...]
    captions: Mapping[str, str] = field(default_factory=dict)


WORDS = {
    "nnunet": BundleWords(
        "nnU-Net",
        "Semantic segmentation",
        "A U-Net whose spacing, patch, topology and batch are planned from the training set, trained with Dice and "
        "cross-entropy, and applied by blended windows; label maps come in the geometry of the input.",
        f"{RESEARCH} Label maps of images like those of the training set.",
        (
            "Isensee, F., et al. nnU-Net: a self-configuring method for deep learning-based biomedical image "
            "segmentation. Nature Methods 18, 203-211 (2021)",
        ),
        captions={"overlay.png": f"Slices of a validation case, image, reference and prediction, {LAST}"},
    ),
    "unet_em": BundleWords(
        "UNet-EM",
        "Segmentation of neuronal membranes in electron microscopy",
        "A U-Net of unpadded convolutions that segments slice by slice.",
        f"{RESEARCH} Probability maps of membranes in slices like those of the training stack.",
        (
            "Ronneberger, O., Fischer, P., Brox, T. U-Net: convolutional networks for biomedical image segmentation. "
            "MICCAI 2015",
            "Arganda-Carreras, I., et al. Crowdsourcing the creation of image segmentation algorithms for "
            "connectomics. Frontiers in Neuroanatomy 9, 142 (2015)",
        ),
        captions={
            "overlay.png": f"Validation slices {LAST}",
            "evaluation/overlay.png": "Slices of the evaluation, with what was found, missed and invented.",
        },
    ),
    "se_resnext101": BundleWords(
        "SE-ResNeXt",
        "Classification of images",
        "A residual network, with grouped convolutions and squeeze-and-excitation gates unless the plan has none.",
        f"{RESEARCH} Classes of images like those of the training set.",
        (
            "Hu, J., Shen, L., Sun, G. Squeeze-and-excitation networks. CVPR 2018",
            "Xie, S., Girshick, R., Dollar, P., Tu, Z., He, K. Aggregated residual transformations for deep neural "
            "networks. CVPR 2017",
        ),
        captions={
            "overlay.png": f"Validation images {LAST}",
            "evaluation/confusion.png": "Confusion matrix of the evaluation.",
        },
    ),
    "mask_rcnn": BundleWords(
        "Mask R-CNN",
        "Instance segmentation",
        "Mask R-CNN on a feature pyramid: boxes, classes and masks of objects, and label maps painted from them.",
        f"{RESEARCH} Objects in images like those of the training set.",
        (
            "He, K., Gkioxari, G., Dollar, P., Girshick, R. Mask R-CNN. ICCV 2017",
            "Lin, T.-Y., et al. Feature pyramid networks for object detection. CVPR 2017",
        ),
        captions={
            "overlay.png": f"Validation images {LAST}",
            "evaluation/gallery.png": "Best, median and worst images of the evaluation.",
        },
    ),
}
