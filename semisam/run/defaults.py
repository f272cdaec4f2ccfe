"""Names that several places must agree on."""

DEFAULT_BACKEND = "synthsam"
"""The promptable model of ``--sam`` that ships in the package."""
