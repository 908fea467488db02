"""Every mistake of the museum is caught by the test that it names: it fails with the mistake planted, and only then."""

import json
import subprocess
import sys

import planted
import pytest
from mistakes import MUSEUM, Mistake
from planted import Outcome

CODE = """
import json, sys
import planted
from mistakes import MUSEUM
planted.preload("einops", "diffusers.schedulers", "diffusers.models.embeddings")
found = {m.name: planted.run([f"tests/{m.test}"], {m.module: m.planted(planted.file_of(m.module).read_text())})
         for m in MUSEUM}
print(json.dumps([planted.run(sorted({f"tests/{m.test}" for m in MUSEUM}), {}), found]))
"""


@pytest.fixture(scope="module")
def outcomes() -> tuple[list[Outcome], dict[str, list[Outcome]]]:
    """Of all the museum's tests as the package stands, and of each with its mistake planted, in one process."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=planted.ROOT / "tests")
    assert done.returncode == 0, done.stderr
    as_it_stands, with_mistakes = json.loads(done.stdout)
    read = lambda found: [Outcome(*outcome) for outcome in found or []]  # noqa: E731
    return read(as_it_stands), {name: read(found) for name, found in with_mistakes.items()}


every = pytest.mark.parametrize("mistake", MUSEUM, ids=lambda mistake: mistake.name)


@every
def test_the_exhibit_is_up_to_date_and_tells_its_story(mistake: Mistake) -> None:
    text = planted.file_of(mistake.module).read_text()
    assert mistake.planted(text) != text and mistake.met and mistake.seen
    file, _, name = mistake.test.partition("::")
    assert f"def {name}(" in (planted.ROOT / "tests" / file).read_text()


def test_no_two_exhibits_are_alike() -> None:
    assert len({m.name for m in MUSEUM}) == len({(m.module, m.right, m.wrong) for m in MUSEUM}) == len(MUSEUM) >= 30


@every
def test_the_named_test_catches_it(mistake: Mistake, outcomes: tuple[list[Outcome], dict[str, list[Outcome]]]) -> None:
    as_it_stands, with_mistakes = outcomes
    name = f"tests/{mistake.test}"
    whole = [o for o in as_it_stands if o.test.split("[")[0] == name]
    assert whole and all(o.passed for o in as_it_stands)
    first = next((o for o in with_mistakes[mistake.name] if not o.passed), None)
    assert first, "the test does not see the mistake"
    # pytest's Failed: an error that should have been raised was not.
    assert first.test.split("[")[0] == name and first.error in ("AssertionError", "Failed")
