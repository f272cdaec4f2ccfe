"""A real viewer on ``semisam serve``: napari with nnInteractive's plugin, driven tool by tool.

    semisam serve &
    python -m venv viewer && viewer/bin/pip install napari pyqt5 napari-nninteractive
    xvfb-run viewer/bin/python benchmarks/viewer.py --url http://127.0.0.1:1527 --key KEY \
        --scan SCAN.nii.gz --truth LABEL.nii.gz --picture viewer.png

It runs in an environment of its own, because the viewer needs Qt. The plugin's own widgets and
layers are used, as by a person, so a prompt passes through the viewer, its client and the server.
Each line is a tool and the Dice of the mask that the viewer then shows.
"""

from __future__ import annotations

import argparse
import time

import napari
import numpy as np
import SimpleITK
from qtpy.QtWidgets import QApplication
from scipy.ndimage import distance_transform_edt
from skimage.measure import find_contours

_POINT, _BOX, _SCRIBBLE, _LASSO = range(4)  # tools, in the order of the plugin's buttons


class Person:
    """A person in front of the viewer, who knows the truth."""

    def __init__(self, scan: str, truth: str) -> None:
        image = SimpleITK.ReadImage(scan)
        self.viewer = napari.Viewer()
        volume = SimpleITK.GetArrayFromImage(image)
        self.viewer.add_image(volume, name="scan", scale=image.GetSpacing()[::-1])
        self.truth = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(truth)) > 0
        _, self.plugin = self.viewer.window.add_plugin_dock_widget("napari-nninteractive")

    def connect(self, url: str, key: str) -> None:
        """Enter address and key, press the button, and wait for the upload."""
        self.plugin.server_url_edit.setText(url)
        self.plugin.api_key_edit.setText(key)
        self.plugin.init_button.click()
        for _ in range(3000):
            self.wait(1)
            if self.plugin.label_layer_name in self.viewer.layers and self._is_idle():
                return
        raise SystemExit(f"no session: {self.plugin.remote_status_label.text()}")

    def wait(self, rounds: int = 30) -> None:
        """Let the viewer work."""
        for _ in range(rounds):
            QApplication.processEvents()
            time.sleep(0.02)

    def take(self, tool: int, *, inside: bool = True) -> None:
        """Begin a new object with a tool."""
        self.plugin.on_reset_interactions()
        self.choose(tool, inside=inside)

    def choose(self, tool: int, *, inside: bool = True) -> None:
        """Choose a tool, and whether it shows the object or the background."""
        self.plugin.interaction_button._uncheck()
        self.plugin.interaction_button._check(tool)
        self.plugin.on_interaction_selected()
        self.plugin.prompt_button._on_button_pressed(0 if inside else 1)
        self.wait()

    def layer(self, tool: int):
        """Return the layer that a tool draws on."""
        return self.viewer.layers[self.plugin.layer_dict[tool]]

    def mask(self) -> np.ndarray:
        """Return the mask that the viewer shows."""
        return np.asarray(self.viewer.layers[self.plugin.label_layer_name].data) > 0

    def tell(self, what: str) -> None:
        """Wait, and print the Dice of the mask."""
        self.wait()
        mask = self.mask()
        dice = 2 * (mask & self.truth).sum() / (mask.sum() + self.truth.sum())
        print(f"{what:<24} {100 * dice:5.1f}", flush=True)

    def _is_idle(self) -> bool:
        return self.plugin._session_locked and self.plugin._upload_dialog is None


def deepest(region: np.ndarray) -> tuple[int, ...]:
    """Return the voxel of a region that is farthest from its border."""
    depth = distance_transform_edt(np.pad(region, 1))[(slice(1, -1),) * region.ndim]
    return tuple(int(at) for at in np.unravel_index(depth.argmax(), depth.shape))


def main() -> None:
    """Use each tool once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("url", "key", "scan", "truth"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--picture", help="a screenshot")
    args = parser.parse_args()
    person = Person(args.scan, args.truth)
    truth, middle = person.truth, deepest(person.truth)
    place, flat = middle[0], truth[middle[0]]
    person.connect(args.url, args.key)
    person.viewer.dims.set_current_step(0, place)

    person.choose(_POINT)
    person.layer(_POINT).add(np.array([middle], float))
    person.tell("a point")
    missed, surplus = truth & ~person.mask(), person.mask() & ~truth
    more = missed.sum() > surplus.sum()
    person.choose(_POINT, inside=more)
    person.layer(_POINT).add(np.array([deepest(missed if more else surplus)], float))
    person.tell(f"a {'positive' if more else 'negative'} point")
    person.plugin.on_undo()
    person.tell("undo")

    person.take(_BOX)
    rows, columns = np.where(flat)
    corners = [(a, b) for a in (rows.min(), rows.max()) for b in (columns.min(), columns.max())]
    corners = [(place, *corners[i]) for i in (0, 1, 3, 2)]
    person.layer(_BOX).add(np.array(corners, float), shape_type="rectangle")
    person.tell("a box in one slice")

    person.take(_LASSO)
    outline = max(find_contours(flat.astype(float), 0.5), key=len)
    person.layer(_LASSO).add(np.insert(outline[::3], 0, place, axis=1), shape_type="polygon")
    person.tell("a lasso in one slice")

    person.take(_SCRIBBLE)
    line = np.arange(middle[1] - 4, middle[1] + 5)
    person.layer(_SCRIBBLE).data_setitem((np.full(9, place), line, np.full(9, middle[2])), 1)
    person.layer(_SCRIBBLE)._commit_staged_history()
    person.tell("a scribble")
    if args.picture:
        person.viewer.screenshot(args.picture, canvas_only=False)
    person.plugin._release_session()


if __name__ == "__main__":
    main()
