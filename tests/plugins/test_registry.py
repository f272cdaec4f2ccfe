from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from semisam.core.errors import PluginError
from semisam.plugins.registry import (
    API_GROUP,
    GROUPS,
    all_plugins,
    check_options,
    describe_options,
    find,
    list_plugins,
    load,
)

Install = Callable[..., Path]

MODULE = '''
from __future__ import annotations
from typing import TYPE_CHECKING, Annotated, Literal
from pydantic import Field
from semisam.core.framework import Framework
if TYPE_CHECKING:
    from nowhere import NetBuilder

class Method(Framework):
    """A method.

    It does things.

    Args:
        build: network builder.
        num_classes: counts background.
        rate: how fast: in steps,
            or in epochs.
        sizes (tuple): of the windows.

    Raises:
        ValueError: never.
    """

    def __init__(
        self, build: NetBuilder, num_classes: int, *, rate: float = 0.5, steps: int = 3,
        soft: bool = False, sizes: tuple[int, ...] = (1, 2), mode: Literal["a", "b"] = "a",
        clip: float | None = 1.0, label: str | None = None,
        share: Annotated[float, Field(le=1)] = 1,
    ) -> None:
        super().__init__(build, num_classes)
    def forward(self, image): ...
    def training_step(self, batch, clock): ...

class Loose(Method):
    def __init__(self, build, num_classes, **kwargs): ...

class NoFramework:
    pass

class Prompter:
    def __init__(self, *, count: int, hidden: Nowhere = 1): ...

class Data:
    def __init__(self, path=None, *, fold: int = 0): ...

class Bare(Method):
    def __init__(self, build, num_classes, early=1, *, use=True, depth=3, rest=None):
        super().__init__(build, num_classes)

class Net:
    def __init__(self, in_channels, *, heads, width: int = 4): ...

number = 3
'''


@pytest.fixture
def third_party(install: Install) -> None:
    install(
        "third-party",
        {
            GROUPS["framework"]: {
                "tp-method": "tp_module:Method",
                "tp-loose": "tp_module:Loose",
                "tp-bare": "tp_module:Bare",
                "tp-none": "tp_module:NoFramework",
                "tp-number": "tp_module:number",
                "tp-absent": "tp_module:Absent",
            },
            GROUPS["prompter"]: {"tp-prompter": "tp_module:Prompter"},
            GROUPS["dataset"]: {"tp-data": "tp_module:Data"},
            GROUPS["network"]: {"tp-net": "tp_module:Net"},
        },
        modules={"tp_module": MODULE},
    )


def test_builtins_are_listed_from_the_projects_own_metadata():
    frameworks = list_plugins("framework")
    assert list(frameworks) == sorted(frameworks)
    assert frameworks["mt"].builtin
    assert frameworks["mt"].value == "semisam.frameworks.mean_teacher:MeanTeacher"
    assert frameworks["mt"].problem is None


def test_listing_imports_no_plugin(third_party: None):
    assert "tp-method" in list_plugins("framework")
    assert "tp_module" not in sys.modules


def test_a_third_party_plugin_loads(third_party: None):
    plugin = find("framework", "tp-method")
    assert (plugin.distribution, plugin.version, plugin.builtin) == ("third-party", "1.2", False)
    assert load("framework", "tp-method").__name__ == "Method"


def test_a_broken_plugin_fails_only_when_used(install: Install, third_party: None):
    install(
        "broken-dist",
        {GROUPS["backend"]: {"cracked": "cracked_module:Backend"}},
        modules={"cracked_module": "import no_such_library"},
    )
    assert list_plugins("backend")["cracked"].problem is None
    load("framework", "tp-method")  # the others go on
    with pytest.raises(PluginError) as caught:
        load("backend", "cracked")
    message = str(caught.value)
    for part in ("cracked_module:Backend", "broken-dist 1.2", "no_such_library"):
        assert part in message
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_what_is_no_plugin_is_refused(third_party: None):
    with pytest.raises(PluginError, match="Absent"):
        load("framework", "tp-absent")
    with pytest.raises(PluginError, match=r"must be a class or a function.*got int"):
        load("framework", "tp-number")
    with pytest.raises(PluginError, match=r"must be a subclass of semisam\.core\.framework\."):
        load("framework", "tp-none")
    with pytest.raises(PluginError, match=r"keyword-only arguments, got .*\*\*kwargs"):
        load("framework", "tp-loose")


def test_two_distributions_with_one_name_are_both_named_and_refused(install: Install):
    for name in ("dist-one", "dist-two"):
        install(
            name, {GROUPS["prompter"]: {"twice": f"{name[5:]}_module:P", f"only-{name}": "m:P"}}
        )
    both = [p for p in all_plugins("prompter") if p.name == "twice"]
    assert [p.distribution for p in both] == ["dist-one", "dist-two"]
    assert list_plugins("prompter")["only-dist-one"].problem is None
    with pytest.raises(PluginError, match=r"'twice' is refused: .*dist-one.* and dist-two"):
        load("prompter", "twice")


def test_one_distribution_seen_twice_is_no_collision(install: Install):
    for place in ("first", "second"):
        install("again", {GROUPS["prompter"]: {"once": "again_module:P"}}, place=place)
    assert [p.problem for p in all_plugins("prompter") if p.name == "once"] == [None]


def test_a_builtin_cannot_be_shadowed(install: Install):
    install(
        "impostor",
        {GROUPS["framework"]: {"mt": "impostor_module:Method"}},
        modules={"impostor_module": "raise RuntimeError('imported')"},
    )
    assert list_plugins("framework")["mt"].builtin
    assert load("framework", "mt").__module__ == "semisam.frameworks.mean_teacher"
    problems = {p.distribution: p.problem for p in all_plugins("framework") if p.name == "mt"}
    assert problems == {"semisam": None, "impostor": "it shadows a built-in"}


def test_none_is_a_reserved_backend_name(install: Install):
    install("nihilist", {GROUPS["backend"]: {"none": "m:B"}, GROUPS["prompter"]: {"none": "m:P"}})
    with pytest.raises(PluginError, match="'none' is reserved"):
        load("backend", "none")
    assert list_plugins("prompter")["none"].problem is None


def test_an_unknown_name_lists_what_is_installed_and_the_nearest():
    with pytest.raises(
        PluginError, match=r"got 'supervisd' \(did you mean supervised\?\)"
    ) as caught:
        load("framework", "supervisd")
    assert "mt" in str(caught.value)
    with pytest.raises(PluginError) as caught:
        load("framework", "zzzzzz")
    assert "did you mean" not in str(caught.value)


def test_a_name_that_is_missing_on_purpose_says_why():
    with pytest.raises(PluginError, match=r"'nninteractive' is not built in.*CC BY-NC-SA 4\.0"):
        load("backend", "nninteractive")


def test_an_unknown_kind_is_refused():
    with pytest.raises(PluginError, match="one of framework, backend"):
        list_plugins("frameworks")


def test_a_distribution_without_metadata_is_survived(install: Install):
    site = install("halved", {GROUPS["prompter"]: {"half": "half_module:P"}})
    (site / "halved-1.2.dist-info" / "METADATA").unlink()
    assert list_plugins("prompter")["half"].version == "unknown"


@pytest.mark.parametrize(
    ("option", "given", "expected"),
    [
        ("rate", "0.3", 0.3),
        ("rate", 1, 1.0),
        ("rate", 0.1 + 0.2, 0.1 + 0.2),
        ("steps", "7", 7),
        ("soft", "true", True),
        ("soft", False, False),
        ("sizes", "1,2,3", (1, 2, 3)),
        ("sizes", "4", (4,)),
        ("sizes", "[5, 6]", (5, 6)),
        ("sizes", [7, 8], (7, 8)),
        ("sizes", (9,), (9,)),
        ("mode", "b", "b"),
        ("clip", "none", None),
        ("clip", None, None),
        ("clip", "2", 2.0),
        ("label", "1,2", "1,2"),
        ("label", "None", None),
        ("share", "0.5", 0.5),
    ],
)
def test_options_become_what_the_constructor_names(
    third_party: None, option: str, given: object, expected: object
):
    checked = check_options("framework", "tp-method", {option: given})
    assert checked == {option: expected}
    assert type(checked[option]) is type(expected)


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("rate", "fast"),
        ("rate", True),
        ("rate", [0.1]),
        ("steps", 2.5),
        ("steps", 2.0),
        ("steps", "2.5"),
        ("soft", 1),
        ("soft", "perhaps"),
        ("sizes", "1,x"),
        ("sizes", 3),
        ("mode", "c"),
        ("label", 3),
        ("share", 1.5),
        ("rate", None),
        ("rate", object()),
    ],
)
def test_wrong_types_are_one_sentence(third_party: None, option: str, given: object):
    with pytest.raises(PluginError, match=rf"option {option} must be .*, got ") as caught:
        check_options("framework", "tp-method", {option: given})
    message = str(caught.value)
    assert repr(given) in message
    assert "\n" not in message


def test_all_faults_are_in_one_message(third_party: None):
    with pytest.raises(PluginError) as caught:
        check_options("framework", "tp-method", {"raet": 1, "steps": "x", "soft": "perhaps"})
    message = str(caught.value)
    assert "option raet does not exist (did you mean rate?)" in message
    assert "option steps must be int" in message
    assert "option soft must be bool" in message
    assert "Its options: rate, steps, soft" in message


def test_an_option_without_an_annotation_has_the_type_of_its_default(third_party: None):
    given = {"use": "false", "depth": "5", "rest": "as it is"}
    assert check_options("framework", "tp-bare", given) == {
        "use": False,
        "depth": 5,
        "rest": "as it is",
    }
    with pytest.raises(PluginError, match="option use must be bool, got 'maybe'"):
        check_options("framework", "tp-bare", {"use": "maybe"})


def test_an_option_by_position_is_told_how_to_become_one(third_party: None):
    with pytest.raises(PluginError, match=r"option early must be keyword-only: write \* before it"):
        check_options("framework", "tp-bare", {"early": "2"})


def test_what_a_run_fills_in_is_no_option(third_party: None):
    for kind, name, taken in (
        ("framework", "tp-method", "num_classes"),
        ("dataset", "tp-data", "path"),
        ("network", "tp-net", "heads"),
    ):
        with pytest.raises(PluginError, match=f"option {taken} does not exist"):
            check_options(kind, name, {taken: 2})
    assert check_options("network", "tp-net", {"width": "8"}) == {"width": 8}


def test_a_required_option_must_be_given(third_party: None):
    with pytest.raises(PluginError, match="option count is required"):
        check_options("prompter", "tp-prompter", {})
    assert check_options("prompter", "tp-prompter", {"count": 1}) == {"count": 1}


def test_an_annotation_that_cannot_be_resolved_matters_only_when_used(third_party: None):
    with pytest.raises(PluginError, match=r"option hidden must have an annotation .* got Nowhere"):
        check_options("prompter", "tp-prompter", {"count": 1, "hidden": 2})


def test_options_are_described_with_their_docstring(third_party: None):
    options = {o.name: o for o in describe_options("framework", "tp-method")}
    assert list(options)[:3] == ["rate", "steps", "soft"]
    assert options["rate"].doc == "how fast: in steps, or in epochs."
    assert options["sizes"].doc == "of the windows."
    assert (options["sizes"].type, options["sizes"].default) == ("tuple[int, ...]", (1, 2))
    assert options["steps"].doc == ""
    (count, _) = describe_options("prompter", "tp-prompter")
    assert count.required


def test_every_listed_builtin_documents_every_option():
    for kind, name in (("framework", "mt"), ("network", "vnet"), ("prompter", "box")):
        for option in describe_options(kind, name):
            assert option.doc, f"{kind} {name}: {option.name} has no doc"


@pytest.mark.parametrize(("declared", "refused"), [("1", False), ("2", True), (None, False)])
def test_a_plugin_of_another_api_is_refused_before_its_import(
    install: Install, declared: str | None, refused: bool
):
    entries = {GROUPS["prompter"]: {"dated": "dated_module:P"}}
    if declared:
        entries[API_GROUP] = {declared: "dated_module"}
    install("dated-dist", entries, modules={"dated_module": "def P(): ..."})
    if not refused:
        assert load("prompter", "dated").__name__ == "P"
        return
    with pytest.raises(PluginError, match=r"'dated' is refused: its API must be 1, got 2\. "):
        load("prompter", "dated")
    assert "dated_module" not in sys.modules


def test_a_plugin_may_fit_two_apis(install: Install):
    entries = {GROUPS["prompter"]: {"both": "m:P"}, API_GROUP: {"1": "m", "2": "m"}}
    install("both-dist", entries)
    assert list_plugins("prompter")["both"].problem is None


def test_listing_imports_no_torch():
    code = (
        "import sys; from semisam.plugins import registry; "
        "[registry.all_plugins(kind) for kind in registry.GROUPS]; "
        "sys.exit(bool({'torch', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
