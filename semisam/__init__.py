"""semisam: semi-supervised medical image segmentation, guided by a promptable foundation model."""

__version__ = "0.1.0"
