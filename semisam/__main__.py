"""``python -m semisam``."""

from semisam.cli.main import run

if __name__ == "__main__":
    run()
