"""Each test states one fact; frames are filled with numbers that can be told apart by eye."""

import warnings
from fractions import Fraction
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from sb3_bcvlr.common import video_io
from sb3_bcvlr.common.video_io import find_videos, iterate_frames, read_dones, read_video, to_rgb, write_video


def filled(*values: int, height: int = 16, width: int = 16) -> np.ndarray:
    """One frame (height, width, 3) per value, filled with it."""
    return np.array(values, dtype=np.uint8)[:, None, None, None].repeat(height, 1).repeat(width, 2).repeat(3, 3)


def noise(n_frames: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n_frames, height, width, 3), dtype=np.uint8)


def encode(path: Path, frames: np.ndarray, codec: str, pix_fmt: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=15)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        for start in range(0, 8 * 1024, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
            frame.rate, frame.pts = 8000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut(path: Path, share: float = 0.6) -> Path:
    """The file without its end."""
    data = path.read_bytes()
    target = path.with_name(f"cut_{path.name}")
    target.write_bytes(data[: int(share * len(data))])
    return target


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_lossless_videos_come_back_bit_exact(tmp_path, ending):
    frames = noise(7, height=15, width=17)
    write_video(tmp_path / f"v{ending}", frames)
    np.testing.assert_array_equal(read_video(tmp_path / f"v{ending}"), frames)


def test_the_folder_of_a_video_is_made(tmp_path):
    write_video(tmp_path / "a" / "b" / "v.mp4", np.zeros((2, 4, 4, 3), np.uint8))
    assert read_video(tmp_path / "a" / "b" / "v.mp4").shape == (2, 4, 4, 3)


def test_a_scale_that_is_not_whole_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"scale=1\.5, expected all positive, scale whole"):
        write_video(tmp_path / "v.mp4", np.zeros((2, 4, 4, 3), np.uint8), scale=1.5)


def test_an_empty_path_is_not_the_present_folder():
    with pytest.raises(ValueError, match="an empty path; expected a folder, a glob"):
        find_videos("")


def test_scale_repeats_pixels(tmp_path):
    frames = noise(2, 4, 4)
    write_video(tmp_path / "v.mp4", frames, scale=3)
    np.testing.assert_array_equal(read_video(tmp_path / "v.mp4")[:, ::3, 2::3], frames)


def test_lossy_videos_are_padded_to_even_sides_in_the_format_that_every_player_knows(tmp_path):
    write_video(tmp_path / "v.mp4", filled(10, 200, height=15, width=17), lossless=False, fps=29.97)
    assert read_video(tmp_path / "v.mp4").shape == (2, 16, 18, 3)
    assert abs(read_video(tmp_path / "v.mp4")[1].astype(int) - 200).max() <= 3
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_video(tmp_path / "v.mp4", filled(1, 2))
    monkeypatch.setattr(av.VideoFrame, "from_ndarray", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_video(tmp_path / "v.mp4", filled(3, 4))
    assert [file.name for file in tmp_path.iterdir()] == ["v.mp4"]
    assert read_video(tmp_path / "v.mp4")[:, 0, 0, 0].tolist() == [1, 2]


def test_write_video_refuses_what_is_no_video(tmp_path):
    with pytest.raises(ValueError, match=r"choose one of the endings .mp4"):
        write_video(tmp_path / "v.txt", filled(1, 2))
    with pytest.raises(ValueError, match="0 frames"):
        write_video(tmp_path / "v.mp4", filled())
    with pytest.raises(ValueError, match="float64"):
        write_video(tmp_path / "v.mp4", filled(1).astype(float))


@pytest.mark.parametrize(
    "ending, codec, pix_fmt", [(".avi", "ffv1", "bgr0"), (".webm", "libvpx-vp9", "yuv420p"), (".gif", "gif", "rgb8")]
)
def test_other_containers_give_each_frame_once(tmp_path, ending, codec, pix_fmt):
    values = read_video(encode(tmp_path / f"v{ending}", filled(0, 80, 160, 255), codec, pix_fmt))[:, 0, 0, 0].astype(int)
    assert abs(values - [0, 80, 160, 255]).max() <= 20  # a .gif has few shades


def test_gifs_of_other_writers_read_as_imageio_reads_them(tmp_path):
    frames = filled(0, 60, 120, 180)
    frames[:, 4:8, 4:8] = (255, 0, 0)  # stays the same: writers store only what changes
    iio.imwrite(tmp_path / "v.gif", frames, duration=50)
    np.testing.assert_array_equal(read_video(tmp_path / "v.gif"), iio.imread(tmp_path / "v.gif", mode="RGB"))


def test_gifs_that_do_not_say_how_long_a_frame_lasts_keep_all(tmp_path):
    frames = noise(20)
    iio.imwrite(tmp_path / "v.gif", frames)
    assert len(read_video(tmp_path / "v.gif")) == len(iio.imread(tmp_path / "v.gif")) == 20


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_videos_are_read_as_the_camera_was_held(tmp_path, degrees):
    frames = noise(3, 16, 24)
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264rgb", rate=15, options={"qp": "0"})
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV writes no rotation")
        stream.height, stream.width, stream.pix_fmt = 16, 24, "rgb24"
        stream.set_display_rotation(degrees)  # counterclockwise, as np.rot90
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    np.testing.assert_array_equal(read_video(tmp_path / "v.mp4"), np.rot90(frames, degrees // 90, (1, 2)))


def test_images_are_read_as_the_camera_was_held(tmp_path):
    picture, exif = Image.fromarray(noise(1, 8, 12)[0]), Image.Exif()
    exif[0x112] = 6  # to be turned clockwise
    picture.save(tmp_path / "0.png", exif=exif)
    np.testing.assert_array_equal(read_video(tmp_path)[0], np.rot90(np.asarray(picture), -1))


def test_inks_are_read_as_colors(tmp_path):
    Image.fromarray(filled(200)[0]).convert("CMYK").save(tmp_path / "0.jpg")
    assert abs(read_video(tmp_path).astype(int) - 200).max() <= 3


@pytest.mark.parametrize(("missing", "is_told"), [(3, False), (30, True)])
def test_a_video_in_which_nothing_is_shown_for_long_is_told(tmp_path, missing, is_told):
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=15, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        for number, pixels in enumerate(noise(12)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number + missing * (number > 5), Fraction(1, 15)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert len(read_video(tmp_path / "v.mkv")) == 12
    assert ["shows nothing new for 2.07 s after 0.33 s" in str(warning.message) for warning in told] == [True] * is_told


def test_a_link_back_to_a_folder_above_is_not_followed(tmp_path):
    write_video(tmp_path / "sub" / "v.mp4", noise(2))
    (tmp_path / "sub" / "back").symlink_to(tmp_path)
    assert find_videos(tmp_path) == [tmp_path / "sub" / "v.mp4"]


def test_images_of_a_folder_are_frames_in_natural_order(tmp_path):
    for number in (10, 2, 1):
        iio.imwrite(tmp_path / f"frame_{number}.png", filled(number)[0])
    assert read_video(tmp_path)[:, 0, 0, 0].tolist() == [1, 2, 10]


def test_grey_is_repeated_and_alpha_dropped(tmp_path):
    frames = noise(2)
    alpha = np.concatenate([frames, np.zeros_like(frames[..., :1])], axis=-1)
    np.testing.assert_array_equal(to_rgb(alpha), frames)
    np.testing.assert_array_equal(to_rgb(frames[..., :1]), frames[..., [0, 0, 0]])
    iio.imwrite(tmp_path / "0.png", frames[0, ..., 0])
    iio.imwrite(tmp_path / "1.png", alpha[1])
    np.testing.assert_array_equal(read_video(tmp_path), np.stack([frames[0][..., [0, 0, 0]], frames[1]]))


def test_arrays_are_read_in_blocks_of_a_few_megabytes(tmp_path):
    frames = np.zeros((1000, 64, 64, 3), dtype=np.uint8)
    frames[:, 0, 0, 0] = np.arange(1000) % 251
    np.save(tmp_path / "v.npy", frames)
    for video in (frames, tmp_path / "v.npy"):
        blocks = list(iterate_frames(video))
        assert max(block.nbytes for block in blocks) <= 8 * 2**20
        np.testing.assert_array_equal(np.concatenate(blocks), frames)


def test_of_a_chunk_only_obs_and_done_are_read(tmp_path):
    actions = np.array([object()] * 3, dtype=object)
    np.savez_compressed(tmp_path / "0.npz", obs=filled(1, 2, 3), done=np.array([0, 1, 0]), ta=actions)
    with pytest.raises(ValueError, match="pickle"):
        np.load(tmp_path / "0.npz")["ta"]
    assert read_video(tmp_path / "0.npz")[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert read_dones(tmp_path / "0.npz").tolist() == [False, True, False]
    assert read_dones(tmp_path / "0.mp4") is None


def test_chunks_without_done_are_refused(tmp_path):
    np.savez(tmp_path / "0.npz", obs=filled(1, 2))
    with pytest.raises(ValueError, match=r"0.npz: it holds \['obs'\], expected `obs` and `done`"):
        read_dones(tmp_path / "0.npz")


def test_videos_are_found_in_natural_order_and_other_files_passed_over(tmp_path):
    names = ["2.mp4", "10.mp4", ".hidden.mp4", "episodes.csv", "a/1.MKV", "b/frame_0.png", "b/frame_1.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_videos(tmp_path) == [tmp_path / name for name in ("2.mp4", "10.mp4", "a/1.MKV", "b")]
    assert find_videos(tmp_path / "*.mp4") == [tmp_path / "2.mp4", tmp_path / "10.mp4"]
    assert len(find_videos(tmp_path / "**")) == 4


def test_a_folder_of_images_and_videos_is_ambiguous(tmp_path):
    (tmp_path / "0.mp4").touch()
    (tmp_path / "preview.png").touch()
    with pytest.raises(ValueError, match="images beside videos"):
        find_videos(tmp_path)


@pytest.mark.parametrize(
    "name, reason",
    [("missing", "does not exist"), ("*.mp4", "matches nothing"), ("empty", "holds no video"), ("a.csv", "unknown ending")],
)
def test_where_nothing_is_found_the_error_lists_what_is_accepted(tmp_path, name, reason):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").touch()
    with pytest.raises(ValueError, match=rf"(?s){reason}.*\.mp4 \.m4v \.mkv \.webm \.avi \.mov \.gif \.npy \.npz.*\.png"):
        find_videos(tmp_path / name)


@pytest.mark.parametrize(
    "frames, reason",
    [
        (filled(1, 2).astype(np.float32), "float32, expected uint8"),
        (filled(1, 2).transpose(0, 3, 1, 2), r"transpose\(0, 2, 3, 1\)"),
        (filled(1)[0], r"shape \(16, 16, 3\), expected \(T, H, W, C\)"),
        (np.array(3, dtype=np.uint8), r"shape \(\)"),
        (filled(), "no frames"),
        (np.zeros((2, 0, 4, 3), np.uint8), r"shape \(2, 0, 4, 3\)"),
        (np.zeros((2, 9, 4, 4, 3), np.uint8), r"several episodes, pass `list\(frames\)`"),
        (np.array([None, 1]), "object, expected uint8"),
    ],
)
def test_arrays_that_are_no_video_are_refused(tmp_path, frames, reason):
    np.save(tmp_path / "v.npy", frames)
    for video, name in ((frames, "array 0"), (tmp_path / "v.npy", "v.npy")):
        with pytest.raises(ValueError, match=rf"{name}: .*{reason}"):
            list(iterate_frames(video, name if video is frames else None))


@pytest.mark.parametrize(
    "name, codec, pix_fmt",
    [
        ("v.mp4", "libx264rgb", "rgb24"),
        ("v.mkv", "libx264", "yuv420p"),
        ("v.m4v", "libx264", "yuv420p"),
        ("v.webm", "libvpx-vp9", "yuv420p"),
        ("v.avi", "ffv1", "bgr0"),
        ("v.gif", "gif", "rgb8"),
    ],
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_videos_are_noticed(tmp_path, name, codec, pix_fmt, share):
    whole = encode(tmp_path / name, noise(30, 32, 32), codec, pix_fmt)
    assert len(read_video(whole)) == 30
    with pytest.raises(ValueError, match=rf"Cannot read .*cut_{name}: "):
        read_video(cut(whole, share))


def test_truncated_arrays_are_noticed(tmp_path):
    np.save(tmp_path / "v.npy", noise(10))
    np.savez(tmp_path / "v.npz", obs=noise(10), done=np.zeros(10))
    with pytest.raises(ValueError, match=r"cut_v.npy: truncated: 4 of 10 frames"):
        read_video(cut(tmp_path / "v.npy", 0.5))
    with pytest.raises(ValueError, match=r"cut_v.npz: "):
        read_video(cut(tmp_path / "v.npz", 0.5))


def test_a_broken_image_is_named(tmp_path):
    iio.imwrite(tmp_path / "0.png", noise(1, 64, 64)[0])
    cut(tmp_path / "0.png").rename(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"Cannot read .*1\.png"):
        read_video(tmp_path)


@pytest.mark.parametrize(
    "durations, n_times",
    [
        ([50, 50, 50], [1, 1, 1]),
        ([50, 150, 50, 100, 50], [1, 3, 1, 2, 1]),
        ([30, 40, 30, 70, 30, 100], [1, 1, 1, 2, 1, 3]),  # 30 frames a second
        ([20, 30, 20, 50], [1, 1, 1, 2]),  # 40
        ([10, 20, 20, 10, 20, 20], [1, 1, 1, 1, 1, 1]),  # 60
        ([0, 0], [1, 1]),
        ([0, 50, 100], [1, 1, 2]),
    ],
)
def test_pictures_of_gifs_stand_for_as_many_frames_as_they_last(durations, n_times):
    assert video_io._repeats(np.array(durations)).tolist() == n_times


def test_pictures_that_repeat_are_read_from_gifs_as_often(tmp_path):
    frames = filled(0, 60, 60, 60, 120, 180, 180)
    iio.imwrite(tmp_path / "v.gif", frames, duration=50)
    np.testing.assert_array_equal(read_video(tmp_path / "v.gif"), frames)


def test_images_of_several_sizes_are_refused_with_both(tmp_path):
    iio.imwrite(tmp_path / "0.png", filled(1)[0])
    iio.imwrite(tmp_path / "1.png", filled(1, height=8)[0])
    with pytest.raises(ValueError, match=r"\(16, 16, 3\) to \(8, 16, 3\)"):
        read_video(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a video"])
@pytest.mark.parametrize("ending", [".mp4", ".gif", ".npy", ".npz"])
def test_files_that_are_no_video_are_named(tmp_path, content, ending):
    (tmp_path / f"v{ending}").write_bytes(content)
    with pytest.raises(ValueError, match=rf"Cannot read .*v{ending}: "):
        read_video(tmp_path / f"v{ending}")


def test_audio_alone_is_no_video(tmp_path):
    with pytest.raises(ValueError, match=r"a.mp4: it holds no video stream"):
        read_video(write_audio(tmp_path / "a.mp4"))


def test_a_lack_of_memory_is_no_fault_of_the_video(monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(video_io, "_read_blocks", fail)
    with pytest.raises(MemoryError):
        list(iterate_frames(noise(2)))


def test_arrays_in_fortran_order_are_refused(tmp_path):
    np.save(tmp_path / "v.npy", np.asfortranarray(noise(3)))
    with pytest.raises(ValueError, match=r"v.npy: its array is in Fortran order; save `np.ascontiguousarray\(frames\)`"):
        read_video(tmp_path / "v.npy")


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"fps": -1}, {"scale": 0}])
def test_write_video_refuses_numbers_that_are_not_positive(tmp_path, wrong):
    with pytest.raises(ValueError, match="expected all positive, scale whole"):
        write_video(tmp_path / "v.mp4", noise(2), **wrong)


def test_a_video_has_the_frames_per_second_asked_for(tmp_path):
    write_video(tmp_path / "v.mp4", noise(4), fps=7.5)
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert container.streams.video[0].average_rate == 7.5


def test_a_tilde_is_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "v.mp4").touch()
    assert find_videos("~/v.mp4") == find_videos("~/*.mp4") == [tmp_path / "v.mp4"]


def test_decoded_videos_come_in_blocks_too(tmp_path, monkeypatch):
    monkeypatch.setattr(video_io, "BLOCK_BYTES", 3 * 16 * 16 * 3)
    write_video(tmp_path / "v.mp4", noise(10))
    assert [len(block) for block in iterate_frames(tmp_path / "v.mp4")] == [3, 3, 3, 1]


def errors_of_damage(path: Path, n_bytes: int) -> list[str]:
    """What reading a video says where so many bytes are inverted, beginning at each of 30 places; nothing where it reads."""
    whole, errors = encode(path, noise(30, 32, 32), "libx264", "yuv420p").read_bytes(), []
    for start in np.linspace(0.1, 0.7, 30) * len(whole):
        middle = slice(int(start), int(start) + n_bytes)
        damaged = bytearray(whole)
        damaged[middle] = bytes(255 - byte for byte in whole[middle])
        path.write_bytes(damaged)
        try:
            read_video(path)
        except ValueError as error:
            errors.append(str(error))
    return errors


def test_damage_over_more_than_a_picture_is_noticed(tmp_path):
    assert len(errors_of_damage(tmp_path / "v.mp4", 2000)) == 30


def test_a_picture_that_the_decoder_had_to_guess_at_is_noticed(tmp_path):
    assert any("truncated or damaged: a frame is broken" in error for error in errors_of_damage(tmp_path / "v.mp4", 200))


def test_lossy_videos_lose_little(tmp_path):
    frames = noise(2, 32, 32)[..., :1].repeat(3, axis=3)  # grey, since colours have half the resolution
    write_video(tmp_path / "v.mp4", frames, lossless=False)
    assert abs(read_video(tmp_path / "v.mp4").astype(int) - frames).mean() < 8
