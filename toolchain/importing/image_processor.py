"""What a Hugging Face image processor does to pixels, as plain figures, so that a graph can do the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeops.engines.refusals import one_line
from toolchain.importing import offline
from toolchain.importing.huggingface import PREPROCESSOR_FILE, refused

# Those of transformers that resize, crop, rescale and normalize in this order, and do nothing else.
KNOWN = frozenset(
    {
        "ViTImageProcessor",
        "DeiTImageProcessor",
        "BitImageProcessor",
        "CLIPImageProcessor",
        "MobileNetV1ImageProcessor",
        "MobileNetV2ImageProcessor",
        "PvtImageProcessor",
        "ConvNextImageProcessor",
    }
)
# That of ConvNeXT, ResNet and RegNet: it cuts a middle square out, but for images of this edge or more.
_SQUARING = "ConvNextImageProcessor"
_WARPED_EDGE = 384
# PIL.Image.Resampling: https://pillow.readthedocs.io/en/stable/handbook/concepts.html#filters.
_FILTERS = {2: "linear", 3: "cubic"}
_STEPS = frozenset({"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"})


_Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Preprocessing:
    """From pixels of shape (3, height, width), 0 to 255, to the model's input: resized to `resize` (height,
    width) by the filter `resample`, cut to the middle `crop`, times `scale`, minus `mean`, over `std` of each
    channel. None: not done."""

    resize: _Size | None
    resample: str
    crop: _Size | None
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_processor(folder: Path) -> Any:
    """The folder's processor that works by Pillow. Raises `ArtifactError` for one that is not `KNOWN`."""
    offline.hush()
    import transformers

    try:
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_fast=False
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise refused(PREPROCESSOR_FILE, f"cannot be loaded by transformers ({one_line(error)})") from error
    name = type(processor).__name__
    if name not in KNOWN:
        raise refused(
            PREPROCESSOR_FILE,
            f"asks for {name}, which cannot be put into the graph",
            f"Use one of {', '.join(sorted(KNOWN))}.",
        )
    return processor


def preprocessing(processor: Any, shape: Sequence[int]) -> Preprocessing:
    """The figures of a `KNOWN` processor for pixels of `shape` (channels, height, width).

    Raises `ArtifactError` for what it does beyond them.
    """
    for key, value in vars(processor).items():
        if key.startswith("do_") and value and key not in _STEPS:
            raise refused(PREPROCESSOR_FILE, f"asks for {key}, which cannot be put into the graph")
    if len(shape) != 3 or shape[0] != 3:
        raise refused(
            PREPROCESSOR_FILE, f"is for RGB images, and the recipe's input has the shape {list(shape)}"
        )
    channels, height, width = shape
    resize, crop = _geometry(processor, height, width)
    if resize is not None and processor.resample not in _FILTERS:
        raise refused(
            PREPROCESSOR_FILE, f"resamples by filter {processor.resample}, not by bilinear or bicubic"
        )
    before = resize or (height, width)
    if crop is not None and (crop[0] > before[0] or crop[1] > before[1]):
        raise refused(PREPROCESSOR_FILE, f"crops to {crop}, which is larger than the image, {before}")
    normalize = processor.do_normalize
    return Preprocessing(
        resize=None if resize == (height, width) else resize,
        resample=_FILTERS.get(processor.resample, "linear"),
        crop=crop,
        scale=float(processor.rescale_factor) if processor.do_rescale else 1.0,
        mean=_channels(processor.image_mean, channels) if normalize else (0.0,) * channels,
        std=_channels(processor.image_std, channels) if normalize else (1.0,) * channels,
    )


def _geometry(processor: Any, height: int, width: int) -> tuple[_Size | None, _Size | None]:
    """The size that it resizes to, and the one that it then cuts to."""
    if type(processor).__name__ == _SQUARING:
        return _squared(processor, height, width) if processor.do_resize else (None, None)
    resize = _resized(processor.size, height, width) if processor.do_resize else None
    if not getattr(processor, "do_center_crop", False):
        return resize, None
    return resize, (int(processor.crop_size["height"]), int(processor.crop_size["width"]))


def _squared(processor: Any, height: int, width: int) -> tuple[_Size, _Size | None]:
    edge = dict(processor.size).get("shortest_edge")
    if edge is None:
        raise refused(PREPROCESSOR_FILE, f"has a size of {sorted(processor.size)}, not shortest_edge")
    if edge >= _WARPED_EDGE:
        return (edge, edge), None
    return _resized({"shortest_edge": int(edge / processor.crop_pct)}, height, width), (edge, edge)


def _resized(size: Any, height: int, width: int) -> _Size:
    keys = {key for key, value in dict(size).items() if value is not None}
    if keys == {"height", "width"}:
        return int(size["height"]), int(size["width"])
    if keys == {"shortest_edge"}:
        # As transformers.image_transforms.get_resize_output_image_size rounds.
        short, long = min(height, width), max(height, width)
        new_short = int(size["shortest_edge"])
        new_long = int(new_short * long / short)
        return (new_long, new_short) if width <= height else (new_short, new_long)
    raise refused(PREPROCESSOR_FILE, f"has a size of {sorted(keys)}, not height and width, or shortest_edge")


def _channels(value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    return (
        (float(value),) * channels if isinstance(value, int | float) else tuple(float(one) for one in value)
    )
