"""Published data sets: read as their formats say, verified on content, downloaded from mirrors that misbehave."""

import gzip
import hashlib
import http.server
import io
import struct
import tarfile
import threading

import numpy as np
import PIL.Image
import pytest
import torch
from helpers import close

from ddpm_path.lab import datasets, download

NAMES = list(datasets.MNIST.digests)
SHAPES = dict(zip(NAMES, [(7, 4, 6), (7,), (3, 4, 6), (3,)], strict=True))


def idx(array):
    return struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def arrays(monkeypatch, tmp_path):
    """Four small arrays, whose digests are taken for MNIST's; the cache is empty and no mirror is known."""
    numbers = np.random.default_rng(0)
    made = {n: numbers.integers(0, 256 if len(shape) == 3 else 10, shape, np.uint8) for n, shape in SHAPES.items()}
    digests = {name: hashlib.md5(idx(array)).hexdigest() for name, array in made.items()}
    monkeypatch.setattr(datasets, "MNIST", datasets.Source("mnist", (), digests))
    monkeypatch.setenv("DDPM_PATH_DATA", str(tmp_path))
    return made


@pytest.fixture
def tiny_mnist(arrays, tmp_path):
    """The arrays as files in MNIST's format; half of them gzipped."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, array in arrays.items():
        if name.startswith("train"):
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return folder


def check_tiny_mnist(arrays):
    data = datasets.mnist()
    for images, labels, half in ((data.train, data.train_labels, NAMES[:2]), (data.test, data.test_labels, NAMES[2:])):
        close(images[:, 0], arrays[half[0]] / 127.5 - 1, atol=1e-6, rtol=0)
        assert labels.dtype == torch.int64 and labels.tolist() == arrays[half[1]].tolist()
    assert data.train.shape == (7, 1, 4, 6) and data.test.shape == (3, 1, 4, 6)


def test_mnist_reads_the_idx_format(tiny_mnist, arrays):
    check_tiny_mnist(arrays)


def test_missing_without_a_mirror_says_where_to_put_it(arrays):
    with pytest.raises(FileNotFoundError, match=r"(?s)train-images-idx3-ubyte\.gz in .*mnist.*Put the file there"):
        datasets.mnist()


@pytest.mark.parametrize("name", [NAMES[0], NAMES[2]])
def test_damaged_is_refused_by_name(tiny_mnist, arrays, name):
    array = arrays[name].copy()
    array[0, 0, 0] ^= 1
    if (tiny_mnist / name).exists():
        (tiny_mnist / name).write_bytes(idx(array))
    else:
        (tiny_mnist / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    with pytest.raises(ValueError, match=f"{name} is not mnist's.*delete"):
        datasets.mnist()


@pytest.mark.parametrize("keep", [0, 3, 40])
def test_a_truncated_archive_in_the_cache_is_refused(tiny_mnist, keep):
    path = tiny_mnist / f"{NAMES[0]}.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"train-images.*delete"):
        datasets.mnist()


# --- mirrors


class Mirror:
    """A server on this machine that answers each path with the next of its planned replies, the last one for ever."""

    def __init__(self):
        self.replies, self.asked = {}, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.path)
                planned = outer.replies.get(self.path, [b""])
                reply = planned.pop(0) if len(planned) > 1 else planned[0]
                if reply == b"":
                    self.send_error(404)
                    return
                body, promised = reply if isinstance(reply, tuple) else (reply, len(reply))
                self.send_response(200)
                self.send_header("Content-Length", str(promised))
                self.end_headers()
                self.wfile.write(body)  # fewer bytes than promised: the connection breaks

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}/"


@pytest.fixture
def mirrors():
    made = [Mirror(), Mirror()]
    yield made
    for mirror in made:
        mirror.server.shutdown()
        mirror.server.server_close()


@pytest.fixture
def sound(mirrors, arrays, monkeypatch):
    """Both mirrors have all files as they should be; what each replies to, to be spoilt by a test."""
    files = {f"/{name}.gz": gzip.compress(idx(array)) for name, array in arrays.items()}
    for mirror in mirrors:
        mirror.replies = {path: [content] for path, content in files.items()}
    monkeypatch.setattr(datasets, "MNIST", datasets.MNIST._replace(mirrors=tuple(mirror.address for mirror in mirrors)))
    return files


FIRST = f"/{NAMES[0]}.gz"
OTHER = gzip.compress(b"another file")


def damage(files, kind):
    whole = files[FIRST]
    return {
        "missing": b"",
        "another file": OTHER,
        "a page": b"<html>please log in</html>",
        "cut short": (whole[:-5], len(whole)),
        "cut short, and that is its length": whole[:-5],
        "a bit flipped": whole[:30] + bytes([whole[30] ^ 1]) + whole[31:],
    }[kind]


KINDS = ["missing", "another file", "a page", "cut short", "cut short, and that is its length", "a bit flipped"]


def test_a_download_is_kept_and_not_asked_for_again(sound, mirrors, arrays, tmp_path):
    check_tiny_mnist(arrays)
    check_tiny_mnist(arrays)
    assert sorted(mirrors[0].asked) == sorted(sound) and not mirrors[1].asked
    assert sorted(path.name for path in (tmp_path / "mnist").iterdir()) == sorted(path[1:] for path in sound)


@pytest.mark.parametrize("kind", KINDS)
def test_what_one_mirror_spoils_the_other_delivers(sound, mirrors, arrays, kind):
    mirrors[0].replies[FIRST] = [damage(sound, kind)]
    check_tiny_mnist(arrays)
    assert mirrors[0].asked.count(FIRST) == mirrors[1].asked.count(FIRST) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_passing_fault_is_mended_by_asking_once_more(sound, mirrors, arrays, kind):
    for mirror in mirrors:
        mirror.replies[FIRST].insert(0, damage(sound, kind))
    check_tiny_mnist(arrays)
    assert mirrors[0].asked.count(FIRST) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_lasting_fault_is_an_error_that_leaves_nothing(sound, mirrors, kind, tmp_path):
    for mirror in mirrors:
        mirror.replies[FIRST] = [damage(sound, kind)]
    with pytest.raises(FileNotFoundError) as error:
        datasets.mnist()
    for mirror in mirrors:
        assert str(error.value).count(mirror.address) >= 2 and mirror.asked.count(FIRST) == 2
    assert not list((tmp_path / "mnist").iterdir())


def test_no_network_is_said_for_every_mirror(arrays, monkeypatch):
    nobody = ("http://127.0.0.1:9/", "http://127.0.0.1:10/")  # ports where nobody listens
    monkeypatch.setattr(datasets, "MNIST", datasets.MNIST._replace(mirrors=nobody))
    with pytest.raises(FileNotFoundError, match=r"(?s)no mirror has it now.*127\.0\.0\.1:9/.*127\.0\.0\.1:10/"):
        datasets.mnist()


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, mirrors):
    mirrors[0].replies["/file"] = [b"content"]

    def full(path):
        raise OSError(28, "No space left on device")

    with pytest.raises(FileNotFoundError, match="No space left"):
        download.download(tmp_path / "file", [mirrors[0].address + "file"], full)
    assert not list(tmp_path.iterdir())


# --- CIFAR-10 in its two forms


def cifar_batches():
    """Six small batches in the binary version's form, and what they hold."""
    numbers, batches = np.random.default_rng(1), {}
    for name in datasets.CIFAR10.digests:
        labels, pixels = numbers.integers(0, 10, (4, 1), np.uint8), numbers.integers(0, 256, (4, 3072), np.uint8)
        batches[name] = (labels, pixels)
    return batches


@pytest.fixture
def tiny_cifar(tmp_path, monkeypatch):
    batches = cifar_batches()
    contents = {name: np.concatenate(both, axis=1).tobytes() for name, both in batches.items()}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(datasets, "CIFAR10", datasets.Source("cifar10", (), digests))
    monkeypatch.setenv("DDPM_PATH_DATA", str(tmp_path))
    (tmp_path / "cifar10").mkdir()
    archive = tmp_path / "cifar10" / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return archive, batches


def test_cifar10_reads_the_binary_version(tiny_cifar):
    _, batches = tiny_cifar
    data = datasets.cifar10()
    labels = np.concatenate([labels for labels, _ in batches.values()])[:, 0]
    pixels = np.concatenate([pixels for _, pixels in batches.values()]).reshape(-1, 3, 32, 32)
    assert data.name == "cifar10" and data.train.shape == (20, 3, 32, 32) and data.test.shape == (4, 3, 32, 32)
    close(data.test, pixels[20:] / 127.5 - 1, atol=1e-6, rtol=0)
    assert data.test_labels.tolist() == labels[20:].tolist()
    # Shuffled, images and labels alike: each image still has its label.
    true = {pixels[i].tobytes(): labels[i] for i in range(20)}
    assert [true[image.numpy().tobytes()] for image in datasets.to_display(data.train)] == data.train_labels.tolist()
    assert data.train_labels.tolist() != labels[:20].tolist()


def test_cifar10_damaged_is_refused(tiny_cifar):
    archive, _ = tiny_cifar
    whole = archive.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"<html>", gzip.compress(b"no tar")):
        archive.write_bytes(content)
        with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz.*delete it"):
            datasets.cifar10()
    with tarfile.open(archive, "w:gz") as file:
        info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        file.addfile(info, io.BytesIO(b""))
    with pytest.raises(ValueError, match=r"data_batch_1\.bin is not CIFAR-10's"):
        datasets.cifar10()


def test_cifar10_as_jpegs_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_PATH_DATA", str(tmp_path))
    (tmp_path / "cifar10").mkdir()
    colours = {"train": [(250, 0, 0), (0, 250, 0), (0, 0, 250)], "test": [(10, 120, 240)]}
    content = {}
    for split, values in colours.items():
        files = []
        for value in values:
            buffer = io.BytesIO()
            PIL.Image.new("RGB", (32, 32), value).save(buffer, "jpeg", quality=95, subsampling=0)
            files.append(buffer.getvalue())
        content[f"{split}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
        content[f"{split}_offsets"] = np.cumsum([0, *map(len, files)])
        content[f"{split}_labels"] = np.arange(len(files), dtype=np.uint8)
    np.savez(tmp_path / "cifar10" / "cifar10-jpeg.npz", **content)
    data = datasets.cifar10()
    assert data.name == "cifar10-jpeg" and data.classes[3] == "cat"
    for image, label in zip(data.train, data.train_labels, strict=True):
        close(image.mean((1, 2)), np.array(colours["train"][label]) / 127.5 - 1, atol=4 / 127.5, rtol=0)
    close(data.test[0].mean((1, 2)), np.array(colours["test"][0]) / 127.5 - 1, atol=4 / 127.5, rtol=0)
    packed = tmp_path / "cifar10" / "cifar10-jpeg.npz"
    whole = packed.read_bytes()
    for bad in (whole[: len(whole) // 2], b"", b"<html>"):
        packed.write_bytes(bad)
        with pytest.raises(ValueError, match=r"cifar10-jpeg\.npz is damaged"):
            datasets.cifar10()
    np.savez(packed, train_jpeg=content["train_jpeg"])
    with pytest.raises(ValueError, match=r"cifar10-jpeg\.npz is damaged \(KeyError"):
        datasets.cifar10()
