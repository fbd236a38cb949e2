"""Each test states one fact; frames are filled with their own number, so that windows can be read as numbers."""

import errno
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch as th
from toys import needs_gpu

from sb3_bcvlr.common import video_dataset, video_io
from sb3_bcvlr.common.video_dataset import VideoDataset
from sb3_bcvlr.common.video_io import write_video


def filled(*values: int, size: int = 4, channels: int = 3) -> np.ndarray:
    """One frame (size, size, channels) per value, filled with it."""
    return np.array(values, dtype=np.uint8)[:, None, None, None] * np.ones((size, size, channels), dtype=np.uint8)


def numbers(frames: th.Tensor) -> list:
    """What the frames are filled with, one number per stacked frame."""
    return frames[..., ::3, 0, 0].squeeze(-1).tolist()


def all_windows(dataset: VideoDataset) -> list:
    return numbers(dataset.windows(np.arange(len(dataset))).frames)


def write_chunk(path: Path, frames: np.ndarray, *done: int, **others: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    np.savez(path, obs=frames, done=np.array(done, dtype=bool), **others)


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sb3_bcvlr"


@pytest.fixture
def no_decoding(monkeypatch):
    """Call it to make any further decoding fail."""

    def forbid(*args):
        raise AssertionError("decoded again")

    return lambda: monkeypatch.setattr(video_dataset, "iterate_frames", forbid)


# ---- windows ----


def test_windows_never_cross_an_episode_end_and_repeat_its_first_frame():
    dataset = VideoDataset([filled(0, 1, 2), filled(10, 11)])
    assert all_windows(dataset) == [[0, 0, 1], [0, 1, 2], [10, 10, 11]]
    assert len(dataset) == 3


def test_stacks_repeat_the_first_frame_and_end_at_their_own():
    dataset = VideoDataset([filled(0, 1, 2, 3), filled(10, 11)], n_history=1, n_stack=3)
    assert all_windows(dataset) == [
        [[0, 0, 0], [0, 0, 1]],
        [[0, 0, 1], [0, 1, 2]],
        [[0, 1, 2], [1, 2, 3]],
        [[10, 10, 10], [10, 10, 11]],
    ]
    assert dataset.observation_shape == (9, 4, 4)


def test_observations_are_the_last_but_one_of_the_windows():
    dataset = VideoDataset([filled(0, 1, 2, 3), filled(10, 11)], n_stack=2)
    indices = np.array([3, 0, 2, 2])
    observations = dataset.observations(indices)
    assert observations.shape == (4, 6, 4, 4)
    assert th.equal(observations, dataset.windows(indices).frames[:, -2])


def test_observations_gather_nothing_else(monkeypatch):
    dataset = VideoDataset(filled(*range(10)), n_history=5)
    gathered = []
    gather = dataset._store.gather
    monkeypatch.setattr(dataset._store, "gather", lambda indices: gathered.append(indices.size) or gather(indices))
    dataset.observations(np.arange(4))
    assert gathered == [4]


@pytest.mark.parametrize("which", [slice(0, 1), slice(-2, None), slice(None)])
def test_windows_can_be_read_in_part(monkeypatch, which):
    dataset = VideoDataset(filled(*range(10)), n_history=5)
    expected, gathered, gather = dataset.windows(np.arange(4)).frames[:, which], [], dataset._store.gather
    monkeypatch.setattr(dataset._store, "gather", lambda indices: gathered.append(indices.size) or gather(indices))
    assert th.equal(dataset.windows(np.arange(4), which).frames, expected)
    assert gathered == [4 * expected.shape[1]]


def test_cross_episodes_sees_one_stream():
    dataset = VideoDataset([filled(0, 1), filled(10, 11)], n_history=1, cross_episodes=True)
    assert all_windows(dataset) == [[0, 1], [1, 10], [10, 11]]


def test_batches_are_uint8_channel_first_and_name_their_windows():
    dataset = VideoDataset(np.arange(5 * 4 * 6 * 3, dtype=np.uint8).reshape(5, 4, 6, 3), seed=0)
    frames, indices = dataset.sample(7)
    assert frames.shape == (7, 3, 3, 4, 6) and frames.dtype == th.uint8 and frames.device.type == "cpu"
    assert indices.shape == (7,) and indices.dtype == th.int64
    assert th.equal(frames, dataset.windows(indices.numpy()).frames)


def test_pixels_are_where_they_were():
    video = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(VideoDataset(video, n_history=1).windows([0]).frames[0].numpy(), video.transpose(0, 3, 1, 2))


def test_the_seed_decides_the_windows_and_each_is_drawn_as_often():
    first, second = (VideoDataset([filled(*range(101))], seed=3) for _ in range(2))
    indices = first.sample_indices(100_000)
    assert np.array_equal(indices, second.sample_indices(100_000))
    assert not np.array_equal(indices, first.sample_indices(100_000))
    first.seed(3)
    assert np.array_equal(indices, first.sample_indices(100_000))
    assert 800 < np.bincount(indices, minlength=100).min() and np.bincount(indices).max() < 1200


def test_split_holds_out_the_last_episodes_and_shares_the_store(no_decoding):
    dataset = VideoDataset([filled(0, 1), filled(10, 11, 12), filled(20, 21), filled(30, 31)], n_history=1)
    no_decoding()
    kept, held_out = dataset.split(0.5)
    assert all_windows(kept) == [[0, 1], [10, 11], [11, 12]]
    assert all_windows(held_out) == [[20, 21], [30, 31]]
    assert (kept.n_frames, held_out.n_frames, held_out.n_episodes) == (5, 4, 2)
    assert all_windows(held_out.split(0.1)[1]) == [[30, 31]]
    assert np.shares_memory(kept._store._frames, dataset._store._frames)


def test_each_dataset_has_a_device_of_its_own():
    dataset = VideoDataset([filled(0, 1), filled(2, 3)])
    (other,) = dataset.spawn(1)
    kept, held_out = other.to("meta").split(0.5)
    assert dataset.device.type == dataset.sample(2).frames.device.type == "cpu"
    assert other.device.type == kept.device.type == held_out.sample(2).frames.device.type == "meta"
    assert dataset.spawn(1)[0].to("meta")._store is other._store  # what lies on a device lies there once


@pytest.mark.parametrize("fraction", [0, 1, 0.9, float("nan")])
def test_split_leaves_no_part_empty(fraction):
    with pytest.raises(ValueError, match="of 2 episodes: both parts need one"):
        VideoDataset([filled(0, 1), filled(2, 3)]).split(fraction)


def test_split_leaves_no_part_without_windows(tmp_path):
    write_chunk(tmp_path / "v.npz", filled(0, 1, 2, 3, 4), 0, 0, 0, 1, 1)
    with pytest.warns(UserWarning, match="1 of 2 episodes hold one frame"):
        dataset = VideoDataset(tmp_path / "v.npz")
    with pytest.raises(ValueError, match=r"fraction of 0.3: of one part, every episode would hold one frame"):
        dataset.split(0.3)


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
@pytest.mark.parametrize("hashed_bytes", [2**20, 0])
def test_files_whose_names_are_no_text_are_read(tmp_path, monkeypatch, hashed_bytes):
    monkeypatch.setattr(video_dataset, "HASHED_BYTES", hashed_bytes)
    np.save(tmp_path / "v.npy", filled(0, 1, 2))
    (tmp_path / "v.npy").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.npy"))
    assert VideoDataset(tmp_path).n_frames == 3


# ---- what frames go through ----


def test_frame_skip_keeps_each_nth_frame_of_an_episode():
    dataset = VideoDataset([filled(*range(7)), filled(*range(10, 14))], n_history=1, frame_skip=3)
    assert all_windows(dataset) == [[0, 3], [3, 6], [10, 13]]


def test_frame_skip_counts_on_from_chunk_to_chunk(tmp_path):
    write_chunk(tmp_path / "d" / "0.npz", filled(0, 1, 2), 0, 0, 0)
    write_chunk(tmp_path / "d" / "1.npz", filled(3, 4, 5, 6), 0, 0, 0, 1)
    assert all_windows(VideoDataset(tmp_path / "d", n_history=1, frame_skip=2)) == [[0, 2], [2, 4], [4, 6]]


def test_shrinking_averages_the_covered_area():
    video = np.zeros((2, 1, 3, 3), dtype=np.uint8)
    video[:, 0, :, 0] = (30, 60, 90)
    # 3 pixels on 2: (30 + 60 / 2) / 1.5 = 40 and (60 / 2 + 90) / 1.5 = 80
    assert VideoDataset(video, image_size=(1, 2)).windows([0]).frames[0, 0, 0].tolist() == [[40, 80]]


def test_growing_interpolates_between_pixel_centres():
    video = np.zeros((2, 1, 2, 3), dtype=np.uint8)
    video[:, 0, :, 0] = (0, 100)
    assert VideoDataset(video, image_size=(1, 4)).windows([0]).frames[0, 0, 0].tolist() == [[0, 25, 75, 100]]


@pytest.mark.parametrize(("image_size", "warns"), [((8, 8), True), ((4, 8), False), ((9, 17), False), ((8, 4), True)])
def test_pictures_of_another_proportion_are_told_on_every_start(image_size, warns):
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            VideoDataset(np.zeros((3, 8, 16, 3), np.uint8), image_size)
        assert ["are squashed: array 0, 16x8 pixels, to" in str(warning.message) for warning in caught] == [True] * warns


def test_resizing_agrees_with_torch_where_sides_divide():
    video = np.random.default_rng(0).integers(0, 256, (2, 12, 8, 3), dtype=np.uint8)
    area = th.nn.functional.interpolate(th.from_numpy(video).permute(0, 3, 1, 2).float(), size=(4, 4), mode="area")
    resized = VideoDataset(video, image_size=4, n_history=1).windows([0]).frames[0]
    assert (resized.float() - area).abs().max() <= 0.51


def test_grayscale_weighs_the_colours_as_the_eye_does():
    video = np.zeros((2, 1, 3, 3), dtype=np.uint8)
    video[:, 0] = 255 * np.eye(3)
    dataset = VideoDataset(video, grayscale=True)
    assert dataset.observation_shape == (1, 1, 3)
    assert dataset.windows([0]).frames[0, 0].tolist() == [[[76, 150, 29]]]
    assert set(VideoDataset(filled(7, 7, channels=1), grayscale=True).windows([0]).frames.flatten().tolist()) == {7}


# ---- sources ----


def test_a_dataset_goes_to_other_processes():
    dataset = VideoDataset([filled(1, 2, 3), filled(4, 5)], seed=0)
    other = pickle.loads(pickle.dumps(dataset))
    assert all_windows(other) == all_windows(dataset)
    assert np.array_equal(other.sample_indices(9), dataset.sample_indices(9))


def test_spawned_datasets_draw_on_their_own():
    dataset = VideoDataset(filled(*range(9)), seed=0)
    first, second = dataset.spawn(2)
    assert all_windows(first) == all_windows(dataset)
    draws = [each.sample_indices(20).tolist() for each in (dataset, first, second)]
    assert draws[0] == VideoDataset(filled(*range(9)), seed=0).sample_indices(20).tolist()
    assert len({tuple(draw) for draw in draws}) == 3


def test_every_kind_of_source_gives_the_same_windows(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    for name in ("images", "mp4", "npy"):
        (tmp_path / name).mkdir()
    write_video(tmp_path / "mp4" / "0.mp4", frames)
    (tmp_path / "mp4" / "episodes.csv").write_text("file,length,return\n0.mp4,4,1.0\n")
    np.save(tmp_path / "npy" / "v.npy", frames)
    write_chunk(tmp_path / "lapo" / "0.npz", frames, 0, 0, 0, 1)
    for number, frame in enumerate(frames):
        iio.imwrite(tmp_path / "images" / f"{number}.png", frame)
    folders = [tmp_path / name for name in ("mp4", "npy", "lapo", "images")]
    sources = [*folders, str(tmp_path / "mp4" / "*.mp4"), tmp_path / "npy" / "v.npy", frames, [frames], (f for f in [frames])]
    expected = VideoDataset(frames).windows(np.arange(3)).frames
    for source in sources:
        dataset = VideoDataset(source)
        assert (dataset.n_episodes, dataset.n_frames) == (1, 4)
        assert th.equal(dataset.windows(np.arange(3)).frames, expected)
    assert VideoDataset([*folders, frames]).n_episodes == 5


def test_each_sub_folder_of_images_is_an_episode(tmp_path):
    for episode in (2, 10):
        for number in (2, 10):
            (tmp_path / "v" / f"e{episode}").mkdir(parents=True, exist_ok=True)
            iio.imwrite(tmp_path / "v" / f"e{episode}" / f"frame_{number}.png", filled(10 * episode + number)[0])
    assert all_windows(VideoDataset(tmp_path / "v", n_history=1)) == [[22, 30], [102, 110]]


def test_chunks_follow_one_another_by_number_and_done_ends_an_episode(tmp_path):
    actions = np.array([object()], dtype=object)  # would raise if it were read
    write_chunk(tmp_path / "d" / "2.npz", filled(2, 3, 4, 5), 0, 1, 0, 0, ta=actions)
    write_chunk(tmp_path / "d" / "10.npz", filled(20, 21), 0, 0, ta=actions)
    write_chunk(tmp_path / "d" / "1.npz", filled(0, 1), 0, 0, ta=actions)
    dataset = VideoDataset(tmp_path / "d", n_history=1)
    assert dataset.episode_lengths.tolist() == [4, 2, 2]  # 10.npz is not the one after 2.npz
    assert all_windows(dataset) == [[0, 1], [1, 2], [2, 3], [4, 5], [20, 21]]


def test_a_chunk_never_goes_on_in_a_video_or_another_folder(tmp_path):
    write_chunk(tmp_path / "a" / "0.npz", filled(0, 1), 0, 0)
    write_chunk(tmp_path / "b" / "1.npz", filled(2, 3), 0, 0)
    np.save(tmp_path / "b" / "2.npy", filled(4, 5))
    files = [tmp_path / "a" / "0.npz", tmp_path / "b" / "1.npz", tmp_path / "b" / "2.npy"]
    assert VideoDataset(files).episode_lengths.tolist() == [2, 2, 2]


def test_chunks_of_one_stream_and_of_two_are_different_stores(tmp_path):
    write_chunk(tmp_path / "a" / "7.npz", filled(0, 1), 0, 0)
    for folder in ("a", "b"):
        write_chunk(tmp_path / folder / "8.npz", filled(2, 3), 0, 0)
    first = tmp_path / "a" / "7.npz"
    assert VideoDataset([first, tmp_path / "a" / "8.npz"]).episode_lengths.tolist() == [4]
    assert VideoDataset([first, tmp_path / "b" / "8.npz"]).episode_lengths.tolist() == [2, 2]


def test_one_frame_episodes_of_a_chunk_are_told_and_give_no_window(tmp_path):
    write_chunk(tmp_path / "d" / "0.npz", filled(0, 1, 2), 1, 0, 1)
    with pytest.warns(UserWarning, match="1 of 2 episodes hold one frame"):
        assert all_windows(VideoDataset(tmp_path / "d", n_history=1)) == [[1, 2]]


def test_obs_and_done_must_agree(tmp_path):
    write_chunk(tmp_path / "d" / "0.npz", filled(0, 1, 2), 0, 1)
    with pytest.raises(ValueError, match=r"0.npz holds 3 frames in `obs` but 2 flags"):
        VideoDataset(tmp_path / "d")


# ---- errors ----


@pytest.fixture
def broken_videos(tmp_path):
    """Name and reason of every kind of broken file, beside two good ones."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a_good.mp4", "z_good.mp4"):
        write_video(folder / name, filled(1, 2, 3, size=16))
    write_video(folder / "one.mp4", filled(1, size=16))
    write_video(folder / "other_size.mp4", filled(1, 2, size=32))
    (folder / "truncated.mp4").write_bytes((folder / "a_good.mp4").read_bytes()[:-300])
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("file,length\n")
    (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
    return folder


BROKEN = {
    "one": "one frame",
    "other_size": r"\(3, 32, 32\), the videos before it \(3, 16, 16\)",
    "truncated": "Cannot read",
    "empty": "Cannot read",
    "text": "Invalid data",
    "dangling": "No such file",
}


@pytest.mark.parametrize("name, reason", BROKEN.items())
def test_a_broken_video_is_an_error_with_its_name_and_reason(broken_videos, cache_dir, name, reason):
    with pytest.raises(ValueError, match=rf"{name}.mp4") as error:
        VideoDataset([broken_videos / "a_good.mp4", broken_videos / f"{name}.mp4"] if name != "dangling" else broken_videos)
    assert error.match(reason)
    assert not list(cache_dir.iterdir())


def test_skipping_warns_of_each_broken_video_and_counts_them_on_every_start(broken_videos, no_decoding):
    for _ in range(2):
        with pytest.warns(UserWarning) as warned:
            dataset = VideoDataset(broken_videos, n_history=1, on_error="skip")
        for name in BROKEN:
            assert sum(f"{name}.mp4" in str(warning.message) for warning in warned) == 1
        assert (dataset.n_skipped, dataset.n_episodes) == (len(BROKEN), 2)
        assert all_windows(dataset) == [[1, 2], [2, 3], [1, 2], [2, 3]]
        no_decoding()


def test_what_was_skipped_is_an_error_again_where_nothing_may_be(broken_videos):
    with pytest.warns(UserWarning, match="Video skipped"):
        VideoDataset(broken_videos, n_history=1, on_error="skip")
    with pytest.raises(ValueError, match=r"Cannot read .*dangling.mp4"):
        VideoDataset(broken_videos)


def test_what_was_skipped_is_tried_again_where_nothing_may_be(tmp_path, monkeypatch):
    good, late = tmp_path / "good.npy", tmp_path / "late.npy"
    for path in (good, late):
        np.save(path, filled(1, 2))
    with monkeypatch.context() as patch:
        read = video_dataset.iterate_frames
        patch.setattr(video_dataset, "iterate_frames", lambda video, name: read(video if video == good else "gone.npy", name))
        with pytest.warns(UserWarning, match="Video skipped"):
            assert VideoDataset([good, late], on_error="skip").n_episodes == 1
    assert VideoDataset([good, late], on_error="raise").n_episodes == 2


def test_a_lack_of_handles_is_no_fault_of_the_video(monkeypatch):
    def fail(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(video_io, "_read_blocks", fail)
    with pytest.raises(OSError, match="Too many open files"):
        VideoDataset([filled(1, 2)], on_error="skip")


def test_a_skipped_chunk_parts_the_stream_and_leaves_nothing_behind(tmp_path):
    write_chunk(tmp_path / "d" / "0.npz", filled(0, 1), 0, 0)
    write_chunk(tmp_path / "d" / "1.npz", filled(2, 3, 4), 0, 1)
    write_chunk(tmp_path / "d" / "2.npz", filled(5, 6), 0, 0)
    with pytest.warns(UserWarning, match=r"1.npz"):
        dataset = VideoDataset(tmp_path / "d", n_history=1, on_error="skip")
    assert all_windows(dataset) == [[0, 1], [5, 6]]


def test_nothing_left_is_an_error(broken_videos):
    with pytest.raises(ValueError, match=r"No video is left to learn from: 1 were skipped, the first: .*text.mp4"):
        VideoDataset(broken_videos / "text.mp4", on_error="skip")
    with pytest.raises(ValueError, match="none was given"):
        VideoDataset([])
    with pytest.raises(ValueError, match="none was given"):
        VideoDataset(iter([]))


@pytest.mark.parametrize("videos", [None, 3, b"a.mp4", th.zeros(2, 4, 4, 3), {1: 2}, {"a": np.zeros((2, 4, 4, 3), np.uint8)}])
def test_other_types_are_refused_with_what_is_accepted(videos):
    with pytest.raises(ValueError, match=r"accepted are uint8 arrays \(T, H, W, C\), files ending in .mp4"):
        VideoDataset(videos)


def test_frame_skip_that_leaves_one_frame_is_named():
    with pytest.raises(ValueError, match="array 1 holds one frame after frame_skip=3"):
        VideoDataset([filled(*range(9)), filled(0, 1)], frame_skip=3)


@pytest.mark.parametrize(
    "argument, value",
    [("n_history", 0), ("n_stack", 1.5), ("frame_skip", "2"), ("image_size", (4, 0)), ("image_size", (4, 4, 3))],
)
def test_wrong_arguments_are_refused(argument, value):
    with pytest.raises(ValueError, match=rf"{argument}.*expected"):
        VideoDataset(filled(0, 1), **{argument: value})
    with pytest.raises(ValueError, match='expected "raise" or "skip"'):
        VideoDataset(filled(0, 1), on_error="ignore")


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="choose another with `cache_dir`"):
        VideoDataset(filled(0, 1), cache_dir=tmp_path / "file")


# ---- the store ----


def test_the_cache_folder_may_be_in_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert VideoDataset(filled(1, 2), cache_dir="~/frames")._store.path.parent == tmp_path / "frames"


def test_a_cache_folder_without_space_is_named(tmp_path, monkeypatch):
    def fail(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(video_dataset._StoreWriter, "finish", fail)
    with pytest.raises(ValueError, match=f"no space in the cache folder {tmp_path}; choose another with `cache_dir`"):
        VideoDataset(filled(1, 2), cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_second_start_decodes_nothing_and_takes_no_second(tmp_path, no_decoding, cache_dir):
    (tmp_path / "v").mkdir()
    for number in range(20):
        write_video(tmp_path / "v" / f"{number}.mp4", filled(number, number + 1, size=16))
    expected = all_windows(VideoDataset(tmp_path / "v"))
    no_decoding()
    start = time.perf_counter()
    assert all_windows(VideoDataset(tmp_path / "v")) == expected
    assert time.perf_counter() - start < 1
    assert len(list(cache_dir.iterdir())) == 1
    (tmp_path / "v").rename(tmp_path / "moved")  # known by content, not by place
    assert all_windows(VideoDataset(tmp_path / "moved")) == expected


def test_large_videos_are_known_by_place_size_and_time(tmp_path, no_decoding, monkeypatch):
    monkeypatch.setattr(video_dataset, "HASHED_BYTES", 0)
    np.save(tmp_path / "v.npy", filled(0, 1))
    VideoDataset(tmp_path / "v.npy")
    monkeypatch.setattr(Path, "read_bytes", lambda path: 1 / 0)
    os.utime(tmp_path / "v.npy", (1, 1))
    assert all_windows(VideoDataset(tmp_path / "v.npy")) == [[0, 0, 1]]
    no_decoding()
    assert all_windows(VideoDataset(tmp_path / "v.npy")) == [[0, 0, 1]]
    os.utime(tmp_path / "v.npy", (2, 2))
    with pytest.raises(AssertionError, match="decoded again"):
        VideoDataset(tmp_path / "v.npy")


def test_other_content_or_settings_are_another_store(cache_dir):
    for n_stores, arguments in enumerate(
        [{}, {"frame_skip": 2}, {"grayscale": True}, {"image_size": 2}, {"videos": filled(0, 1, 2, 4)}], start=1
    ):
        VideoDataset(**{"videos": filled(0, 1, 2, 3), **arguments})
        assert len(list(cache_dir.iterdir())) == n_stores
    VideoDataset(filled(0, 1, 2, 3), n_stack=2, n_history=1, cross_episodes=True, seed=1)  # matter only when sampling
    assert len(list(cache_dir.iterdir())) == 5


def test_a_generator_is_read_once_and_finds_the_store_of_the_same_list(cache_dir):
    episodes = [filled(0, 1), filled(10, 11, 12)]
    assert all_windows(VideoDataset(episode for episode in episodes)) == all_windows(VideoDataset(episodes))
    assert len(list(cache_dir.iterdir())) == 1


def test_a_run_that_dies_midway_leaves_nothing_and_the_next_one_succeeds(cache_dir):
    def dying():
        yield filled(0, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        VideoDataset(dying())
    assert not list(cache_dir.iterdir())
    assert all_windows(VideoDataset([filled(0, 1)])) == [[0, 0, 1]]


def test_a_store_is_as_readable_as_other_files(cache_dir, tmp_path):
    VideoDataset(filled(0, 1))
    (tmp_path / "other").touch()
    (store,) = cache_dir.iterdir()
    assert store.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_leftovers_of_killed_runs_go_after_a_day(cache_dir):
    cache_dir.mkdir(parents=True)
    old, running, thesis = (cache_dir / name for name in (f"{'a' * 32}.tmp", f"{'b' * 32}.tmp", "thesis.tmp"))
    for file in (old, running, thesis):
        file.touch()
    for file in (old, thesis):
        os.utime(file, (1, 1))
    VideoDataset(filled(0, 1))
    assert {*cache_dir.glob("*.tmp")} == {running, thesis}  # not what others keep there


def test_a_user_without_a_home_is_told_what_to_do(monkeypatch):
    def fail():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    with pytest.raises(ValueError, match="Choose one with `cache_dir`, or set XDG_CACHE_HOME"):
        VideoDataset(filled(0, 1))


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-1], lambda data: data[30:], lambda data: b"x" * len(data)]
)
def test_a_damaged_store_is_built_again(cache_dir, damage):
    VideoDataset(filled(0, 1))
    (store,) = cache_dir.iterdir()
    store.write_bytes(damage(store.read_bytes()))
    assert all_windows(VideoDataset(filled(0, 1))) == [[0, 0, 1]]


def test_two_builders_of_one_store_both_succeed(cache_dir):
    """The first is held in the middle of its work until the second is done."""
    half, done, results = threading.Event(), threading.Event(), []

    def slow():
        yield filled(0, 1)
        half.set()
        done.wait(10)
        yield filled(10, 11)

    thread = threading.Thread(target=lambda: results.append(all_windows(VideoDataset(slow()))))
    thread.start()
    half.wait(10)
    results.append(all_windows(VideoDataset([filled(0, 1), filled(10, 11)])))
    done.set()
    thread.join(10)
    assert results == 2 * [[[0, 0, 1], [10, 10, 11]]]
    assert len(list(cache_dir.iterdir())) == 1


MEMORY = """
import json, resource, sys
import numpy as np
from pathlib import Path
from sb3_bcvlr.common import video_dataset
from sb3_bcvlr.common.video_dataset import VideoDataset

video_dataset.RESIDENT_BYTES = 64 * 2**20
dataset = VideoDataset(np.zeros((2, 64, 64, 3), np.uint8))
n_frames, (path,) = 40_000, Path(sys.argv[1]).glob("*.frames")  # 492 MB, a hole in the file
with path.open("r+b") as file:
    text = json.dumps({"frame_shape": [3, 64, 64], "episode_lengths": [n_frames], "skipped": [], "squashed": None}).encode()
    file.truncate(n_frames * 12288)
    file.seek(n_frames * 12288)
    file.write(text + len(text).to_bytes(8, "little") + video_dataset.FORMAT)
dataset = VideoDataset(np.zeros((2, 64, 64, 3), np.uint8), seed=0)
assert len(dataset) == n_frames - 1
dataset.sample(128)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(100):
    dataset.sample(128)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_resident_memory_does_not_grow_with_the_videos(cache_dir):
    """38,400 frames are drawn of a store of 492 MB, and at most 64 MB of its pages may stay mapped."""
    result = subprocess.run([sys.executable, "-c", MEMORY, str(cache_dir)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 150


@pytest.mark.parametrize(("to_gpu", "n_drops"), [(False, 2), (True, 1)])
def test_more_pages_stay_mapped_where_a_gpu_waits_for_them(monkeypatch, to_gpu, n_drops):
    n_drawn = 4  # frames, each of which counts with the 64 kB around it
    monkeypatch.setattr(video_dataset, "RESIDENT_BYTES", 1)
    monkeypatch.setattr(video_dataset, "RESIDENT_BYTES_FOR_GPU", n_drawn * 2**16 + 300)
    store = VideoDataset(np.zeros((10_000, 4, 4, 3), np.uint8))._store  # more than either bound
    drops = []
    store._memory = SimpleNamespace(madvise=drops.append)
    store._sender = object() if to_gpu else None
    for _ in range(2):
        store._forget_pages(n_drawn)
    assert len(drops) == n_drops


def test_128_windows_are_sampled_in_milliseconds():
    dataset = VideoDataset(np.zeros((1000, 64, 64, 3), dtype=np.uint8))
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        dataset.sample(128)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.003


def test_repr_tells_what_is_there():
    text = repr(VideoDataset([filled(0, 1), filled(2, 3, 4)], n_stack=2))
    assert "2 episodes, 5 frames, 3 windows, 0 skipped" in text and "observation_shape=(6, 4, 4)" in text


@needs_gpu
@pytest.mark.parametrize("fits", [True, False])
def test_batches_are_the_same_on_a_gpu(monkeypatch, fits):
    dataset = VideoDataset([filled(0, 1, 2), filled(10, 11)])
    expected = all_windows(dataset)
    if not fits:
        monkeypatch.setattr(th.cuda, "mem_get_info", lambda device: (0, 0))
    assert all_windows(dataset.to("cuda")) == expected
    batches = [dataset.windows(np.arange(3)[-n:]).frames for n in (1, 2, 3, 1, 2, 3)]  # more than may wait
    assert all((batch == batches[2][-len(batch) :]).all() for batch in batches)
    assert dataset.device.type == dataset.sample(2).frames.device.type == dataset.sample(2).indices.device.type == "cuda"
    assert (dataset._store._resident is not None) == fits
    assert all_windows(dataset.to("cpu")) == expected


def test_a_build_that_has_not_written_for_an_hour_is_no_leftover(cache_dir):
    cache_dir.mkdir(parents=True)
    running = cache_dir / f"{'a' * 32}.tmp"
    running.touch()
    os.utime(running, (time.time() - 3600,) * 2)
    VideoDataset(filled(0, 1))
    assert running.exists()


def test_a_chunk_never_goes_on_in_one_of_another_name(tmp_path):
    write_chunk(tmp_path / "d" / "a_0.npz", filled(0, 1), 0, 0)
    write_chunk(tmp_path / "d" / "b_1.npz", filled(2, 3), 0, 0)
    assert VideoDataset(tmp_path / "d").episode_lengths.tolist() == [2, 2]


def test_a_long_video_that_is_skipped_last_leaves_nothing_behind(tmp_path):
    write_chunk(tmp_path / "d" / "0.npz", filled(0, 1), 0, 1)
    write_chunk(tmp_path / "d" / "1.npz", filled(*range(100)), 0, 1)  # too few flags, seen at the end
    with pytest.warns(UserWarning, match="1.npz"):
        assert all_windows(VideoDataset(tmp_path / "d", n_history=1, on_error="skip")) == [[0, 1]]


def test_a_video_that_is_skipped_first_does_not_set_the_size():
    with pytest.warns(UserWarning, match="array 0 holds one frame"):
        dataset = VideoDataset([filled(1, size=8), filled(2, 3, size=4)], on_error="skip")
    assert dataset.n_episodes == 1 and dataset.observation_shape == (3, 4, 4)


def test_arrays_of_the_same_bytes_and_another_shape_are_another_store():
    for shape in ((2, 4, 8, 3), (2, 8, 4, 3), (4, 4, 4, 3)):
        assert VideoDataset(np.zeros(shape, np.uint8)).observation_shape == (3, *shape[1:3])


def test_the_same_images_in_other_folders_are_other_episodes(tmp_path):
    for n_first in (2, 3):
        for number in range(5):
            path = tmp_path / str(n_first) / "ab"[number >= n_first] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            iio.imwrite(path, filled(number)[0])
        assert VideoDataset(tmp_path / str(n_first)).episode_lengths.tolist() == [n_first, 5 - n_first]


def test_each_part_of_a_split_draws_for_itself():
    parts = [VideoDataset([filled(*range(50)), filled(*range(50))], seed=0).split(0.5) for _ in range(2)]
    parts[0][0].sample_indices(7)
    assert np.array_equal(parts[0][1].sample_indices(20), parts[1][1].sample_indices(20))


def test_frame_numbers_tell_where_observations_stand():
    dataset = VideoDataset([filled(0, 1, 2), filled(3, 4)])
    assert dataset.frame_numbers(np.arange(3)).tolist() == all_windows(dataset) == [[0, 0, 1], [0, 1, 2], [3, 3, 4]]


def test_observations_are_had_by_the_numbers_of_their_newest_frames():
    dataset = VideoDataset([filled(0, 1, 2), filled(3, 4)], n_stack=2)
    expected = [[[0, 0], [1, 2]], [[3, 3], [3, 4]]]
    assert numbers(dataset.observations_at(np.array([[0, 2], [3, 4]]))) == expected
    assert numbers(dataset.split(0.5)[1].observations_at(np.array([3, 4]))) == expected[1]


def test_stacks_cross_episodes_where_windows_do():
    dataset = VideoDataset([filled(0, 1), filled(2, 3)], n_stack=2, cross_episodes=True)
    assert numbers(dataset.observations_at(np.array([2]))) == [[1, 2]]


def test_episodes_of_one_frame_alone_are_an_error(tmp_path):
    write_chunk(tmp_path / "d" / "0.npz", filled(0, 1), 1, 1)
    with pytest.raises(ValueError, match="No video is left to learn from: every episode holds one frame"):
        VideoDataset(tmp_path / "d")


def test_one_frame_episodes_are_no_loss_where_windows_cross_their_ends(tmp_path):
    write_chunk(tmp_path / "d" / "0.npz", filled(0, 1, 2), 1, 0, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all_windows(VideoDataset(tmp_path / "d", n_history=1, cross_episodes=True)) == [[0, 1], [1, 2]]


def test_a_store_appears_whole(cache_dir, monkeypatch):
    replaced, replace = [], os.replace
    monkeypatch.setattr(
        os, "replace", lambda old, new: replaced.append((Path(old).exists(), Path(new).exists())) or replace(old, new)
    )
    VideoDataset(filled(0, 1))
    assert replaced == [(True, False)]


def test_an_empty_cache_variable_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert VideoDataset(filled(0, 1))._store.path.parent == tmp_path / "home" / ".cache" / "sb3_bcvlr"


def test_the_first_video_of_another_proportion_is_named():
    with pytest.warns(UserWarning, match="squashed: array 0, 16x8"):
        VideoDataset([np.zeros((2, 8, 16, 3), np.uint8), np.zeros((2, 8, 24, 3), np.uint8)], image_size=8)


def test_large_videos_of_one_name_size_and_time_in_two_folders_are_two(tmp_path, monkeypatch):
    monkeypatch.setattr(video_dataset, "HASHED_BYTES", 0)
    for number, folder in enumerate("ab"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "v.npy", filled(10 * number, 10 * number + 1))
        os.utime(tmp_path / folder / "v.npy", (1, 1))
        assert all_windows(VideoDataset(tmp_path / folder / "v.npy", n_history=1)) == [[10 * number, 10 * number + 1]]


def test_a_store_of_another_format_is_built_again(cache_dir):
    VideoDataset(filled(0, 1))
    (store,) = cache_dir.iterdir()
    whole = store.read_bytes()
    store.write_bytes(whole[:-1] + b"0")
    assert all_windows(VideoDataset(filled(0, 1))) == [[0, 0, 1]]
    assert store.read_bytes() == whole


def test_a_video_that_is_skipped_is_not_said_to_be_squashed():
    wide, good, high = (np.zeros(shape, np.uint8) for shape in ((1, 8, 32, 3), (4, 16, 16, 3), (4, 32, 8, 3)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        VideoDataset([wide, good, high], image_size=16, on_error="skip")
    (message,) = (str(warning.message) for warning in caught if "squashed" in str(warning.message))
    assert "array 2, 8x32 pixels" in message


def test_a_part_that_was_held_out_is_split_where_it_stands():
    dataset = VideoDataset([filled(0, 1), filled(10, 11, 12), filled(20, 21), filled(30, 31)], n_history=1)
    _, held_out = dataset.split(0.5)
    assert [all_windows(part) for part in held_out.split(0.5)] == [[[20, 21]], [[30, 31]]]


@pytest.mark.parametrize("n_flags", [2, 4])
def test_a_chunk_has_a_flag_for_each_frame(tmp_path, n_flags):
    write_chunk(tmp_path / "d" / "0.npz", filled(0, 1, 2), *[0] * (n_flags - 1), 1)
    with pytest.raises(ValueError, match=rf"0.npz holds 3 frames in `obs` but {n_flags} flags"):
        VideoDataset(tmp_path / "d")
