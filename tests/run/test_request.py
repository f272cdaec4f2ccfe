"""From what a user gives to settings of runs."""

import pytest
from scan_files import write_folder

from semisam.core.errors import InputError, PluginError
from semisam.run.request import by_plugin, request, settings


def test_a_folder_is_recognised_and_its_suggestions_can_be_overridden(tmp_path):
    folder = write_folder(tmp_path / "scans")
    found = settings(data=str(folder), labels=2)
    assert found.dataset == "folder" and found.data == str(folder.resolve())
    assert found.patch == (16, 16, 16)
    assert settings(data=str(folder), labels=2, patch=(32, 16, 16)).patch == (32, 16, 16)


def test_options_reach_their_plugin_with_their_type():
    found = settings(
        method="mt",
        labels=1,
        sam="geodesic",
        options={"mt.ema-decay": "0.90", "semisam.weight": "0.2", "vnet.filters": "4"},
        network="vnet",
    )
    assert found.method_options["ema_decay"] == 0.9
    assert found.semisam_options["weight"] == 0.2 and found.network_options["filters"] == 4
    assert found == settings(
        method="mt",
        labels=1,
        sam="geodesic",
        options={"mt.ema_decay": 0.9, "semisam.weight": 0.2, "vnet.filters": 4},
        network="vnet",
    )


def test_the_network_of_a_protocol_takes_its_options():
    found = settings(labels=1, options={"unet.start": "none"})
    assert found.network == "unet" and found.network_options["start"] == "none"
    assert found.optimizer == "adamw" and found.augment == "strong"
    assert "unet.start=none" in found.departures


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"iteration": 5}, InputError, r"got iteration \(did you mean iterations"),
        ({"options": {"mt.ema_decy": 1}}, PluginError, "ema_decay"),
        ({"options": {"dtc.beta": 1}}, InputError, "must name a plugin of the runs"),
        ({"options": {"weight": 1}}, InputError, "must be named PLUGIN.OPTION"),
        ({"options": {1: 1}}, InputError, "must be named PLUGIN.OPTION"),
        ({"options": ["mt"]}, InputError, r"options must map PLUGIN.OPTION .* got \['mt'\]"),
        ({"data": "nowhere"}, InputError, "no such folder"),
        ({"protocol": "classics"}, InputError, "did you mean classic"),
    ],
)
def test_a_mistake_is_one_sentence(given, kind, message):
    with pytest.raises(kind, match=message):
        settings(labels=1, **given)


def test_options_by_plugin():
    assert by_plugin({"a.b-c": 1, "a.d": 2, "x.y.z": 3}) == {
        "a": {"b_c": 1, "d": 2},
        "x.y": {"z": 3},
    }


def test_a_fold_of_one_run_is_that_of_the_request():
    asked = request({"test": "3-fold", "fold": 2}, {}, ["mt"], ["none"])
    assert asked.resolve(method="mt", labels=1).fold == 2
    assert asked.resolve(method="mt", labels=1, fold=3).fold == 3


@pytest.mark.parametrize(
    "given, told",
    [
        ({"data": 3}, "--data must be a path, got 3"),
        ({"patch": 64}, "--patch must be whole numbers, got 64"),
        ({"network": ["vnet"]}, "--network must be a name"),
    ],
)
def test_a_setting_of_another_kind_is_one_sentence(given, told):
    with pytest.raises(InputError, match=told):
        settings(**given)


def test_a_control_without_a_promptable_model_is_refused():
    """It would be the bare method, under the name of a control."""
    with pytest.raises(InputError, match="--sam-control must come with --sam, got shuffled"):
        settings(method="mt", sam_control="shuffled")
