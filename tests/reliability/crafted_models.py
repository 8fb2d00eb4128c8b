"""Model packages made to harm: archives, manifests, plans and weights, with sizes and checksums that fit."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from crafting import DEEP, OUTSIDE, Crafted, Trap, Write, entry

from autoseg3d.doctor.golden import write_golden_package
from autoseg3d.package import open_package, pack
from autoseg3d.prediction import Predictor

WEIGHTS = "weights/3d_fullres/fold_full.safetensors"


def use_model(path: Path) -> None:
    """Opens a package and makes every network ready, as `predict` does."""
    package = open_package(path)
    for name in package.configurations:
        Predictor.from_package(package, name, device="cpu")


def _archive(change: Callable[[dict[str, bytes]], Iterable[tuple[zipfile.ZipInfo, bytes]]]) -> Write:
    """A .a3d file with other entries."""

    def write(folder: Path, trap: Trap) -> Path:
        write_golden_package(folder / "model")
        good = pack(folder / "model", folder / "good.a3d")
        with zipfile.ZipFile(good) as archive:
            held = {one.filename: archive.read(one) for one in archive.infolist()}
        path = folder / "crafted.a3d"
        with zipfile.ZipFile(path, "w") as archive:
            for held_as, data in change(held):
                archive.writestr(held_as, data)
        return path

    return write


def _same(held: dict[str, bytes]) -> list[tuple[zipfile.ZipInfo, bytes]]:
    return [(entry(name), data) for name, data in held.items()]


def _also(name: str, data: bytes = b"import os", mode: int = 0o100644, kind: int = zipfile.ZIP_STORED) -> Write:
    return _archive(lambda held: [*_same(held), (entry(name, mode, kind), data)])


def _in_place_of(old: str, name: str, mode: int = 0o100644) -> Write:
    return _archive(
        lambda held: [(entry(name if known == old else known, mode if known == old else 0o100644), held[known]) for known in held]
    )


def _bytes(change: Callable[[bytearray], bytes | bytearray]) -> Write:
    """The bytes of a good .a3d file changed."""
    plain = _archive(_same)

    def write(folder: Path, trap: Trap) -> Path:
        path = plain(folder, trap)
        path.write_bytes(change(bytearray(path.read_bytes())))
        return path

    return write


def _central(offset: int, data: bytes, *, local: int | None = None) -> Callable[[bytearray], bytearray]:
    """Writes into the last entry of the central directory, and of its local header where `local` says where."""

    def change(content: bytearray) -> bytearray:
        at = content.rindex(b"PK\x01\x02")
        content[at + offset : at + offset + len(data)] = data
        if local is not None:
            start = int.from_bytes(content[at + 42 : at + 46], "little")
            content[start + local : start + local + len(data)] = data
        return content

    return change


def _crowded(held: dict[str, bytes]) -> list[tuple[zipfile.ZipInfo, bytes]]:
    return [*_same(held), *((entry(f"weights/3d_fullres/fold_{i}.safetensors"), b"") for i in range(1200))]


# Packages as a folder, with a manifest that fits


def _forged(name: str, data: bytes | Callable[[bytes, Trap], bytes]) -> Write:
    """A file of the package replaced, size and hash in the manifest corrected."""

    def write(folder: Path, trap: Trap) -> Path:
        model = folder / "model"
        write_golden_package(model)
        good = (model / name).read_bytes()
        made = data(good, trap) if callable(data) else data
        (model / name).write_bytes(made)
        manifest = json.loads((model / "manifest.json").read_bytes())
        manifest["files"][name] = {"size": len(made), "sha256": hashlib.sha256(made).hexdigest()}
        (model / "manifest.json").write_text(json.dumps(manifest))
        return model

    return write


def _edited(name: str, *changes: tuple[str, Any]) -> Write:
    """Values at dotted places of a JSON file of the package replaced."""

    def change(data: bytes, trap: Trap) -> bytes:
        document = json.loads(data)
        for place, value in changes:
            *way, last = place.split(".")
            holder = document
            for part in way:
                holder = holder[int(part) if isinstance(holder, list) else part]
            holder[int(last) if isinstance(holder, list) else last] = value
        return json.dumps(document).encode()

    return _forged(name, change)


def _manifest(change: Callable[[dict[str, Any]], object]) -> Write:
    def write(folder: Path, trap: Trap) -> Path:
        write_golden_package(folder / "model")
        manifest = json.loads((folder / "model" / "manifest.json").read_bytes())
        change(manifest)
        (folder / "model" / "manifest.json").write_text(json.dumps(manifest))
        return folder / "model"

    return write


def _placed(place: Callable[[Path, Trap], object]) -> Write:
    """A good package folder in which something else is done."""

    def write(folder: Path, trap: Trap) -> Path:
        write_golden_package(folder / "model")
        place(folder / "model", trap)
        return folder / "model"

    return write


def _linked(model: Path, trap: Trap) -> None:
    shutil.move(model / WEIGHTS, model.parent / "elsewhere")
    (model / WEIGHTS).symlink_to(model.parent / "elsewhere")


def _pipe(name: str) -> Callable[[Path, Trap], None]:
    def make(model: Path, trap: Trap) -> None:
        (model / name).unlink()
        os.mkfifo(model / name)

    return make


def _tensors(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _tensor(shape: list[int], start: int, stop: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def _reheaded(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes, Trap], bytes]:
    """Good weights with another header."""

    def forge(data: bytes, trap: Trap) -> bytes:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change(header)
        return _tensors(header, data[8 + length :])

    return forge


def _first(header: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = header[min(name for name in header if name != "__metadata__")]
    return found


def saved(content: Callable[[Trap], object], *, old: bool = False) -> Callable[[bytes, Trap], bytes]:
    """What torch.save makes of a content, in its zip or its older format."""

    def make(data: bytes, trap: Trap) -> bytes:
        file = io.BytesIO()
        torch.save(content(trap), file, _use_new_zipfile_serialization=not old)
        return file.getvalue()

    return make


def _model(name: str, write: Write) -> Crafted:
    return Crafted(name, write, use_model)


_PLACE = "configurations.3d_fullres"

MODELS = (
    _model("archive: name that climbs out", _in_place_of("card.md", "../outside/card.md")),
    _model("archive: name that climbs out deep inside", _in_place_of("card.md", "weights/../../../outside/card.md")),
    _model("archive: absolute name", _in_place_of("card.md", f"{OUTSIDE}/card.md")),
    _model("archive: Windows drive", _in_place_of("card.md", "C:\\outside\\card.md")),
    _model("archive: wide full stops", _in_place_of("card.md", "\uff0e\uff0e/card.md")),
    _model("archive: symbolic link", _in_place_of("card.md", "card.md", 0o120777)),
    _model("archive: device file", _in_place_of("card.md", "card.md", 0o060666)),
    _model("archive: folder", _also("weights/", b"", 0o040755)),
    _model("archive: program in it", _also("__init__.py")),
    _model("archive: archive in it", _also("inner.a3d", b"PK\x05\x06" + bytes(18))),
    _model("archive: entry twice", _archive(lambda held: [*_same(held), (entry("plan.json"), held["plan.json"])])),
    _model("archive: manifest twice", _archive(lambda held: [*_same(held), (entry("manifest.json"), b"{}")])),
    _model("archive: name in other case", _also("PLAN.JSON", b"{}")),
    _model("archive: bomb of zeros", _also("weights/x/fold_0.safetensors", bytes(2**28), kind=zipfile.ZIP_DEFLATED)),
    _model("archive: bomb of unknown packing", _bytes(_central(10, b"\x63\x00", local=8))),
    _model("archive: encrypted", _bytes(_central(8, b"\x01\x00", local=6))),
    _model("archive: size beyond belief", _bytes(_central(24, b"\xfe\xff\xff\x7f"))),
    _model("archive: both sizes beyond belief", _bytes(_central(20, b"\xfe\xff\xff\x7f\xfe\xff\xff\x7f"))),
    _model("archive: entry beyond the end", _bytes(_central(42, b"\x00\x00\x00\x7f"))),
    _model("archive: other name in the local header", _bytes(lambda data: data.replace(b"card.md", b"evil.py", 1))),
    _model("archive: more entries than a model has", _archive(_crowded)),
    _model("archive: no manifest", _archive(lambda held: [pair for pair in _same(held) if pair[0].filename != "manifest.json"])),
    _model("archive: cut in half", _bytes(lambda data: data[: len(data) // 2])),
    _model("archive: a pickle by another name", _bytes(lambda data: pickle.dumps({"weights": [1.0]}))),
    _model("weights: pickle that runs a program", _forged(WEIGHTS, lambda data, trap: pickle.dumps(trap))),
    _model("weights: .pth that runs a program", _forged(WEIGHTS, saved(lambda trap: {"a": trap}))),
    _model("weights: old .pth that runs a program", _forged(WEIGHTS, saved(lambda trap: {"a": trap}, old=True))),
    _model("weights: header longer than memory", _forged(WEIGHTS, _tensors({}, length=2**62))),
    _model("weights: header deeply nested", _forged(WEIGHTS, _tensors(DEEP))),
    _model(
        "weights: names twice", _forged(WEIGHTS, _tensors(b'{"a":%s,"a":%s}' % ((json.dumps(_tensor([1], 0, 4)).encode(),) * 2), bytes(4)))
    ),
    _model("weights: tensors that overlap", _forged(WEIGHTS, _tensors({"a": _tensor([2], 0, 8), "b": _tensor([2], 4, 12)}, bytes(12)))),
    _model("weights: tensor before the file", _forged(WEIGHTS, _tensors({"a": _tensor([1], -4, 0)}, bytes(4)))),
    _model("weights: tensor beyond the file", _forged(WEIGHTS, _reheaded(lambda header: _first(header).update(data_offsets=[0, 2**40])))),
    _model("weights: offsets the wrong way round", _forged(WEIGHTS, _tensors({"a": _tensor([1], 4, 0)}, bytes(4)))),
    _model(
        "weights: shape of more than there is", _forged(WEIGHTS, _reheaded(lambda header: _first(header).update(shape=[2**31, 2**31, 4])))
    ),
    _model("weights: negative shape", _forged(WEIGHTS, _reheaded(lambda header: _first(header).update(shape=[-1, -4])))),
    _model("weights: numbers of another kind", _forged(WEIGHTS, _reheaded(lambda header: _first(header).update(dtype="I32")))),
    _model("weights: unknown kind of numbers", _forged(WEIGHTS, _reheaded(lambda header: _first(header).update(dtype="OBJECT")))),
    _model("weights: NaN", _forged(WEIGHTS, lambda data, trap: data[:-4] + struct.pack("<f", float("nan")))),
    _model("weights: of another network", _forged(WEIGHTS, _tensors({"a": _tensor([1], 0, 4)}, bytes(4)))),
    _model("weights: a link out of the model", _placed(_linked)),
    _model("weights: a pipe that never ends", _placed(_pipe(WEIGHTS))),
    _model("manifest: a pipe that never ends", _placed(_pipe("manifest.json"))),
    _model("manifest: deeply nested", _placed(lambda model, trap: (model / "manifest.json").write_bytes(DEEP))),
    _model("manifest: keys twice", _placed(lambda model, trap: (model / "manifest.json").write_bytes(b'{"files": {}, "files": {}}'))),
    _model("manifest: file outside", _manifest(lambda m: m["files"].update({"../../outside": m["files"]["plan.json"]}))),
    _model("manifest: fold outside", _manifest(lambda m: m["folds"][0].update(configuration="../../outside"))),
    _model("manifest: size beyond belief", _manifest(lambda m: m["files"]["plan.json"].update(size=10**18))),
    _model("plan: function for a network", _edited("plan.json", (f"{_PLACE}.network.architecture", "os.system"))),
    _model("plan: file for a network", _edited("plan.json", (f"{_PLACE}.network.architecture", "../../evil.py"))),
    _model("plan: more features than memory", _edited("plan.json", (f"{_PLACE}.network.stages.0.features", 10**9))),
    _model("plan: layers without end", _edited("plan.json", (f"{_PLACE}.network.stages.0.blocks", 10**9))),
    _model("plan: kernel of the size of a city", _edited("plan.json", (f"{_PLACE}.network.stages.0.kernel", [10**6 + 1] * 3))),
    _model("plan: deeply nested", _forged("plan.json", DEEP)),
    _model("plan: a field that is code", _edited("plan.json", ("__class__", "os.system"))),
    _model("fingerprint: keys twice", _forged("fingerprint.json", lambda data, trap: data.rstrip()[:-1] + b', "cases": []}')),
)
