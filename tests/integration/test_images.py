"""Images: read from every format, decoded once and in the graph, and varied in training."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from tests.integration.pictures import FORMATS, png, write_images
from tuner.errors import DataError
from tuner.space import Value
from tuner.study import Feature
from tuner.trainer_spaces import Task
from tuner_trainers import data, image_headers, images, rows, statistics
from tuner_trainers.derived import Images
from tuner_trainers.image_layers import Augment, DecodeImage
from tuner_trainers.images import ImageFeature, image_feature
from tuner_trainers.preprocessing import build_encoder
from tuner_trainers.statistics import Statistics
from tuner_trainers.storage import Storage
from tuner_trainers.target import Target

GREY = np.arange(0, 240, 4, dtype=np.uint8).reshape(6, 10, 1)
COLOURS: npt.NDArray[np.uint8] = np.stack(
    [np.full((4, 4), level, np.uint8) for level in (255, 0, 128)], axis=-1
)
FEATURE = Feature(name="image", kind="image", columns=("image",))


def jpeg(pixels: npt.NDArray[np.uint8], **how: str | bool) -> bytes:
    encoded: bytes = tf.io.encode_jpeg(pixels, **how).numpy()
    return encoded


class TestDecoding:
    def test_values_are_those_of_the_image(self) -> None:
        found = DecodeImage(6, 10, 1)(tf.constant([png(GREY)])).numpy()
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, GREY[None])

    def test_images_of_any_size_and_kind_come_to_one(self) -> None:
        grey = jpeg(np.full((30, 20, 3), 100, np.uint8))
        found = DecodeImage(5, 7, 3)(tf.constant([png(GREY), png(COLOURS), grey])).numpy()
        assert found.shape == (3, 5, 7, 3)
        np.testing.assert_array_equal(found[1, 2, 3], [255, 0, 128])
        np.testing.assert_allclose(found[2], 100, atol=3)

    def test_what_is_no_image_is_zero(self) -> None:
        strange = [b"", b"/etc/passwd", b"GIF89a", png(GREY)]
        found = DecodeImage(2, 3, 1)(tf.constant(strange)).numpy()
        assert not found[:3].any() and found[3].any()

    def test_half_an_image_is_an_error(self) -> None:
        with pytest.raises(tf.errors.InvalidArgumentError):
            DecodeImage(2, 3, 1)(tf.constant([png(GREY)[:40]]))

    def test_a_saved_model_decodes_the_same(self, tmp_path: Path) -> None:
        raw = keras.Input((), dtype="string")
        model = keras.Model(raw, DecodeImage(5, 7, 3)(raw))
        assert model.output_shape == (None, 5, 7, 3)
        model.export(str(tmp_path / "model"), verbose=False)
        encoded = tf.constant([png(COLOURS), b"", png(GREY)])
        served = tf.saved_model.load(str(tmp_path / "model")).serve(encoded)
        np.testing.assert_array_equal(served, model(encoded))


class TestHeaders:
    @pytest.mark.parametrize(
        ("image", "expected"),
        [
            (png(GREY), (6, 10, False)),
            (png(COLOURS), (4, 4, True)),
            (png(np.zeros((3, 5, 2), np.uint8)), (3, 5, False)),
            (png(np.zeros((3, 5, 4), np.uint8)), (3, 5, True)),
            (jpeg(np.zeros((30, 20, 1), np.uint8)), (30, 20, False)),
            (jpeg(np.zeros((30, 20, 3), np.uint8), progressive=True), (30, 20, True)),
            (jpeg(np.zeros((7, 9, 3), np.uint8), xmp_metadata="x" * 5000), (7, 9, True)),
            (b"", None),
            (b"GIF89a", None),
        ],
    )
    def test_sizes_are_those_of_the_image(
        self, image: bytes, expected: image_headers.Header | None
    ) -> None:
        assert image_headers.read(image) == expected

    @pytest.mark.parametrize("image", [png(GREY), jpeg(np.zeros((30, 20, 3), np.uint8))])
    def test_any_part_of_an_image_is_read_without_an_error(self, image: bytes) -> None:
        whole = image_headers.read(image)
        assert {image_headers.read(image[:end]) for end in range(len(image))} <= {None, whole}


class TestAugmentation:
    def test_nothing_is_varied_outside_of_training(self) -> None:
        pixels = tf.random.uniform((3, 5, 7, 2))
        found = Augment("both", 0.5, 180.0)(pixels, training=False)
        np.testing.assert_array_equal(found, pixels)

    @pytest.mark.parametrize(("flip", "axes"), [("horizontal", [(), 2]), ("vertical", [(), 1])])
    def test_images_are_flipped(self, flip: str, axes: list[int | tuple[()]]) -> None:
        image = np.arange(30.0, dtype=np.float32).reshape(1, 5, 6, 1)
        found = Augment(flip, 0.0, 0.0)(np.repeat(image, 40, axis=0), training=True).numpy()
        ways = [np.flip(image, axis)[0] for axis in axes]
        seen = [sum(np.allclose(one, way, atol=1e-4) for one in found) for way in ways]
        assert sum(seen) == 40 and min(seen) > 5

    def test_images_are_shifted_so_far_at_most(self) -> None:
        image = np.zeros((200, 21, 21, 1), np.float32)
        image[:, 10, 10] = 1.0
        found = Augment("none", 0.2, 0.0)(image, training=True).numpy()[..., 0]
        places = np.argwhere(found == found.max(axis=(1, 2), keepdims=True))[:, 1:]
        assert (abs(places - 10) <= 5).all() and (abs(places - 10).max(axis=0) >= 3).all()

    def test_images_are_turned_about_their_middle(self) -> None:
        y, x = np.mgrid[-10:11, -10:11]
        image = np.exp(-((x - 6) ** 2 + y**2) / 4).astype(np.float32)
        found = Augment("none", 0.0, 90.0)(
            np.repeat(image[None, :, :, None], 100, axis=0), training=True
        ).numpy()[..., 0]
        total = found.sum(axis=(1, 2))
        middle_x, middle_y = ((found * of).sum(axis=(1, 2)) / total for of in (x, y))
        np.testing.assert_allclose(np.hypot(middle_x, middle_y), 6.0, atol=0.2)
        assert middle_x.min() > -0.5 and middle_y.min() < -4 and middle_y.max() > 4

    def test_it_can_be_built_again(self) -> None:
        layer = Augment("both", 0.1, 20.0)
        again = Augment.from_config(layer.get_config())
        assert (again.flip, again.shift, again.rotation) == ("both", 0.1, 20.0)


def learned(folder: Path, *encoded: bytes) -> Statistics:
    """The statistics of images."""
    (folder / "files").mkdir()
    lines = ["image,y"]
    for row, image in enumerate(encoded):
        (folder / "files" / f"{row}.png").write_bytes(image)
        lines.append(f"files/{row}.png,{row % 2}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return statistics.scan(
        str(folder / "train.csv"), types={"image": "bytes"}, derived=[Images("image")]
    )


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, (64, 128, 1)),
        ({"height": 10}, (10, 20, 1)),
        ({"width": 50}, (25, 50, 1)),
        ({"height": 30, "width": 30, "colours": True}, (30, 30, 3)),
    ],
)
def test_sizes_are_those_of_most_images(
    tmp_path: Path, settings: dict[str, Value], shape: tuple[int, int, int]
) -> None:
    large, other = np.zeros((200, 400, 1), np.uint8), np.zeros((9, 9, 1), np.uint8)
    found = learned(tmp_path, png(large), png(other), png(large), b"GIF89a")
    column = found.columns["image"]
    assert (column.kind, column.count, column.missing) == ("bytes", 4, 0)
    given = {"height": None, "width": None, "colours": None, "scaling": "unit", **settings}
    assert image_feature("image", column, found, given).shape == shape
    coloured = learned_again(tmp_path, png(COLOURS))
    assert image_feature("image", column, coloured, {**given, "colours": None}).channels == 3


def learned_again(folder: Path, image: bytes) -> Statistics:
    (folder / "more").mkdir()
    return learned(folder / "more", image)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path: Path, format: str) -> None:
    uri = write_images(tmp_path, format, "train", rows=50)
    types = {"image": "bytes"} if format == "csv" else {}
    found = statistics.scan(uri, types=types, derived=[Images("image")])
    assert (found.columns["image"].kind, found.columns["image"].missing) == ("bytes", 2)
    heights = found.derived[Images("image").keys[0]]
    assert (heights.present, heights.minimum, heights.maximum) == (48, 12, 12)
    assert Statistics.from_json(found.to_json()).types == found.types
    columns = data.read(uri, types=found.types)
    expected = write_images(tmp_path, "parquet", "expected", rows=50)
    assert columns["image"].tolist() == data.read(expected)["image"].tolist()
    assert columns["image"][7] == b"" and columns["image"][0].startswith(image_headers.PNG)


def loaded(uri: str, folder: Path, cache_bytes: int = 1 << 30) -> rows.RawRows:
    storage = Storage(cache_dir=folder / "cache", cache_bytes=cache_bytes)
    return rows.load(uri, {"image": "bytes"}, ("shape", "string"), (), storage)


TARGET = Target(label="shape", task=Task.MULTICLASS, classes=("across", "down", "ring"))


@pytest.mark.parametrize("fits", [True, False])
def test_rows_are_decoded_as_the_graph_does(
    tmp_path: Path, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_CHUNK_IMAGES", 16)
    uri = write_images(tmp_path, "parquet", "train", rows=60)
    found = statistics.scan(uri, derived=[Images("image")])
    encoder = build_encoder([FEATURE], {"image.height": 8}, found)
    raw = loaded(uri, tmp_path, 1 << 30 if fits else 15_000)
    encoded = rows.encode(raw, encoder, TARGET)
    assert len(list((tmp_path / "cache").rglob("pixels"))) == int(fits)
    assert encoded.encoded_bytes == 60 * (8 * 8 + 4)
    places = np.asarray([59, 7, 0, 7])
    in_graph = encoder.encode({"image": rows.as_tensor(raw.take(places, ["image"])["image"])})
    found_pixels = encoded.encoded(places)
    assert found_pixels.keys() == in_graph.keys() == {"image_1"}
    np.testing.assert_array_equal(found_pixels["image_1"], in_graph["image_1"])
    assert found_pixels["image_1"].dtype == tf.uint8
    np.testing.assert_array_equal(encoded.hold().encoded(places)["image_1"], in_graph["image_1"])


def test_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = write_images(tmp_path, "parquet", "train", rows=30)
    encoder = build_encoder([FEATURE], {}, statistics.scan(uri, derived=[Images("image")]))
    rows.encode(loaded(uri, tmp_path), encoder, TARGET)
    rows._load.cache_clear()  # as in another process

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(images, "_decode", never)
    encoded = rows.encode(loaded(uri, tmp_path), encoder, TARGET)
    assert encoded.encoded(np.asarray([3]))["image_1"].shape == (1, 12, 12, 1)


def test_the_row_with_half_an_image_is_named(tmp_path: Path) -> None:
    learned(tmp_path, png(GREY), png(GREY), png(GREY)[:60])
    storage = Storage(cache_dir=tmp_path / "cache")
    uri = str(tmp_path / "train.csv")
    raw = rows.load(uri, {"image": "bytes"}, ("y", "number"), (), storage)
    feature = ImageFeature(
        name="image", column="image", height=6, width=10, channels=1, scaling="unit"
    )
    with pytest.raises(DataError, match=r"row 2 has an image in 'image', 60 bytes.*mend it"):
        raw.images(feature)
    assert not list((tmp_path / "cache").rglob("pixels"))


class TestPaths:
    @pytest.mark.parametrize(
        ("path", "message"),
        [
            (
                "no/such.png",
                r"'no/such.png', but .*such.png cannot be read: No such",
            ),
            ("../secret.png", "'../secret.png', which is not below"),
            ("/etc/passwd", "'/etc/passwd', which is not below"),
            ("s3://bucket/a.png", "cannot be read"),
        ],
    )
    def test_only_files_below_the_data_are_read(
        self, tmp_path: Path, path: str, message: str
    ) -> None:
        (tmp_path / "secret.png").write_bytes(png(GREY))
        (tmp_path / "data").mkdir()
        uri = tmp_path / "data" / "train.csv"
        uri.write_text(f"image,y\n{path},1\n")
        with pytest.raises(DataError, match=message):
            data.read(str(uri), types={"image": "bytes"})

    def test_paths_may_be_absolute(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png(GREY))
        uri = tmp_path / "train.csv"
        uri.write_text(f"image,y\n{tmp_path / 'a.png'},1\n,2\nfile://{tmp_path / 'a.png'},3\n")
        found = data.read(str(uri), types={"image": "bytes"})["image"].tolist()
        assert found == [png(GREY), b"", png(GREY)]

    def test_the_data_may_be_named_from_its_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.png").write_bytes(png(GREY))
        (tmp_path / "train.csv").write_text("image,y\na.png,1\n")
        monkeypatch.chdir(tmp_path)
        assert data.read("train.csv", types={"image": "bytes"})["image"].tolist() == [png(GREY)]
        with pytest.raises(DataError, match="is not below"):
            (tmp_path / "train.csv").write_text("image,y\n../a.png,1\n")
            data.read("train.csv", types={"image": "bytes"})

    def test_numbers_are_no_paths(self, tmp_path: Path) -> None:
        uri = write_images(tmp_path, "parquet", "train", rows=3)
        with pytest.raises(DataError, match="holds double, but bytes or paths"):
            data.read(uri, types={"noise": "bytes"})


def test_digits(shared_data: Path) -> None:
    uri = str(shared_data / "mnist" / "test.parquet")
    found = statistics.scan(uri)
    assert (found.columns["image"].kind, found.columns["image"].missing) == ("bytes", 0)
    column = data.read(uri, columns=["image"])["image"]
    decoded = DecodeImage(28, 28, 1)(tf.constant(column[:50].tolist())).numpy()
    assert decoded.shape == (50, 28, 28, 1) and 25 < decoded.mean() < 50 and decoded.max() == 255
