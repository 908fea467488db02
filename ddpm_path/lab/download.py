"""Files from the network: verified on what they hold, and there whole or not at all."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ddpm_path.lab.files import replacing

TIMEOUT = 30  # seconds that a mirror may be silent


def download(path: Path, mirrors: Sequence[str], check: Callable[[Path], object]) -> None:
    """Fetch `path` from the first of `mirrors` (addresses) that has it as it should be, with a progress bar.

    `check(file)` raises ValueError for content that is damaged; that copy is deleted and the next mirror asked. Each
    mirror is asked twice before FileNotFoundError says what every one of them answered, and where to put the file.
    """
    import pooch  # takes a quarter of a second, and is seldom needed

    fetch = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT)
    answers = []
    for mirror in [*mirrors, *mirrors]:
        try:
            with replacing(path) as part:
                fetch(mirror, str(part), None)
                check(part)
            return
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            answers.append(f"{mirror}: {_short(error)}")
    raise FileNotFoundError(
        f"no {path.name} in {path.parent}, and no mirror has it now:\n  " + "\n  ".join(answers) + "\nPut the file "
        "there by hand, or set DDPM_PATH_DATA to a folder that holds it. The digits need no file: datasets.digits()"
    )


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
