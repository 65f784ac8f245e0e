"""Writes seeds/: small files, good and bad, that the fuzz targets start from. Needs Python with torch: python make_seeds.py"""

import collections
import io
import json
import pathlib
import pickle
import struct
import zipfile

import torch

FOLDER = pathlib.Path(__file__).parent / "seeds"


def header(entries, data=0, length=None):
    text = entries if isinstance(entries, bytes) else json.dumps(entries, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def tensor(dtype, shape, start, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HEADERS = {
    "empty": header({}),
    "one": header({"w": tensor("F32", [2, 2], 0, 16)}, 16),
    "metadata": header({"__metadata__": {"format": "pt"}, "w": tensor("BF16", [3], 0, 6)}, 6),
    "kinds": header({name: tensor(name, [2], 2 * start, 2 * end) for name, start, end in [
        ("F64", 0, 8), ("F32", 8, 12), ("F16", 12, 14), ("BF16", 14, 16), ("I64", 16, 24), ("I32", 24, 28), ("U8", 28, 29), ("BOOL", 29, 30)]}, 60),
    "scalar": header({"s": tensor("F32", [], 0, 4)}, 4),
    "nothing": header({"z": tensor("F32", [0, 4], 0, 0)}),
    "escaped": header(b'{"a\\"\\u00e9\\n":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  ', 4),
    "overlap": header({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 4, 12)}, 12),
    "hole": header({"a": tensor("F32", [1], 0, 4), "b": tensor("F32", [1], 8, 12)}, 12),
    "twice": header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', 8),
    "huge": header({"a": tensor("F32", [2**63, 2**63], 0, 4)}, 4),
    "long": header({}, length=2**63),
}


def saved(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def archive(records):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, content in records.items():
            file.writestr(name, content)
    return buffer.getvalue()


class Code:
    def __reduce__(self):
        return (print, ("code",))


def pickles():
    torch.manual_seed(0)
    matrix = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    parameter = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    return {
        "matrix": saved({"w": matrix}),
        "kinds": saved({str(kind): torch.zeros(1, dtype=kind) for kind in (torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)}),
        "views": saved({"row": matrix[1], "transposed": matrix.t(), "scalar": torch.tensor(1.0)}),
        "nested": saved({"state_dict": collections.OrderedDict(a={"w": parameter}), "epoch": 3, "names": ["x", None, 1.5, True]}),
        "legacy": saved({"w": torch.ones(2)}, _use_new_zipfile_serialization=False),
        "code": archive({"a/data.pkl": pickle.dumps(Code(), 2), "a/version": b"3\n"}),
        "plain": archive({"a/data.pkl": pickle.dumps({"x": [1, 2**40, "s", b"b", (1, 2), {3}]}, 2), "a/byteorder": b"little"}),
    }


def main():
    for target, seeds in {"header": HEADERS, "pickle": pickles()}.items():
        folder = FOLDER / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in seeds.items():
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
