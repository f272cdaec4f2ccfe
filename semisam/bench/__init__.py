"""Many runs: study, grid, executors, results, tables, statistics, zero-shot, report.

This package holds code for more than one run. The package itself can be called:
``semisam.bench(...)`` is `semisam.bench.running.bench`.
"""

from __future__ import annotations

import sys
import types
from typing import Any


class _Callable(types.ModuleType):
    def __call__(self, *args: Any, **given: Any) -> Any:
        from semisam.bench.running import bench

        return bench(*args, **given)


sys.modules[__name__].__class__ = _Callable
