"""Files are written whole or not at all."""

import pytest

from ddpm_path.lab.files import replacing


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    with replacing(path) as part:
        part.write_text("old")
        assert not path.exists()
    with pytest.raises(OSError, match="disk full"), replacing(path) as part:
        part.write_text("ha")
        raise OSError("disk full")
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
    with replacing(path) as part:
        part.write_text("whole")
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]
