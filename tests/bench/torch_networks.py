"""Ready networks of PyTorch, beside `runtime/examples/nn_bench.rs`: `python torch_networks.py [MODEL SENTENCES]` with torch,
torchvision and transformers. Two threads."""

import sys
import time

import torch
import torchvision
from transformers import AutoModel, AutoTokenizer, GPT2Config, GPT2LMHeadModel

RUNS = 5
torch.set_num_threads(2)


def best(run):
    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return min(times)


def sentences(folder, file):
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    texts = [line for line in open(file).read().split("\n") if line.strip()]

    @torch.inference_mode()
    def encode(texts):
        # As sentence-transformers does it: by length, in batches of 32.
        order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
        rows = [None] * len(texts)
        for start in range(0, len(texts), 32):
            places = order[start : start + 32]
            batch = tokenizer([texts[at] for at in places], padding=True, truncation=True, max_length=256, return_tensors="pt")
            seen, mask = model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1).float()
            made = torch.nn.functional.normalize((seen * mask).sum(1) / mask.sum(1), dim=1)
            for at, row in zip(places, made):
                rows[at] = row
        return torch.stack(rows)

    seconds = best(lambda: encode(texts))
    print(f"MiniLM, {len(texts)} sentences: {len(texts) / seconds:.0f} a second")
    seconds = best(lambda: [encode([text]) for text in texts[:50]])
    print(f"MiniLM, one by one: {seconds * 20:.2f} ms each")
    print("  the first begins", encode(texts[:1])[0, :4].tolist())


def gpt_step():
    config = GPT2Config(vocab_size=257, n_positions=128, n_embd=192, n_layer=6, n_head=6, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    step_of = torch.optim.AdamW(model.parameters(), fused=True)
    inputs, labels = torch.randint(257, (8, 128)), torch.randint(257, (8, 128))

    @torch.inference_mode()
    def forward():
        model(inputs, use_cache=False)

    def step():
        logits = model(inputs, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
        step_of.step()
        step_of.zero_grad()

    print(f"GPT, 8 x 128 tokens, forward: {best(forward) * 1e3:.1f} ms, step of training: {best(step) * 1e3:.1f} ms")


def writing():
    model = GPT2LMHeadModel(GPT2Config()).eval()
    given = torch.full((1, 64), 120)
    run = lambda: model.generate(given, attention_mask=torch.ones_like(given), min_new_tokens=40, max_new_tokens=40, do_sample=False, pad_token_id=0)
    print(f"GPT-2 small, 64 tokens given, 40 made: {40 / best(run):.1f} a second")


def pictures():
    model = torchvision.models.resnet18()
    given, labels = torch.rand(8, 3, 128, 128), torch.zeros(8, dtype=torch.int64)

    @torch.inference_mode()
    def forward():
        model.eval()(given)

    def back():
        torch.nn.functional.cross_entropy(model.train()(given), labels).backward()

    print(f"ResNet-18, 8 of 128 x 128, forward: {best(forward) * 1e3:.0f} ms, and back: {best(back) * 1e3:.0f} ms")


if len(sys.argv) == 3:
    sentences(*sys.argv[1:])
for part in (gpt_step, writing, pictures):
    part()
