"""What a reader waits for: set-up, imports, each notebook of the path; writes waiting.md beside this file.

    python benchmarks/waiting.py

Twenty minutes, and the package index is reached. Leave the machine alone meanwhile.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import machine, table

from ddpm_path.lab import runner

HOME = Path(__file__).parent.parent
PLAIN, OURS = "import torch", "import torch, ddpm_path.samplers, ddpm_path.unet, ddpm_path.losses"
TEXT = """# What a reader waits for

Made by `python benchmarks/waiting.py` on {machine}.

`make path` and `make test` first make an environment in a fresh clone: {path:.0f} and {test:.0f} s here, most of it for
what comes from the package index. `import torch` takes {plain:.2f} s, with the samplers, losses and U-Net of
`ddpm_path` {ours:.2f} s. The notebooks:

{notebooks}
"""


def took(*command: str, folder: Path = HOME) -> float:
    """Seconds of the clock that a command takes."""
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True)
    return time.perf_counter() - began


def setting_up() -> tuple[float, float]:
    """Seconds for the environments of `make path` and of `make test`, from a fresh clone."""
    with tempfile.TemporaryDirectory() as place:
        clone = Path(place) / "clone"
        took("git", "clone", "--quiet", str(HOME), str(clone))
        path = took("make", ".venv/installed", folder=clone)
        return path, path + took("make", ".venv/installed-test", folder=clone)


def importing(code: str) -> float:
    """Seconds that a fresh interpreter takes for it, the best of five."""
    return min(took(sys.executable, "-c", code) for _ in range(5))


def main() -> None:
    """Measure and write the page."""
    path, test = setting_up()
    plain, ours = importing(PLAIN), importing(OURS)
    with tempfile.TemporaryDirectory() as place:
        done = runner.execute(runner.select([], HOME / "notebooks"), Path(place))
    failed = [ran.name for ran in done if ran.failure]
    if failed:
        raise SystemExit(f"{', '.join(failed)} did not run to the end: mend that first")
    rows = [[ran.title, f"{ran.seconds:.0f}"] for ran in done]
    rows.append(["all", f"{sum(ran.seconds for ran in done):.0f}"])
    notebooks = table(["notebook", "seconds"], rows)
    page = TEXT.format(machine=machine(), path=path, test=test, plain=plain, ours=ours, notebooks=notebooks)
    Path(__file__).with_suffix(".md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
