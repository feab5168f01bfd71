"""Made the files beside it, which the tests here compare with: `python make_fixtures.py` (torch 2.15.0, torchvision 0.29.2,
transformers 5.24.0, peft 0.21.2, numpy 2.4.6).

Weights are in no file: both sides make them from names, as `fill` does and `support.rs`. So the networks are the published
ones in their full sizes. Everything is calculated in double precision.
"""

import json

import numpy as np
import torch
import torchvision
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

WORD = 0xFFFFFFFFFFFFFFFF


def mixed(state):
    """SplitMix64's output for a state, or an array of them."""
    z = np.asarray(state, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniform(name, count):
    """The numbers of `SeededRandom::named(0, name).uniform()`."""
    golden, hashed = 0x9E3779B97F4A7C15, 0xCBF29CE484222325
    for byte in name.encode():
        hashed = ((hashed ^ byte) * 0x100000001B3) & WORD
    seed = int(mixed((hashed + golden) & WORD))
    with np.errstate(over="ignore"):
        states = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(golden)
    return (mixed(states) >> np.uint64(11)).astype(np.float64) / 2.0**53


def fill(name, shape):
    """A tensor that follows from its name and shape."""
    count = int(np.prod(shape, dtype=np.int64))
    u = uniform(name, count)
    if name.endswith("running_var"):
        values = 0.5 + u
    elif len(shape) < 2:
        values = 0.2 * (u - 0.5) + (1.0 if name.endswith("weight") else 0.0)
    else:
        values = (2.0 * u - 1.0) * np.sqrt(3.0 * shape[0] / count)
    return torch.from_numpy(values.reshape(shape).astype(np.float32)).double()


def filled(network):
    network = network.double().eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            # The tied one is the table of embeddings, which has come before.
            if tensor.is_floating_point() and name != "lm_head.weight":
                tensor.copy_(fill(name, tuple(tensor.shape)))
    return network


def inputs(name, shape):
    return torch.from_numpy((2.0 * uniform(name, int(np.prod(shape))) - 1.0).astype(np.float32).reshape(shape)).double()


def names(network):
    # The counter of batches is no number to calculate with, and the tied table stands there once.
    passed = ("num_batches_tracked", "lm_head.weight", "position_ids", "embeddings.token_type_ids")
    return {name: list(t.shape) for name, t in network.state_dict().items() if not name.endswith(passed)}


out, shapes = {}, {}


def keep(name, tensor):
    out[name] = np.ascontiguousarray(tensor.detach().float().numpy())


def resnets():
    pictures = inputs("pictures", (2, 3, 64, 64))
    for name in ("resnet18", "resnet50"):
        network = filled(getattr(torchvision.models, name)())
        shapes[name] = names(network)
        keep(f"{name}.scores", network(pictures)[:, :100])
    network = filled(torchvision.models.resnet18()).train()
    scores = network(pictures)
    torch.nn.functional.cross_entropy(scores, torch.tensor([3, 500])).backward()
    keep("resnet18.trained.scores", scores[:, :100])
    for name in ("bn1.running_mean", "layer4.1.bn2.running_var"):
        keep(f"resnet18.trained.{name}", network.state_dict()[name])
    for name in ("bn1.weight", "layer2.0.downsample.1.bias", "layer4.1.bn2.weight"):
        keep(f"resnet18.gradient.{name}", dict(network.named_parameters())[name].grad)


def gpt2():
    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    config._attn_implementation = "eager"
    config.attn_pdrop = config.embd_pdrop = config.resid_pdrop = 0.0
    return filled(GPT2LMHeadModel(config))


TOKENS = torch.tensor([[5, 3, 39, 0, 7, 7, 12, 25, 1, 30], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]])


def gpts():
    network = gpt2()
    shapes["gpt2"] = names(network)
    made = network(TOKENS)
    keep("gpt2.scores", made.logits)
    torch.nn.functional.cross_entropy(made.logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten()).backward()
    for name in ("transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.attn.c_attn.weight", "transformer.h.1.mlp.c_proj.weight", "transformer.ln_f.bias"):
        keep(f"gpt2.gradient.{name}", dict(network.named_parameters())[name].grad)
    lora = LoraConfig(r=2, lora_alpha=6, target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True)
    adapted = get_peft_model(gpt2(), lora)
    with torch.no_grad():
        for name, tensor in adapted.named_parameters():
            if "lora_" in name:
                tensor.copy_(fill(name, tuple(tensor.shape)))
    keep("gpt2.adapted.scores", adapted(TOKENS).logits)
    adapted.float().save_pretrained("peft")


def berts():
    config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=16)
    network = filled(BertModel(config))
    shapes["bert"] = names(network)
    mask = torch.tensor([[1] * 10, [1] * 4 + [0] * 6])
    types = torch.tensor([[0] * 5 + [1] * 5, [0] * 10])
    made = network(TOKENS, attention_mask=mask, token_type_ids=types)
    keep("bert.hidden", made.last_hidden_state)
    keep("bert.pooled", made.pooler_output)


def layers():
    x = inputs("rows", (2, 5, 12))
    attention = filled(torch.nn.MultiheadAttention(12, 3, batch_first=True))
    shapes["attention"] = names(attention)
    keep("attention.all", attention(x, x, x, need_weights=False)[0])
    shut = torch.triu(torch.full((5, 5), float("-inf"), dtype=torch.float64), diagonal=1)
    x.requires_grad_()
    made = attention(x, x, x, attn_mask=shut, need_weights=False)[0]
    keep("attention.causal", made)
    made.square().sum().backward()
    keep("attention.gradient", x.grad)
    keep("attention.weight_gradient", attention.in_proj_weight.grad)
    norm = filled(torch.nn.BatchNorm2d(3)).train()
    for step in range(3):
        keep(f"norm.{step}", norm(inputs(f"pictures {step}", (4, 3, 5, 6))))
    keep("norm.running_mean", norm.running_mean)
    keep("norm.running_var", norm.running_var)
    keep("norm.used", norm.eval()(inputs("pictures 0", (4, 3, 5, 6))))


for part in (resnets, gpts, berts, layers):
    part()
save_file(out, "expected.safetensors")
with open("names.json", "w") as file:
    json.dump(shapes, file, separators=(",", ":"))
