"""The identity of a run: the settings, files and versions that it depends on."""

from __future__ import annotations

import dataclasses
import os
import shutil

import pytest
from tiny_runs import changed, settings_of

from semisam.backends import synthsam
from semisam.core.errors import InputError
from semisam.core.files import digest_of_path
from semisam.plugins import registry
from semisam.run import resolve
from semisam.run.execute import execute
from semisam.run.protocols import PROTOCOLS
from semisam.run.settings import read_settings

GIVEN = {"labels": 2, "sam": "synthsam"}


def _identity(**given):
    return settings_of(**{**GIVEN, **given}).identity("data")


def test_the_content_of_a_protocol_counts(monkeypatch):
    before = _identity()
    other = dataclasses.replace(PROTOCOLS["default"], semisam={"weight": 0.05})
    monkeypatch.setattr(resolve, "PROTOCOLS", {**PROTOCOLS, "default": other})
    assert _identity() != before


def test_the_default_of_an_option_counts(monkeypatch):
    before = _identity()
    usual = registry.default_keywords
    monkeypatch.setattr(
        registry, "default_keywords", lambda *where: {**usual(*where), "new_option": 3}
    )
    assert _identity() != before


def test_the_embedded_weights_count(monkeypatch, tmp_path):
    before = _identity()
    copy = tmp_path / "weights.safetensors"
    shutil.copy(synthsam.EMBEDDED[3], copy)
    monkeypatch.setitem(synthsam.EMBEDDED, 3, copy)
    assert _identity() == before  # the same bytes in another place
    copy.write_bytes(copy.read_bytes() + b" ")
    assert _identity() != before


def test_a_file_counts_by_its_bytes_and_not_by_its_path(tmp_path):
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    one.write_bytes(b"weights")
    same.write_bytes(b"weights")
    other.write_bytes(b"weights, other ones")
    made = [_identity(sam_options={"weights": str(path)}) for path in (one, same, other)]
    assert made[0] == made[1] != made[2]


def test_a_folder_counts_by_all_its_files(tmp_path):
    (tmp_path / "a").write_text("1")
    before = digest_of_path(tmp_path)
    assert digest_of_path(tmp_path) == before
    (tmp_path / "b").write_text("")
    assert digest_of_path(tmp_path) != before
    before = digest_of_path(tmp_path)
    (tmp_path / os.fsdecode(b"M\xfc")).write_text("")
    assert digest_of_path(tmp_path) != before


def test_a_folder_with_the_name_of_a_choice_does_not_count(tmp_path, monkeypatch):
    given = {**GIVEN, "dataset_options": {"organs": "gland"}}
    before = settings_of(**given)
    (tmp_path / "gland").mkdir()
    monkeypatch.chdir(tmp_path)
    assert settings_of(**given) == before


def test_the_version_of_a_third_party_counts(monkeypatch):
    find = registry.find

    def installed(version):
        def found(kind, name):
            plugin = find(kind, name)
            if kind != "framework":
                return plugin
            return dataclasses.replace(
                plugin, builtin=False, distribution="theirs", version=version
            )

        return found

    monkeypatch.setattr(registry, "find", installed("1.0"))
    one = settings_of(**GIVEN)
    monkeypatch.setattr(registry, "find", installed("1.1"))
    assert one.sources["method"] == "theirs 1.0"
    assert settings_of(**GIVEN).identity("data") != one.identity("data")


def test_the_version_of_the_results_counts(monkeypatch):
    before = _identity()
    monkeypatch.setattr(resolve, "RESULTS_VERSION", resolve.RESULTS_VERSION + 1)
    assert _identity() != before


def test_the_place_does_not_count():
    before = _identity()
    assert _identity(device="cuda", checkpoint_every=7, save_predictions=True) == before


def test_an_option_given_with_its_value_is_no_departure():
    one = settings_of(**GIVEN)
    other = settings_of(
        **GIVEN, method_options={"ema_decay": 0.99}, semisam_options={"weight": 1.0}
    )
    assert other == one and other.departures == ()


def test_every_option_is_recorded():
    settings = settings_of(**GIVEN)
    for kind, name, options in (
        ("framework", settings.method, settings.method_options),
        ("network", settings.network, settings.network_options),
        ("backend", settings.sam, settings.sam_options),
        ("prompter", settings.prompter, settings.prompter_options),
    ):
        assert set(options) == {option.name for option in registry.describe_options(kind, name)}
    assert settings.semisam_options["weight"] == 1.0 and "seed" not in settings.semisam_options


def test_a_bare_run_has_no_branch():
    bare = settings_of(labels=2)
    assert bare == settings_of(labels=2, prompter="box", semisam_options={"weight": 0.3})
    assert (bare.prompter, bare.semisam_options, bare.sam_sources) == ("none", {}, {})


def test_a_run_that_was_refused_before_it_began_leaves_its_folder_free(tiny_settings, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(InputError, match="--labels must be at most"):
        execute(changed(tiny_settings, labels=9), folder)
    assert execute(tiny_settings, folder).is_file()
    assert read_settings(folder) == tiny_settings


@pytest.mark.parametrize("finished", [False, True])
def test_other_scans_or_settings_are_refused_in_a_folder(tiny_settings, tmp_path, finished):
    import h5py

    folder = tmp_path / "run"
    if finished:
        execute(tiny_settings, folder)
    else:

        def stop(phase, done, total, figures):
            if phase == "train":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            execute(tiny_settings, folder, stop)
    with pytest.raises(InputError, match="must be empty or of the same run"):
        execute(changed(tiny_settings, seed=1), folder)
    case = (tmp_path / "la" / "train.list").read_text().split()[0]
    with h5py.File(tmp_path / "la" / case / "mri_norm2.h5", "a") as file:
        file["image"][0, 0, 0] += 1
    with pytest.raises(InputError, match="the scans must be those that the run began with"):
        execute(tiny_settings, folder)


def test_a_patch_of_two_axes_chooses_its_network_and_records_it():
    from semisam.run.request import settings

    for given in ({"options": {"phantom.ndim": 2}}, {"patch": (48, 48)}):
        chosen = settings(protocol="classic", **given)
        assert chosen.network == "unet2d" and "network=unet2d" in chosen.choices
        chosen = settings(sam="synthsam", **given)
        assert chosen.network == "unet" and not any("unet" in d for d in chosen.departures)
        assert chosen.network_options["axes"] == 2
        assert chosen.sources["network.start"] == chosen.sam_sources["sam.weights"]
    chosen = settings(patch=(48, 48), network="unet2d", options={"unet2d.filters": 4})
    assert chosen.network_options["filters"] == 4
    with pytest.raises(InputError, match="got vnet, which is for 3"):
        settings(patch=(48, 48), network="vnet")
    with pytest.raises(InputError, match="got sam-med3d, which is for 3"):
        settings(patch=(48, 48), sam="sam-med3d")
    assert settings().network == "unet" and not settings().choices
    solid = settings(protocol="classic")
    assert solid.network == "vnet" and not solid.choices


def test_a_validation_is_in_the_identity_and_its_absence_changes_none():
    bare = _identity()
    assert "keep" not in settings_of(**GIVEN).identifying()
    found = [
        _identity(validate_every=50, **more)
        for more in ({}, {"validate_cases": 2}, {"keep": "best"}, {"patience": 3})
    ]
    assert len({bare, *found}) == 5


def test_settings_of_a_validation_need_one():
    for flag, given in (("keep", "best"), ("patience", 2), ("validate-cases", 2)):
        told = f"--validate-every must be given for --{flag}, got no number"
        with pytest.raises(InputError, match=told):
            settings_of(**GIVEN, **{flag.replace("-", "_"): given})
