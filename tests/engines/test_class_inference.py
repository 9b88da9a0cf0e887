"""Images to classify, and the form of the network that does it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drawn_classifier import make_plan
from monai_ext.datasets.classification_dataset import ImageCase
from monai_ext.engines.class_inference import input_cases, without_label
from monai_ext.engines.classifier_for_inference import for_inference
from monai_ext.engines.model_export import AgreementWithLabels
from monai_ext.engines.picture_normalisation import PictureNormalisation, prepare_batch
from monai_ext.engines.pretrained_weights import load_classifier, single_model, start_from, trained_network
from monai_ext.errors import InputError
from monai_ext.networks.ensemble import ProbabilityMean, SigmoidMean
from monai_ext.networks.fake_quantisation import is_fake_quantised
from monai_ext.networks.se_resnext import network_from_class_plan
from picture_sets import write_folders
from small_classifier import with_statistics


def test_file_and_folder(tmp_path: Path) -> None:
    folder = write_folders(tmp_path, {"a": 2, "b/c": 1})
    assert [case.name for case in input_cases(str(folder))] == ["a/0.png", "a/1.png", "b/c/0.png"]
    assert [case.name for case in input_cases(str(folder / "a" / "1.png"))] == ["1.png"]


def test_damaged_images_are_all_named(tmp_path: Path) -> None:
    folder = write_folders(tmp_path, {"a": 3})
    for name in ("0.png", "2.png"):
        (folder / "a" / name).write_bytes(b"nothing")
    with pytest.raises(InputError) as error:
        input_cases(str(folder))
    assert all(name in str(error.value) for name in ("a/0.png", "a/2.png"))
    assert [case.name for case in input_cases(str(folder), skip_unreadable=True)] == ["a/1.png"]
    (folder / "a" / "1.png").write_bytes(b"nothing")
    with pytest.raises(InputError):  # nothing would be left
        input_cases(str(folder), skip_unreadable=True)


@pytest.mark.parametrize(("name", "message"), [("", "--input is empty"), ("no", "does not exist"), ("x", "no image")])
def test_nothing_to_read(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match=message):
        input_cases(str(tmp_path / name) if name else "")


def test_labels_are_hidden_from_the_engine() -> None:
    plan = make_plan()
    prepared = without_label(prepare_batch(PictureNormalisation(plan)))
    image, label = prepared({"image": torch.zeros(2, 3, 40, 32, dtype=torch.uint8), "label": torch.zeros(2)}, "cpu")
    assert label is None
    assert image[0, :, 0, 0].tolist() == pytest.approx([-m / s for m, s in zip(plan.mean, plan.std, strict=True)])


@pytest.mark.parametrize("bfloat16", [False, True])
def test_fast_form_computes_the_same(bfloat16: bool) -> None:
    network = with_statistics(network_from_class_plan(make_plan())).eval()
    x = torch.randn(3, 3, 40, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(x)
        fast = for_inference(network, "cpu", bfloat16=bfloat16)
        assert fast is not network
        torch.testing.assert_close(fast(x), expected, atol=1e-4, rtol=1e-4)  # folded norms round otherwise
        assert for_inference(network, "cpu", plain=True) is network


@pytest.mark.parametrize(("multi_label", "kind"), [(False, ProbabilityMean), (True, SigmoidMean)])
def test_ensemble_of_folds(tmp_path: Path, multi_label: bool, kind: type) -> None:
    plan = make_plan(multi_label=multi_label)
    for fold in "01":
        torch.manual_seed(int(fold))
        (tmp_path / fold).mkdir()
        torch.save(network_from_class_plan(plan).state_dict(), tmp_path / fold / "model.pt")
        (tmp_path / fold / "plan.json").write_text(plan.to_json())
    both = trained_network(network_from_class_plan(plan), str(tmp_path), "").eval()
    assert type(both) is kind
    assert single_model(str(tmp_path), "") == ""
    assert single_model(str(tmp_path / "1"), "") == str(tmp_path / "1" / "model.pt")
    x = torch.randn(2, 3, 40, 32)
    with torch.no_grad():
        expected = both(x)
        torch.testing.assert_close(for_inference(both, "cpu")(x), expected, atol=1e-4, rtol=1e-4)


def test_quantised_model_loads_and_is_left_as_it_is(tmp_path: Path) -> None:
    plan = make_plan()
    network = start_from(network_from_class_plan(plan), plan, "", "qat", False).eval()
    assert is_fake_quantised(network)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    loaded = load_classifier(network_from_class_plan(plan), str(tmp_path / "model.pt"))
    assert is_fake_quantised(loaded)
    assert for_inference(loaded, "cpu") is loaded


def test_last_layer_is_new_where_classes_differ(tmp_path: Path) -> None:
    """Also where their number is the same: the third class of one dataset is not that of another."""
    plan = make_plan()
    torch.save(network_from_class_plan(plan).state_dict(), tmp_path / "model.pt")
    (tmp_path / "plan.json").write_text(plan.to_json())
    given = torch.load(tmp_path / "model.pt", weights_only=True)["last_linear.weight"]
    same = start_from(network_from_class_plan(plan), plan, str(tmp_path / "model.pt"))
    assert torch.equal(same.last_linear.weight, given)
    other = make_plan(classes=("a", "b", "c"))
    new = start_from(network_from_class_plan(other), other, str(tmp_path / "model.pt"))
    assert not torch.equal(new.last_linear.weight, given)


@pytest.mark.parametrize(("multi_label", "expected"), [(False, 0.75), (True, 11 / 12)])
def test_agreement_with_labels(tmp_path: Path, multi_label: bool, expected: float) -> None:
    """One of four images is told to be of the third class, which it is not."""
    folder = write_folders(tmp_path, {"a": 4})
    labels = ((0,), (1,), (2,), ()) if multi_label else ((0,), (1,), (2,), (0,))
    cases = [ImageCase(f"{i}", folder / "a" / f"{i}.png", label) for i, label in enumerate(labels)]
    told = torch.tensor([[0.9, 0.1, 0.2], [0.0, 0.8, 0.1], [0.1, 0.2, 0.7], [0.2, 0.3, 0.6]])
    score = AgreementWithLabels(cases, make_plan(multi_label=multi_label))
    assert score(lambda images: told[: len(images)]) == pytest.approx(expected)
