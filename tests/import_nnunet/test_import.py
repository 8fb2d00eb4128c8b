"""nnU-Net models become packages: names, shapes, plans, archives, and refusals of what would be predicted differently."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from nnunet_folder import DATASET, configuration, nnunet_names, plans, write_model

from autoseg3d import networks
from autoseg3d.errors import ModelError
from autoseg3d.import_nnunet import import_nnunet
from autoseg3d.import_nnunet import plans as translation
from autoseg3d.import_nnunet.checkpoints import read_checkpoint
from autoseg3d.package import open_package
from planners.plan import NetworkPlan, Stage


def _network_plan(*, flat: bool, residual: bool) -> NetworkPlan:
    lead = (1,) if flat else ()
    axes = 2 if flat else 3
    strides = [(1, 1, 1), (*lead, *(2,) * axes), (*lead, *(2,) * axes)]
    blocks = (1, 2, 1) if residual else (2, 2, 1)
    return NetworkPlan.model_validate(
        {
            "architecture": "resenc" if residual else "unet",
            "stages": [
                Stage(features=f, kernel=(*lead, *(3,) * axes), stride=s, blocks=b)
                for f, s, b in zip((4, 6, 8), strides, blocks, strict=True)
            ],
            "decoder_blocks": (2, 1),
        }
    )


def _weights(*, flat: bool = False, residual: bool = False, seed: int = 0) -> dict[str, torch.Tensor]:
    return networks.build(_network_plan(flat=flat, residual=residual), 1, 3, seed=seed).state_dict()


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_weights_and_plan_arrive_under_our_names(tmp_path: Path, flat: bool, residual: bool, prefix: str) -> None:
    name = "2d" if flat else "3d_fullres"
    ours = _weights(flat=flat, residual=residual)
    theirs = {prefix + key: value for key, value in nnunet_names(ours, flat=flat).items()}
    model = write_model(
        tmp_path, plans_json=plans({name: configuration(flat=flat, residual=residual)}), name=name, weights={"fold_0": theirs}
    )
    made = open_package(import_nnunet(model, tmp_path / "out.a3d"))
    assert made.plan.configurations[name].network == _network_plan(flat=flat, residual=residual)
    assert made.plan.mirror_axes == ((1, 2) if flat else (0, 1, 2))
    assert made.plan.configurations[name].patch_size == ((1, 24, 16) if flat else (16, 24, 16))
    assert made.plan.configurations[name].normalization == ("ct",)
    loaded = made.load_weights(name, "0")
    assert loaded.keys() == ours.keys()
    assert all(torch.equal(loaded[key], ours[key]) for key in ours)


def test_a_zip_with_two_configurations_and_fold_all_becomes_one_package(tmp_path: Path) -> None:
    both = plans({"3d_fullres": configuration(), "2d": configuration(flat=True)})
    results = tmp_path / "Dataset999_Small"
    write_model(
        results,
        plans_json=both,
        name="3d_fullres",
        weights={f"fold_{k}": nnunet_names(_weights(seed=i)) for i, k in enumerate((0, 3, "all"))},
    )
    write_model(results, plans_json=both, name="2d", weights={"fold_1": nnunet_names(_weights(flat=True), flat=True)})
    (results / "nnUNetTrainer__nnUNetPlans__2d" / "postprocessing.pkl").write_bytes(b"never read")
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        for path in sorted(results.rglob("*")):
            made.write(path, path.relative_to(tmp_path))
    opened = open_package(import_nnunet(archive, tmp_path / "model"))
    assert opened.folds("3d_fullres") == ("0", "3", "full")
    assert opened.folds("2d") == ("1",)
    assert not list(tmp_path.glob("autoseg3d-import-*"))


def test_plans_from_before_2_4_are_understood() -> None:
    entry = configuration()
    del entry["architecture"]
    old = {
        **entry,
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 32,
        "unet_max_num_features": 320,
        "n_conv_per_stage_encoder": [2] * 5,
        "n_conv_per_stage_decoder": [2] * 4,
        "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
        "conv_kernel_sizes": [[1, 3, 3], *([[3, 3, 3]] * 4)],
        "patch_size": [16, 32, 32],
    }
    made = translation.read_plan(plans({"3d_fullres": old}), DATASET, configurations=["3d_fullres"], mirror_axes=(0, 1, 2))
    stages = made.configurations["3d_fullres"].network.stages
    assert [stage.features for stage in stages] == [32, 64, 128, 256, 320]
    assert stages[0].kernel == (1, 3, 3)
    assert stages[1].stride == (1, 2, 2)


def test_inherited_values_are_found_and_rings_refused() -> None:
    table = plans(
        {"3d_fullres": configuration(), "big": {"inherits_from": "3d_fullres", "batch_size": 7}, "ring": {"inherits_from": "ring"}}
    )
    assert translation.inherited(table, "big")["batch_size"] == 7
    assert translation.inherited(table, "big")["patch_size"] == [16, 24, 16]
    with pytest.raises(ModelError, match="ring -> ring"):
        translation.inherited(table, "ring")


def _architecture(**changes: Any) -> dict[str, Any]:
    usual = configuration()["architecture"]
    name = changes.pop("network_class_name", usual["network_class_name"])
    return {"architecture": {"network_class_name": name, "arch_kwargs": {**usual["arch_kwargs"], **changes}}}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"preprocessor_name": "MyPreprocessor"}, "preprocessor_name"),
        ({"resampling_fn_probabilities": "os.system"}, "resampling_fn_probabilities"),
        ({"resampling_fn_data_kwargs": {"order": 1}}, "resampling_fn_data"),
        ({"normalization_schemes": ["MyNormalization"]}, "normalization_schemes"),
        (_architecture(network_class_name="os.system"), "architecture"),
        (_architecture(network_class_name="elsewhere.PlainConvUNet"), "architecture"),
        (_architecture(conv_op="torch.nn.modules.conv.Conv2d"), "conv_op"),
        (_architecture(norm_op="torch.nn.modules.batchnorm.BatchNorm3d"), "norm_op"),
        (_architecture(norm_op="elsewhere.InstanceNorm3d"), "norm_op"),
        (_architecture(norm_op=None), "norm_op"),
        (_architecture(norm_op_kwargs={"eps": 1e-3, "affine": True}), "norm_op_kwargs"),
        (_architecture(nonlin="torch.nn.GELU"), "nonlin"),
        (_architecture(nonlin=None), "nonlin"),
        (_architecture(nonlin_kwargs={"negative_slope": 0.2}), "nonlin_kwargs"),
        (_architecture(nonlin_first=True), "nonlin_first"),
        (_architecture(squeeze_excitation=True), "squeeze_excitation"),
        (_architecture(stem_channels=16), "stem_channels"),
    ],
)
def test_what_would_be_predicted_differently_is_refused_by_field(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    made = plans({"3d_fullres": configuration(**change)})
    model = write_model(tmp_path, plans_json=made, name="3d_fullres", weights={"fold_0": nnunet_names(_weights())})
    with pytest.raises(ModelError) as caught:
        import_nnunet(model, tmp_path / "out.a3d")
    assert field in str(caught.value)
    assert not (tmp_path / "out.a3d").exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"label_manager": "MyLabelManager"}, "label_manager"),
        ({"image_reader_writer": "MyReader"}, "image_reader_writer"),
        ({"foreground_intensity_properties_per_channel": None}, "foreground_intensity_properties_per_channel"),
    ],
)
def test_what_all_configurations_share_is_refused_by_field_too(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ModelError, match=field):
        translation.read_plan(plans({"3d_fullres": configuration()}) | change, DATASET, configurations=["3d_fullres"], mirror_axes=())


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"conv_bias": False}, (".conv.bias", ".transpconvs.0.bias", ".transpconvs.1.bias")),
        ({"norm_op_kwargs": {"eps": 1e-5}}, (".norm.weight", ".norm.bias")),
        ({"norm_op_kwargs": None, "conv_bias": False}, (".norm.weight", ".norm.bias", ".conv.bias", "convs.0.bias", "convs.1.bias")),
    ],
)
def test_layers_without_bias_or_scale_get_those_that_change_nothing(tmp_path: Path, settings: dict[str, Any], missing: Any) -> None:
    theirs = {key: value for key, value in nnunet_names(_weights()).items() if not key.endswith(missing) and ".all_modules." not in key}
    made = plans({"3d_fullres": configuration(**_architecture(**settings))})
    model = write_model(tmp_path, plans_json=made, name="3d_fullres", weights={"fold_0": theirs})
    loaded = open_package(import_nnunet(model, tmp_path / "out.a3d")).load_weights("3d_fullres", "0")
    for key, tensor in loaded.items():
        if ".norm." in key and ".norm.weight" in missing:
            assert bool((tensor == float(key.endswith("weight"))).all()), key
        elif key.endswith("bias") and ".heads." not in key and ".norm." not in key and "conv.bias" in str(missing):
            assert not bool(tensor.any()), key


def test_dropout_changes_nothing_in_prediction() -> None:
    changed = _architecture(dropout_op="torch.nn.Dropout3d", dropout_op_kwargs={"p": 0.3})
    made = plans({"3d_fullres": configuration(**changed)})
    assert translation.read_plan(made, DATASET, configurations=["3d_fullres"], mirror_axes=()).configurations["3d_fullres"]


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("executed",))


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = write_model(tmp_path, plans_json=plans({"3d_fullres": configuration()}), name="3d_fullres", weights={"fold_0": {}})
    torch.save({"network_weights": {}, "evil": _Evil()}, model / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(ModelError, match=r"E_CHECKPOINT.*it asks for \w+\.mkdir") as caught:
        import_nnunet(model, tmp_path / "out.a3d")
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "executed").exists()
    (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"neither a zip nor a pickle")
    with pytest.raises(ModelError, match=r"E_CHECKPOINT.*damaged"):
        import_nnunet(model, tmp_path / "out.a3d")


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_numbers_of_older_and_newer_numpy_are_plain_data(tmp_path: Path, core: str) -> None:
    path, other = tmp_path / "a.pth", tmp_path / "b.pth"
    content = {"network_weights": {}, "logging": {"dice": [np.float64(0.5), np.float32(0.25)], "all": np.arange(3)}}
    torch.save(content, path)
    with zipfile.ZipFile(path) as theirs, zipfile.ZipFile(other, "w", zipfile.ZIP_STORED) as changed:
        for name in theirs.namelist():
            data = theirs.read(name)
            for module in (b"numpy._core.", b"numpy.core."):
                data = data.replace(b"c" + module, b"c" + core.encode() + b".")
            changed.writestr(name, data)
    assert read_checkpoint(other).weights == {}


@pytest.mark.parametrize("spoil", ["missing", "extra", "shape"])
def test_weights_that_do_not_fit_are_named(tmp_path: Path, spoil: str) -> None:
    theirs = nnunet_names(_weights())
    head = "decoder.seg_layers.1.weight"
    if spoil == "missing":
        del theirs[head]
    elif spoil == "extra":
        theirs["decoder.attention.weight"] = torch.zeros(1)
    else:
        theirs[head] = torch.zeros(7, 4, 1, 1, 1)
    model = write_model(tmp_path, plans_json=plans({"3d_fullres": configuration()}), name="3d_fullres", weights={"fold_0": theirs})
    with pytest.raises(ModelError, match=r"heads\.1|attention"):
        import_nnunet(model, tmp_path / "out.a3d")


@pytest.mark.parametrize("name", ["../plans.json", "/abs/plans.json", "a\\..\\plans.json", "C:/plans.json"])
def test_archives_that_point_outside_are_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr(name, json.dumps({}))
    with pytest.raises(ModelError, match=r"E_ARCHIVE|no trained"):
        import_nnunet(archive, tmp_path / "out.a3d")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.zip"]


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("m/fold_0/checkpoint_final.pth", b"\0" * 2**25)
    with pytest.raises(ModelError, match="E_ARCHIVE"):
        import_nnunet(archive, tmp_path / "out.a3d")


@pytest.mark.parametrize("kind", ["empty folder", "text file"])
def test_a_place_without_a_model_is_named(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "empty folder":
        place.mkdir()
    else:
        place.write_text("hello")
    with pytest.raises(ModelError, match="place"):
        import_nnunet(place, tmp_path / "out.a3d")


@pytest.mark.parametrize(
    ("reader", "orientation"), [("NibabelIOWithReorient", "canonical"), ("NibabelIO", "as-stored"), (None, "as-stored")]
)
def test_scans_are_turned_as_the_reader_of_the_model_turned_them(reader: str | None, orientation: str) -> None:
    made = plans({"3d_fullres": configuration()}) | ({} if reader is None else {"image_reader_writer": reader})
    read = translation.read_plan(made, DATASET, configurations=["3d_fullres"], mirror_axes=())
    assert read.orientation == orientation


def test_values_given_once_count_for_every_stage() -> None:
    table = _architecture(kernel_sizes=3, strides=[1, 2, [2, 2, 2]], features_per_stage=6, n_conv_per_stage=2, n_conv_per_stage_decoder=1)
    made = translation.read_plan(plans({"3d_fullres": configuration(**table)}), DATASET, configurations=["3d_fullres"], mirror_axes=())
    network = made.configurations["3d_fullres"].network
    assert [(stage.features, stage.kernel, stage.stride, stage.blocks) for stage in network.stages] == [
        (6, (3, 3, 3), (k, k, k), 2) for k in (1, 2, 2)
    ]
    assert network.decoder_blocks == (1, 1)


def test_channels_follow_the_label_values_whatever_their_order_and_type() -> None:
    table = translation.read_labels({"labels": {"background": "0", "b": "2", "a": 1, "ignore": 3}})
    assert [(label.name, label.paint) for label in table.labels] == [("a", 1), ("b", 2)]
    assert table.ignore == 3


def test_label_values_with_gaps_are_refused_since_nnunet_writes_channel_numbers() -> None:
    with pytest.raises(ModelError, match="not consecutive"):
        translation.read_labels({"labels": {"background": 0, "a": 1, "b": 5}})


def _two_configurations(tmp_path: Path, **changes: Any) -> Path:
    """A results folder with a 2d and a 3d model; `changes` are given to the 3d one alone."""
    results = tmp_path / "Dataset999_Small"
    both = plans({"3d_fullres": configuration(), "2d": configuration(flat=True)})
    flat = nnunet_names(_weights(flat=True), flat=True)
    write_model(results, plans_json=both, name="2d", weights={"fold_0": flat})
    write_model(results, plans_json=both, name="3d_fullres", weights={"fold_0": nnunet_names(_weights())}, **changes)
    return results


def test_each_configuration_counts_as_its_own_folder_describes_it(tmp_path: Path) -> None:
    results = _two_configurations(tmp_path)
    own = results / "nnUNetTrainer__nnUNetPlans__3d_fullres" / "plans.json"
    own.write_text(json.dumps(plans({"3d_fullres": configuration(spacing=[3.0, 2.0, 2.0])})))
    plan = open_package(import_nnunet(results, tmp_path / "out")).plan
    assert plan.configurations["3d_fullres"].spacing_mm == (3.0, 2.0, 2.0)
    assert plan.configurations["2d"].spacing_mm == (1.0, 1.0, 1.0)


def test_folders_of_different_datasets_do_not_become_one_model(tmp_path: Path) -> None:
    results = _two_configurations(tmp_path, dataset={**DATASET, "labels": {"background": 0, "b": 1, "a": 2}})
    with pytest.raises(ModelError, match="labels"):
        import_nnunet(results, tmp_path / "out")


def test_checkpoints_that_allow_other_mirror_axes_do_not_become_one_model(tmp_path: Path) -> None:
    results = _two_configurations(tmp_path, mirror_axes=(0, 1))
    with pytest.raises(ModelError, match="inference_allowed_mirroring_axes"):
        import_nnunet(results, tmp_path / "out")


@pytest.mark.parametrize(("said", "axes"), [(None, ()), ((), ()), ([1], (1,)), ((2, 0), (0, 2))])
def test_mirror_axes_are_those_of_the_checkpoint(tmp_path: Path, said: Any, axes: tuple[int, ...]) -> None:
    made = plans({"3d_fullres": configuration()})
    weights = {"fold_0": nnunet_names(_weights())}
    model = write_model(tmp_path, plans_json=made, name="3d_fullres", weights=weights, mirror_axes=said, trainer="nnUNetTrainerNoMirroring")
    assert open_package(import_nnunet(model, tmp_path / "out")).plan.mirror_axes == axes


def test_a_configuration_of_any_name_is_flat_by_its_patch(tmp_path: Path) -> None:
    table = plans({"2d": configuration(flat=True), "2d_large": {"inherits_from": "2d", "batch_size": 9}})
    weights = {"fold_0": nnunet_names(_weights(flat=True), flat=True)}
    model = write_model(tmp_path, plans_json=table, name="2d_large", weights=weights, mirror_axes=(0, 1))
    plan = open_package(import_nnunet(model, tmp_path / "out")).plan
    assert plan.mirror_axes == (1, 2)
    assert plan.configurations["2d_large"].batch_size == 9


def test_a_folder_of_another_name_is_what_its_checkpoint_says(tmp_path: Path) -> None:
    made = plans({"3d_fullres": configuration(), "2d": configuration(flat=True)})
    model = write_model(tmp_path, plans_json=made, name="3d_fullres", weights={"fold_0": nnunet_names(_weights())})
    renamed = model.rename(tmp_path / "liver__model__v2")
    assert open_package(import_nnunet(renamed, tmp_path / "out")).configurations == ("3d_fullres",)
    misnamed = renamed.rename(tmp_path / "nnUNetTrainer__nnUNetPlans__2d")
    with pytest.raises(ModelError, match=r"init_args\.configuration"):
        import_nnunet(misnamed, tmp_path / "other")


def _cascade() -> dict[str, Any]:
    second = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    return plans({"3d_lowres": configuration(), "3d_fullres": configuration(), "3d_cascade_fullres": second})


REGIONS = {**DATASET, "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3]}, "regions_class_order": [1, 2]}


def test_a_cascade_hands_on_label_values_also_where_networks_predict_regions(tmp_path: Path) -> None:
    results = tmp_path / "Dataset999_Small"
    for name, channels in (("3d_lowres", 1), ("3d_cascade_fullres", 1 + 3)):
        weights = networks.build(_network_plan(flat=False, residual=False), channels, 2, seed=0).state_dict()
        write_model(results, plans_json=_cascade(), name=name, weights={"fold_0": nnunet_names(weights)}, dataset=REGIONS)
    plan = open_package(import_nnunet(results, tmp_path / "out")).plan
    assert plan.in_channels("3d_cascade_fullres") == 4
    assert plan.labels.value_members == ((1,), (2,), (3,))


def test_a_cascade_without_its_first_stage_is_refused_by_name(tmp_path: Path) -> None:
    weights = networks.build(_network_plan(flat=False, residual=False), 3, 3, seed=0).state_dict()
    model = write_model(tmp_path, plans_json=_cascade(), name="3d_cascade_fullres", weights={"fold_0": nnunet_names(weights)})
    with pytest.raises(ModelError, match="3d_lowres"):
        import_nnunet(model, tmp_path / "out")


def _with_postprocessing(tmp_path: Path, *lists: tuple[str, Any]) -> Path:
    model = write_model(
        tmp_path, plans_json=plans({"3d_fullres": configuration()}), name="3d_fullres", weights={"fold_0": nnunet_names(_weights())}
    )
    for folder, content in lists:
        (model / folder).mkdir()
        (model / folder / "postprocessing.pkl").write_bytes(b"never read")
        if content is not None:
            (model / folder / "postprocessing.json").write_text(json.dumps(content))
    return model


def _keep(*values: Any, name: str = "remove_all_but_largest_component_from_segmentation") -> dict[str, Any]:
    return {"postprocessing_fns": [name] * len(values), "postprocessing_kwargs": [{"labels_or_regions": v} for v in values]}


def test_what_nnunet_removes_after_prediction_is_taken_over_in_order(tmp_path: Path) -> None:
    fewer, all_folds = "crossval_results_folds_0", "crossval_results_folds_0_1_2_3_4"
    model = _with_postprocessing(tmp_path, (fewer, _keep(1)), (all_folds, _keep([1, 2], 2)))
    package = open_package(import_nnunet(model, tmp_path / "out.a3d"))
    found = package.postprocessing(("3d_fullres",))
    assert found is not None
    assert [step.values for step in found.steps] == [(1, 2), (2,)]
    assert package.postprocessing(("2d",)) is None


def test_a_list_that_exists_as_pickle_only_is_told_and_not_read(tmp_path: Path) -> None:
    notes: list[str] = []
    model = _with_postprocessing(tmp_path, ("crossval_results_folds_0", None))
    package = open_package(import_nnunet(model, tmp_path / "out.a3d", note=notes.append))
    assert package.postprocessing(("3d_fullres",)) is None
    assert len(notes) == 1
    assert "postprocessing.pkl" in notes[0]


@pytest.mark.parametrize("content", [_keep(1, name="os.system"), _keep(9), _keep("all"), {"postprocessing_fns": [1]}, []])
def test_postprocessing_that_is_not_known_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ModelError, match="postprocessing"):
        import_nnunet(_with_postprocessing(tmp_path, ("crossval_results_folds_0", content)), tmp_path / "out.a3d")


@pytest.mark.parametrize("spoil", ["cut", "flipped", "link"])
def test_archives_that_are_broken_or_hold_links_are_refused(tmp_path: Path, spoil: str) -> None:
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as made:
        entry = zipfile.ZipInfo("m/plans.json")
        entry.external_attr = (0o120777 if spoil == "link" else 0o100644) << 16
        made.writestr(entry, b"{}" * 5000)
    data = bytearray(archive.read_bytes())
    if spoil == "cut":
        data[100:200] = b""
    elif spoil == "flipped":
        data[500] ^= 1
    archive.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="E_ARCHIVE"):
        import_nnunet(archive, tmp_path / "out.a3d")
