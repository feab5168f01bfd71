"""Writes tests/testdata: small files by the libraries of each format, so that the parsers meet what is really written.

Needs: gguf, numpy, onnx, pillow, safetensors, sentencepiece, torch. Run by hand; the files are committed. The pickles
only rebuild numbers; tests make hostile ones from opcodes, and none of them is ever loaded.
"""

import io
import json
import pickle
import struct
import sys
from pathlib import Path

import gguf
import numpy
import onnx
import sentencepiece
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save_file

OUT = Path(__file__).parent / "testdata"


def main() -> None:
    OUT.mkdir(exist_ok=True)
    torch.manual_seed(1)
    numpy.random.seed(1)
    weights()
    arrays()
    models()
    pictures()
    texts()
    pickles()


def weights() -> None:
    tensors = {
        "fc.weight": torch.randn(8, 4),
        "fc.bias": torch.randn(8, dtype=torch.float16),
        "empty": torch.zeros(0, 3),
        "steps": torch.tensor(7, dtype=torch.int64),
    }
    save_file(tensors, OUT / "model.safetensors", metadata={"format": "pt"})
    save_file({"a": torch.randn(4)}, OUT / "model-00001-of-00002.safetensors")
    save_file({"b": torch.randn(3, 3)}, OUT / "model-00002-of-00002.safetensors")
    index = {
        "metadata": {"total_size": 52},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }
    (OUT / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    writer = gguf.GGUFWriter(OUT / "model.gguf", "llama")
    writer.add_name("small")
    writer.add_token_list(["<s>", "</s>", "a"])
    writer.add_array("general.languages", ["en", "fr"])
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    writer.add_tensor("token_embd.weight", numpy.random.rand(3, 32).astype(numpy.float32))
    quantised = gguf.quants.quantize(numpy.random.rand(2, 64).astype(numpy.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.weight", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def arrays() -> None:
    numpy.save(OUT / "array.npy", numpy.arange(12, dtype="<f4").reshape(3, 4))
    fields = numpy.zeros(3, dtype=[("x", "<i2", (2,)), ("y", "<f8")])
    numpy.save(OUT / "fields.npy", fields)
    numpy.savez(OUT / "stored.npz", a=numpy.arange(5), b=numpy.ones((2, 2)))
    numpy.savez_compressed(OUT / "deflated.npz", a=numpy.arange(500), b=fields)
    numpy.save(OUT / "objects.npy", numpy.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    numpy.savez(OUT / "objects.npz", a=numpy.arange(3), b=numpy.array([{"a": 1}], dtype=object))


def models() -> None:
    weight = numpy.random.rand(4, 3).astype(numpy.float32)
    onnx.save(model(numpy_helper.from_array(weight, "w")), OUT / "model.onnx")
    big = helper.make_node("FusedThing", ["x", "w"], ["y"], domain="com.example")
    onnx.save(model(numpy_helper.from_array(weight, "w"), big), OUT / "custom.onnx")
    # It would be appended to.
    (OUT / "external.onnx_data").unlink(missing_ok=True)
    onnx.save(
        model(numpy_helper.from_array(weight, "w")),
        OUT / "external.onnx",
        save_as_external_data=True,
        location="external.onnx_data",
        size_threshold=0,
    )
    corpus = [f"a small text number {n} for the tokenizer" for n in range(40)]
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=trained, vocab_size=36, minloglevel=2, normalization_rule_name="identity"
    )
    (OUT / "tokenizer.model").write_bytes(trained.getvalue())


def model(weight, node=None):
    node = node or helper.make_node("MatMul", ["x", "w"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph([node], "small", [x], [y], [weight])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=opsets[: 2 if node.domain else 1])


def pictures() -> None:
    picture = Image.effect_noise((32, 24), 60).convert("RGB")
    for ending in ("png", "jpeg", "webp"):
        picture.save(OUT / f"picture.{ending}")
    picture.save(OUT / "progressive.jpg", progressive=True)


def texts() -> None:
    (OUT / "config.json").write_text(json.dumps({"model_type": "small", "hidden_size": 4, "eps": 1e-12}))
    (OUT / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}", "naïve": "ü\n"}))
    vocab = {"model": {"type": "BPE", "vocab": {chr(97 + n): n for n in range(26)}, "merges": ["a b", "c d"]}}
    (OUT / "tokenizer.json").write_text(json.dumps(vocab))
    (OUT / "merges.txt").write_text("#version: 0.2\na b\nc d\n")
    (OUT / "vocab.txt").write_text("[PAD]\n[UNK]\ncos\nsin\nit\nis\n.\n")
    notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (OUT / "verify.ipynb").write_text(json.dumps(notebook))
    (OUT / "LICENSE").write_text("Apache License 2.0, see apache.org\n")
    (OUT / "README.md").write_text(CARD)


CARD = """---
license: apache-2.0
base_model: someone/small
pipeline_tag: image-classification
library_name: candle
tags:
- digits
- "2026"
datasets: [someone/digits]
language:
- en
- "no"
model-index:
- name: small
  results:
  - task: {type: image-classification}
    dataset: {name: digits, type: digits}
    metrics:
    - {type: accuracy, value: 0.98}
---

# Small

A model for tests.
"""


def pickles() -> None:
    value = {"a": [1, 2.5, "text", None], "b": {3, 4}, "c": slice(1, 2)}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (OUT / f"value{protocol}.pickle").write_bytes(pickle.dumps(value, protocol))
    state = {"w": torch.arange(4.0)}
    torch.save(state, OUT / "torch_zip.pt")
    torch.save(state, OUT / "torch_old.pt", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    sys.exit(main())
