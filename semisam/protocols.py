"""Named protocols, as data: sets of constructor options that a paper or its code prescribes.

A protocol never changes what a user set explicitly, and every table row records its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """Options by their place.

    Attributes:
        note: what it is, in a sentence.
        run: run settings.
        methods: constructor options by method name.
        semisam: options of the SemiSAM branch.
    """

    note: str
    run: Mapping[str, Any] = field(default_factory=dict)
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    semisam: Mapping[str, Any] = field(default_factory=dict)


_PUBLISHED_RAMP = {"ramp_power": 2.0, "ramp_every": 150}

PROTOCOLS: Mapping[str, Protocol] = {
    "paper": Protocol(
        note="the equations of the SemiSAM paper: lambda_c = 0.1 exp(-5 (1 - t/T)), "
        "lambda_s = 0.1 exp(-5 t/T)",
    ),
    "published": Protocol(
        note="each repository's own code: squared ramps advancing once in 150 iterations; for mt "
        "and the branch the SemiSAM script's: CE + Dice unhalved, consistency over all rows and "
        "halved, the SAM term halved; largest component kept",
        run={"largest_component": True},
        methods={
            "mt": {
                "supervised_weight": 1.0,
                "consistency_weight": 0.05,
                "consistency_rows": "all",
                **_PUBLISHED_RAMP,
            },
            "ua-mt": _PUBLISHED_RAMP,
            "dtc": _PUBLISHED_RAMP,
            "dtml": _PUBLISHED_RAMP,
            "ent-mini": _PUBLISHED_RAMP,
        },
        semisam={"weight": 0.05, **_PUBLISHED_RAMP},
    ),
}
