"""A folder of one's own images as a data set."""

from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor

from ddpm_path.lab.datasets import Images, to_model_range

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
TEST_EVERY = 10


def folder(path: Path | str, size: int) -> Images:
    """The PNG, JPEG and WebP images under a folder, cut to their central square and resampled to size x size.

    Subfolders are classes, if there are two or more; images that lie in the folder itself then are an error. Grey if
    all images are, else RGB; what is transparent becomes white; a camera's orientation is heeded. Within each class
    every tenth image by name is for testing, the first of them the last of the first ten. ValueError names the images
    that cannot be read, or are smaller than `size`; FileNotFoundError for a folder without images.
    """
    root = Path(path).expanduser()
    if size < 1:
        raise ValueError(f"size {size}: images have at least 1 pixel a side")
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder of images")
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if len(files) < 2:
        found = Counter(file.suffix or "no suffix" for file in root.rglob("*") if file.is_file())
        what = ", ".join(f"{n} x {suffix}" for suffix, n in found.most_common(5)) or "nothing"
        raise FileNotFoundError(
            f"{root} holds {len(files)} images ({', '.join(SUFFIXES)}); at least 2 are needed. Found: {what}"
        )
    classes, labels = _classes(root, files)
    pixels = _stack(files, size)
    test = torch.zeros(len(files), dtype=torch.bool)
    for k in torch.unique(labels):
        of_k = (labels == k).nonzero().flatten()
        test[of_k[TEST_EVERY - 1 :: TEST_EVERY]] = True
    if not bool(test.any()):  # the last of the largest class: others may have a single image
        test[(labels == labels.bincount().argmax()).nonzero()[-1]] = True
    order = torch.randperm(int((~test).sum()), generator=torch.Generator().manual_seed(0))
    images = to_model_range(pixels)
    return Images(root.resolve().name, images[~test][order], labels[~test][order], images[test], labels[test], classes)


def _classes(root: Path, files: list[Path]) -> tuple[tuple[str, ...], Tensor]:
    """The names of subfolders, if they are classes, and each file's label."""
    first = [file.relative_to(root).parts[0] for file in files]
    inside = [file.parent != root for file in files]
    names = sorted({name for name, is_inside in zip(first, inside, strict=True) if is_inside})
    if len(names) < 2:
        return (), torch.zeros(len(files), dtype=torch.int64)
    if not all(inside):
        loose = files[inside.index(False)]
        raise ValueError(
            f"{root} has {len(names)} subfolders, which are classes, but {loose.name} lies beside them: move it"
        )
    return tuple(names), torch.tensor([names.index(name) for name in first])


def _stack(files: list[Path], size: int) -> Tensor:
    """All images as uint8 (N, C, size, size)."""
    images, bad, small = [], [], []
    for file in files:
        try:
            with PIL.Image.open(file) as image:
                square = _square(PIL.ImageOps.exif_transpose(image), size)
        except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
            bad.append(f"{file} ({' '.join(str(error).split())})")
        else:
            images.append(square)
            if square is None:
                small.append(file)
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(files)} images cannot be read; mend or remove them: " + "; ".join(bad[:5])
        )
    if small:
        raise ValueError(
            f"{len(small)} of {len(files)} images are smaller than {size} pixels on a side, {small[0]} first: choose a "
            "smaller size or leave them out, since enlarging would teach blur"
        )
    arrays = [np.asarray(image) for image in images if image is not None]
    if any(array.ndim == 3 for array in arrays):
        arrays = [array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2) for array in arrays]
    else:
        arrays = [array[..., None] for array in arrays]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def _square(image: PIL.Image.Image, size: int) -> PIL.Image.Image | None:
    """The central square, resampled and in mode L or RGB; None if it has fewer than size x size pixels."""
    side = min(image.size)
    if side < size:
        return None
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
        grey = image.mode in ("LA", "La")
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image).convert(
            "L" if grey else "RGB"
        )
    elif image.mode in ("1", "L"):
        image = image.convert("L")
    elif image.mode.startswith("I"):  # 16 bits a pixel, which convert("L") would clip
        values = np.asarray(image, dtype=np.float64)
        image = PIL.Image.fromarray(np.round(values / 257).clip(0, 255).astype(np.uint8))
    else:
        image = image.convert("RGB")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), PIL.Image.Resampling.LANCZOS, box=box)
