"""Frames in and out of files: the only module that knows file formats.

Whatever the source, frames are read as uint8 ``(T, H, W, 3)``, in blocks of a few megabytes, so that a long video is never
whole in memory.
"""

import errno
import glob
import itertools
import os
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageSequence

from sb3_bcvlr.common.files import written_beside

VIDEO_ENDINGS = (".mp4", ".m4v", ".mkv", ".webm", ".avi", ".mov", ".gif")
ARRAY_ENDINGS = (".npy", ".npz")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp")
WRITABLE_ENDINGS = (".mp4", ".mkv", ".mov")
ACCEPTED = f"files ending in {' '.join(VIDEO_ENDINGS + ARRAY_ENDINGS)}, or folders of {' '.join(IMAGE_ENDINGS)} images"
BLOCK_BYTES = 8 * 2**20
GIF_TICK = 10.0  # ms
LONGEST_PAUSE = 5  # frames that may be missing in a row before it is told

PathLike = str | os.PathLike[str]


def natural_key(path: PathLike) -> list[str | int]:
    """Sort key that puts ``frame_2`` before ``frame_10``."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def find_videos(location: PathLike) -> list[Path]:
    """
    Video files and image folders under a file, a folder or a glob, in natural order.

    Hidden files and files of other kinds are passed over, folders are searched with their sub-folders.

    :param location: path or glob pattern
    :return: one path per video; a folder stands for the images in it
    :raises ValueError: if nothing there can be read
    """
    if not os.fspath(location):
        raise ValueError(f"The videos are '', an empty path; expected a folder, a glob, or {ACCEPTED}.")
    path = Path(location).expanduser()
    if path.is_file() and path.suffix.lower() not in VIDEO_ENDINGS + ARRAY_ENDINGS:
        raise ValueError(f"{path} has an unknown ending; accepted are {ACCEPTED}.")
    matches = [str(path)] if path.exists() else sorted(glob.glob(str(path), recursive=True), key=natural_key)
    if not matches:
        raise ValueError(f"{path} does not exist and matches nothing as a glob; accepted are {ACCEPTED}.")
    # `**` matches a folder and also what lies in it: each video counts once
    found = list(dict.fromkeys(video for match in matches for video in _expand(Path(match))))
    if not found:
        raise ValueError(f"{path} holds no video; accepted are {ACCEPTED}.")
    return found


def _expand(path: Path, above: frozenset[Path] = frozenset()) -> list[Path]:
    if path.suffix.lower() in VIDEO_ENDINGS + ARRAY_ENDINGS:
        return [path]
    if path.suffix.lower() in IMAGE_ENDINGS or not path.is_dir() or path.resolve() in above:  # a link leads back up
        return []
    videos = [video for entry in _visible(path) for video in _expand(entry, above | {path.resolve()})]
    if not image_files(path):
        return videos
    if videos:
        raise ValueError(
            f"{path} holds images beside videos ({videos[0].name}); keep them apart: a folder of images is one episode."
        )
    return [path]


def _visible(folder: Path) -> list[Path]:
    return sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=natural_key)


def image_files(folder: Path) -> list[Path]:
    """The images that lie directly in ``folder``, in natural order."""
    return [entry for entry in _visible(folder) if entry.suffix.lower() in IMAGE_ENDINGS]


def to_rgb(frames: np.ndarray) -> np.ndarray:
    """
    Frames with three channels: grey is repeated, alpha dropped.

    :param frames: uint8 ``(T, H, W, C)`` with C from 1 (grey) to 4 (RGB and alpha)
    :return: uint8 ``(T, H, W, 3)``, a view where possible
    :raises ValueError: if dtype or shape differ from this. Channel-first frames are never guessed at.
    """
    _check(frames.shape, frames.dtype)
    return frames[..., :3] if frames.shape[-1] >= 3 else frames[..., :1].repeat(3, axis=-1)


def _check(shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype != np.uint8:
        raise ValueError(f"frames are {dtype}, expected uint8 from 0 to 255")
    if len(shape) != 4 or not 1 <= shape[-1] <= 4 or 0 in shape[1:]:
        cures = {
            4: "; if channels come first, pass `frames.transpose(0, 2, 3, 1)`",
            5: "; if these are several episodes, pass `list(frames)`",
        }
        raise ValueError(f"frames have shape {shape}, expected (T, H, W, C) with 1 to 4 channels{cures.get(len(shape), '')}")


def iterate_frames(video: PathLike | np.ndarray, name: str | None = None) -> Iterator[np.ndarray]:
    """
    Read a video piece by piece.

    :param video: a file, a folder of images or an array ``(T, H, W, C)``
    :param name: what errors call it, by default its path
    :return: blocks of uint8 frames ``(n, H, W, 3)``, at least one
    :raises ValueError: with the name and the reason, if it is empty, truncated, broken or changes its size
    """
    shape = None
    with _errors_named(name or str(video)):
        for block in map(to_rgb, _read_blocks(video)):
            if shape not in (None, block.shape[1:]):
                raise ValueError(f"its frames change from {shape} to {block.shape[1:]} on the way")
            shape = block.shape[1:]
            yield block
        if shape is None:
            raise ValueError("it holds no frames")


def read_video(path: PathLike) -> np.ndarray:
    """
    Read a whole video: a file, or a folder of images.

    :return: uint8 frames ``(T, H, W, 3)``
    :raises ValueError: see :func:`iterate_frames`
    """
    return np.concatenate(list(iterate_frames(path)))


def read_dones(path: PathLike) -> np.ndarray | None:
    """
    Where the episodes of a LAPO chunk end; nothing but ``done`` is read, in particular no action.

    :return: bool ``(T,)``, True at the last frame of an episode; None where the file is no ``.npz`` and so holds one episode
    :raises ValueError: if the chunk is broken or holds no ``obs`` and ``done``
    """
    if Path(path).suffix.lower() != ".npz":
        return None
    with _errors_named(str(path)), np.load(path) as arrays:
        if not {"obs", "done"} <= set(arrays.files):
            raise ValueError(f"it holds {arrays.files}, expected `obs` and `done`")
        return np.asarray(arrays["done"], dtype=bool).reshape(-1)


@contextmanager
def _errors_named(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # codecs raise nearly anything on a broken file
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise  # no fault of the video, which another run may well read
        reason = str(error).rstrip(".") or type(error).__name__
        raise ValueError(f"Cannot read {name}: {reason}.") from error


def _read_blocks(video: PathLike | np.ndarray) -> Iterator[np.ndarray]:
    if isinstance(video, np.ndarray):
        _check(video.shape, video.dtype)
        size = max(1, BLOCK_BYTES // int(np.prod(video.shape[1:])))
        return (video[start : start + size] for start in range(0, len(video), size))
    path = Path(video)
    if path.is_dir():
        return _in_blocks(_read_images(path))
    if path.suffix.lower() == ".npy":
        return _read_array(path.open("rb"))
    if path.suffix.lower() == ".npz":
        return _read_array(zipfile.ZipFile(path).open("obs.npy"))
    return _in_blocks(_read_gif(path) if path.suffix.lower() == ".gif" else _decode(path))


def _in_blocks(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    block: list[np.ndarray] = []
    for frame in frames:
        if block and (len(block) * frame.nbytes >= BLOCK_BYTES or frame.shape != block[0].shape):
            yield np.stack(block)
            block = []
        block.append(frame)
    if block:
        yield np.stack(block)


def _read_images(folder: Path) -> Iterator[np.ndarray]:
    for file in image_files(folder):
        with _errors_named(file.name):
            image = iio.imread(file, rotate=True)  # as the camera was held
            if image.ndim == 3 and image.shape[-1] == 4 and file.suffix.lower() in (".jpg", ".jpeg"):
                image = iio.imread(file, rotate=True, mode="RGB")  # inks: that format knows no alpha
            yield to_rgb((image if image.ndim != 2 else image[..., None])[None])[0]


def _read_array(file: IO[bytes]) -> Iterator[np.ndarray]:
    """Stream an array in numpy's own format: `np.load` would hold a whole chunk, a memory map stays resident."""
    with file:
        versions = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran_order, dtype = versions[np.lib.format.read_magic(file)](file)
        _check(shape, dtype)
        if fortran_order:
            raise ValueError("its array is in Fortran order; save `np.ascontiguousarray(frames)`")
        n_frames, frame_bytes = shape[0], int(np.prod(shape[1:]))
        size = max(1, BLOCK_BYTES // frame_bytes)
        for start in range(0, n_frames, size):
            wanted = min(size, n_frames - start) * frame_bytes
            data = file.read(wanted)
            if len(data) < wanted:
                raise ValueError(f"truncated: {start + len(data) // frame_bytes} of {n_frames} frames are there")
            yield np.frombuffer(data, np.uint8).reshape(-1, *shape[1:])


def _read_gif(path: Path) -> Iterator[np.ndarray]:
    """
    By Pillow: FFmpeg loses pictures of which the file does not say how long they last.

    Writers join pictures that repeat into one that lasts longer: it is given as often as it was filmed.
    """
    with Image.open(path) as gif:
        durations = [picture.info.get("duration", 0.0) for picture in ImageSequence.Iterator(gif)]
        for picture, n_times in zip(ImageSequence.Iterator(gif), _repeats(np.array(durations)), strict=True):
            yield from itertools.repeat(np.asarray(picture.convert("RGB")), n_times)
    if not path.read_bytes().rstrip(b"\0").endswith(b";"):  # no header to compare with, but a last byte of its own
        raise ValueError("truncated: its end is missing")


def _repeats(durations: np.ndarray) -> np.ndarray:
    """
    How many frames each picture of a GIF stands for.

    :param durations: ms; whole hundredths of a second, so that those of 30 frames a second are 30 and 40. 0: not told
    """
    told = durations[durations > 0]
    usual = told[told <= told.min() + GIF_TICK].mean() if len(told) else 1.0
    return np.maximum(1, np.rint(durations / usual)).astype(np.int64)


def _decode(path: Path) -> Iterator[np.ndarray]:
    """
    Decode a video, and notice where less comes out than the header promises, or nothing for some time.

    Damage is noticed where the decoder notices it: H.264 has no checksums, and reads some of a few hundred bytes as a picture.
    """
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("it holds no video stream (audio only?)")
        stream, seconds, shown, pause = container.streams.video[0], 0.0, None, (0.0, 0.0)
        usual = 1 / float(stream.average_rate or 10)
        for packet in container.demux(stream):
            timestamp = packet.dts if packet.pts is None else packet.pts
            if timestamp is not None:
                seconds = max(seconds, float((timestamp + (packet.duration or 0)) * packet.time_base))
            for frame in packet.decode():
                if packet.is_corrupt or frame.is_corrupt:
                    raise ValueError(f"truncated or damaged: a frame is broken after {seconds:.2f} s")
                if shown is not None and frame.time is not None:
                    pause = max(pause, (frame.time - shown, shown))
                shown = frame.time
                yield np.rot90(_to_array(frame), round(getattr(frame, "rotation", 0) / 90))  # as the camera was held
        # A header's count of frames is wrong in .avi and in trimmed .mp4, absent from .mkv and .webm: its duration is not.
        expected = _header_seconds(stream)
    if seconds < expected - 1.5 * usual:
        raise ValueError(f"truncated: it ends after {seconds:.2f} s of {expected:.2f} s")
    if pause[0] > LONGEST_PAUSE * usual:
        warnings.warn(
            f"{path} shows nothing new for {pause[0]:.2f} s after {pause[1]:.2f} s: frames are missing, or its rate changes. "
            "One frame should be one step of the agent.",
            stacklevel=2,
        )


def _to_array(frame: av.VideoFrame) -> np.ndarray:
    try:
        return frame.to_ndarray(format="rgb24", threads=1)  # a thread pool per small frame is 2-4 times slower
    except TypeError:  # PyAV before 17 knows no `threads` and uses one
        return frame.to_ndarray(format="rgb24")


def _header_seconds(stream: av.VideoStream) -> float:
    """Duration that the file claims for the stream, 0 where it claims none."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    hours, minutes, seconds = (stream.metadata.get("DURATION") or "0:0:0").split(":")  # .mkv, .webm: "00:00:02.667"
    return 3600 * float(hours) + 60 * float(minutes) + float(seconds)


def write_video(path: PathLike, frames: np.ndarray, fps: float = 15, lossless: bool = True, scale: int = 1) -> None:
    """
    Write frames as H.264, beside the target first and then renamed, so that no half video is ever seen.

    :param path: .mp4, .mkv or .mov; its folder is made where there is none
    :param frames: uint8 ``(T, H, W, C)``
    :param fps: frames per second
    :param lossless: True keeps each pixel (RGB, for training); False gives small files that every player shows (for people)
    :param scale: whole factor by which pictures grow, pixels repeated, so that tiny ones can be watched
    :raises ValueError: if frames or path cannot be a video
    """
    path, frames = Path(path), to_rgb(np.asarray(frames))
    if path.suffix.lower() not in WRITABLE_ENDINGS:
        raise ValueError(f"Cannot write {path}: choose one of the endings {' '.join(WRITABLE_ENDINGS)}.")
    if not len(frames) or not fps > 0 or scale < 1 or scale != int(scale):
        raise ValueError(
            f"Cannot write {path}: {len(frames)} frames, fps={fps} and scale={scale}, expected all positive, scale whole."
        )
    height, width = scale * frames.shape[1], scale * frames.shape[2]
    pad = (0, 0) if lossless else (height % 2, width % 2)  # yuv420p halves both sides
    with written_beside(path) as temporary, av.open(str(temporary), "w") as container:
        codec, options = ("libx264rgb", {"qp": "0"}) if lossless else ("libx264", {"crf": "18"})
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000), options=options)
        assert isinstance(stream, av.VideoStream), stream
        stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        stream.height, stream.width = height + pad[0], width + pad[1]
        for frame in frames:
            picture = np.pad(frame.repeat(scale, 0).repeat(scale, 1), [(0, pad[0]), (0, pad[1]), (0, 0)], mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
