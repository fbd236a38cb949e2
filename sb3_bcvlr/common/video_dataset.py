"""Windows of expert videos. Frames are decoded once into a memory-mapped store; stacks and windows are cut when sampling."""

import contextlib
import copy
import errno
import functools
import hashlib
import json
import mmap
import os
import re
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch as th
from tqdm import tqdm

from sb3_bcvlr.common.checks import check_whole
from sb3_bcvlr.common.devices import Sender, gather_rows, has_room, machine_memory, to_device
from sb3_bcvlr.common.video_io import ACCEPTED, find_videos, image_files, iterate_frames, read_dones

# Last bytes of a store; to be changed with its layout, or with what a frame goes through before it is stored
FORMAT = b"BCVLR_03"
# ITU-R 601, the grey of OpenCV and Pillow; that of Gymnasium's GrayscaleObservation is another (envs.grayscale)
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
HASHED_BYTES = 64 * 2**20  # the first files are known by their content, up to this many bytes: a second start must stay quick
# Pages of the memory map that may stay in this process; to map one anew takes longer than to copy what is on it, so more
# where a GPU would wait for that
RESIDENT_BYTES = 256 * 2**20
RESIDENT_BYTES_FOR_GPU = max(RESIDENT_BYTES, min(machine_memory() / 8, 8 * 2**30))
DAY = 24 * 60 * 60.0

Video = Path | np.ndarray


class VideoSamples(NamedTuple):
    frames: th.Tensor  # (batch_size, n_history + 1, n_stack * C, H, W) uint8, one episode, one step apart: ..., o_t, o_t+1
    indices: th.Tensor  # (batch_size,) int64, which windows they are


class VideoDataset:
    """
    Action-free expert videos as windows of consecutive observations.

    A window ends at any frame but the first of its episode. What lies before an episode's start, in the window's history as
    in a stack, is the first frame repeated, as environments do on reset. The first use decodes the videos into a file of the
    cache folder, later ones map that file. Resident memory does not grow with the videos
    beyond 256 MiB of that file; where batches go to a GPU, 8 GiB or an eighth of the machine's memory, whichever is less.

    :param videos: one or many (list, generator) of: a video file, a folder or glob of them, a folder of images, LAPO's
        ``.npz`` chunks (``obs``, ``done``; actions are never read), ``.npy`` files or arrays ``(T, H, W, C)`` uint8. One file,
        folder of images or array is one episode; numbered chunks of one folder are one stream, cut where ``done`` marks an
        episode's last frame.
    :param image_size: side, or height and width, of the observations: exact area average where pictures shrink (as OpenCV's
        ``INTER_AREA``), bilinear where they grow. None keeps the videos' own size.
    :param grayscale: one channel instead of three
    :param n_history: observations before the last of a window
    :param n_stack: frames per observation, oldest first
    :param frame_skip: keep each ``frame_skip``-th frame of an episode, from its first on
    :param cross_episodes: cut windows without looking at the ends of episodes, as the authors' code does
    :param cache_dir: folder of the decoded frames, by default ``sb3_bcvlr`` in the user's cache
    :param on_error: "raise", or "skip" to warn of videos that cannot be used and count them
    :param seed: of the generator that :meth:`sample` uses
    :raises ValueError: for videos that cannot be used, with their name and the reason, and for wrong arguments
    """

    def __init__(
        self,
        videos: str | os.PathLike[str] | np.ndarray | Iterable[Any],
        image_size: int | tuple[int, int] | None = None,
        grayscale: bool = False,
        n_history: int = 2,
        n_stack: int = 1,
        frame_skip: int = 1,
        cross_episodes: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        on_error: str = "raise",
        seed: int | None = None,
    ):
        check_whole(n_history=n_history, n_stack=n_stack, frame_skip=frame_skip)
        size = None if image_size is None else _height_and_width(image_size)
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error={on_error!r}, expected "raise" or "skip".')
        self.n_history, self.n_stack, self.frame_skip, self.cross_episodes = n_history, n_stack, frame_skip, cross_episodes
        conversion = _Conversion(size, bool(grayscale), int(frame_skip))
        self._store = _open_store(videos, conversion, Path(cache_dir or _default_cache_dir()).expanduser(), on_error)
        for message in self._store.skipped:  # also told by a store that an earlier run has built
            warnings.warn(f"Video skipped: {message}", stacklevel=2)
        self.n_skipped = len(self._store.skipped)
        if self._store.squashed:
            warnings.warn(f"Pictures of another shape are squashed: {self._store.squashed}.", stacklevel=2)
        self._select(0, self._store.episode_lengths)
        n_single = int((self.episode_lengths == 1).sum())
        if n_single and not cross_episodes:
            warnings.warn(f"{n_single} of {self.n_episodes} episodes hold one frame and give no window.", stacklevel=2)
        self.seed(seed)

    def _select(self, first_frame: int, episode_lengths: np.ndarray) -> None:
        """Use the episodes of these lengths that begin at ``first_frame`` of the store."""
        self._first_frame, self.episode_lengths = first_frame, episode_lengths
        lengths = np.array([episode_lengths.sum()]) if self.cross_episodes else episode_lengths
        starts = np.cumsum(lengths) - lengths
        is_end = np.ones(self.n_frames, dtype=bool)
        is_end[starts] = False
        self._window_ends = np.flatnonzero(is_end) + first_frame  # o_t+1 of each window, as a frame of the store
        self._starts = np.repeat(starts, lengths) + first_frame  # of each frame's episode, likewise

    @property
    def n_episodes(self) -> int:
        return len(self.episode_lengths)

    @property
    def n_frames(self) -> int:
        return int(self.episode_lengths.sum())

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        channels, height, width = self._store.frame_shape
        return self.n_stack * channels, height, width

    @property
    def device(self) -> th.device:
        return self._store.device

    def __len__(self) -> int:
        """Number of windows."""
        return len(self._window_ends)

    def __repr__(self) -> str:
        return (
            f"VideoDataset({self.n_episodes} episodes, {self.n_frames} frames, {len(self)} windows, {self.n_skipped} skipped, "
            f"observation_shape={self.observation_shape}, n_history={self.n_history}, n_stack={self.n_stack}, "
            f"frame_skip={self.frame_skip}, cross_episodes={self.cross_episodes}, device={self.device}, "
            f"store={str(self._store.path)!r})"
        )

    def seed(self, seed: int | None) -> None:
        """Start the generator of :meth:`sample` anew."""
        self._rng = np.random.default_rng(seed)

    def to(self, device: str | th.device) -> "VideoDataset":
        """
        Give batches on ``device`` from now on. The frames themselves move to a GPU if they fill at most half of its free
        memory, of what ``torch.cuda.set_per_process_memory_fraction`` allows, once for this dataset, its parts and those
        :meth:`spawn` makes; else each batch is copied from the memory map.
        """
        device = th.device(device)
        if device.type == "cuda" and device.index is None:  # the same GPU by either name
            device = th.device("cuda", th.cuda.current_device())
        self._store = self._store.on(device)
        return self

    def sample_indices(self, batch_size: int) -> np.ndarray:
        """Windows drawn uniformly with replacement: int64 ``(batch_size,)``."""
        return self._rng.integers(len(self), size=batch_size)

    def windows(self, indices: np.ndarray, observations: slice = slice(None)) -> VideoSamples:
        """
        :param indices: int64 ``(batch_size,)``
        :param observations: which of their ``n_history + 1`` observations; no others are read
        :return: those windows, on :attr:`device`
        """
        frames = self.observations_at(self.frame_numbers(indices)[:, observations])
        return VideoSamples(frames, to_device(indices, self.device))

    def observations(self, indices: np.ndarray) -> th.Tensor:
        """Only o_t of those windows, the last but one observation: uint8 ``(batch_size, n_stack * C, H, W)``."""
        return self.observations_at(self.frame_numbers(indices)[:, -2])

    def frame_numbers(self, indices: np.ndarray) -> np.ndarray:
        """
        Which observations those windows hold: where the newest frame of each stands among all frames of the videos, int64
        ``(batch_size, n_history + 1)``. Windows that overlap have numbers in common.
        """
        return self._back_from(self._window_ends[indices], self.n_history)

    def observations_at(self, frame_numbers: np.ndarray) -> th.Tensor:
        """Observations by the numbers of their newest frames: uint8 ``(*frame_numbers.shape, n_stack * C, H, W)``."""
        frames = self._store.gather(self._back_from(frame_numbers, self.n_stack - 1))
        return frames.reshape(*frame_numbers.shape, *self.observation_shape)

    def _back_from(self, frame_numbers: np.ndarray, n_steps: int) -> np.ndarray:
        """Those frames after the ``n_steps`` before each, oldest first: ``(*frame_numbers.shape, n_steps + 1)``."""
        starts = self._starts[frame_numbers - self._first_frame]
        return np.maximum(frame_numbers[..., None] - np.arange(n_steps, -1, -1), starts[..., None])

    def sample(self, batch_size: int) -> VideoSamples:
        """``batch_size`` windows drawn uniformly."""
        return self.windows(self.sample_indices(batch_size))

    def split(self, fraction: float) -> tuple["VideoDataset", "VideoDataset"]:
        """
        Hold out whole episodes, the last ones, without a copy of any frame.

        :param fraction: share of the episodes to hold out, at least one of them
        :return: the episodes to learn from, and those held out; each with a generator of its own
        :raises ValueError: if a part would be without episodes, or all of its episodes hold one frame
        """
        n_held_out = max(1, round(fraction * self.n_episodes)) if 0 < fraction < 1 else 0
        if not 0 < n_held_out < self.n_episodes:
            raise ValueError(f"Cannot hold out a fraction of {fraction} of {self.n_episodes} episodes: both parts need one.")
        parts = self.spawn(2)
        kept, held_out = np.split(self.episode_lengths, [-n_held_out])
        parts[0]._select(self._first_frame, kept)
        parts[1]._select(self._first_frame + int(kept.sum()), held_out)
        if not all(map(len, parts)):
            raise ValueError(f"Cannot hold out a fraction of {fraction}: of one part, every episode would hold one frame.")
        return parts[0], parts[1]

    def spawn(self, n: int) -> list["VideoDataset"]:
        """``n`` datasets of the same windows, without a copy of any frame, each with a generator of its own."""
        datasets = [copy.copy(self) for _ in range(n)]
        for dataset, generator in zip(datasets, self._rng.spawn(n), strict=True):
            dataset._rng = generator
        return datasets


def to_grey(frames: np.ndarray) -> np.ndarray:
    """From ``(..., 3)`` to ``(..., 1)``, both uint8."""
    grey = np.rint(frames.reshape(-1, 3).astype(np.float32) @ LUMA)
    return grey.astype(np.uint8).reshape(*frames.shape[:-1], 1)


class _Conversion(NamedTuple):
    """What happens to frames before they are stored."""

    image_size: tuple[int, int] | None
    grayscale: bool
    frame_skip: int

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """From ``(T, H, W, 3)`` to ``(T, C, H', W')``, both uint8: channels first, so that batches need no transposing."""
        if self.grayscale:
            frames = to_grey(frames)
        if self.image_size in (None, frames.shape[1:3]):
            return np.ascontiguousarray(frames.transpose(0, 3, 1, 2))
        return np.stack([_resize(frame, *self.image_size) for frame in frames])  # one by one: faster than large temporaries


def _resize(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """From ``(H, W, C)`` to ``(C, height, width)``."""
    rows, columns = _resize_weights(frame.shape[0], height), _resize_weights(frame.shape[1], width)
    resized = rows @ th.from_numpy(frame.astype(np.float32)).reshape(frame.shape[0], -1)
    resized = resized.reshape(height, *frame.shape[1:]).permute(2, 0, 1) @ columns.T
    return resized.round_().byte().numpy()


@functools.lru_cache
def _resize_weights(n_in: int, n_out: int) -> th.Tensor:
    """Weights ``(n_out, n_in)`` of the input pixels along one side; each row sums to one."""
    scale, pixels = n_in / n_out, np.arange(n_in)
    if scale > 1:  # the part of each input pixel that an output pixel covers
        lefts = scale * np.arange(n_out)[:, None]
        weights = (np.minimum(lefts + scale, pixels + 1) - np.maximum(lefts, pixels)).clip(0) / scale
    else:
        centres = (scale * (np.arange(n_out) + 0.5) - 0.5).clip(0, n_in - 1)[:, None]
        weights = (1 - abs(centres - pixels)).clip(0)
    return th.from_numpy(weights).float()


class _Store:
    """
    A read-only file: frames uint8 ``(N, C, H, W)``, then json (shape, lengths, what was skipped or squashed), its length in
    8 bytes, ``FORMAT``.

    One file, since renaming one file is atomic: whoever opens it sees all or nothing.

    :raises ValueError: if the file is no whole store
    """

    def __init__(self, path: Path):
        self.path = path
        with path.open("rb") as file:
            file.seek(-min(16, path.stat().st_size), os.SEEK_END)
            tail = file.read(16)
            size = int.from_bytes(tail[:8], "little")
            if tail[8:] != FORMAT or size > path.stat().st_size - 16:
                raise ValueError(f"{path} is no whole store of frames.")
            file.seek(-16 - size, os.SEEK_END)
            about = json.loads(file.read(size))
            self.frame_shape = tuple(about["frame_shape"])
            self.episode_lengths = np.array(about["episode_lengths"], dtype=np.int64)
            self.skipped: list[str] = about["skipped"]
            self.squashed: str | None = about["squashed"]
            shape = (int(self.episode_lengths.sum()), *self.frame_shape)
            n_bytes = int(np.prod(shape))
            if n_bytes + size + 16 != path.stat().st_size:
                raise ValueError(f"{path} is no whole store of frames.")
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*buffer is not writable")  # nor is it written
            self._frames = th.frombuffer(self._memory, dtype=th.uint8, count=n_bytes).view(shape)
        self._resident: th.Tensor | None = None  # the same frames in a GPU's memory
        self._sender: Sender | None = None  # to a GPU
        self._touched_bytes = 0
        self.device = th.device("cpu")
        self._on_devices = WeakValueDictionary({self.device: self})

    def __reduce__(self) -> tuple[type["_Store"], tuple[Path]]:
        return _Store, (self.path,)  # a memory map cannot be copied, nor sent to another process: its file is opened there

    def on(self, device: th.device) -> "_Store":
        """This store with its batches on ``device``: the same one for all who ask while anyone keeps it."""
        store = self._on_devices.get(device)
        if store is None:
            store = object.__new__(_Store)
            store.__dict__.update(self.__dict__, device=device, _resident=None, _sender=None)
            if device.type == "cuda":
                store._move_to_gpu()
            self._on_devices[device] = store
        return store

    def _move_to_gpu(self) -> None:
        """The frames, if there is room for them; else each batch."""
        self._sender = Sender(self.device)
        if has_room(self.device, self._frames):
            resident = th.empty(self._frames.shape, dtype=th.uint8, device=self.device)
            for start in range(0, len(resident), 4096):
                block = np.arange(start, min(start + 4096, len(resident)))
                resident[start : start + 4096] = self.gather(block)
            self._resident = resident

    def gather(self, indices: np.ndarray) -> th.Tensor:
        """Frames ``(*indices.shape, C, H, W)`` on the device."""
        if self._resident is not None:
            return gather_rows(self._resident, indices)
        frames = th.empty((*indices.shape, *self.frame_shape), dtype=th.uint8, pin_memory=self._sender is not None)
        # By several threads, as numpy would not: most of the time goes to pages of the memory map
        th.index_select(self._frames, 0, th.from_numpy(indices.reshape(-1)), out=frames.view(-1, *self.frame_shape))
        self._forget_pages(indices.size)
        return frames.to(self.device) if self._sender is None else self._sender.send(frames)

    def _forget_pages(self, n_frames: int) -> None:
        """Bound the pages that count as this process's memory; the kernel keeps them cached while there is space."""
        self._touched_bytes += n_frames * (self._frames[0].nbytes + 2**16)  # a fault maps up to 64 kB around
        bound = RESIDENT_BYTES if self._sender is None else RESIDENT_BYTES_FOR_GPU
        if self._touched_bytes > bound < self._frames.nbytes and hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED)
            self._touched_bytes = 0


class _StoreWriter:
    """Appends converted videos to a file, and takes back those that fail midway."""

    def __init__(self, file: IO[bytes], conversion: _Conversion, on_error: str):
        self.file, self.conversion, self.on_error = file, conversion, on_error
        self.frame_shape: tuple[int, ...] | None = None
        self.episode_lengths: list[int] = []
        self.skipped: list[str] = []
        self.squashed: str | None = None  # the first video whose sides are in another proportion
        self._unfinished: Video | None = None  # the chunk before, whose last episode may go on in the next
        self._n_read = self._n_stored = 0  # frames of the episode that is being written

    def add(self, video: Video, name: str) -> None:
        if not _goes_on(self._unfinished, video):
            self._end_episode()
        self._unfinished = None
        state = self.file.tell(), self.frame_shape, len(self.episode_lengths), self._n_stored, self.squashed
        try:
            dones = read_dones(video) if isinstance(video, Path) else None
            if dones is None:
                self._add_episode(video, name)
            else:
                self._add_chunk(video, name, dones)
                self._unfinished = video
        except ValueError as error:
            if self.on_error == "raise":
                raise
            self.skipped.append(str(error))
            position, self.frame_shape, n_episodes, self._n_stored, self.squashed = state
            self.file.seek(position)
            self.file.truncate()
            del self.episode_lengths[n_episodes:]

    def _add_episode(self, video: Video, name: str) -> None:
        for frames in iterate_frames(video, name):
            self._write(frames, name)
        if self._n_stored < 2:
            skipped = f" after frame_skip={self.conversion.frame_skip}" if self._n_read > 1 else ""
            raise ValueError(f"{name} holds one frame{skipped}; an episode needs two at least.")
        self._end_episode()

    def _add_chunk(self, chunk: Video, name: str, dones: np.ndarray) -> None:
        position = 0
        for frames in iterate_frames(chunk, name):
            ends = np.flatnonzero(dones[position : position + len(frames)]) + 1
            *finished, unfinished = np.split(frames, ends)
            for part in finished:
                self._write(part, name)
                self._end_episode()
            self._write(unfinished, name)
            position += len(frames)
        if position != len(dones):
            raise ValueError(f"{name} holds {position} frames in `obs` but {len(dones)} flags in `done`.")

    def _write(self, frames: np.ndarray, name: str) -> None:
        kept = frames[-self._n_read % self.conversion.frame_skip :: self.conversion.frame_skip]
        self._n_read += len(frames)
        if not len(kept):
            return
        converted = self.conversion(kept)
        (height, width), (new_height, new_width) = frames.shape[1:3], converted.shape[2:]
        if abs(height * new_width / (width * new_height) - 1) > 0.1 and self.squashed is None:
            self.squashed = f"{name}, {width}x{height} pixels, to {new_width}x{new_height}"
        if self.frame_shape not in (None, converted.shape[1:]):
            raise ValueError(
                f"{name} has frames of shape {converted.shape[1:]}, the videos before it {self.frame_shape}; "
                "set `image_size` to bring them to one size."
            )
        self.frame_shape = converted.shape[1:]
        self.file.write(converted.data)
        self._n_stored += len(converted)

    def _end_episode(self) -> None:
        if self._n_stored:
            self.episode_lengths.append(self._n_stored)
        self._n_read = self._n_stored = 0

    def finish(self) -> None:
        self._end_episode()
        if max(self.episode_lengths, default=0) < 2:
            reason = f"{len(self.skipped)} were skipped, the first: {self.skipped[0]}" if self.skipped else "none was given"
            reason = "every episode holds one frame" if self.episode_lengths else reason
            raise ValueError(f"No video is left to learn from: {reason}")
        about = {name: getattr(self, name) for name in ("frame_shape", "episode_lengths", "skipped", "squashed")}
        text = json.dumps(about).encode()
        self.file.write(text + len(text).to_bytes(8, "little") + FORMAT)


class _ContentHash:
    """
    Names a store by its videos and their conversion. Files are known by content up to ``HASHED_BYTES``, then by place, size
    and time.
    """

    def __init__(self, conversion: _Conversion):
        self._hash = hashlib.blake2b(repr((FORMAT, tuple(conversion))).encode(), digest_size=16)
        self._budget = HASHED_BYTES

    @property
    def file_name(self) -> str:
        return f"{self._hash.hexdigest()}.frames"

    def watch(self, videos: Iterable[Video]) -> Iterator[tuple[Video, str]]:
        """The same videos with their names for errors, hashed as they pass."""
        before: Video | None = None
        for number, video in enumerate(videos):
            if _goes_on(before, video):
                self._hash.update(b"goes on")
            before = video
            if isinstance(video, np.ndarray):
                self._hash.update(f"array {video.shape} {video.dtype}".encode())
                for frame in np.atleast_1d(video):
                    self._hash.update(frame.tobytes())
            else:
                files = image_files(video) if video.is_dir() else [video]
                self._hash.update(f"video of {len(files)}".encode())
                for file in files:
                    self._update(file)
            yield video, f"array {number}" if isinstance(video, np.ndarray) else str(video)

    def _update(self, file: Path) -> None:
        try:
            status = file.stat()
            self._budget -= status.st_size
            content = file.read_bytes() if self._budget >= 0 else os.fsencode(f"{file.resolve()} {status.st_mtime_ns}")
            # The ending decides how a file is read
            self._hash.update(os.fsencode(f"{file.name} {status.st_size}") + content)
        except OSError:  # whoever reads the video will say what is wrong with it
            self._hash.update(os.fsencode(f"unreadable {file}"))


def _open_store(videos: Any, conversion: _Conversion, cache_dir: Path, on_error: str) -> _Store:
    """Open the decoded frames of ``videos``; decode them first if that has not been done."""
    content = _ContentHash(conversion)
    named_videos: Iterable[tuple[Video, str]] = content.watch(_find_all(videos))
    if not isinstance(videos, Iterator):  # a generator has to be decoded to be known
        named_videos = list(named_videos)
        with contextlib.suppress(OSError, ValueError):  # not there yet, or damaged
            store = _Store(cache_dir / content.file_name)
            if not store.skipped or on_error == "skip":  # else what could not be read then may be readable now
                return store
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(cache_dir)
        temporary = cache_dir / f"{uuid.uuid4().hex}.tmp"
        temporary_file = temporary.open("xb")  # not by tempfile, whose files no other user of the folder may read
    except OSError as error:
        raise ValueError(
            f"Cannot write into the cache folder {cache_dir}: {error}; choose another with `cache_dir`."
        ) from error
    try:
        with temporary_file as file:
            writer = _StoreWriter(file, conversion, on_error)
            # On a terminal only: decoding thousands of videos takes minutes
            for video, name in tqdm(named_videos, desc="decoding", unit="video", disable=None, mininterval=1):
                writer.add(video, name)
            writer.finish()
        # Two processes may build the same store at once: each has its own file and the last to rename wins
        os.replace(temporary, cache_dir / content.file_name)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ValueError(f"There is no space in the cache folder {cache_dir}; choose another with `cache_dir`.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return _Store(cache_dir / content.file_name)


def _remove_leftovers(cache_dir: Path) -> None:
    """Give back the space of killed runs: a running one writes to its file more often than once a day."""
    for file in cache_dir.glob("[0-9a-f]" * 32 + ".tmp"):  # not what others keep there
        with contextlib.suppress(OSError):  # another process may finish or remove it just now, or it is another user's
            if file.stat().st_mtime < time.time() - DAY:
                file.unlink()


def _find_all(videos: Any) -> Iterator[Video]:
    if isinstance(videos, str | os.PathLike):
        yield from find_videos(videos)
    elif isinstance(videos, np.ndarray):
        yield videos
    elif isinstance(videos, Iterable) and not isinstance(videos, th.Tensor | bytes | Mapping):
        for video in videos:
            yield from _find_all(video)
    else:
        raise ValueError(
            f"videos holds a {type(videos).__name__}; accepted are uint8 arrays (T, H, W, C), {ACCEPTED}, and lists of these."
        )


def _goes_on(before: Video | None, video: Video) -> bool:
    """Whether an episode may go on from one LAPO chunk into the other: ``data/7.npz`` and ``data/8.npz`` are neighbours."""
    first, second = _place(before), _place(video)
    return first is not None and second == (*first[:2], first[2] + 1)


def _place(video: Video | None) -> tuple[Path, str, int] | None:
    """Folder, prefix and number of a LAPO chunk; None for what is no numbered chunk."""
    if not isinstance(video, Path) or video.suffix.lower() != ".npz":
        return None
    match = re.fullmatch(r"(.*?)(\d+)", video.stem)
    return (video.parent, match[1], int(match[2])) if match else None


def _default_cache_dir() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sb3_bcvlr"
    except RuntimeError as error:
        raise ValueError(f"There is no cache folder: {error} Choose one with `cache_dir`, or set XDG_CACHE_HOME.") from error


def _height_and_width(image_size: Any) -> tuple[int, int]:
    size = tuple(image_size) if isinstance(image_size, tuple | list) else (image_size, image_size)
    if len(size) != 2:
        raise ValueError(f"image_size={image_size!r}, expected an int or (height, width).")
    check_whole(**{"image_size's height": size[0], "image_size's width": size[1]})
    return int(size[0]), int(size[1])
